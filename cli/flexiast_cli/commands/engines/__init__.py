"""`flexiast engines`."""

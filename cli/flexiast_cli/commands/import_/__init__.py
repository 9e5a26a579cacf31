"""`flexiast import`."""

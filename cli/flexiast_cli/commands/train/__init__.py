"""`flexiast train`."""

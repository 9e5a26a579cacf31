"""`flexiast record`."""

"""`flexiast inspect`."""

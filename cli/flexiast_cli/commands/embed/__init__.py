"""`flexiast embed`."""

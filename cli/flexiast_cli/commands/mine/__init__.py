"""`flexiast mine`."""

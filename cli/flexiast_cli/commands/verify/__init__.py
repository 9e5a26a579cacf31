"""`flexiast verify`."""

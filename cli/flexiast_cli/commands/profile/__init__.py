"""`flexiast profile`."""

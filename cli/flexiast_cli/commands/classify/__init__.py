"""`flexiast classify`."""

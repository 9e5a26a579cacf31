"""`flexiast calibrate`."""

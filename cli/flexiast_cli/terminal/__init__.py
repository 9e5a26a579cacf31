"""Output on terminals and pipes, and signals."""

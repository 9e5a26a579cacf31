"""Live classification."""

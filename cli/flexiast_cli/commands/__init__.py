"""One place for each command."""

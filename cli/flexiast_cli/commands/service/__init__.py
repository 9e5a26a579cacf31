"""Listening as a systemd service."""

"""From chunks to events."""

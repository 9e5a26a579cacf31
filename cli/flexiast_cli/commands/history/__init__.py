"""Detected events from the database: as a table, a chart or data."""

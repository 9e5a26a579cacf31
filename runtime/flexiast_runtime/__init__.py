"""Runs bundles: engines, the streaming path and the governor. Never imports torch."""

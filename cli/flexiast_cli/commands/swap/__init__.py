"""Swapping the model of a running `listen`."""

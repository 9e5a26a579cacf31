"""Engines: a bundle's graphs, ready to run."""

"""Recordings and data sets: found, decoded, kept in memory or read from shards."""

"""The runtime on a synthesised soundscape."""

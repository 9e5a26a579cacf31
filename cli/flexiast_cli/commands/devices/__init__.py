"""The microphones of this machine."""

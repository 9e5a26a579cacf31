"""From a microphone, file or pipe to mono chunks at the model's rate."""

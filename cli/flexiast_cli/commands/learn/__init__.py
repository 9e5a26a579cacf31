"""Learning from verdicts."""

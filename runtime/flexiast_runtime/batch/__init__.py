"""Many recordings: workers, results, formats."""

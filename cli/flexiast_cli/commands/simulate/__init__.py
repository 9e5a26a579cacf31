"""The governor in simulated and recorded conditions."""

"""What a window costs here: latency, memory and energy."""

"""Review of events: listen to each, say what it was, and hand that to training."""

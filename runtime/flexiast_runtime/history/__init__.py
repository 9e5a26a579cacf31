"""The database of events: what was detected, what people said of it, and what can be learnt from that."""

"""Figures, by command: `make bench`. Process CPU time and ratios within one run, because machines are noisy."""

"""Policies by name: points on the measured trade-off between few switches and little regret.

See docs/explanation/governor.md.
"""

from __future__ import annotations

from flexiast_runtime.governor.types import Policy

POLICIES: dict[str, Policy] = {
    "steady": Policy(dwell_s=120.0, max_dwell_s=360.0, switches_per_h=10.0, misses_share=0.001, miss_cost=4.0),
    "balanced": Policy(),
    "greedy": Policy(dwell_s=5.0, max_dwell_s=15.0, headroom=0.95, limit=1.0, switches_per_h=150.0, misses_share=0.05),
}
"""A longer dwell and fewer switches mean fewer misses, and a lower score."""

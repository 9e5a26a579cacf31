"""Accuracy at each patch size, as a table."""

from __future__ import annotations

from benchmarks.evidence.curves import Curve
from flexiast.spec import PatchSize


def table(sizes: tuple[PatchSize, ...], curves: dict[str, Curve]) -> str:
    """Markdown, a row for each curve, in percent; ± where there are several runs."""
    shown = [patch for patch in sizes if any(patch in curve.mean for curve in curves.values())]
    names = [patch.short for patch in shown]
    rows = ["| | runs | " + " | ".join(names) + " |", "|---" * (len(shown) + 2) + "|"]
    for name, curve in curves.items():
        cells = [_cell(curve, patch) for patch in shown]
        rows.append(f"| {name} | {curve.runs} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def _cell(curve: Curve, patch: PatchSize) -> str:
    if patch not in curve.mean:
        return ""
    spread = f" ± {100 * curve.std[patch]:.1f}" if patch in curve.std else ""
    return f"{100 * curve.mean[patch]:.1f}{spread}"

"""What a budget of false alarms came to, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flexiast_export.false_alarms import SizeBudget

DENY_FROM = 0.95
"""Threshold from which a label is hardly heard any more."""


def show_budgets(budgets: Sequence[SizeBudget], per_hour: float) -> None:
    """False alarms of each size on the half held back, before and after, and what more it takes to be sure."""
    from rich.table import Table

    from flexiast.evaluation.budget import CONFIDENCE, hours_needed
    from flexiast.text import preview
    from flexiast_cli.terminal.console import say, stdout

    hours = budgets[0].hours
    console = stdout()
    console.print(
        f"False alarms in {hours:.2f} h of background held back from the choice; the budget is {per_hour:g} an hour:",
        markup=False,
        soft_wrap=True,
    )
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("patch", "before", "after", "after, an hour", f"at most ({CONFIDENCE:.0%})", "kept"):
        table.add_column(name, justify="left" if name in {"patch", "kept"} else "right")
    for budget in budgets:
        table.add_row(
            str(budget.patch_size),
            f"{budget.before}",
            f"{budget.after}",
            f"{budget.after / hours:.2f}",
            f"{budget.at_most_per_hour:.2f}",
            "yes" if budget.kept else "not shown",
        )
    console.print(table)
    if not all(budget.kept for budget in budgets):
        worst = max(budget.after for budget in budgets)
        more = hours_needed(worst, per_hour) - hours
        if more > 0:
            say(
                f"It takes {2 * more:.1f} more hours of background, a half of them held back, to show with "
                f"{CONFIDENCE:.0%} confidence that {per_hour:g} an hour are kept, if no more is heard in them"
            )
    faulty = sorted({label for budget in budgets for label, value in budget.thresholds.items() if value >= DENY_FROM})
    if faulty:
        say(
            f"Hardly heard any more: {preview(faulty)}; leave them out with --deny, or train again with this background"
        )

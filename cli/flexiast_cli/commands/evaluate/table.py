"""The metric at each patch size, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from flexiast.evaluation.evaluate import PatchResult
from flexiast_cli.terminal.console import stdout

BAR_COLUMNS = 24
"""Width of the bar of a metric of 1."""


def show_results(results: Sequence[PatchResult], title: str) -> None:
    """Print a row for each size; of accuracy also the 95 % interval, and the specificity where there is background."""
    metric = "accuracy" if results[0].accuracy is not None else "mAP"
    has_interval, has_background = results[0].accuracy_interval is not None, results[0].specificity is not None
    columns = ["patch", "tokens", "GMAC"]
    columns += ["specificity"] if has_background else []
    columns += [metric, "95 %", ""] if has_interval else [metric, ""]
    table = Table(
        title=escape(title), title_justify="left", title_style="bold", box=None, header_style="bold", pad_edge=False
    )
    for column in columns:
        table.add_column(column, justify="left" if column in {"patch", ""} else "right")
    for result in results:
        cells = [str(result.patch_size), f"{result.tokens:,}", f"{result.gmac:.3f}"]
        if has_background:
            cells.append(f"{result.specificity:.4f}")
        cells.append(f"{result.metric:.4f}")
        if result.accuracy_interval:
            low, high = result.accuracy_interval
            cells.append(f"{low:.3f} to {high:.3f}")
        table.add_row(*cells, f"[green]{'█' * round(BAR_COLUMNS * result.metric)}[/]")
    stdout().print(table)

"""The page that shows what a model has learnt."""

from __future__ import annotations

from html import escape
from pathlib import Path

from flexiast_cli.commands.learn.comparison import Comparison
from flexiast_cli.commands.learn.options import Options
from flexiast_cli.commands.learn.tables import list_totals
from flexiast_cli.commands.learn.verdicts import Lessons
from flexiast_cli.report_page import write_page


def write_report(path: Path, comparison: Comparison, lessons: Lessons, options: Options) -> None:
    """Write the page, whole or not at all."""
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}' for cell in row)}" for row in list_totals(comparison))
    write_page(path, "What was learnt", [f"<h1>What was learnt</h1><table><tr><th><th>before<th>after{rows}</table>"])

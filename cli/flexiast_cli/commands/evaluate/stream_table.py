"""What was detected in streams, as tables: events found, false ones by kind of background, recall at a budget."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from flexiast_cli.terminal.console import count_noun, log, stdout
from flexiast_runtime.detection.stream_evaluation import BUDGETS_PER_HOUR, StreamResult


def show_streams(results: Sequence[StreamResult], title: str) -> None:
    """Print what each size finds with its thresholds, what it reports wrongly, and what a budget would cost."""
    console = stdout()
    console.print(title, style="bold", markup=False, soft_wrap=True)
    if results[0].events:
        snrs = list(results[0].recall_by_snr_db)
        others = results[0].others_reported.of > 0
        columns = ["patch", "precision", "recall", "F1", "F1 by onset", "PSDS", *(_snr_title(snr) for snr in snrs)]
        table = _table([*columns, "other clips"] if others else columns)
        for result in results:
            shares = [result.precision, result.recall, result.f1, result.onset_f1, result.psds]
            shares += [result.recall_by_snr_db[snr].share for snr in snrs]
            shares += [result.others_reported.share] if others else []
            table.add_row(result.patch_size, *map(_share, shares))
        console.print(_describe_columns(results[0].events, by_snr=bool(snrs), others=others), markup=False)
        console.print(table)
    if results[0].false_events:
        console.print("\nFalse events an hour (95 % interval)")
        kinds = [f"{escape(rate.kind)}, {rate.hours:.2f} h" for rate in results[0].false_events]
        table = _table(["patch", *kinds])
        for result in results:
            table.add_row(
                result.patch_size,
                *(f"{r.per_hour:.1f} ({r.interval[0]:.1f} to {r.interval[1]:.1f})" for r in result.false_events),
            )
        console.print(table)
    if results[0].events and results[0].false_events:
        _show_budgets([result for result in results if result.trade_off])


def _describe_columns(events: int, *, by_snr: bool, others: bool) -> str:
    """``90 events; recall by SNR``: how many there are, and what the columns hold that only mixtures have."""
    explained = ["recall by SNR"] * by_snr + ["other clips as the share reported"] * others
    return f"\n{count_noun(events, 'event')}" + (f"; {', '.join(explained)}" if explained else "")


def _show_budgets(results: Sequence[StreamResult]) -> None:
    """Print what each size finds at the budgets that the hours can tell, and which they cannot."""
    budgets = [point.false_per_hour for point in results[0].budgets]
    hours = results[0].false_events[0].hours
    console = stdout()
    if budgets:
        console.print("\nRecall where one threshold for all labels keeps false events an hour at most at")
        table = _table(["patch", *(f"{per_hour:g}" for per_hour in budgets)])
        for result in results:
            table.add_row(result.patch_size, *(_at_budget(point.recall, point.threshold) for point in result.budgets))
        console.print(table)
    if len(budgets) < len(BUDGETS_PER_HOUR):
        rate = f"{1 / hours:,.0f}" if hours < 0.1 else f"{1 / hours:.2g}"
        log(f"{hours:.2f} h of background cannot show a rate below {rate} an hour; give more for such budgets")


def _table(columns: Sequence[str]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name == "patch" else "right")
    return table


def _snr_title(name: str) -> str:
    return name if name == "quiet" else f"{name} dB"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _at_budget(recall: float | None, threshold: float | None) -> str:
    return "none keeps it" if threshold is None else f"{_share(recall)} at {threshold:.3f}"

"""The page that shows what a model has learnt: what changed, label by label, and the sounds that show it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from flexiast.frontend import Frontend
from flexiast_cli.commands.learn.comparison import Comparison, LabelChange, Pair
from flexiast_cli.commands.learn.options import Options
from flexiast_cli.commands.learn.tables import has_changed, list_totals, sort_changes
from flexiast_cli.commands.learn.verdicts import Lesson, Lessons
from flexiast_cli.report_page import render_figure, write_page
from flexiast_cli.terminal.console import count_noun

MOST_FIGURES = 12
"""Of each group; each takes up to 100 kB"""


HEAD_BYTES = 1000
"""Of a page, in which its title stands"""


class Shown(NamedTuple):
    """A sound, and the label by which it is right or wrong."""

    lesson: Lesson
    label: str
    scores: Pair
    """The highest at the best size, before and after"""
    reported: tuple[bool, bool]

    @property
    def should(self) -> bool:
        """Whether it should be reported."""
        return self.lesson.label is not None

    @property
    def right(self) -> tuple[bool, bool]:
        before, after = (one is self.should for one in self.reported)
        return before, after


def is_report(path: Path) -> bool:
    """Whether a file is such a page."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(HEAD_BYTES).partition(b"</title>")[0].endswith(b" learnt")


def write_report(path: Path, comparison: Comparison, lessons: Lessons, options: Options) -> None:
    """Write the page, whole or not at all. It holds some of the sounds; nothing is loaded from elsewhere."""
    title = f"What {options.model} would have learnt" if comparison.refusal else f"What {options.model} has learnt"
    counts = f"{count_noun(len(lessons.taught), 'verdict')} taught, {len(lessons.held_out)} were held out to compare by"
    verdict = (
        f"<p class='advice bad'>Not published: {escape(comparison.refusal)}.</p>"
        if comparison.refusal
        else f"<p class='advice good'>Published as {escape(str(options.output))}: it is no worse than before.</p>"
    )
    parts = [
        f"<h1>{escape(title)}</h1><p class=dim>{escape(counts)}</p>{verdict}",
        *(f"<p class=dim>{escape(note)}</p>" for note in lessons.notes),
        "<h2>In all</h2>" + _render_totals(comparison),
        "<h2>By label</h2>" + _render_labels(comparison),
        *_render_sounds(comparison),
    ]
    write_page(path, title, parts)


def _render_totals(comparison: Comparison) -> str:
    rows = "".join(
        f"<tr><td>{escape(what)}<td>{before}<td><b>{after}</b>" for what, before, after in list_totals(comparison)
    )
    note = "Means of all patch sizes. What was held out taught neither model."
    return f"<table><tr><th><th>before<th>after{rows}</table><p class=dim>{note}</p>"


def _render_labels(comparison: Comparison) -> str:
    changes = [one for one in sort_changes(comparison) if has_changed(one)]
    if not changes:
        return "<p>No label changed.</p>"
    most = max(max(one.false_events) for one in changes)
    head = "<th>label<th>held out<th class=wide>found<th class=wide>false events"
    if comparison.validation is not None:
        head += "<th class=wide>original validation set"
    rows = "".join(f"<tr>{_render_row(one, comparison, most)}" for one in changes)
    same = len(comparison.changes) - len(changes)
    rest = f"<p class=dim>{count_noun(same, 'label')} did not change.</p>" if same else ""
    return f"<div class=scroll><table class=changes><tr>{head}{rows}</table></div>{rest}"


def _render_row(change: LabelChange, comparison: Comparison, most_false: float) -> str:
    cells = [
        escape(change.label),
        str(change.sounds or ""),
        _render_bars(change.found, 1.0, better=1),
        _render_bars(change.false_events if any(change.false_events) else None, most_false, better=-1),
    ]
    if comparison.validation is not None:
        cells.append(_render_bars(change.validation, 1.0, better=1))
    return "".join(f"<td>{cell}" for cell in cells)


def _render_bars(pair: Pair | None, most: float, *, better: int) -> str:
    """Before above after, in words and as bars; ``better`` is the sign of a change that is welcome."""
    if pair is None:
        return ""
    before, after = pair
    change = (after - before) * better
    colour = "good" if change > 0 else "bad" if change < 0 else "dim"
    first, second = (f"{one:.0%}" if better > 0 else f"{one:.1f}" for one in pair)
    words = f"{first} → <b>{second}</b>"
    bars = "".join(
        f'<i style="width: {100 * value / max(most, 1e-9):.0f}%; background: var(--{shade})"></i>'
        for value, shade in ((before, "dim"), (after, colour))
    )
    return f"<span>{words}</span><span class=bars>{bars}</span>"


def _render_sounds(comparison: Comparison) -> list[str]:
    """What was held out, by what became of it."""
    shown = [_choose_label(comparison, place) for place in range(len(comparison.held_out))]
    shown.sort(key=lambda one: -abs(one.scores[1] - one.scores[0]))
    patch = comparison.best_patch
    groups = (
        ("Now right", [one for one in shown if one.right == (False, True)]),
        ("Still wrong", [one for one in shown if not any(one.right)]),
        ("Now wrong", [one for one in shown if one.right == (True, False)]),
        ("Right before and after", [one for one in shown if all(one.right)]),
    )
    return [f"<h2>{name}, at {patch}</h2>{_render_figures(group, comparison)}" for name, group in groups if group]


def _choose_label(comparison: Comparison, place: int) -> Shown:
    """By the true label; of a sound that is nothing, the one that was reported, or came nearest to it."""
    lesson, size = comparison.held_out[place], comparison.best_place
    before, after = (one.peaks[size, place] for one in comparison.answers)
    if lesson.label is not None:
        column = comparison.spec.labels.index(lesson.label)
    else:
        false = [one.reported[size, place] for one in comparison.answers]
        column = int((before * (1 + false[0]) + after * (1 + false[1])).argmax())
    reported = tuple(bool(one.reported[size, place, column]) for one in comparison.answers)
    scores = float(before[column]), float(after[column])
    return Shown(lesson, comparison.spec.labels[column], scores, (reported[0], reported[1]))


def _render_figures(shown: Sequence[Shown], comparison: Comparison) -> str:
    frontend = Frontend(comparison.spec.frontend)
    figures = "".join(
        render_figure(one.lesson.waveform, frontend, _describe_sound(one)) for one in shown[:MOST_FIGURES]
    )
    more = len(shown) - MOST_FIGURES
    rest = f"<p class=dim>… and {more} more</p>" if more > 0 else ""
    return f"<div class=clips>{figures}</div>{rest}"


def _describe_sound(one: Shown) -> str:
    correction = one.lesson.correction
    truth = "none of the labels" if one.lesson.label is None else one.lesson.label
    said = "was missed" if correction.detected is None else f"reported as {correction.detected}"
    marks = [
        (f"<span class={'right' if right else 'wrong'}>", f"{score:.2f}", "reported" if is_reported else "silent")
        for score, is_reported, right in zip(one.scores, one.reported, one.right, strict=True)
    ]
    scores, words = (" → ".join(f"{mark[0]}{mark[place]}</span>" for mark in marks) for place in (1, 2))
    return (
        f"<b>{escape(truth)}</b><br>{escape(said)}<br><span class=dim>{escape(one.label)}:</span> {scores}<br>{words}"
    )

"""``report.html`` of a run: one file that shows what the model hears, what it gets wrong, and what each size costs."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path

import numpy as np

from flexiast.data.targets import find_clips
from flexiast.evaluation.per_label import NOTHING, confusion_matrix, label_results
from flexiast.frontend import Frontend
from flexiast_cli.commands.train.prepare import Prepared
from flexiast_cli.commands.train.summary import Summary, advise, compare_ways
from flexiast_cli.report_page import render_figure, write_page

SHOWN_LABELS = 24
SHOWN_WRONG = 24
"""Clips with a player; each takes up to 100 kB."""

MATRIX_LABELS = 40


def write_report(path: Path, summary: Summary, prepared: Prepared) -> None:
    """Write the page, whole or not at all. It holds some of the clips; nothing is loaded from elsewhere."""
    spec = summary.spec
    title = f"{prepared.header['data']}: {len(spec.labels)} labels"
    clips = prepared.header["clips"]
    counts = f"{clips['train']:,} clips train, {clips['val']:,} validate ({prepared.header['split']})"
    parts = [
        f"<h1>{escape(title)}</h1><p class=dim>{escape(counts)}; window {spec.frontend.window_s:g} s</p>",
        *(
            f"<p class=advice>{escape(note)}</p>"
            for note in advise(summary, background=prepared.backgrounds is not None)
        ),
        "<h2>What training buys</h2>" + _ways(summary),
        "<h2>Accuracy against cost</h2>" + _cost_curve(summary),
        "<h2>What each label looks like</h2>" + _labels(summary, prepared),
    ]
    if spec.task == "single":
        if len(spec.labels) <= MATRIX_LABELS:
            parts.append(f"<h2>What is taken for what, at {summary.best_size}</h2>" + _confusion(summary))
        parts.append(f"<h2>Validation clips that are wrong, at {summary.best_size}</h2>" + _wrong(summary, prepared))
    write_page(path, title, parts)


def _ways(summary: Summary) -> str:
    name = "accuracy" if summary.spec.task == "single" else "mean average precision"
    rows = "".join(f"<tr><td>{escape(way)}<td>{value:.1%}" for way, value in compare_ways(summary))
    return f"<table><tr><th>way<th>{name} on the validation clips{rows}</table>"


def _cost_curve(summary: Summary) -> str:
    """Accuracy of each size over its operations, on a logarithmic axis, as SVG; the baseline is a dashed line."""
    width, height, left, bottom = 720, 260, 48, 34
    costs = [math.log10(result.gmac) for result in summary.results]
    levels = [result.metric for result in summary.results] + [value for _, value in compare_ways(summary)]
    low, high = math.floor(min(levels) * 10) / 10, min(1.0, math.ceil(max(levels) * 10) / 10)
    if high <= low:  # all alike: a tenth of room, under 100 %
        low, high = (low, low + 0.1) if low < 1 else (0.9, 1.0)
    first, last = min(costs) - 0.05, max(costs) + 0.05

    def x(cost: float) -> float:
        return left + (cost - first) / (last - first) * (width - left - 16)

    def y(value: float) -> float:
        return 12 + (high - value) / (high - low) * (height - bottom - 12)

    lines = [
        f'<line x1="{left}" x2="{width - 16}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="var(--line)"/>'
        f'<text x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.0%}</text>'
        for tick in np.arange(round(low * 10), round(high * 10) + 1) / 10
    ]
    if summary.baseline is not None:
        level = y(summary.baseline)
        label_y = level - 5 if level > 20 else level + 14  # below the line where the picture ends above it
        lines.append(
            f'<line x1="{left}" x2="{width - 16}" y1="{level:.1f}" y2="{level:.1f}" stroke="var(--dim)" '
            f'stroke-dasharray="5 4"/><text x="{width - 18}" y="{label_y:.1f}" text-anchor="end">baseline</text>'
        )
    ordered = sorted(zip(costs, summary.results, strict=True), key=lambda pair: pair[0])
    points = " ".join(f"{x(cost):.1f},{y(result.metric):.1f}" for cost, result in ordered)
    lines.append(f'<polyline points="{points}" fill="none" stroke="var(--accent)" stroke-width="2"/>')
    for cost, result in ordered:
        lines.append(
            f'<circle cx="{x(cost):.1f}" cy="{y(result.metric):.1f}" r="4" fill="var(--accent)"><title>'
            f"{result.patch_size}: {result.metric:.1%}, {result.gmac:.3f} GMAC</title></circle>"
            f'<text x="{x(cost):.1f}" y="{height - bottom + 14}" text-anchor="middle">{result.patch_size.short}</text>'
        )
    lines.append(f'<text x="{width - 16}" y="{height - 4}" text-anchor="end">patch size; more operations →</text>')
    view = f'viewBox="0 0 {width} {height}" role="img" aria-label="Accuracy of each patch size"'
    return f"<svg {view}>{''.join(lines)}</svg>"


def _labels(summary: Summary, prepared: Prepared) -> str:
    """A training clip of each label, with its recall."""
    spec, frontend = summary.spec, Frontend(summary.spec.frontend)
    recalls: dict[str, float | None] = {}
    if spec.task == "single":
        found = label_results(confusion_matrix(summary.logits, summary.targets), spec.labels)
        recalls = {one.label: one.recall for one in found}
    figures = []
    for column, label in enumerate(spec.labels[:SHOWN_LABELS]):
        having = find_clips(prepared.targets, column)
        if not len(having):
            continue
        recall = recalls.get(label)
        share = (
            ""
            if recall is None
            else f" · <span class={'right' if recall >= 0.8 else 'wrong'}>{recall:.0%} found</span>"
        )
        caption = f"<b>{escape(label)}</b><br>{summary.clips_by_label[label]} train{share}"
        figures.append(render_figure(prepared.waveforms[int(having[len(having) // 2])], frontend, caption))
    more = len(spec.labels) - SHOWN_LABELS
    rest = f"<p class=dim>… and {more} more labels</p>" if more > 0 else ""
    return f"<div class=clips>{''.join(figures)}</div>{rest}"


def _confusion(summary: Summary) -> str:
    """A table whose rows are true labels; cells are shaded by their share of the row."""
    spec = summary.spec
    counts = confusion_matrix(summary.logits, summary.targets)
    answers = [*spec.labels, NOTHING][: counts.shape[1]]
    head = "".join(f"<th>{escape(answer)}" for answer in answers)
    rows = []
    for row, label in enumerate(spec.labels):
        total = max(1, int(counts[row].sum()))
        cells = "".join(
            f'<td style="--shade: var(--{"good" if row == column else "bad"}); --share: {70 * count / total:.0f}%">'
            f"{count or ''}"
            for column, count in enumerate(counts[row].tolist())
        )
        rows.append(f"<tr><th>{escape(label)}{cells}")
    return f"<div class=scroll><table class=confusion><tr><th>true, answered →{head}{''.join(rows)}</table></div>"


def _wrong(summary: Summary, prepared: Prepared) -> str:
    """Clips that are wrong, the most confident first, with players."""
    truth, answered = summary.targets.argmax(axis=1), summary.logits.argmax(axis=1)
    scores = np.exp(summary.logits - summary.logits.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    wrong = np.flatnonzero(truth != answered)
    if not len(wrong):
        return "<p>None.</p>"
    wrong = wrong[np.argsort(-scores[wrong, answered[wrong]], kind="stable")]
    names, frontend = [*summary.spec.labels, NOTHING], Frontend(summary.spec.frontend)
    figures = []
    for clip in wrong[:SHOWN_WRONG].tolist():
        caption = (
            f"<b>{escape(names[truth[clip]])}</b> taken for <span class=wrong>{escape(names[answered[clip]])}</span> "
            f"({scores[clip, answered[clip]]:.0%})<br><span class=dim>{escape(prepared.validation_names[clip])}</span>"
        )
        figures.append(render_figure(prepared.validation_waveforms[clip], frontend, caption))
    more = len(wrong) - SHOWN_WRONG
    rest = f"<p class=dim>… and {more} more</p>" if more > 0 else ""
    return f"<div class=clips>{''.join(figures)}</div>{rest}"

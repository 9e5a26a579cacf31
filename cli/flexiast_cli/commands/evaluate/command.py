"""``flexiast evaluate``: a metric for each patch size, of a checkpoint in PyTorch or of a bundle in its engines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flexiast_cli.options.common import BackendOption, PrecisionOption
from flexiast_cli.plot_axes import logarithmic, plain
from flexiast_runtime.inference.backends import Backend

if TYPE_CHECKING:
    from flexiast.evaluation.evaluate import Classifier, PatchResult
    from flexiast.spec import PatchSize


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A checkpoint, a bundle, or the name of a shipped model.")
    ],
    data: Annotated[Path, typer.Argument(help="Folder of folders named by label, or a CSV (path,label,split|fold).")],
    patch_sizes: Annotated[
        str | None,
        typer.Option("--patch-sizes", help="Sizes to measure (default: all of the bundle, or all trained ones)."),
    ] = None,
    precision: PrecisionOption = None,
    backend: BackendOption = Backend.CPU,
    split: Annotated[
        str | None, typer.Option("--split", help="Measure this split only, e.g. val (default: every clip).")
    ] = None,
    val_fold: Annotated[
        str | None,
        typer.Option("--val-fold", help="Fold that is called val, for a CSV with folds (default: the last)."),
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without files that cannot be read.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    per_label: Annotated[
        bool, typer.Option("--per-label", help="Also show how well each label is known, the worst first.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Write a picture (PNG) of the metric against the cost.")
    ] = None,
    confusion: Annotated[
        Path | None,
        typer.Option("--confusion", help="Write a picture (PNG) of what the best size takes for what."),
    ] = None,
) -> None:
    """Measure accuracy (mAP for clips with several labels) at each patch size.

    Of background (an empty label, or a folder _background_) also the specificity: the share of windows in which no
    score reaches 0.5.
    """
    import numpy as np

    from flexiast.data.background import MOST_WINDOWS, Chain, stretches_of
    from flexiast.evaluation.evaluate import Windows, predict, summarize
    from flexiast.extras import require
    from flexiast.files import check_output
    from flexiast.frontend import Frontend
    from flexiast.spec import parse_patches
    from flexiast_cli.commands.evaluate import label_report
    from flexiast_cli.dataset import load_clips, print_skipped, read_data
    from flexiast_cli.terminal.console import count_noun, print_json, stderr, track

    for picture in (plot, confusion):
        if picture is not None:
            require("matplotlib", "train")
            check_output(picture)
    wanted = None if patch_sizes is None else parse_patches(patch_sizes)
    classifier, patches = _classifier(model, wanted, precision, backend)
    spec = classifier.spec
    label_report.check_confusion(spec, confusion)
    dataset = read_data(data, val_fold, stderr(), skip_bad=skip_bad)
    dataset = dataset.split(split) if split else dataset
    rate_hz = spec.frontend.sample_rate_hz
    readable, waveforms = load_clips(dataset.labelled, rate_hz, stderr(), skip_bad=skip_bad)
    stretches, errors = stretches_of(dataset.background, rate_hz, skip_bad=skip_bad)
    print_skipped(errors, stderr())
    background = stretches.windows(spec.frontend.window_samples, MOST_WINDOWS)
    clips = len(readable.clips)
    targets = np.pad(readable.targets(spec.labels), ((0, len(background)), (0, 0)))
    logits = dict(
        predict(
            classifier,
            Windows(Chain((waveforms, background)), Frontend(spec.frontend)),
            targets,
            patches,
            progress=lambda items: track(items, "Measuring"),
        )
    )
    results = [summarize(spec, patch, found, targets) for patch, found in logits.items()]
    logits, targets = {patch: found[:clips] for patch, found in logits.items()}, targets[:clips]
    quiet = f", {count_noun(len(background), 'window')} of background" * bool(background)
    title = f"{model} on {data.name}, {split or 'every clip'} ({count_noun(clips, 'clip')}{quiet})"
    if as_json:
        documents = [
            result.document() | (label_report.document(spec, found, targets) if per_label else {})
            for result, found in zip(results, logits.values(), strict=True)
        ]
        counts = {"clips": clips, "background_windows": len(background)}
        print_json({"model": model, "data": str(data), "split": split} | counts | {"results": documents})
    else:
        _show(results, title)
        if per_label:
            label_report.show(spec, logits, targets)
    label_report.warn_repeated_answers(results)
    if plot is not None:
        _draw(results, title, plot)
    if confusion is not None:
        best = max(results, key=lambda result: (result.metric, -result.gmac)).patch_size
        label_report.draw(spec, logits[best], targets, f"{title}, {best.short}", confusion)


def _classifier(
    model: str, patches: tuple[PatchSize, ...] | None, precision: str | None, backend: Backend
) -> tuple[Classifier, tuple[PatchSize, ...]]:
    """A bundle runs its engines, a checkpoint PyTorch; of a shipped model PyTorch runs what its bundle lacks."""
    from flexiast.errors import UsageError
    from flexiast_cli.terminal.console import say, stderr
    from flexiast_runtime.bundle import Bundle
    from flexiast_runtime.catalog import find_any, find_checkpoint, list_shipped
    from flexiast_runtime.inference.backends import load_engines

    path = find_any(model)
    if path.is_dir():
        bundle = Bundle.open(path)
        missing = [str(patch) for patch in patches or () if patch not in bundle.manifest.patches]
        if not missing or model not in list_shipped():
            engines = load_engines(bundle, patches, precision, backend, say)
            return engines, engines.patches
        path = find_checkpoint(model)
        stderr().print(
            f"{model} ships no engine for {', '.join(missing)}: its checkpoint runs in PyTorch", style="yellow"
        )

    if precision is not None or backend is not Backend.CPU:
        raise UsageError(
            f"{path} runs in PyTorch, in float32; leave --precision and --backend out, or measure a bundle"
        )

    from flexiast.checkpoint import load_checkpoint
    from flexiast.extras import require

    require("torch", "train")
    checkpoint = load_checkpoint(path)
    patches = tuple(checkpoint.spec.check_patch(patch) for patch in patches or checkpoint.spec.trained_patches)

    from flexiast.networks import TorchClassifier, load_model

    return TorchClassifier(load_model(checkpoint)), patches


def _show(results: list[PatchResult], title: str) -> None:
    from rich.markup import escape
    from rich.table import Table

    from flexiast_cli.terminal.console import stdout

    name = "accuracy" if results[0].accuracy is not None else "mAP"
    table = Table(
        title=escape(title), title_justify="left", title_style="bold", box=None, header_style="bold", pad_edge=False
    )
    interval = ["95 %"] if results[0].accuracy_interval else []
    quiet = results[0].specificity is not None
    for column in ("patch", "tokens", "GMAC", *["specificity"] * quiet, name, *interval, ""):
        table.add_column(column, justify="left" if column in {"patch", ""} else "right")
    for result in results:
        bar = "█" * round(24 * result.metric)
        table.add_row(
            str(result.patch_size),
            f"{result.tokens:,}",
            f"{result.gmac:.3f}",
            *[f"{result.specificity:.4f}"] * quiet,
            f"{result.metric:.4f}",
            *(["{:.3f} to {:.3f}".format(*result.accuracy_interval)] if result.accuracy_interval else []),
            f"[green]{bar}[/]",
        )
    stdout().print(table)


def _draw(results: list[PatchResult], title: str, path: Path) -> None:
    """Metric against GMAC on a logarithmic axis, each point named by its patch size."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    name = "accuracy" if results[0].accuracy is not None else "mean average precision"
    ordered = sorted(results, key=lambda result: result.gmac)
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    axes.plot(
        [r.gmac for r in ordered], [r.metric for r in ordered], marker="o", color="#2a7f62", linewidth=1.5, markersize=5
    )
    for result in ordered:
        size = result.patch_size
        text = size.short
        axes.annotate(
            text, (result.gmac, result.metric), textcoords="offset points", xytext=(0, 8), ha="center", fontsize=8
        )
    logarithmic(axes)
    plain(axes)
    axes.set(xlabel="GMAC per window", ylabel=name, title=title)
    axes.title.set_size(10)
    axes.margins(x=0.08, y=0.2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, format="png")
    plt.close(figure)

"""``flexiast evaluate``: a metric for each patch size, of a checkpoint in PyTorch or of a bundle in its engines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexiast.errors import UsageError
from flexiast_cli.commands.evaluate.stream_options import CLIPS, SNRS_DB, StreamOptions, parse_snrs
from flexiast_cli.options.common import BackendOption, PrecisionOption, ThresholdOption
from flexiast_cli.options.policy import list_given
from flexiast_cli.options.validators import validate_with
from flexiast_runtime.inference.backends import Backend


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A checkpoint, a bundle, or the name of a shipped model.")
    ],
    data: Annotated[
        Path | None, typer.Argument(help="Folder of folders named by label, or a CSV (path,label,split|fold).")
    ] = None,
    patch_sizes: Annotated[
        str | None,
        typer.Option("--patch-sizes", help="Sizes to measure.", show_default="all of the bundle, or all trained ones"),
    ] = None,
    precision: PrecisionOption = None,
    backend: BackendOption = Backend.CPU,
    split: Annotated[
        str | None, typer.Option("--split", help="Measure this split only, e.g. val.", show_default="every clip")
    ] = None,
    val_fold: Annotated[
        str | None,
        typer.Option("--val-fold", help="Fold that is called val, for a CSV with folds.", show_default="the last"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    per_label: Annotated[
        bool, typer.Option("--per-label", help="Also show each label's recall, the worst first.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Write a picture (PNG) of the metric against the cost.")
    ] = None,
    confusion: Annotated[
        Path | None,
        typer.Option("--confusion", help="Write a confusion matrix (PNG) of the best size."),
    ] = None,
    streams: Annotated[
        Path | None,
        typer.Option("--streams", help="In place of clips: a folder of recordings with annotations."),
    ] = None,
    mix: Annotated[
        Path | None,
        typer.Option("--mix", help="In place of DATA: clips that are mixed at random into the background."),
    ] = None,
    background: Annotated[
        list[Path] | None,
        typer.Option("--background", help="Hours in which none of the labels sounds; may be repeated."),
    ] = None,
    snr: Annotated[
        str,
        typer.Option(
            "--snr",
            metavar="DB",
            callback=validate_with(parse_snrs),
            help="Decibels of the clips above the background, or quiet for a quiet room; by commas.",
        ),
    ] = SNRS_DB,
    level: Annotated[
        float | None,
        typer.Option(
            "--level", max=0, min=-90, metavar="DBFS", help="Level of the clips that are mixed in.", show_default="-26"
        ),
    ] = None,
    clips: Annotated[int, typer.Option("--clips", min=1, help="Clips to mix in, as many of each label.")] = CLIPS,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the places that clips are mixed in at.")] = 0,
    threshold: ThresholdOption = None,
    deadline: Annotated[
        float | None,
        typer.Option(
            "--latency", min=0.1, metavar="MS", help="Deadline of the governor's row.", show_default="the step"
        ),
    ] = None,
    det: Annotated[
        Path | None,
        typer.Option("--det", help="Write a picture (PNG) of missed events against false ones, at all thresholds."),
    ] = None,
) -> None:
    """Measure accuracy on clips, or events in streams, at each patch size.

    Clips with several labels give mAP in place of accuracy. On background (an empty label, or a folder _background_)
    it also measures the specificity: the share of windows in which no score reaches 0.5.

    With --streams, or --mix and --background, it measures events in streams instead, as `flexiast listen` detects
    them: precision, recall and F1, false events an hour, and what becomes of them at other thresholds.
    """
    options = StreamOptions(
        streams,
        mix,
        tuple(background or ()),
        parse_snrs(snr),
        level,
        clips,
        seed,
        threshold,
        None if deadline is None else deadline / 1000,
    )
    options.check(data)
    of_clips = list_given({"--per-label": per_label or None, "--plot": plot, "--confusion": confusion})
    of_mixes = {"--snr": snr if snr != SNRS_DB else None, "--level": level, "--seed": seed or None}
    of_mixes |= {"--clips": clips if clips != CLIPS else None}
    of_streams = list_given({**of_mixes, "--threshold": threshold, "--latency": deadline, "--det": det})
    if data is not None and of_streams:
        raise UsageError(f"{', '.join(of_streams)}: of events in streams only; leave out, or give --streams or --mix")
    if data is None and of_clips:
        raise UsageError(f"{', '.join(of_clips)}: of labels of clips only; leave out, or give clips as DATA")
    unused = list_given({**of_mixes, "--split": split, "--val-fold": val_fold})
    if streams is not None and unused:
        raise UsageError(f"{', '.join(unused)}: of clips that are mixed into a background; leave out with --streams")
    from flexiast_cli.commands.evaluate import run as on_clips
    from flexiast_cli.commands.evaluate import streams as on_streams

    if data is None:
        on_streams.run_on_streams(
            model,
            options,
            patch_sizes,
            precision,
            backend,
            split,
            val_fold,
            as_json=as_json,
            det=det,
        )
        return
    on_clips.run(
        model,
        data,
        patch_sizes,
        precision,
        backend,
        split,
        val_fold,
        as_json=as_json,
        per_label=per_label,
        plot=plot,
        confusion=confusion,
    )

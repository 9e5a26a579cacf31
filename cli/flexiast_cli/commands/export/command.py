"""``flexiast export``: a checkpoint → a bundle of engines for many patch sizes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from flexiast.manifest import Manifest, Precision
    from flexiast.spec import PatchSize, Spec
    from flexiast_cli.commands.export.clips import Clips
    from flexiast_export.embedding import Weights


def export(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A checkpoint, the name of a shipped model, or a bundle to add sizes to."),
    ],
    patch_sizes: Annotated[str, typer.Option("--patch-sizes", help="Sizes to export, e.g. 8,16,32,48 or 16x32.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Bundle folder to write. (the bundle that sizes are added to)")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision", help="Of fp32, fp16, int8 and int8-static; the first is the default.", show_default="fp32"
        ),
    ] = None,
    verify_data: Annotated[
        Path | None,
        typer.Option(
            "--verify-data",
            help="Real sounds to compare on, besides noise, silence and a sweep. Of a CSV or folders named by label, "
            "the validation clips, on which each engine's accuracy is measured too.",
        ),
    ] = None,
    val_fold: Annotated[
        str | None, typer.Option("--val-fold", help="Fold that is the validation split (default: the last).")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option("--max-drop", min=0, help="Points that an engine may lose on clips with labels. (default: 0.5)"),
    ] = None,
    calibration_data: Annotated[
        Path | None,
        typer.Option("--calibration-data", help="Folder or CSV of sounds by which int8-static chooses its ranges."),
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without sounds that cannot be read.")] = False,
    opset: Annotated[
        int | None, typer.Option("--opset", help="ONNX operators to write with.", show_default="17, the most portable")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that exists.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Export engines for many patch sizes from one checkpoint.

    One encoder serves all sizes. Every engine is compared with the PyTorch model; a bundle that differs is not
    published. From a BUNDLE, sizes are added to it, which needs neither torch nor the checkpoint: its new engines are
    compared with numpy.
    """
    from flexiast.extras import require
    from flexiast.manifest import MANIFEST, OPSET
    from flexiast.spec import parse_patches
    from flexiast_cli.commands.export.clips import has_folds, to_calibrate, to_compare
    from flexiast_cli.commands.inspect import show
    from flexiast_cli.terminal.console import print_json, track
    from flexiast_export.verify import MAX_DROP, VerificationData
    from flexiast_runtime.bundle import Bundle

    patches, precisions = parse_patches(patch_sizes), _precisions("fp32" if precision is None else precision)
    adds = (Path(model) / MANIFEST).is_file()
    folds = any(has_folds(data) for data in (verify_data, calibration_data) if data is not None)
    _refuse(
        {
            "a bundle's precisions and opset stay as they are when sizes are added to it; leave --precision, --opset "
            "and --calibration-data out, or export from the checkpoint": adds
            and any(option is not None for option in (precision, opset, calibration_data)),
            "export needs a place for the bundle; name one with --output": not adds and output is None,
            "--calibration-data chooses the ranges of int8-static, which is not asked for; leave it out, or add "
            "int8-static to --precision": calibration_data is not None and "int8-static" not in precisions,
            "--val-fold chooses a fold of a CSV, and neither --verify-data nor --calibration-data names one; "
            "leave it out": val_fold is not None and not folds,
            "--skip-bad passes over sounds of --verify-data or --calibration-data; give some, or leave it out": skip_bad
            and verify_data is None
            and calibration_data is None,
            "--max-drop limits what an engine loses on clips with labels; give some with --verify-data, or leave it "
            "out": max_drop is not None and verify_data is None,
        }
    )
    require("onnx", "export")
    place = Path(model) if output is None else output
    if adds:
        job = _from_bundle(model, patches, place, force=force)
    else:
        calibrated = calibration_data is not None
        job = _from_checkpoint(
            model, patches, place, precisions, OPSET if opset is None else opset, calibrated=calibrated, force=force
        )
    heard = None if verify_data is None else to_compare(verify_data, job.spec, val_fold, skip_bad=skip_bad)
    calibration = (
        None if calibration_data is None else to_calibrate(calibration_data, job.spec, val_fold, skip_bad=skip_bad)
    )
    _refuse(
        {
            f"{verify_data} has no labels that the model knows, on which an engine could lose more than --max-drop; "
            "leave it out": max_drop is not None and heard is not None and not heard.labelled,
            f"{model} has no fp32 engines, against which an added size could lose more than --max-drop; leave it "
            "out, or export from the checkpoint": max_drop is not None and job.reference != "fp32",
        }
    )
    if dry_run:
        _dry_run(job, as_json=as_json)
        return
    _say_what_is_not_compared(model, job, heard)
    manifest = job.publish(
        sounds=VerificationData(job.spec) if heard is None else heard.sounds(job.spec),
        max_drop=MAX_DROP if max_drop is None else max_drop,
        force=force,
        progress=lambda variants: track(list(variants), "Verifying"),
        **({} if calibration is None else {"calibration": calibration.first_windows(job.spec)}),
    )
    if as_json:
        print_json(json.loads(manifest.model_dump_json(exclude_none=True)))
    else:
        show(Bundle(place, manifest))


def _say_what_is_not_compared(model: str, job: _Job, heard: Clips | None) -> None:
    from flexiast_cli.terminal.console import say

    if heard is None:
        say("Compared on noise, silence and a sweep; --verify-data SOUNDS adds real sound")
    if job.reference != "fp32":
        say(
            f"{model} has no fp32 engines: the added sizes are compared under its own {job.reference} encoder, which "
            f"shows that their embedders are right, and not what {job.reference} loses at them; "
            "export from the checkpoint to measure that"
        )


def _precisions(text: str) -> tuple[Precision, ...]:
    from flexiast.errors import UsageError
    from flexiast.manifest import PRECISIONS

    names: dict[str, Precision] = {name: name for name in PRECISIONS}
    given = [part.strip() for part in text.split(",")]
    if unknown := [name for name in given if name not in names]:
        raise UsageError(f"unknown precision {unknown[0]!r}; there are {', '.join(PRECISIONS)}")
    return tuple(names[name] for name in dict.fromkeys(given))


def _refuse(reasons: Mapping[str, bool]) -> None:
    """Raise UsageError with the first reason that holds."""
    from flexiast.errors import UsageError

    for reason, holds in reasons.items():
        if holds:
            raise UsageError(reason)


@dataclass(frozen=True)
class _Job:
    """What was checked and can be exported; a dry run goes no further."""

    spec: Spec
    weights: Weights
    source_sha256: str
    precisions: Sequence[Precision]
    patches: Sequence[PatchSize]
    opset: int
    reference: Precision
    """Of the answers that engines are compared with: fp32 unless a bundle has none."""
    encoders: Callable[[], dict[Precision, Any]]
    """Graphs that would be written beside the embedders."""
    publish: Callable[..., Manifest]


def _from_checkpoint(
    model: str,
    patches: Sequence[PatchSize],
    place: Path,
    precisions: Sequence[Precision],
    opset: int,
    *,
    calibrated: bool,
    force: bool,
) -> _Job:
    from flexiast.checkpoint import load_checkpoint, weights_sha256
    from flexiast.extras import require
    from flexiast_export.encoder import encoder
    from flexiast_export.quantize import template
    from flexiast_export.to_onnx import check_export, export_onnx, versions
    from flexiast_runtime.catalog import find_checkpoint

    require("torch", "export")
    path = find_checkpoint(model)
    checkpoint = load_checkpoint(path)
    check_export(checkpoint, patches, place, precisions=precisions, opset=opset, calibrated=calibrated, force=force)
    _refuse({f"{place} holds the checkpoint itself; choose another name": place.resolve() in path.resolve().parents})
    spec = checkpoint.spec

    def publish(**options: Any) -> Manifest:
        from flexiast.training.trainer import TorchClassifier, load_model

        source = TorchClassifier(load_model(checkpoint))
        return export_onnx(checkpoint, source, patches, place, precisions=precisions, opset=opset, **options)

    def encoders() -> dict[Precision, Any]:
        return {name: encoder(checkpoint, template(name, spec), opset, versions()) for name in precisions}

    source = weights_sha256(checkpoint)
    return _Job(spec, checkpoint.weights, source, precisions, patches, opset, "fp32", encoders, publish)


def _from_bundle(model: str, patches: Sequence[PatchSize], place: Path, *, force: bool) -> _Job:
    from flexiast_export.add import add_sizes, check_addition, highest_precision
    from flexiast_runtime.bundle import Bundle

    bundle = Bundle.open(Path(model))
    manifest = bundle.manifest
    new, weights = check_addition(bundle, patches, place, force=force)
    return _Job(
        manifest.spec,
        weights,
        manifest.source_sha256,
        manifest.precisions,
        new,
        manifest.opset,
        highest_precision(manifest),
        dict,
        partial(add_sizes, bundle, new, place),
    )


def _dry_run(job: _Job, *, as_json: bool) -> None:
    """Sizes, operations and bytes of the graphs, built in memory."""
    from rich.table import Table

    from flexiast_cli.terminal.console import print_json, stdout
    from flexiast_export.graph import embedder

    spec, opset = job.spec, job.opset
    encoders = {name: graph.ByteSize() for name, graph in job.encoders().items()}
    sizes = {patch: embedder(spec, job.weights, patch, opset).ByteSize() for patch in job.patches}
    total = sum(encoders.values()) + sum(sizes.values())
    expected = _estimate_ms(job)
    if as_json:
        graphs = [
            {
                "patch_size": str(patch),
                "tokens": spec.tokens(patch),
                "gmac": spec.gmac(patch),
                "bytes": size,
                "expected_ms": expected[patch],
            }
            for patch, size in sizes.items()
        ]
        print_json({"encoders": encoders, "variants": graphs, "bytes": total})
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    timed = list(dict.fromkeys(name for times in expected.values() for name in times))
    for name in ("patch", "tokens", "GMAC", "embedder", *(f"≈ ms {name}" for name in timed)):
        table.add_column(name, justify="left" if name == "patch" else "right")
    for patch, size in sizes.items():
        table.add_row(
            str(patch),
            f"{spec.tokens(patch):,}",
            f"{spec.gmac(patch):.3f}",
            f"{size / 1e6:.2f} MB",
            *(f"{expected[patch][name]:.2f}" for name in timed),
        )
    console = stdout()
    console.print(table)
    console.print()
    for name, size in encoders.items():
        console.print(f"One {name} encoder of {size / 1e6:.1f} MB serves all sizes.")
    if timed:
        console.print("≈ ms: median latency on this machine, between the sizes that `flexiast profile` measured.")
    console.print(f"{total / 1e6:.1f} MB in all; nothing was written.")


def _estimate_ms(job: _Job) -> dict[PatchSize, dict[str, float]]:
    """By size and precision, from the last profile of these weights on this machine; nothing where there is none."""
    from flexiast.errors import DataError
    from flexiast_cli.terminal.console import say
    from flexiast_runtime.hardware.machine import read_settings
    from flexiast_runtime.hardware.platform import describe_machine
    from flexiast_runtime.profiling.profiles import newest

    try:
        profile = newest(job.source_sha256, describe_machine(), read_settings())
    except DataError as error:
        say(str(error))
        profile = None
    return {
        patch: {
            name: ms
            for name in job.precisions
            if profile is not None and (ms := profile.estimate_ms(job.spec.gmac(patch), name)) is not None
        }
        for patch in job.patches
    }

"""``flexiast export``: a checkpoint → a bundle of engines for many patch sizes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flexiast.manifest import Manifest, Precision
    from flexiast.spec import PatchSize, Spec
    from flexiast_export.verify import Sounds

T = TypeVar("T")


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
        float, typer.Option("--max-drop", min=0, help="Points that an engine may lose on clips with labels.")
    ] = 0.5,
    calibration_data: Annotated[
        Path | None,
        typer.Option("--calibration-data", help="Folder or CSV of sounds by which int8-static chooses its ranges."),
    ] = None,
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
    from flexiast.errors import UsageError
    from flexiast.extras import require
    from flexiast.manifest import MANIFEST, OPSET
    from flexiast.spec import parse_patches
    from flexiast_cli.console import print_json, stderr, tracked
    from flexiast_cli.inspect import show
    from flexiast_runtime.bundle import Bundle

    patches, precisions = parse_patches(patch_sizes), _precisions("fp32" if precision is None else precision)
    adds = (Path(model) / MANIFEST).is_file()
    place = Path(model) if adds and output is None else output
    wanted_opset = OPSET if opset is None else opset
    require("onnx", "export")
    if adds and any(option is not None for option in (precision, opset, calibration_data)):
        raise UsageError(
            "a bundle's precisions and opset stay as they are when sizes are added to it; "
            "leave --precision, --opset and --calibration-data out, or export from the checkpoint"
        )
    if dry_run:
        _foretell(model, patches, precisions, wanted_opset, adds=adds, as_json=as_json)
        return
    if place is None:
        raise UsageError("export needs a place for the bundle; name one with --output")
    if verify_data is None:
        stderr().print("Compared on noise, silence and a sweep; --verify-data SOUNDS adds real sound", style="yellow")
    common: dict[str, Any] = {
        "sounds": lambda spec: _sounds(verify_data, spec, val_fold),
        "max_drop": max_drop,
        "force": force,
        "progress": lambda variants: tracked(list(variants), "Verifying"),
    }
    if adds:
        manifest = _add(model, patches, place, **common)
    else:
        manifest = _export(model, patches, place, precisions, wanted_opset, calibration_data, val_fold, **common)
    if as_json:
        print_json(json.loads(manifest.model_dump_json(exclude_none=True)))
    else:
        show(Bundle(place, manifest))


def _precisions(text: str) -> tuple[Precision, ...]:
    from flexiast.errors import UsageError
    from flexiast.manifest import PRECISIONS

    names: dict[str, Precision] = {name: name for name in PRECISIONS}
    given = [part.strip() for part in text.split(",")]
    if unknown := [name for name in given if name not in names]:
        raise UsageError(f"unknown precision {unknown[0]!r}; there are {', '.join(PRECISIONS)}")
    return tuple(names[name] for name in dict.fromkeys(given))


def _foretell(
    model: str,
    patches: Sequence[PatchSize],
    precisions: Sequence[Precision],
    opset: int,
    *,
    adds: bool,
    as_json: bool,
) -> None:
    """Sizes, operations and bytes of the graphs, built in memory; torch is not needed."""
    from rich.table import Table

    from flexiast.checkpoint import load_checkpoint
    from flexiast_cli.console import print_json, stdout
    from flexiast_export.embedding import unpack
    from flexiast_export.graph import check_opset, embedder, encoder
    from flexiast_export.quantize import template
    from flexiast_export.to_onnx import check_exportable, versions
    from flexiast_runtime.bundle import Bundle
    from flexiast_runtime.models import find_checkpoint

    encoders: dict[str, int] = {}
    if adds:
        bundle = Bundle.open(Path(model))
        spec, weights, opset = bundle.manifest.spec, unpack(bundle), check_opset(bundle.manifest.opset)
        patches = [patch for patch in patches if patch not in bundle.manifest.patches]
    else:
        checkpoint = check_exportable(load_checkpoint(find_checkpoint(model)))
        spec, weights = checkpoint.spec, checkpoint.weights
        opset = check_opset(opset)
        for precision in precisions:
            graph = encoder(checkpoint, template(precision, spec), opset, versions())
            encoders[precision] = graph.ByteSize()
    sizes = {patch: embedder(spec, weights, patch, opset).ByteSize() for patch in patches}
    total = sum(encoders.values()) + sum(sizes.values())
    if as_json:
        graphs = [
            {"patch_size": str(patch), "tokens": spec.tokens(patch), "gmac": spec.gmac(patch), "bytes": size}
            for patch, size in sizes.items()
        ]
        print_json({"encoders": encoders, "variants": graphs, "bytes": total})
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("patch", "tokens", "GMAC", "embedder"):
        table.add_column(name, justify="left" if name == "patch" else "right")
    for patch, size in sizes.items():
        table.add_row(str(patch), f"{spec.tokens(patch):,}", f"{spec.gmac(patch):.3f}", f"{size / 1e6:.2f} MB")
    console = stdout()
    console.print(table)
    console.print()
    for name, size in encoders.items():
        console.print(f"One {name} encoder of {size / 1e6:.1f} MB serves all sizes.")
    console.print(f"{total / 1e6:.1f} MB in all; nothing was written.")


def _export(
    model: str,
    patches: Sequence[PatchSize],
    place: Path,
    precisions: Sequence[Precision],
    opset: int,
    calibration_data: Path | None,
    val_fold: str | None,
    *,
    sounds: Callable[[Spec], Sounds],
    **options: Any,
) -> Manifest:
    from flexiast.checkpoint import load_checkpoint
    from flexiast.extras import require
    from flexiast_runtime.models import find_checkpoint

    require("torch", "export")
    checkpoint = load_checkpoint(find_checkpoint(model))
    spec = checkpoint.spec
    for patch in patches:
        spec.check_patch(patch)

    from flexiast.train import TorchClassifier, load_model
    from flexiast_export.to_onnx import export_onnx

    return export_onnx(
        checkpoint,
        TorchClassifier(load_model(checkpoint)),
        patches,
        place,
        precisions=precisions,
        opset=opset,
        sounds=sounds(spec),
        calibration=None if calibration_data is None else _windows(calibration_data, spec, val_fold),
        **options,
    )


def _add(
    model: str, patches: Sequence[PatchSize], place: Path, *, sounds: Callable[[Spec], Sounds], **options: Any
) -> Manifest:
    from flexiast_export.add import add_sizes
    from flexiast_runtime.bundle import Bundle

    bundle = Bundle.open(Path(model))
    return add_sizes(bundle, patches, place, sounds=sounds(bundle.manifest.spec), **options)


HEARD_CLIPS, LABELLED_CLIPS, CALIBRATION_CLIPS = 16, 1000, 256
"""Clips taken at most, spread evenly: a thousand tell a loss of half a point, and take minutes."""


def _sounds(data: Path | None, spec: Spec, val_fold: str | None) -> Sounds:
    """A few clips of a folder, or the validation clips of a data set with their labels."""
    from flexiast.data import read_dataset
    from flexiast_cli.console import tracked
    from flexiast_export.verify import Sounds

    if data is None:
        return Sounds(spec)
    if not _has_labels(data, spec):
        return Sounds(spec, _waveforms(data, spec, HEARD_CLIPS, val_fold))

    from flexiast.data import load_waveforms

    dataset = read_dataset(data, val_fold).split("val")
    dataset = replace(dataset, clips=_spread(dataset.clips, LABELLED_CLIPS))
    targets = dataset.targets(spec.labels)
    rate = spec.frontend.sample_rate_hz
    _, waveforms, _ = load_waveforms(dataset, rate, progress=lambda clips: tracked(clips, "Reading clips"))
    return Sounds(spec, waveforms, targets)


def _windows(data: Path, spec: Spec, val_fold: str | None) -> NDArray[np.float32]:
    """The first window of each clip [clips, window_frames, mels]."""
    import numpy as np

    from flexiast.frontend import Frontend

    frontend = Frontend(spec.frontend)
    return np.stack([frontend.window(waveform) for waveform in _waveforms(data, spec, CALIBRATION_CLIPS, val_fold)])


def _has_labels(data: Path, spec: Spec) -> bool:
    """Whether these are clips with the model's labels, and not just sounds; raises DataError where some are."""
    from flexiast.errors import DataError

    if not data.is_dir() or _is_dataset(data):
        return True
    folders = {path.name for path in data.iterdir() if path.is_dir() and not path.name.startswith((".", "__", "@"))}
    unknown = sorted(folders - set(spec.labels))
    if unknown and len(unknown) < len(folders):
        raise DataError(
            f"{data} has folders named by label, but {unknown[0]!r} is none that the model knows; "
            "move it away, or give a folder of sounds without labels"
        )
    return bool(folders) and not unknown


def _is_dataset(folder: Path) -> bool:
    from flexiast.shards import INDEX

    return any((folder / name).is_file() for name in ("metadata.csv", INDEX))


def _waveforms(data: Path, spec: Spec, count: int, val_fold: str | None) -> Sequence[NDArray[np.float32]]:
    """So many clips spread evenly over a folder or CSV; of a data set, over those that it trains on."""
    from flexiast.audio import find_audio, read_audio
    from flexiast.data import load_waveforms, read_dataset
    from flexiast.errors import DataError

    rate = spec.frontend.sample_rate_hz
    if data.is_dir() and not _is_dataset(data):
        files = find_audio(data)
        if not files:
            raise DataError(f"{data} holds no audio")
        return [read_audio(path, rate) for path in _spread(files, count)]
    dataset = read_dataset(data, val_fold).split("train")
    return load_waveforms(replace(dataset, clips=_spread(dataset.clips, count)), rate)[1]


def _spread(items: Sequence[T], count: int) -> tuple[T, ...]:
    """So many of the items at most, evenly spaced."""
    count = min(count, len(items))
    return tuple(items[index * len(items) // count] for index in range(count))

"""What `flexiast export` can write: a bundle, or what programs without flexiast use instead of one."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from flexiast.errors import UsageError
from flexiast.manifest import MANIFEST, Precision
from flexiast.spec import parse_patches
from flexiast_cli.commands.export.run import Options, parse_precisions, prepare, publish, run
from flexiast_cli.terminal.console import print_json, stdout
from flexiast_export.single_file import write_single_files
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_any, find_checkpoint


def run_form(options: Options, *, single_file: bool, dry_run: bool, as_json: bool) -> None:
    """Raises UsageError for options that do not fit together, before any work begins."""
    if not single_file:
        run(options, dry_run=dry_run, as_json=as_json)
        return
    if dry_run:
        raise UsageError("--dry-run shows what a bundle would hold; leave it out")
    if options.output is None:
        raise UsageError("--single-file needs a folder for its files; name one with --output")
    found = find_any(options.model)
    if (found / MANIFEST).is_file():
        bundle = _open_bundle(found, options)
        paths = _write_single_files(bundle, _given_precisions(options, bundle), options, options.output)
    else:
        paths = _write_from_checkpoint(options, options.output)
    if as_json:
        print_json({"files": [str(path) for path in paths]})
        return
    for path in paths:
        stdout().print(f"{path}  {path.stat().st_size / 1e6:.1f} MB", markup=False, soft_wrap=True, highlight=False)


def _write_from_checkpoint(options: Options, folder: Path) -> list[Path]:
    """By way of a bundle, which is compared with the PyTorch model as any other and then goes."""
    checkpoint = find_checkpoint(options.model)
    name = checkpoint.parent.name if Path(options.model).is_dir() else checkpoint.stem
    with tempfile.TemporaryDirectory() as place:
        through = replace(options, output=Path(place) / f"{name}.bundle", force=False)
        bundle = publish(through, prepare(through))
        return _write_single_files(bundle, bundle.manifest.precisions, options, folder)


def _write_single_files(
    bundle: Bundle, precisions: tuple[Precision, ...], options: Options, folder: Path
) -> list[Path]:
    patches = bundle.manifest.patches if options.patches is None else parse_patches(options.patches)
    return write_single_files(bundle, patches, precisions, folder, force=options.force)


def _open_bundle(folder: Path, options: Options) -> Bundle:
    """Raises UsageError for options of an export from a checkpoint."""
    given = {
        "--verify-data": options.verify_data,
        "--val-fold": options.val_fold,
        "--max-drop": options.max_drop,
        "--calibration-data": options.calibration_data,
        "--skip-bad": options.skip_bad or None,
        "--opset": options.opset,
    }
    if ineffective := [name for name, value in given.items() if value is not None]:
        raise UsageError(
            f"{ineffective[0]} has no effect on a bundle, whose engines are taken as they are; leave it out, or export "
            "from the checkpoint"
        )
    return Bundle.open(folder)


def _given_precisions(options: Options, bundle: Bundle) -> tuple[Precision, ...]:
    """Those of --precision, or the bundle's default; raises UsageError for one that the bundle lacks."""
    if options.precision is None:
        return bundle.manifest.precisions[:1]
    return tuple(bundle.manifest.precision(name) for name in parse_precisions(options.precision))

"""What `flexiast export` can write: a bundle, or what programs without flexiast use of one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from flexiast.errors import UsageError
from flexiast.extras import require
from flexiast.manifest import MANIFEST, Precision
from flexiast.spec import PatchSize, parse_patches
from flexiast_cli.commands.export.run import Options, parse_precisions, prepare, publish, run
from flexiast_cli.commands.export.web import build_page
from flexiast_cli.terminal.console import count_noun, log, print_json, stdout
from flexiast_export.conformance import build_conformance
from flexiast_export.publish import CONFORMANCE, PAGE, Kind, check_place, publish_files
from flexiast_export.single_file import carries_licence, write_single_files
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_any, find_bundle, find_checkpoint


@dataclass(frozen=True, kw_only=True)
class Form:
    """What is written in place of a bundle, as given."""

    single_file: bool
    web: Path | None
    conformance: Path | None

    @property
    def option_names(self) -> list[str]:
        every = {"--single-file": self.single_file, "--web": self.web, "--conformance": self.conformance}
        return [name for name, value in every.items() if value]


def run_form(options: Options, *, form: Form, dry_run: bool, as_json: bool) -> None:
    """Raises UsageError for options that do not fit together, before any work begins."""
    if not form.option_names:
        require("onnx", "export")
        run(options, dry_run=dry_run, as_json=as_json)
        return
    if len(form.option_names) > 1:
        raise UsageError(f"{' and '.join(form.option_names)} write different things; give one of them")
    if dry_run:
        raise UsageError("--dry-run shows what a bundle would hold; leave it out")
    if form.single_file:
        paths = _write_single_files(options)
    elif form.web is not None:
        paths = _write_folder(options, form.web, PAGE, build_page)
    else:
        assert form.conformance is not None
        paths = _write_folder(options, form.conformance, CONFORMANCE, build_conformance)
    if as_json:
        print_json({"files": [str(path) for path in paths]})
        return
    for path in paths:
        files = [each for each in (path, *path.rglob("*")) if each.is_file()]
        size = f"{sum(each.stat().st_size for each in files) / 1e6:.1f} MB"
        found = f"{count_noun(len(files), 'file')}, {size}" if path.is_dir() else size
        stdout().print(f"{path}  {found}", markup=False, soft_wrap=True, highlight=False)
    if form.single_file and not carries_licence(paths[0]):
        log(
            "Note: the licence of these weights is not known here, so the files name none; weights that were trained "
            "from a model inherit its licence"
        )
    if form.web is not None:
        log(f"Any host of static files can serve it; to try it here: python3 -m http.server --directory {form.web}")


# ----- one file a size


def _write_single_files(options: Options) -> list[Path]:
    require("onnx", "export")
    if options.output is None:
        raise UsageError("--single-file needs a folder for its files; name one with --output")
    found = find_any(options.model)
    if not (found / MANIFEST).is_file():
        return _write_from_checkpoint(options, options.output)
    _check_bundle_options(options)
    bundle = Bundle.open(found)
    precisions = _parse_precisions(options, bundle)
    return write_single_files(bundle, _parse_patches(options, bundle), precisions, options.output, force=options.force)


def _write_from_checkpoint(options: Options, folder: Path) -> list[Path]:
    """By way of a bundle, which is compared with the PyTorch model as any other and then goes."""
    checkpoint = find_checkpoint(options.model)
    name = checkpoint.parent.name if Path(options.model).is_dir() else checkpoint.stem
    with tempfile.TemporaryDirectory() as place:
        through = replace(options, output=Path(place) / f"{name}.bundle", force=False)
        bundle = publish(through, prepare(through))
        patches, precisions = _parse_patches(options, bundle), bundle.manifest.precisions
        return write_single_files(bundle, patches, precisions, folder, force=options.force)


# ----- folders


def _write_folder(
    options: Options,
    folder: Path,
    kind: Kind,
    build: Callable[[Bundle, tuple[PatchSize, ...], Precision], dict[str, bytes]],
) -> list[Path]:
    """Build the files of a folder from a bundle, and publish it whole; raises UsageError before the work begins."""
    if options.output is not None:
        raise UsageError("--output names a bundle; --web and --conformance name their own folder: leave it out")
    _check_bundle_options(options)
    check_place(folder, force=options.force, kind=kind)
    bundle = Bundle.open(find_bundle(options.model))
    precision, *others = _parse_precisions(options, bundle)
    if others:
        raise UsageError("--web and --conformance take one precision; leave the others out")
    files = build(bundle, _parse_patches(options, bundle), precision)
    publish_files(files, folder, force=options.force, kind=kind)
    return [folder]


def _check_bundle_options(options: Options) -> None:
    """Raise UsageError for options of an export from a checkpoint."""
    given = {
        "--verify-data": options.verify_data,
        "--val-fold": options.val_fold,
        "--max-drop": options.max_drop,
        "--calibration-data": options.calibration_data,
        "--opset": options.opset,
    }
    if ineffective := [name for name, value in given.items() if value is not None]:
        raise UsageError(
            f"{ineffective[0]} has no effect on a bundle, whose engines are taken as they are; leave it out, or export "
            "from the checkpoint"
        )


def _parse_patches(options: Options, bundle: Bundle) -> tuple[PatchSize, ...]:
    return bundle.manifest.patches if options.patches is None else parse_patches(options.patches)


def _parse_precisions(options: Options, bundle: Bundle) -> tuple[Precision, ...]:
    """Those of --precision, or the bundle's default; raises UsageError for one that the bundle lacks."""
    if options.precision is None:
        return bundle.manifest.precisions[:1]
    return tuple(bundle.manifest.precision(name) for name in parse_precisions(options.precision))

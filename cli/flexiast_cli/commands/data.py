"""``flexiast data``: CSVs of published data sets, shards of large ones."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flexiast.errors import UsageError
from flexiast.files import check_new_output
from flexiast_cli.terminal.console import count_noun, log, stderr, track

if TYPE_CHECKING:
    from flexiast.data.corpora import Listing


class Kind(str, Enum):
    """Published data sets."""

    AUDIOSET = "audioset"
    ESC50 = "esc50"
    SPEECHCOMMANDS = "speechcommands"
    VGGSOUND = "vggsound"
    VOXCELEB1 = "voxceleb1"


def manifest(
    kind: Annotated[Kind, typer.Argument(metavar="KIND", help=f"One of {', '.join(kind.value for kind in Kind)}.")],
    source: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE", help="Its folder; for audioset the segment CSVs, for vggsound vggsound.csv."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="CSV to write (path,label,split or fold).")],
    audio: Annotated[
        Path | None,
        typer.Option(
            "--audio", help="Folder of the clips of audioset or vggsound, at any depth.", show_default="that of the CSV"
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a CSV that exists.")] = False,
) -> None:
    """List a published data set that is on this disk, with its own splits.

    Nothing is downloaded; clips that the disk lacks are counted and left out.
    """
    from flexiast_cli.dataset import print_left_out

    check_new_output(output, force=force)
    listing = _write_listing(kind, source, audio, output)
    missing = f"; {listing.missing:,} more are listed, but not on this disk" if listing.missing else ""
    stderr().print(f"{count_noun(len(listing.clips), 'clip')}{missing}", markup=False)
    print_left_out(audio or source[0].parent, listing.left_out, stderr())


def _write_listing(kind: Kind, source: list[Path], audio: Path | None, output: Path) -> Listing:
    """Find the clips of a published data set, and write their CSV; raises UsageError and DataError."""
    from flexiast.data import corpora

    first, *others = source
    if others and kind is not Kind.AUDIOSET:
        raise UsageError(f"{kind.value} has one source, not {len(source)}: name {first} only")
    folders = {
        Kind.ESC50: corpora.esc50,
        Kind.SPEECHCOMMANDS: corpora.speechcommands,
        Kind.VOXCELEB1: corpora.voxceleb1,
    }
    if audio is not None and kind in folders:
        raise UsageError(f"--audio cannot be used with {kind.value}, whose clips lie in its own folder; leave it out")
    if kind is Kind.AUDIOSET:
        listing = corpora.audioset(source, audio or first.parent)
    elif kind is Kind.VGGSOUND:
        listing = corpora.vggsound(first, audio or first.parent)
    else:
        listing = folders[kind](first)
    corpora.write_listing(listing, output)
    return listing


def shard(
    data: Annotated[Path, typer.Argument(help="Folder of folders named by label, or a CSV (path,label,split|fold).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    shard_size: Annotated[int, typer.Option("--shard-size", min=1, help="Megabytes of a shard, about.")] = 500,
    val_fold: Annotated[
        str | None,
        typer.Option("--val-fold", help="Fold that validates, for a CSV with folds.", show_default="the last"),
    ] = None,
) -> None:
    """Pack a data set into WebDataset shards, which `train` and `evaluate` read like a folder.

    Network disks read a few large files faster than a million small ones. Each clip is decoded once to find bad ones,
    and stored byte for byte as it is. The split is fixed here, too.
    """
    from flexiast.data.shards import write_shards
    from flexiast_cli.dataset import print_bad_files, read_data

    index, errors = write_shards(
        read_data(data, val_fold, stderr()),
        data if data.is_dir() else data.parent,
        output,
        shard_bytes=shard_size * 1_000_000,
        progress=lambda clips: track(clips, "Packing clips"),
        log=log,
    )
    print_bad_files(errors, stderr())
    clips = sum(len(shard.clips) for shard in index.shards)
    stderr().print(
        f"{count_noun(clips, 'clip')} in {count_noun(len(index.shards), 'shard')}, "
        f"{sum(shard.size for shard in index.shards) / 1e6:,.1f} MB ({index.split_rule})",
        markup=False,
    )

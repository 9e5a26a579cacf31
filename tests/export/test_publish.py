"""Publishing: whatever fails and whenever, a reader sees the old bundle, the new one or none, and no litter stays."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from flexiast.checkpoint import Checkpoint
from flexiast.errors import UsageError
from flexiast.evaluate import Classifier
from flexiast.spec import PatchSize
from flexiast_export.bundle import add_file, staged
from flexiast_export.to_onnx import export_onnx
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.selfcheck import verify_bundle

OLD, NEW = PatchSize(16, 16), PatchSize(20, 10)

Export = Callable[..., None]


class FullDisk:
    """Makes the n-th file operation fail, as a disk does that is full or worn; counts them all."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int) -> None:
        self.calls, self._at = 0, at
        for owner, name in ((Path, "write_bytes"), (Path, "chmod"), (Path, "replace"), (os, "fsync")):
            patch.setattr(owner, name, self._failing(name, getattr(owner, name)))

    def _failing(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def run(target: Any, *arguments: Any) -> Any:
            self.calls += 1
            if self.calls == self._at:
                if name == "write_bytes":
                    operation(target, arguments[0][: len(arguments[0]) // 2])  # a full disk takes what fits
                raise OSError(errno.ENOSPC, "No space left on device")
            return operation(target, *arguments)

        return run


@pytest.fixture
def export(tiny_checkpoint: Checkpoint, tiny_source: Classifier) -> Export:
    def run(output: Path, patch: PatchSize, *, force: bool = False) -> None:
        export_onnx(tiny_checkpoint, tiny_source, [patch], output, force=force)

    return run


def contents(folder: Path) -> dict[str, bytes] | None:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else None


def operations(run: Callable[[], None]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        disk = FullDisk(patch, at=-1)
        run()
    return disk.calls


@pytest.mark.parametrize("force", [False, True], ids=["first export", "replacement"])
def test_a_failure_at_any_operation_leaves_a_whole_bundle_or_none(tmp_path: Path, export: Export, force: bool) -> None:
    count = operations(lambda: export(tmp_path / "counted" / "bundle", NEW))
    assert count > 10, "the operations of an export are no longer those that are made to fail here"
    for failing in range(1, count + 1 + force):  # a replacement has one rename more
        folder = tmp_path / str(failing)
        output = folder / "bundle"
        if force:
            export(output, OLD)
        before = contents(output)
        with pytest.MonkeyPatch.context() as patch:
            FullDisk(patch, failing)
            with pytest.raises(OSError, match="No space left"):
                export(output, NEW, force=force)
        assert [path.name for path in folder.iterdir()] in ([], ["bundle"]), f"litter after operation {failing}"
        if contents(output) != before:  # only the flush after the rename can fail with the new bundle in place
            assert failing == count + force
            assert verify_bundle(Bundle.open(output)).keys() == {NEW}


def test_the_manifest_is_written_last(tmp_path: Path, export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    written, write = [], Path.write_bytes

    def remember(path: Path, content: bytes) -> int:
        written.append(path.name)
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", remember)
    export(tmp_path / "bundle", NEW)
    assert written[-1] == "manifest.json"
    assert written.count("manifest.json") == 1


def test_nothing_is_seen_at_the_place_until_all_is_there(tmp_path: Path) -> None:
    with staged(tmp_path / "bundle", force=False) as stage:
        add_file(stage, "manifest.json", b"{}")
        assert not (tmp_path / "bundle").exists()
        assert stage.parent == tmp_path  # the same file system, so that a rename suffices
    assert (tmp_path / "bundle" / "manifest.json").read_bytes() == b"{}"
    assert not stage.exists()


def test_an_old_bundle_is_seen_until_the_new_one_takes_its_place(tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        with staged(tmp_path / "bundle", force=True) as stage:
            add_file(stage, "manifest.json", content)
            if content == b"new":
                assert (tmp_path / "bundle" / "manifest.json").read_bytes() == b"old"
    assert contents(tmp_path / "bundle") == {"manifest.json": b"new"}


def test_a_reader_keeps_the_files_it_has_open(tmp_path: Path) -> None:
    with staged(tmp_path / "bundle", force=True) as stage:
        add_file(stage, "manifest.json", b"old")
    with (tmp_path / "bundle" / "manifest.json").open("rb") as reader:
        with staged(tmp_path / "bundle", force=True) as stage:
            add_file(stage, "manifest.json", b"new")
        assert reader.read() == b"old"


def test_an_entry_describes_what_was_written(tmp_path: Path) -> None:
    entry = add_file(tmp_path, "encoder.onnx", b"weights")
    assert (entry.name, entry.size, entry.sha256) == ("encoder.onnx", 7, sha256(b"weights").hexdigest())
    assert (tmp_path / "encoder.onnx").read_bytes() == b"weights"


# ----- what stands in the way


def a_folder(path: Path) -> None:
    path.mkdir()
    (path / "thesis.txt").write_text("years of work")


def a_file(path: Path) -> None:
    path.write_text("years of work")


def a_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def a_link_to_a_bundle(path: Path) -> None:
    """Someone's ``current``: replacing what it points to is not what was asked, and a rename cannot replace it."""
    target = path.parent / "bundle-1"
    target.mkdir()
    (target / "manifest.json").write_text("{}")
    path.symlink_to(target)


IN_THE_WAY = pytest.mark.parametrize("make", [a_folder, a_file, a_dangling_link, a_link_to_a_bundle])


def listing(folder: Path) -> set[tuple[str, bool]]:
    return {(str(path.relative_to(folder)), path.is_symlink()) for path in folder.rglob("*")}


@IN_THE_WAY
@pytest.mark.parametrize("force", [False, True], ids=["unasked", "with --force"])
def test_what_is_no_bundle_is_never_replaced(tmp_path: Path, make: Callable[[Path], None], force: bool) -> None:
    make(tmp_path / "output")
    before = listing(tmp_path)
    with pytest.raises(UsageError, match=r"output exists"), staged(tmp_path / "output", force=force):
        pytest.fail("the block began, though nothing can be published")
    assert listing(tmp_path) == before

"""Publishing: whatever fails and whenever, a reader sees the old bundle, the new one or none, and no litter stays."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flexiast.checkpoint import Checkpoint
from flexiast.errors import UsageError
from flexiast.evaluation.evaluate import Classifier
from flexiast.spec import PatchSize
from flexiast_export import publish
from flexiast_export.publish import stage_bundle
from flexiast_export.to_onnx import export_onnx
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.inference.selfcheck import verify_bundle

OLD, NEW = PatchSize(16, 16), PatchSize(20, 10)

Export = Callable[..., None]


def sizes(folder: Path) -> set[PatchSize]:
    return {variant.patch_size for variant, _ in verify_bundle(Bundle.open(folder))}


class FullDisk:
    """Makes the n-th file operation fail, as a disk does that is full or worn; counts them all."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int) -> None:
        self.calls, self._at = 0, at
        for owner, name in (
            (Path, "write_bytes"),
            (Path, "chmod"),
            (Path, "replace"),
            (os, "fsync"),
            (publish, "_exchange"),
        ):
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
    count = operations(lambda: export(tmp_path / "count_noun" / "bundle", NEW))
    assert count > 10, "the operations of an export are no longer those that are made to fail here"
    for failing in range(1, count + 1):
        folder = tmp_path / str(failing)
        output = folder / "bundle"
        if force:
            export(output, OLD)
        before = contents(output)
        with pytest.MonkeyPatch.context() as patch:
            FullDisk(patch, failing)
            with pytest.raises(OSError, match="No space left"):
                export(output, NEW, force=force)
        left = [path.name for path in folder.iterdir()] if folder.exists() else []
        assert left in ([], ["bundle"]), f"litter after operation {failing}"
        assert left or not folder.exists()  # it was made on the way
        if contents(output) != before:  # only the flush after the rename can fail with the new bundle in place
            assert failing == count
            assert sizes(output) == {NEW}


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
    with stage_bundle(tmp_path / "bundle", force=False) as stage:
        (stage / "manifest.json").write_bytes(b"{}")
        assert not (tmp_path / "bundle").exists()
        assert stage.parent == tmp_path  # the same file system, so that a rename suffices
    assert (tmp_path / "bundle" / "manifest.json").read_bytes() == b"{}"
    assert not stage.exists()


def test_an_old_bundle_is_seen_until_the_new_one_takes_its_place(tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        with stage_bundle(tmp_path / "bundle", force=True) as stage:
            (stage / "manifest.json").write_bytes(content)
            if content == b"new":
                assert (tmp_path / "bundle" / "manifest.json").read_bytes() == b"old"
    assert contents(tmp_path / "bundle") == {"manifest.json": b"new"}


def test_a_reader_keeps_the_files_it_has_open(tmp_path: Path) -> None:
    with stage_bundle(tmp_path / "bundle", force=True) as stage:
        (stage / "manifest.json").write_bytes(b"old")
    with (tmp_path / "bundle" / "manifest.json").open("rb") as reader:
        with stage_bundle(tmp_path / "bundle", force=True) as stage:
            (stage / "manifest.json").write_bytes(b"new")
        assert reader.read() == b"old"


@pytest.mark.parametrize("error", [KeyboardInterrupt, UsageError])
def test_folders_that_were_made_on_the_way_go_with_a_failed_export(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(error), stage_bundle(tmp_path / "mine/a/b/bundle", force=False):
        raise error
    assert list((tmp_path / "mine").iterdir()) == []
    with pytest.raises(error), stage_bundle(tmp_path / "mine/a/b/bundle", force=False):
        (tmp_path / "mine/a/notes.txt").write_text("put there meanwhile")
        raise error
    assert [path.name for path in (tmp_path / "mine").rglob("*")] == ["a", "notes.txt"]


def test_folders_go_also_where_not_all_of_them_were_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Path.mkdir

    def interrupted(path: Path, **_: Any) -> None:
        make(path.parent)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt), stage_bundle(tmp_path / "a/b/bundle", force=False):
        pytest.fail("the block began without its folder")
    assert list(tmp_path.iterdir()) == []


def test_what_lies_in_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("years of work")
    output = tmp_path / "notes/a/bundle"
    with pytest.raises(UsageError, match="is not a folder that you may write"), stage_bundle(output, force=True):
        pytest.fail("the block began, though nothing can be published")


# ----- killed, or beside another


def bundle_of(path: Path, content: bytes) -> None:
    with stage_bundle(path, force=True) as stage:
        (stage / "manifest.json").write_bytes(content)


def test_a_reader_finds_a_bundle_at_every_moment_of_a_replacement(tmp_path: Path) -> None:
    output, done, found = tmp_path / "bundle", threading.Event(), set()
    bundle_of(output, b"0")

    def read() -> None:
        while not done.is_set():
            found.add(output.is_dir())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(50):
        bundle_of(output, str(number).encode())
    done.set()
    reader.join()
    assert found == {True}


@pytest.mark.parametrize("failing", [None, 1, 2, 3])
def test_where_folders_cannot_be_swapped_two_renames_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int | None
) -> None:
    monkeypatch.setattr(publish.ctypes, "CDLL", lambda *_, **__: object())  # a C library without renameat2
    bundle_of(tmp_path / "bundle", b"old")
    with monkeypatch.context() as patch:
        if failing is None:
            bundle_of(tmp_path / "bundle", b"new")
        else:
            replace, calls = Path.replace, []

            def fail(path: Path, target: Path) -> Path:
                calls.append(path)
                if len(calls) == failing:
                    raise OSError(errno.EIO, "Input/output error")
                return replace(path, target)

            patch.setattr(Path, "replace", fail)
            with pytest.raises(OSError, match="Input/output error"):
                bundle_of(tmp_path / "bundle", b"new")
    bundle_of(tmp_path / "bundle-2", b"")  # another place
    expected = b"old" if failing in {1, 2} else b"new"
    assert contents(tmp_path / "bundle") == {"manifest.json": expected}
    bundle_of(tmp_path / "bundle", b"newer")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "bundle-2"]


def test_what_a_killed_export_left_is_swept_and_what_it_set_aside_put_back(tmp_path: Path) -> None:
    bundle_of(tmp_path / ".bundle.tmp-abc-old", b"set aside")
    bundle_of(tmp_path / ".bundle.tmp-abc", b"half")
    bundle_of(tmp_path / ".other.tmp-abc", b"of another place")
    with pytest.raises(UsageError, match="exists"), stage_bundle(tmp_path / "bundle", force=False):
        pytest.fail("the block began beside a bundle that was set aside")
    assert contents(tmp_path / "bundle") == {"manifest.json": b"set aside"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.tmp-abc", "bundle"]


def test_two_exports_to_one_place_follow_one_another(tmp_path: Path) -> None:
    output, order = tmp_path / "bundle", []
    waiting = threading.Thread(target=lambda: (bundle_of(output, b"second"), order.append("second")))
    with stage_bundle(output, force=True) as stage:
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        bundle_of(tmp_path / "another", b"at once")
        (stage / "manifest.json").write_bytes(b"first")
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]
    assert contents(output) == {"manifest.json": b"second"}


def test_an_export_killed_at_any_moment_leaves_the_old_bundle_or_the_new(tmp_path: Path, export: Export) -> None:
    """Real processes that add a size, killed at moments spread over their life."""
    output = tmp_path / "bundle"
    export(output, OLD)
    old = contents(output)
    command = [sys.executable, "-m", "flexiast_cli.main", "export", str(output), "--patch-sizes", str(NEW)]

    def killed_after(seconds: float) -> bool:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return True
        return False

    begun = time.monotonic()
    assert not killed_after(60)
    life = time.monotonic() - begun
    assert sizes(output) == {OLD, NEW}
    killed = 0
    for share in np.linspace(0.3, 1.0, 12):  # before that, Python and its modules are loaded
        export(output, OLD, force=True)
        killed += killed_after(share * life)
        found = sizes(output)
        assert found in ({OLD}, {OLD, NEW})
        assert found == {OLD, NEW} or contents(output) == old
    assert killed > 3
    export(output, OLD, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_one_at_a_time_and_no_lock_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locks = tmp_path / "locks"
    locks.mkdir()
    monkeypatch.setattr(publish.tempfile, "gettempdir", lambda: str(locks))
    inside, most = [], []

    def work() -> None:
        for _ in range(20):
            with publish._alone(tmp_path / "bundle"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(most), max(most)) == (120, 1)
    assert list(locks.iterdir()) == []


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
    with pytest.raises(UsageError, match=r"output exists"), stage_bundle(tmp_path / "output", force=force):
        pytest.fail("the block began, though nothing can be published")
    assert listing(tmp_path) == before

"""The plan cache: found by content, kept from others, never run when anything about it is different."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from flexiast.errors import ExitCode, UsageError, VerificationError
from flexiast_runtime.inference.tensorrt.plan_store import PlanEntry, PlanKey, PlanStore

FIELDS: dict[str, Any] = {
    "onnx_sha256": "a" * 64,
    "precision": "fp16",
    "profiles": ("tokens=1x20x16", "tokens=1x6x16"),
    "flavour": "tensorrt",
    "version": "10.3.0",
    "target": "current",
    "compute_capability": "8.7",
    "gpu": "Orin",
    "driver": "CUDA 12.6, 540.4.0",
    "memory_limit_mb": None,
}
OTHER: dict[str, Any] = {
    "onnx_sha256": "b" * 64,
    "precision": "fp32",
    "profiles": ("tokens=1x6x16", "tokens=1x20x16"),
    "flavour": "tensorrt-rtx",
    "version": "10.3.0.26",
    "target": "sm86",
    "compute_capability": "8.6",
    "gpu": "Orin NX",
    "driver": "CUDA 12.6, 540.4.1",
    "memory_limit_mb": 512,
}
KEY = PlanKey(**FIELDS)


@pytest.fixture
def store(tmp_path: Path) -> PlanStore:
    return PlanStore(tmp_path / "cache" / "plans")


def test_a_plan_comes_back_as_it_was_put(store: PlanStore) -> None:
    assert store.find(KEY) is None
    entry = store.save("encoder.onnx", KEY, b"a plan", 1.5)
    assert store.find(KEY) == entry
    assert store.load(KEY) == b"a plan"
    assert (entry.size, entry.build_s, entry.name) == (6, 1.5, "encoder.onnx")
    assert 0 <= entry.age_days < 1


def test_a_name_is_the_whole_hash_of_the_key_and_says_nothing_of_the_file(store: PlanStore) -> None:
    store.save("encoder.onnx", KEY, b"a plan", 1.0)
    names = {path.name for path in store.folder.iterdir()}
    assert names == {f"{KEY.digest}.plan", f"{KEY.digest}.json"}
    assert len(KEY.digest) == 64


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_makes_another_key(store: PlanStore, field: str) -> None:
    assert set(FIELDS) == set(PlanKey.model_fields)  # a new field needs a line above
    other = PlanKey(**FIELDS | {field: OTHER[field]})
    assert other.digest != KEY.digest
    store.save("encoder.onnx", other, b"another plan", 1.0)
    assert store.find(KEY) is None
    same_slot = field not in {"onnx_sha256", "precision", "profiles"}
    assert [entry.key for entry in store.others(KEY)] == ([other] if same_slot else [])


def test_what_differs_is_told_with_both_values() -> None:
    other = PlanKey(**FIELDS | {"version": "10.16.2", "driver": "CUDA 13.2"})
    told = KEY.differences(other)
    assert told == "version 10.16.2, here 10.3.0; driver CUDA 13.2, here CUDA 12.6, 540.4.0"
    assert KEY.differences(KEY) == ""


def test_the_key_is_the_same_in_every_process() -> None:
    """Computed once and written down: a cache outlives the program that filled it."""
    assert KEY.digest == "ca35d07801fddcad76602cf0a1bbddf530d07fea1e4978f23bda4830241b3b45"


def test_the_same_measurements_serve_every_graph_of_a_place(store: PlanStore) -> None:
    store.save_timing(KEY, b"measured")
    assert store.read_timing_cache(PlanKey(**FIELDS | {"onnx_sha256": "c" * 64})) == b"measured"
    assert store.read_timing_cache(PlanKey(**FIELDS | {"gpu": "Orin NX"})) == b""


# ------------------------------------------------------------------------------------------------ nobody else may write


def test_only_this_user_may_read_what_is_kept(store: PlanStore) -> None:
    store.save("encoder.onnx", KEY, b"a plan", 1.0)
    store.save_timing(KEY, b"measured")
    with store.lock():
        pass
    assert store.folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in store.folder.iterdir()} == {0o600}


@pytest.mark.parametrize("what", ["folder", "plan", "json"])
@pytest.mark.parametrize("mode", [0o020, 0o002], ids=["group", "others"])
def test_a_plan_that_others_could_write_is_not_loaded(store: PlanStore, what: str, mode: int) -> None:
    store.save("encoder.onnx", KEY, b"a plan", 1.0)
    path = store.folder if what == "folder" else store.folder / f"{KEY.digest}.{what}"
    path.chmod(path.stat().st_mode | mode)
    with pytest.raises(VerificationError, match=r"may be written by others.*chmod go-w") as caught:
        store.load(KEY)
    assert caught.value.exit_code == ExitCode.VERIFICATION
    assert str(path) in str(caught.value)


def test_a_plan_of_another_user_is_not_loaded(store: PlanStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save("encoder.onnx", KEY, b"a plan", 1.0)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(VerificationError, match=f"belongs to user {owner}, not to you"):
        store.load(KEY)


def test_nothing_is_kept_in_a_folder_that_others_may_write(store: PlanStore) -> None:
    store.folder.mkdir(parents=True)
    store.folder.chmod(0o777)
    with pytest.raises(VerificationError, match="may be written by others"):
        store.save("encoder.onnx", KEY, b"a plan", 1.0)
    assert list(store.folder.iterdir()) == []


def test_a_link_is_not_followed(store: PlanStore, tmp_path: Path) -> None:
    store.save("encoder.onnx", KEY, b"a plan", 1.0)
    plan = store.plan_path(KEY.digest)
    plan.rename(tmp_path / "elsewhere")
    plan.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(VerificationError, match="cannot be read"):
        store.load(KEY)


# --------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("damage", [b"A plan", b"a plan!", b"a pla", b""])
def test_a_plan_that_is_not_the_one_that_was_built_is_not_loaded(store: PlanStore, damage: bytes) -> None:
    store.save("encoder.onnx", KEY, b"a plan", 1.0)
    store.plan_path(KEY.digest).write_bytes(damage)
    with pytest.raises(VerificationError, match="engines build --rebuild"):
        store.load(KEY)


def test_an_entry_under_another_name_is_refused(store: PlanStore) -> None:
    """A plan of an older driver, renamed to be found: its own key gives it away."""
    old = PlanKey(**FIELDS | {"driver": "CUDA 12.2"})
    store.save("encoder.onnx", old, b"an old plan", 1.0)
    for path in (store.plan_path(old.digest), store.entry_path(old.digest)):
        path.rename(path.with_name(path.name.replace(old.digest, KEY.digest)))
    with pytest.raises(VerificationError, match="holds another key"):
        store.find(KEY)
    assert store.entries() == []


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"schema_version": "2.0"}'])
def test_an_entry_that_is_none_is_named(store: PlanStore, text: str) -> None:
    store.save("encoder.onnx", KEY, b"a plan", 1.0)
    store.entry_path(KEY.digest).write_text(text)
    with pytest.raises(VerificationError, match=r"\.json is not the entry of a plan"):
        store.find(KEY)
    assert store.digests() == (KEY.digest,)  # still there to be pruned
    assert store.entries() == []


def test_an_entry_does_not_vouch_for_a_newer_plan(store: PlanStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the two writes of a second build: the plan counts as absent, not as damaged."""
    store.save("encoder.onnx", KEY, b"a plan", 1.0)
    writes: list[Path] = []

    def write_once(path: Path, content: bytes) -> None:
        writes.append(path)
        if len(writes) == 2:
            raise KeyboardInterrupt
        path.write_bytes(content)

    monkeypatch.setattr("flexiast_runtime.inference.tensorrt.plan_store.write_atomically", write_once)
    with pytest.raises(KeyboardInterrupt):
        store.save("encoder.onnx", KEY, b"a newer plan", 1.0)
    assert store.find(KEY) is None
    assert store.leftovers() == [store.plan_path(KEY.digest)]


@pytest.mark.parametrize("suffix", ["plan", "json", "timing"])
def test_a_folder_in_place_of_a_file_is_named_and_left_alone(store: PlanStore, suffix: str) -> None:
    folder = store.folder / f"{KEY.timing_digest if suffix == 'timing' else KEY.digest}.{suffix}"
    (folder / "mine").mkdir(parents=True)
    with pytest.raises(VerificationError, match=rf"{folder} is a folder where a file is expected; move it away"):
        store.save_timing(KEY, b"measured") if suffix == "timing" else store.save("encoder.onnx", KEY, b"a plan", 1.0)
    if suffix == "json":
        with pytest.raises(VerificationError, match="is a folder where a file is expected"):
            store.find(KEY)
    assert (store.digests(), store.entries()) == ((), [])
    assert folder not in store.leftovers()
    assert (folder / "mine").is_dir()


def test_a_pipe_or_a_dangling_link_is_an_entry_that_cannot_be_read(store: PlanStore) -> None:
    store.save("encoder.onnx", KEY, b"a plan", 1.0)
    os.mkfifo(store.entry_path("1" * 64), 0o600)
    store.entry_path("2" * 64).symlink_to("nowhere")
    assert set(store.digests()) == {KEY.digest, "1" * 64, "2" * 64}
    for digest in ("1" * 64, "2" * 64):
        with pytest.raises(VerificationError):
            store.entry(digest)
        store.remove(digest)
    assert store.digests() == (KEY.digest,)


def test_a_plan_can_be_removed(store: PlanStore) -> None:
    store.save("encoder.onnx", KEY, b"a plan", 1.0)
    assert store.size(KEY.digest) > 6
    store.remove(KEY.digest)
    assert store.digests() == ()
    assert list(store.folder.iterdir()) == []
    assert store.size(KEY.digest) == 0


def test_age_is_counted_from_the_build(store: PlanStore) -> None:
    entry = store.save("encoder.onnx", KEY, b"a plan", 1.0)
    built = (datetime.now(timezone.utc) - timedelta(days=30)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert entry.model_copy(update={"built": built}).age_days == pytest.approx(30, abs=0.01)


def test_an_entry_is_plain_json(store: PlanStore) -> None:
    entry = store.save("encoder.onnx", KEY, b"a plan", 1.0)
    document = json.loads(store.entry_path(KEY.digest).read_text())
    assert document["key"]["driver"] == "CUDA 12.6, 540.4.0"
    assert PlanEntry.model_validate_json(json.dumps(document)) == entry


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"FLEXIAST_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a/plans"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/flexiast/plans"),
        ({"HOME": "/c"}, "/c/.cache/flexiast/plans"),
    ],
)
def test_the_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], folder: str) -> None:
    for name in ("FLEXIAST_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert PlanStore.default().folder == Path(folder)


@pytest.mark.parametrize("there", ["cache", "cache/plans"])
def test_a_file_in_place_of_the_folder_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str) -> None:
    monkeypatch.setenv("FLEXIAST_CACHE", str(tmp_path / "cache"))
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).write_text("notes")
    with pytest.raises(UsageError, match=rf"{tmp_path / there} is not a folder, .*set FLEXIAST_CACHE to a folder"):
        PlanStore.default()

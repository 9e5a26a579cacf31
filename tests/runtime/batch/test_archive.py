"""A results place: every event once, however often a run ends and begins again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from flexiast.errors import DataError, UsageError
from flexiast.spec import PatchSize
from flexiast.storage import Folder
from flexiast_runtime.batch.archive import Archive, Report, Task
from flexiast_runtime.batch.archive_run import ERRORS, ArchiveRun, prepare_run, run_in_process, run_in_workers
from flexiast_runtime.batch.formats import Format
from flexiast_runtime.batch.ledger import ENTRIES, EVENTS, RUN, Recording
from flexiast_runtime.batch.parquet import EVENT_COLUMNS
from flexiast_runtime.batch.runner import Job, classify_file
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.detection.rules import EventRules
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.inference.backends import Backend
from flexiast_runtime.inference.ort import load_engines

parquet = pytest.importorskip("pyarrow.parquet")

RATE = 16_000
PATCH = PatchSize(8, 8)


@pytest.fixture
def archive(tiny_bundle: Path, tmp_path: Path) -> Archive:
    job = Job(tiny_bundle, PATCH, None, Backend.CPU, DetectionSettings(0.1, 0.15, EventRules(0.6)))
    return Archive(job, str(tmp_path / "out"), Format.PARQUET, "tiny")


@pytest.fixture
def folder(tmp_path: Path, write_audio: Callable[..., Path]) -> Path:
    rng = np.random.default_rng(0)
    for number in range(9):
        sound = (0.1 * rng.standard_normal(RATE * (number + 3) // 5)).astype(np.float32)
        write_audio(tmp_path / f"in/{number}.wav", sound, RATE)
    (tmp_path / "in/bad.wav").write_bytes(b"no sound")
    return tmp_path / "in"


def list_recordings(folder: Path) -> list[Recording]:
    files = sorted(folder.iterdir())
    return [Recording(str(path), (at := path.stat()).st_size, str(at.st_mtime_ns), path.name) for path in files]


def prepare(archive: Archive, folder: Path, batch_files: int = 3, piece_s: float = 3600.0) -> ArchiveRun:
    spec = Bundle.open(archive.job.bundle).manifest.spec
    return prepare_run(archive, spec, list_recordings(folder), batch_files, piece_s)


def alone(archive: Archive, tasks: object) -> Iterator[Report]:
    assert hasattr(tasks, "__iter__")
    return run_in_process(archive, tasks, print, lambda: False, lambda: None)


def read(place: str, name: str = EVENTS) -> list[dict[str, object]]:
    """All events, sorted; read as anybody would."""
    rows = parquet.read_table(f"{place}/{name}").to_pylist()
    return sorted(rows, key=lambda row: (row["recording"], row.get("start_sample", 0), row.get("label", "")))


def expected(archive: Archive, folder: Path) -> list[tuple[object, ...]]:
    engines = load_engines(Bundle.open(archive.job.bundle))
    results = [classify_file(engines, archive.job, path) for path in sorted(folder.iterdir())]
    return sorted(
        (event.source, event.start_sample, event.end_sample, event.label, str(event.patch))
        for result in results
        for event in result.events
    )


def bounds(rows: list[dict[str, object]]) -> list[tuple[object, ...]]:
    names = ("recording", "start_sample", "end_sample", "label", "patch_size")
    return sorted(tuple(row[name] for name in names) for row in rows)


def test_an_archive_has_the_events_of_its_files_and_names_what_failed(archive: Archive, folder: Path) -> None:
    reports = list(prepare(archive, folder).reports(alone))
    assert bounds(read(archive.place)) == expected(archive, folder) != []
    (error,) = read(archive.place, ERRORS)
    assert (Path(str(error["recording"])).name, "cannot be read as audio" in str(error["error"])) == ("bad.wav", True)
    assert sum(report.events for report in reports) == len(read(archive.place))
    assert sum(report.audio_s for report in reports) == pytest.approx(sum((n + 3) / 5 for n in range(9)))


def test_columns_say_their_units(archive: Archive, folder: Path) -> None:
    list(prepare(archive, folder).reports(alone))
    for path in Path(archive.place, EVENTS).iterdir():
        schema = parquet.read_schema(path)
        found = {field.name: (str(field.type), field.metadata[b"unit"].decode()) for field in schema}
        assert found == {
            name: (kind.replace("float32", "float").replace("float64", "double"), unit)
            for name, (kind, unit, _) in EVENT_COLUMNS.items()
        }


@pytest.mark.parametrize("killed_after", ["entry", "events"])
def test_a_run_that_is_killed_goes_on_where_it_ended(archive: Archive, folder: Path, killed_after: str) -> None:
    """After each of its groups; also between a group's events and its entry."""
    first = prepare(archive, folder)
    assert [len(task.recordings) for task in first.tasks] == [3, 3, 3, 1]
    for done in range(1, 4):
        run = prepare(archive, folder)
        begun = run.reports(alone)
        report = next(begun)
        begun.close()  # as a kill does: nothing after the group is done
        if killed_after == "events":
            entries = sorted(Path(archive.place, ENTRIES).glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
            entries[-1].unlink()
            run = prepare(archive, folder)
            assert run.tasks[0] == report.task
            next(run.reports(alone))
        assert prepare(archive, folder).already == 3 * done
    list(prepare(archive, folder).reports(alone))
    assert bounds(read(archive.place)) == expected(archive, folder)
    again = prepare(archive, folder)
    assert ([len(task.recordings) for task in again.tasks], again.already) == ([1], 9), "the bad one is tried again"


def test_events_that_no_entry_names_are_swept(archive: Archive, folder: Path) -> None:
    list(prepare(archive, folder).reports(alone))
    events = sorted(Path(archive.place, EVENTS).iterdir())
    shutil.copy(events[0], Path(archive.place, EVENTS, "of-a-killed-run.parquet"))
    prepare(archive, folder)
    assert sorted(Path(archive.place, EVENTS).iterdir()) == events


def test_a_recording_that_has_changed_replaces_its_events(
    archive: Archive, folder: Path, write_audio: Callable[..., Path]
) -> None:
    list(prepare(archive, folder).reports(alone))
    rng = np.random.default_rng(9)
    write_audio(folder / "4.wav", (0.1 * rng.standard_normal(RATE * 2)).astype(np.float32), RATE)
    write_audio(folder / "new.wav", (0.1 * rng.standard_normal(RATE)).astype(np.float32), RATE)
    (folder / "bad.wav").unlink()
    list(prepare(archive, folder).reports(alone))
    assert bounds(read(archive.place)) == expected(archive, folder)


def test_workers_and_text_formats_write_the_same_place(archive: Archive, folder: Path, tmp_path: Path) -> None:
    text = Archive(archive.job, str(tmp_path / "text"), Format.CSV, "tiny")
    run = prepare(text, folder)
    reports = run.reports(lambda archive, tasks: run_in_workers(archive, tasks, 2, print, lambda: False, lambda: None))
    assert sum(report.events for report in reports) == len(expected(archive, folder))
    names = {path.name for path in (tmp_path / "text").glob("*.csv")}
    assert names == {f"{number}.wav.flexiast.csv" for number in range(9)}
    assert (tmp_path / "text" / ERRORS).exists()


def test_long_recordings_come_in_pieces(archive: Archive, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flexiast_runtime.batch.tasks.LONG_PLAIN_BYTES", 40_000)
    run = prepare(archive, folder, piece_s=0.3)
    assert any(task.pieces > 2 for task in run.tasks)

    def shuffled(archive: Archive, tasks: object) -> Iterator[Report]:
        assert isinstance(tasks, type(run.tasks))
        order: list[Task] = [tasks[number] for number in np.random.default_rng(1).permutation(len(tasks))]
        return run_in_process(archive, order, print, lambda: False, lambda: None)

    list(run.reports(shuffled))
    assert bounds(read(archive.place)) == expected(archive, folder)


def test_places_of_other_runs_are_refused(archive: Archive, folder: Path, tmp_path: Path) -> None:
    list(prepare(archive, folder).reports(alone))
    before = {path: path.read_bytes() for path in Path(archive.place).rglob("*") if path.is_file()}
    other = Archive(archive.job, archive.place, Format.CSV, "tiny")
    with pytest.raises(UsageError, match="holds results made with format parquet instead of csv"):
        prepare(other, folder)
    assert {path: path.read_bytes() for path in Path(archive.place).rglob("*") if path.is_file()} == before
    Folder(archive.place).write(f"{ENTRIES}/x.json", b"{")
    with pytest.raises(DataError, match=r"_done/x\.json is damaged"):
        prepare(archive, folder)
    Folder(archive.place).write(RUN, b"[1]")
    with pytest.raises(DataError, match=r"run\.json is damaged"):
        prepare(archive, folder)

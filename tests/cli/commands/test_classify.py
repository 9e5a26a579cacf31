"""`flexiast classify` on many files, as processes that are interrupted, killed, and started again."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from flexiast.errors import UsageError
from flexiast_cli.commands.classify.files import split_model
from flexiast_runtime.history.events import read_events
from tests.cli.conftest import Run, tone

RATE_HZ = 16_000
QUICK = ("commands-ar", "--patch-size", "48")
"""A shipped model at its cheapest."""
LONG_S = 3_600
"""Of a recording that is still being read, however slow the test: an hour takes more than ten seconds of CPU time."""


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Three short ones, one of them in a folder."""
    folder = tmp_path / "recordings"
    (folder / "site").mkdir(parents=True)
    for number, name in enumerate(("a.wav", "b.flac", "site/a.wav")):
        soundfile.write(folder / name, tone(300 * (number + 1), 1.3 + number, number), RATE_HZ)
    return folder


@pytest.fixture
def long_recording(recordings: Path) -> Path:
    """The last one in order; silence that takes no room on the disk."""
    path = recordings / "z.wav"
    soundfile.write(path, np.zeros(1), RATE_HZ, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    size = 2 * RATE_HZ * LONG_S
    content[4:8], content[40:44] = (36 + size).to_bytes(4, "little"), size.to_bytes(4, "little")
    path.write_bytes(content)
    os.truncate(path, 44 + size)
    assert soundfile.info(path).duration == LONG_S
    return path


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., psutil.Popen]]:
    """Start `flexiast classify` in a process group of its own, as a shell does."""
    started: list[psutil.Popen] = []

    def start(*arguments: object) -> psutil.Popen:
        command = [Path(sys.executable).with_name("flexiast"), "classify", *map(str, arguments)]
        with (tmp_path / "stderr").open("wb") as stderr:
            process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True)
        started.append(process)
        return process

    yield start
    for process in started:
        for each in (*(process.children() if process.is_running() else ()), process):
            if each.is_running():
                each.kill()
        process.wait()


def until(condition: Callable[[], object]) -> None:
    """Wait for something that comes sooner or later."""
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def results(folder: Path) -> dict[str, bytes]:
    """Those that are complete: a name that begins with a dot is still being written."""
    complete = [path for path in folder.rglob("*.flexiast.*") if not path.name.startswith(".")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in complete}


def workers_of(process: psutil.Popen) -> list[psutil.Process]:
    return [child for child in process.children() if is_worker(child)]


def is_worker(process: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return False


def test_workers_write_the_same_bytes_as_one(run: Run, recordings: Path) -> None:
    (recordings / "bad.wav").write_bytes(b"no sound")
    arguments = ("classify", *QUICK, recordings, "--format", "jsonl", "--threshold", "0.05")
    one, two = run(*arguments), run(*arguments, "--workers", "2")
    assert one.returncode == two.returncode == 8, one.stderr + two.stderr
    assert one.stdout == two.stdout
    assert len(one.stdout) > 200
    assert "bad.wav cannot be read as audio" in one.stderr
    assert "bad.wav cannot be read as audio" in two.stderr


def test_a_folder_gets_a_result_for_each_recording(run: Run, recordings: Path, tmp_path: Path) -> None:
    options = ("--format", "raven", "--threshold", "0.05")
    result = run("classify", *QUICK, recordings, "--output-dir", tmp_path / "out", *options)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    found = results(tmp_path / "out")
    assert found.keys() == {f"{name}.flexiast.selections.txt" for name in ("a.wav", "b.flac", "site/a.wav")}
    alone = run("classify", *QUICK, recordings / "site/a.wav", *options)
    assert found["site/a.wav.flexiast.selections.txt"].decode() == alone.stdout != ""


def test_a_list_of_recordings_comes_by_stdin(run: Run, recordings: Path, tmp_path: Path) -> None:
    listed = f"{recordings}/site/a.wav\n{recordings}/a.wav\n".encode()
    arguments = ("classify", *QUICK, "-", "--threshold", "0.05", "--output-dir", tmp_path / "out", "--format", "csv")
    result = run(*arguments, stdin=listed)
    assert result.returncode == 0, result.stderr
    below = str(recordings).lstrip("/")
    assert results(tmp_path / "out").keys() == {f"{below}/{name}.flexiast.csv" for name in ("a.wav", "site/a.wav")}


def test_formats_of_one_recording_refuse_several(run: Run, recordings: Path, tmp_path: Path) -> None:
    result = run("classify", *QUICK, recordings, "--format", "srt")
    assert result.returncode == 2
    assert "--format srt describes one recording, 3 were given; add --output-dir" in result.stderr
    both = run("classify", *QUICK, recordings, "-o", tmp_path / "x", "--output-dir", tmp_path / "out")
    assert both.returncode == 2
    assert list(tmp_path.iterdir()) == [recordings]


def test_fail_fast_ends_at_the_first_bad_file(run: Run, recordings: Path) -> None:
    (recordings / "aa.wav").write_bytes(b"no sound")
    result = run("classify", *QUICK, recordings, "--fail-fast", "--workers", 2, "--format", "json")
    assert result.returncode == 8
    assert [Path(file["source"]).name for file in json.loads(result.stdout)["files"]] == ["a.wav", "aa.wav"]


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGINT, 1), (signal.SIGINT, 2), (signal.SIGKILL, 2)], ids=["int", "int-2", "kill-2"]
)
def test_a_run_goes_on_where_it_ended(
    run: Run,
    start: Callable[..., psutil.Popen],
    recordings: Path,
    long_recording: Path,
    tmp_path: Path,
    number: signal.Signals,
    workers: int,
) -> None:
    out = tmp_path / "out"
    arguments = (*QUICK, recordings, "--format", "csv", "--threshold", "0.05", "--output-dir", out)
    process = start(*arguments, "--workers", workers)
    until(lambda: len(results(out)) == 3)
    until(lambda: (out / ".flexiast-run.jsonl").read_bytes().count(b"\n") == 4)
    until(lambda: len(workers_of(process)) == (workers > 1))  # the one with the long recording
    crew = workers_of(process)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # Ctrl-C reaches every process of a terminal
    else:
        process.kill()
    assert process.wait(60) == (130 if number == signal.SIGINT else -signal.SIGKILL)
    until(lambda: not any(worker.is_running() for worker in crew))
    assert "Traceback" not in (tmp_path / "stderr").read_text()
    finished = {path: path.stat().st_mtime_ns for path in out.rglob("*.flexiast.csv")}
    assert len(finished) == 3
    assert not [path for path in out.rglob("*") if ".tmp-" in path.name]

    soundfile.write(long_recording, tone(900, 1.0, 5), RATE_HZ)  # so that it ends
    again = run("classify", *arguments, "--workers", workers)
    assert again.returncode == 0, again.stderr
    assert "in 1 of 4 files (3 there already)" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    once = run("classify", *QUICK, recordings, "--format", "csv", "--threshold", "0.05").stdout
    rows = {row for content in results(out).values() for row in content.decode().splitlines()}
    assert rows == set(once.splitlines())


def test_ctrl_c_keeps_what_was_finished_and_all_of_it_is_whole(
    start: Callable[..., psutil.Popen], recordings: Path, long_recording: Path, tmp_path: Path
) -> None:
    output = tmp_path / "events.csv"
    process = start(*QUICK, recordings, "--format", "csv", "--threshold", "0.05", "-o", output)
    temporary = lambda: next(tmp_path.glob(".events.csv.tmp-*"), None)  # noqa: E731
    until(lambda: (path := temporary()) and path.read_bytes().count(b"site/a.wav"))
    assert not output.exists()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    rows = list(csv.DictReader(io.StringIO(output.read_text())))
    assert {Path(row["source"]).relative_to(recordings).as_posix() for row in rows} == {"a.wav", "b.flac", "site/a.wav"}
    assert temporary() is None


def test_a_worker_that_is_killed_is_its_files_failure(
    start: Callable[..., psutil.Popen], recordings: Path, long_recording: Path, tmp_path: Path
) -> None:
    process = start(*QUICK, recordings, "--format", "csv", "--output-dir", tmp_path / "out", "--workers", 2)
    until(lambda: len(results(tmp_path / "out")) == 3 and len(workers_of(process)) == 1)
    workers_of(process)[0].kill()
    assert process.wait(120) == 8
    said = (tmp_path / "stderr").read_text()
    assert "z.wav was given up: the worker that read it was ended by SIGKILL" in said
    assert "in 3 of 4 files" in said


def test_progress_is_for_terminals_and_leaves_stdout_alone(recordings: Path) -> None:
    ours, theirs = os.openpty()
    command = [Path(sys.executable).with_name("flexiast"), "classify", *QUICK, recordings, "--format", "json"]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment) as process:
        os.close(theirs)
        said = b""
        try:
            while block := os.read(ours, 65_536):
                said += block
        except OSError:  # how Linux tells that the other side is closed
            pass
        assert process.stdout is not None
        assert len(json.loads(process.stdout.read())["files"]) == 3
    os.close(ours)
    assert process.returncode == 0
    assert "3/3" in said.decode()
    assert "× real time" in said.decode()


def test_the_name_of_the_output_chooses_its_format(run: Run, recordings: Path, tmp_path: Path) -> None:
    result = run("classify", *QUICK, recordings, "-o", tmp_path / "events.JSON")
    assert result.returncode == 0, result.stderr
    assert len(json.loads((tmp_path / "events.JSON").read_text())["files"]) == 3
    for words, said in (
        (("-o", tmp_path / "events.parquet"), "--format parquet -o FOLDER"),
        (("--batch-files", "3"), "--batch-files groups the recordings of an archive"),
    ):
        refused = run("classify", *QUICK, recordings, *words)
        assert (refused.returncode, said in refused.stderr) == (2, True), refused.stderr
    assert [path.name for path in tmp_path.glob("events*")] == ["events.JSON"]


def test_a_missing_path_and_an_empty_folder_stop_no_other(run: Run, recordings: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    listed = "\n".join(map(str, (tmp_path / "absent.wav", tmp_path / "empty", recordings))).encode() + b"\na\0b\n"
    for output in (("--format", "json"), ("--output-dir", tmp_path / "results")):
        result = run("classify", *QUICK, "-", *output, stdin=listed)
        assert result.returncode == 8
        assert "in 3 of 6 files" in result.stderr.splitlines()[-1]  # after what came of each
        for name, reason in (("absent.wav", "does not exist"), ("empty", "holds no audio"), ("a\\x00b", "null byte")):
            assert any(name in line and reason in line for line in result.stderr.splitlines()), result.stderr
    assert len(list((tmp_path / "results").rglob("*.flexiast.txt"))) == 3


def test_names_as_long_as_a_name_may_be_get_results_that_are_found_again(
    run: Run, recordings: Path, tmp_path: Path
) -> None:
    for name in ("x" * 251 + ".wav", "x" * 250 + "y.wav", "ä" * 125 + ".wav"):
        (recordings / name).write_bytes((recordings / "a.wav").read_bytes())
    command = ("classify", *QUICK, recordings, "--format", "raven", "--output-dir", tmp_path / "results")
    first, second = run(*command), run(*command)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert "6 there already" in second.stderr
    assert len(list((tmp_path / "results").rglob("*.selections.txt"))) == 6


def test_one_file_that_raises_anything_stops_no_other(run: Run, recordings: Path, tmp_path: Path) -> None:
    gsm = recordings / "b.wav"
    soundfile.write(gsm, tone(300, 1.0, 0), 8_000, subtype="GSM610")
    (recordings / "b2.wav").write_bytes(gsm.read_bytes()[:100])
    result = run("classify", *QUICK, recordings, "--output-dir", tmp_path / "results")
    assert (result.returncode, result.stderr.count("flexiast: ")) == (8, 1)
    assert "b2.wav breaks off" in result.stderr
    assert "in 4 of 5 files" in result.stderr


def test_a_cut_recording_is_refused_unless_what_is_left_is_wanted(run: Run, recordings: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.wav"
    cut.write_bytes((recordings / "a.wav").read_bytes()[:20_000])
    refused = run("classify", *QUICK, cut, "--format", "json")
    kept = run("classify", *QUICK, cut, "--format", "json", "--keep-cut")
    assert (refused.returncode, kept.returncode) == (8, 0)
    assert "--keep-cut" in refused.stderr
    (document,) = json.loads(kept.stdout)["files"]
    assert document["audio_s"] == pytest.approx(20_000 / 2 / RATE_HZ, abs=0.01)
    (notice,) = document["notices"]
    assert "cut.wav is cut short: its header announces 1.30 s" in notice
    assert f"note: {notice}" in kept.stderr


def test_one_channel_may_be_heard(run: Run, tmp_path: Path) -> None:
    sound = tone(300, 1.0, 0)
    soundfile.write(tmp_path / "two.wav", np.stack((np.zeros_like(sound), sound), axis=1), RATE_HZ)
    mixed = run("classify", *QUICK, tmp_path / "two.wav")
    assert "has sound in channel 2 alone" in mixed.stderr
    chosen = run("classify", *QUICK, tmp_path / "two.wav", "--channel", "2")
    assert (chosen.returncode, "channel 2" in chosen.stderr) == (0, False)
    absent = run("classify", *QUICK, tmp_path / "two.wav", "--channel", "3")
    assert (absent.returncode, "two.wav has no channel 3" in absent.stderr) == (8, True)


def test_each_channel_is_classified_by_itself(run: Run, tmp_path: Path) -> None:
    """As if it were a file of its own; one recording has one result, in which Raven finds both."""
    quick = (*QUICK, "--threshold", "0.05")
    channels = [np.concatenate([tone(hz, 2.0, 0) for hz in pair]) for pair in ((300.0, 3_000.0), (900.0, 5_000.0))]
    soundfile.write(tmp_path / "two.wav", np.stack(channels, axis=1), RATE_HZ)
    result = run("classify", *quick, tmp_path / "two.wav", "--channel", "each", "--format", "jsonl")
    assert result.returncode == 0, result.stderr
    found = list(map(json.loads, result.stdout.splitlines()))
    for number, samples in enumerate(channels, 1):
        soundfile.write(tmp_path / "one.wav", samples, RATE_HZ)
        alone = run("classify", *quick, tmp_path / "one.wav", "--format", "jsonl").stdout.splitlines()
        own = [event for event in found if event["channel"] == number]
        assert {event["source"] for event in own} == {f"{tmp_path / 'two.wav'} channel {number}"}
        compared = ("label", "start_sample", "end_sample", "score")
        expected = [[event[key] for key in compared] for event in map(json.loads, alone)]
        assert expected and [[event[key] for key in compared] for event in own] == expected
    table = run("classify", *quick, tmp_path / "two.wav", "--channel", "each", "--format", "raven").stdout
    header, *rows = csv.reader(io.StringIO(table), delimiter="\t")
    assert {row[header.index("Channel")] for row in rows} == {"1", "2"}
    assert {row[header.index("Begin File")] for row in rows} == {"two.wav"}
    for wrong in ("0", "both", "-1"):
        assert run("classify", *QUICK, tmp_path / "two.wav", f"--channel={wrong}").returncode == 2


def test_each_channel_is_listened_to_as_a_source(run: Run, tmp_path: Path) -> None:
    """Its own events and summary on stdout, its own clips and rows in the sinks."""
    channels = [np.concatenate([tone(hz, 2.0, 0) for hz in pair]) for pair in ((300.0, 3_000.0), (900.0, 5_000.0))]
    soundfile.write(tmp_path / "two.wav", np.stack(channels, axis=1), RATE_HZ)
    options = ("--pin", "48", "--threshold", "0.05", "--json", "--to", "sqlite:h.db", "--to", "clips:clips")
    result = run("listen", "commands-ar", "--input", "two.wav", "--channel", "each", *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    records = list(map(json.loads, result.stdout.splitlines()))
    events = [record for record in records if record["type"] == "event"]
    names = {"two.wav channel 1", "two.wav channel 2"}
    assert {(event["source"], event["channel"]) for event in events} == {(name, int(name[-1])) for name in names}
    summaries = [record for record in records if record["type"] == "summary"]
    assert {(one["source"], one["audio_s"]) for one in summaries} == {(name, 4.0) for name in names}
    assert {one["source"] for one in read_events(tmp_path / "h.db")} == names
    assert len(list((tmp_path / "clips").iterdir())) == len(events)


@pytest.mark.parametrize(
    "command", [("listen", "commands-ar", "--pin", "48", "--json", "--input"), ("classify", *QUICK)]
)
def test_a_pipe_by_name_is_read_as_stdin_is(command: tuple[str, ...], run: Run, tmp_path: Path) -> None:
    samples = (32_767 * tone(300, 2.0, 0)).astype("<i2").tobytes()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with write_when_read(fifo, samples):
        result = run(*command, fifo, *(("--format", "json") if command[0] == "classify" else ()))
    assert result.returncode == 0, result.stderr
    documents = (
        json.loads(result.stdout)["files"]
        if command[0] == "classify"
        else [json.loads(line) for line in result.stdout.splitlines()]
    )
    assert documents[-1]["audio_s"] == 2.0


@contextlib.contextmanager
def write_when_read(fifo: Path, content: bytes) -> Iterator[None]:
    """A thread that writes into a pipe as soon as somebody reads it."""
    writer = threading.Thread(target=fifo.write_bytes, args=(content,), daemon=True)
    writer.start()
    yield
    writer.join(10)
    assert not writer.is_alive()


def test_a_misspelt_model_is_not_taken_for_a_recording() -> None:
    with pytest.raises(UsageError, match=r"hom\.bundle, a model by its name, does not exist"):
        split_model(["hom.bundle", "today.wav"])
    assert split_model(["missing.wav", "today.wav"])[1] == ["missing.wav", "today.wav"]

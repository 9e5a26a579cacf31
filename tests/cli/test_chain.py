"""train → evaluate → export → inspect → verify → classify → listen, each as a process."""

from __future__ import annotations

import csv
import io
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.cli.conftest import RATE_HZ, Run, tone

EVENT_KEYS = {
    "schema_version",
    "type",
    "id",
    "started_at",
    "source",
    "channel",
    "bundle_sha256",
    "label",
    "start_s",
    "end_s",
    "start_sample",
    "end_sample",
    "score",
    "patch_size",
    "threshold",
}


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 s: a low tone, near silence, a high tone."""
    quiet = 1e-4 * np.random.default_rng(0).standard_normal(RATE_HZ)
    path = tmp_path_factory.mktemp("stream") / "stream.wav"
    soundfile.write(path, np.concatenate((tone(300, 1, 9), quiet, tone(3000, 1, 9))), RATE_HZ, subtype="FLOAT")
    return path


FIGURES = {"patch_size", "tokens", "gmac", "accuracy", "accuracy_interval"}
"""What each patch size is measured by, as JSON names it."""


def records(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_evaluate_gives_the_same_figures_for_checkpoint_and_bundle(
    run: Run, trained: Path, bundle: Path, sounds: Path
) -> None:
    documents = [
        json.loads(run("evaluate", model, sounds, "--patch-sizes", "24,32x16", "--json").stdout)
        for model in (trained, bundle)
    ]
    for document in documents:
        assert document["schema_version"] == "2.0"
        assert [result["patch_size"] for result in document["results"]] == ["24x24", "32x16"]
        assert all(result.keys() == FIGURES for result in document["results"])
    assert documents[0]["results"] == documents[1]["results"]


def test_evaluate_draws_a_picture_and_reads_a_split(run: Run, trained: Path, sounds: Path, tmp_path: Path) -> None:
    pictures = ("--plot", tmp_path / "plot.png", "--confusion", tmp_path / "confusion.png")
    result = run("evaluate", trained, sounds, "--split", "val", "--per-label", *pictures)
    assert result.returncode == 0, result.stderr
    for name in ("plot.png", "confusion.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert "Recall of each label" in result.stdout
    assert "24x24" in result.stdout
    assert "(2 clips)" in " ".join(result.stdout.split())  # the title may wrap; a fifth of six, of two labels


def test_inspect_and_verify_know_every_size(run: Run, bundle: Path) -> None:
    manifest = json.loads(run("inspect", bundle, "--json").stdout)
    assert [variant["patch_size"] for variant in manifest["variants"]] == ["16x16", "24x24", "32x16", "48x48"]
    assert all(variant["labelled"]["clips"] == 2 for variant in manifest["variants"])  # the validation clips
    assert all(variant["parity"]["real_inputs"] >= 2 for variant in manifest["variants"])
    checked = json.loads(run("verify", bundle, "--json").stdout)
    assert [engine["patch_size"] for engine in checked["engines"]] == ["16x16", "24x24", "32x16", "48x48"]


def test_sizes_are_added_where_the_bundle_lies(run: Run, bundle: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(bundle, tmp_path / "mine")
    foretold = json.loads(run("export", mine, "--patch-sizes", "24,12,20x40", "--dry-run", "--json").stdout)
    assert [graph["patch_size"] for graph in foretold["variants"]] == ["12x12", "20x40"]
    result = run("export", mine, "--patch-sizes", "24,12,20x40")
    assert result.returncode == 0, result.stderr
    assert "20x40" in result.stdout
    manifest = json.loads(run("inspect", mine, "--json").stdout)
    sizes = {entry["name"]: entry["size"] for entry in manifest["files"]}
    assert [variant["patch_size"] for variant in manifest["variants"][-2:]] == ["12x12", "20x40"]
    for graph in foretold["variants"]:
        assert graph["bytes"] == sizes[f"embed-{graph['patch_size']}.onnx"]
    refused = run("export", mine, "--patch-sizes", "12,24")
    assert refused.returncode == 2
    assert "has these sizes already" in refused.stderr
    assert run("verify", mine).returncode == 0


def test_a_dry_run_says_what_an_export_would_write(run: Run, trained: Path, bundle: Path, tmp_path: Path) -> None:
    options = ("--patch-sizes", "16,48", "-o", tmp_path / "b", "--dry-run")
    foretold = json.loads(run("export", trained, *options, "--json").stdout)
    entries = json.loads(run("inspect", bundle, "--json").stdout)["files"]
    sizes = {entry["name"]: entry["size"] for entry in entries}
    assert foretold["encoders"]["fp32"] == sizes["encoder.onnx"]
    assert [graph["bytes"] for graph in foretold["variants"]] == [sizes["embed-16x16.onnx"], sizes["embed-48x48.onnx"]]
    assert foretold["bytes"] == sizes["encoder.onnx"] + sizes["embed-16x16.onnx"] + sizes["embed-48x48.onnx"]
    assert "nothing was written" in run("export", trained, *options).stdout
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_of_two_precisions_runs_in_either(run: Run, trained: Path, sounds: Path, tmp_path: Path) -> None:
    made, options = tmp_path / "both", ("--precision", "int8,fp32", "--verify-data", sounds, "--max-drop", 50)
    result = run("export", trained, "--patch-sizes", "24", *options, "-o", made)
    assert result.returncode == 0, result.stderr
    assert "layers in int8" in result.stdout
    engines = json.loads(run("verify", made, "--json").stdout)["engines"]
    assert [engine["precision"] for engine in engines] == ["int8", "fp32"]
    scores = {}
    for precision in ("int8", "fp32"):
        result = run("classify", made, sounds, "--precision", precision, "--format", "jsonl", "--threshold", 0.01)
        assert result.returncode == 0, result.stderr
        scores[precision] = [json.loads(line)["score"] for line in result.stdout.splitlines()]
    assert scores["int8"] == pytest.approx(scores["fp32"], abs=0.05)  # of the same network
    assert scores["int8"] != scores["fp32"]
    refused = run("listen", made, "--input", next(sounds.rglob("*.wav")), "--precision", "fp16")
    assert refused.returncode == 2
    assert "has no fp16 engines; it has int8, fp32" in refused.stderr


def test_verify_names_the_damaged_file_and_fails(run: Run, bundle: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(bundle, damaged)
    file = damaged / "embed-24x24.onnx"
    file.chmod(0o644)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    result = run("verify", damaged)
    assert result.returncode == 5
    assert "embed-24x24.onnx" in result.stderr
    assert result.stdout == ""


def nameless(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without their ids, which are other ones in each run."""
    return [{name: value for name, value in event.items() if name != "id"} for event in events]


def test_listen_and_classify_report_the_same_events(run: Run, bundle: Path, stream: Path) -> None:
    listened = records(
        run("listen", bundle, "--input", stream, "--patch-sizes", "24", "--threshold", "0.4", "--json").stdout
    )
    classified = records(
        run("classify", bundle, stream, "--patch-size", "24", "--threshold", "0.4", "--format", "jsonl").stdout
    )
    events = [record for record in listened if record["type"] == "event"]
    assert nameless(events) == nameless(classified)
    assert events
    assert all(event.keys() == EVENT_KEYS for event in events)
    assert [record["type"] for record in listened][-1] == "summary"
    assert listened[-1]["audio_s"] == 3.0


def test_two_sources_are_listened_to_at_once_each_as_if_alone(
    run: Run, bundle: Path, stream: Path, tmp_path: Path
) -> None:
    second = tmp_path / "second.wav"
    samples, rate_hz = soundfile.read(stream, dtype="float32")
    soundfile.write(second, samples[::-1], rate_hz, subtype="FLOAT")
    options = ("--patch-sizes", "24", "--threshold", "0.4", "--json")
    together = records(run("listen", bundle, "--input", stream, "--input", second, *options).stdout)
    for source in (stream, second):
        alone = records(run("listen", bundle, "--input", source, *options).stdout)
        mine = [record for record in together if record["source"] == str(source)]
        assert any(record["type"] == "event" for record in alone)
        events, expected = ([r for r in which if r["type"] == "event"] for which in (mine, alone))
        assert nameless(events) == nameless(expected)
        assert (mine[-1]["type"], mine[-1]["audio_s"], mine[-1]["windows"]) == ("summary", 3.0, alone[-1]["windows"])


def test_listen_reads_raw_pcm_from_a_pipe(run: Run, bundle: Path, stream: Path) -> None:
    samples, _ = soundfile.read(stream, dtype="int16")
    result = run("listen", bundle, "--input", "-", "--json", stdin=samples.tobytes())
    summary = records(result.stdout)[-1]
    assert result.returncode == 0, result.stderr
    assert summary["audio_s"] == 3.0
    assert summary["dropped_s"] == 0.0


@pytest.mark.parametrize("on_loss", ["continue", "exit"])
def test_a_source_that_breaks_ends_no_other_unless_it_is_told_to(
    run: Run, bundle: Path, stream: Path, on_loss: str
) -> None:
    """A pipe that ends inside a sample. In the end the exit code tells of it either way."""
    options = ("--input", "-", "--input", stream)
    result = run("listen", bundle, *options, "--on-source-loss", on_loss, "--json", stdin=bytes(2_001))
    assert result.returncode == 8
    assert "stdin ended inside a sample" in result.stderr
    found = records(result.stdout)
    summaries = {record["source"]: record for record in found if record["type"] == "summary"}
    notices = [(record["source"], record["state"]) for record in found if record["type"] == "source"]
    assert summaries.keys() == {"stdin", str(stream)}
    if on_loss == "continue":
        assert summaries[str(stream)]["audio_s"] == 3.0
        assert notices == [("stdin", "lost")]
    else:
        assert notices == []


def test_each_source_has_a_status_a_second(run: Run, bundle: Path, stream: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.wav"
    other.write_bytes(stream.read_bytes())
    both = records(run("listen", bundle, "--input", stream, "--input", other, "--json").stdout)
    alone = records(run("listen", bundle, "--input", stream, "--json").stdout)
    times = [
        [record["time_s"] for record in which if (record["type"], record["source"]) == ("status", str(source))]
        for which, source in ((both, stream), (both, other), (alone, stream))
    ]
    assert times == [times[2]] * 3
    assert len(times[2]) >= 3


def test_duration_ends_the_stream_to_the_sample(run: Run, bundle: Path, stream: Path) -> None:
    assert (
        records(run("listen", bundle, "--input", stream, "--duration", "1.25", "--json").stdout)[-1]["audio_s"] == 1.25
    )


def test_a_deadline_that_nothing_meets_is_answered_by_the_cheapest_size(run: Run, bundle: Path, stream: Path) -> None:
    result = run("listen", bundle, "--input", stream, "--latency", "0.01", "--json")
    summary = records(result.stdout)[-1]
    (use,) = summary["variants"]  # of a network so small, a busy machine may find another one the cheapest
    assert use["patch_size"] != "16x16"
    assert summary["miss_rate"] == 1.0


def test_csv_has_fixed_columns_and_appears_whole(run: Run, bundle: Path, stream: Path, tmp_path: Path) -> None:
    output = tmp_path / "events.csv"
    assert run("classify", bundle, stream.parent, "--format", "csv", "-o", output).returncode == 0
    rows = list(csv.reader(io.StringIO(output.read_text())))
    assert rows[0] == ["source", "start_s", "end_s", "label", "score", "patch_size", "model", "channel"]
    assert list(tmp_path.iterdir()) == [output]


def test_a_bad_file_is_passed_over_and_told_at_the_end(run: Run, bundle: Path, stream: Path, tmp_path: Path) -> None:
    shutil.copy(stream, tmp_path / "b.wav")
    (tmp_path / "a.wav").write_bytes(b"not audio")
    result = run("classify", bundle, tmp_path, "--threshold", "0.3", "--format", "jsonl")
    assert result.returncode == 8
    assert "a.wav" in result.stderr
    assert {record["source"] for record in records(result.stdout)} == {str(tmp_path / "b.wav")}


def test_training_resumes_and_refuses_to_overwrite(run: Run, sounds: Path, trained: Path) -> None:
    again = (
        "train",
        sounds,
        "-o",
        trained,
        "--epochs",
        8,
        "--batch-size",
        4,
        "--patch-sizes",
        "24,32x16",
        "--learning-rate",
        3e-3,
    )
    refused = run(*again)
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    before = (trained / "checkpoint.safetensors").read_bytes()
    with (trained / "metrics.jsonl").open("a", encoding="utf-8") as metrics:
        metrics.write('{"step": 25')  # as a process that is killed leaves it
    resumed = run(*again, "--resume")
    assert resumed.returncode == 0  # it had ended: nothing is left to do, nothing changes
    assert "The last line of metrics.jsonl was cut off and is dropped" in resumed.stderr
    assert (trained / "checkpoint.safetensors").read_bytes() == before


def test_ctrl_c_in_a_training_keeps_weights_that_export_and_resumes_where_it_stopped(
    run: Run, sounds: Path, tmp_path: Path
) -> None:
    import signal
    import subprocess
    import sys

    training = "train", sounds, "-o", tmp_path / "run", "--init", "none", "--patch-sizes", "24,48", "--epochs", "60"
    command = [Path(sys.executable).with_name("flexiast"), *training]
    log = tmp_path / "said.txt"
    with log.open("w") as said, subprocess.Popen(command, stderr=said) as process:
        deadline = time.monotonic() + 120
        while process.poll() is None and "\nstep " not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.02)  # until it has measured once
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert process.returncode == 130, log.read_text()
    assert "Traceback" not in log.read_text()
    stopped_at = int(log.read_text().split("Stopped at step ")[1].split()[0])
    exported = run("export", tmp_path / "run", "-o", tmp_path / "stopped.bundle")
    assert exported.returncode == 0, exported.stderr
    resumed = run(*training, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    steps = [
        int(line.split("/")[0].removeprefix("step ")) for line in resumed.stderr.splitlines() if line[:5] == "step "
    ]
    assert min(steps) > stopped_at


def test_ctrl_c_flushes_and_exits_with_130(bundle: Path, stream: Path) -> None:
    import signal
    import subprocess
    import sys

    command = [Path(sys.executable).with_name("flexiast"), "listen", bundle, "--input", stream, "--realtime", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()  # listening has begun
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 130
    assert records(first + rest)[-1]["type"] == "summary"

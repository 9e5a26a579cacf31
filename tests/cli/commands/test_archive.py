"""`flexiast classify` on archives: buckets, Parquet, deadlines, and what is said when something is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
from click.testing import Result
from typer.testing import CliRunner

from flexiast_cli.app import app
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_bundle
from tests.cli.conftest import RATE_HZ, tone
from tests.s3 import KEYS, Faults, serve_s3

parquet = pytest.importorskip("pyarrow.parquet")
pytestmark = pytest.mark.filterwarnings("default")  # botocore's and moto's own

QUICK = ("sounds", "--patch-size", "48", "--threshold", "0.05")


def run(*arguments: object) -> Result:
    """In this process: what is tried here is no matter of processes."""
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "yard"
    (folder / "gate").mkdir(parents=True)
    for number, name in enumerate(("a.wav", "b.flac", "gate/a.wav")):
        soundfile.write(folder / name, tone(300.0 + 900 * number, 2.0, number), RATE_HZ)
    (folder / "bad.wav").write_bytes(b"no sound")
    (folder / "notes.txt").write_text("no sound either")
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Faults]]:
    pytest.importorskip("moto")
    with serve_s3() as running:
        yield running


@pytest.fixture
def bucket(server: tuple[str, Faults], recordings: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Faults:
    """``s3://yard/2026`` with the recordings, and an empty ``s3://results``; both new."""
    import s3fs

    for name, value in (KEYS | {"AWS_ENDPOINT_URL": server[0]}).items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem(use_listings_cache=False)
    for name in ("yard", "results"):
        if files.exists(name):
            files.rm(name, recursive=True)
        files.mkdir(name)
    for path in (path for path in recordings.rglob("*") if path.is_file()):
        files.pipe_file(f"yard/2026/{path.relative_to(recordings)}", path.read_bytes())
    server[1].requests.clear()
    return server[1]


def read_s3(name: str) -> list[dict[str, object]]:
    import s3fs

    return list(parquet.read_table(name, filesystem=s3fs.S3FileSystem(use_listings_cache=False)).to_pylist())


def bounds(rows: list[dict[str, object]], root: str) -> list[tuple[object, ...]]:
    return sorted(
        (str(row["recording"]).removeprefix(root), row["start_s"], row["end_s"], row["label"], row["patch_size"])
        for row in rows
    )


def test_a_bucket_gives_the_events_of_the_folder(recordings: Path, bucket: Faults, tmp_path: Path) -> None:
    here = run("classify", *QUICK, recordings, "-o", tmp_path / "out", "--format", "parquet")
    assert here.exit_code == 8, here.stderr
    bucket.cut, bucket.unavailable = 2, 2
    there = run("classify", *QUICK, "s3://yard/2026/", "-o", "s3://results/run1/")
    assert there.exit_code == 8, there.stderr
    assert "in 3 of 4 recordings" in there.stderr
    assert "CPU-seconds an hour of audio" in there.stderr
    assert "Left out of s3://yard/2026/: 1 object (not read as audio)" in there.stderr
    assert "s3://yard/2026/bad.wav cannot be read as audio" in there.stderr
    expected = parquet.read_table(tmp_path / "out/events").to_pylist()
    found = read_s3("results/run1/events")
    assert bounds(found, "s3://yard/2026/") == bounds(expected, f"{recordings}/") != []
    (error,) = read_s3("results/run1/errors.parquet")
    assert error["recording"] == "s3://yard/2026/bad.wav"
    again = run("classify", *QUICK, "s3://yard/2026/", "-o", "s3://results/run1/")
    assert "0 events in 0 of 4 recordings (3 there already)" in again.stderr
    assert bounds(read_s3("results/run1/events"), "s3://yard/2026/") == bounds(expected, f"{recordings}/")


def test_the_program_in_the_guide_reads_the_results(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pandas")
    assert (
        run("classify", *QUICK, recordings / "a.wav", "-o", tmp_path / "results", "--format", "parquet").exit_code == 0
    )
    guide = (Path(__file__).parents[3] / "docs/how-to/cluster.md").read_text()
    program = guide.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "guide", "exec"), {})
    assert "mean" in capsys.readouterr().out


def test_text_formats_stand_where_the_recordings_do(bucket: Faults, tmp_path: Path) -> None:
    arguments = ("classify", *QUICK, "s3://yard/2026/gate/*.wav", "--output-dir", tmp_path / "out", "--format", "raven")
    assert run(*arguments).exit_code == 0
    (table,) = (tmp_path / "out").glob("*.selections.txt")
    assert (table.name, "s3://yard/2026/gate/a.wav" in table.read_text()) == ("a.wav.flexiast.selections.txt", True)


def test_time_enough_means_the_finest_size(recordings: Path, tmp_path: Path) -> None:
    """What less time means is tried without a clock, in test_pace."""
    result = run("classify", recordings, "--threshold", "0.05", "-o", tmp_path / "out", "--budget-hours", 100)
    assert result.exit_code == 8, result.stderr
    finest = max(Bundle.open(find_bundle("sounds")).manifest.variants, key=lambda variant: variant.tokens).patch_size
    rows = parquet.read_table(tmp_path / "out/events").to_pylist()
    assert {row["patch_size"] for row in rows} == {str(finest)}
    assert f"at {finest}, in {tmp_path / 'out'}" in result.stderr


def test_what_is_wrong_is_said_and_nothing_is_written(recordings: Path, bucket: Faults, tmp_path: Path) -> None:
    out = ("-o", "s3://results/x")
    local = ("-o", tmp_path / "out")
    cases: tuple[tuple[tuple[object, ...], int, str], ...] = (
        (("s3://nowhere/2026", *out), 10, "s3://nowhere/2026 does not exist"),
        (("s3://yard/1999", *out), 10, "s3://yard/1999 does not exist"),
        ((recordings, "-o", "s3://nowhere/x"), 10, "s3://nowhere/x"),
        (("s3://yard/2026",), 2, "name a folder or URL with -o"),
        ((recordings, "--format", "parquet", "-o", recordings / "a.wav"), 2, "is a file"),
        ((recordings, "--budget-hours", "1", *local), 2, "leave --patch-size out"),
        ((recordings, "--ray-address", "auto"), 2, "--ray-address is for --engine ray"),
        ((recordings, "--cpus-per-worker", "2", *local), 2, "--cpus-per-worker is for --engine ray"),
        ((recordings, "--engine", "ray", "--workers", "2", *local), 2, "leave --workers or --engine out"),
        ((recordings, "--engine", "ray"), 2, "name a folder or URL with -o"),
    )
    for arguments, code, text in cases:
        result = run("classify", *QUICK, *arguments)
        assert (result.exit_code, text in result.stderr) == (code, True), (arguments, result.stderr)
        assert "Traceback" not in result.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"yard", "out"}
    bucket.denied = 10**6
    denied = run("classify", *QUICK, "s3://yard/2026", *out)
    bucket.denied = 0
    assert (denied.exit_code, "refused to these credentials" in denied.stderr) == (10, True), denied.stderr


def test_a_cluster_that_does_not_answer_is_named_before_anything_is_written(recordings: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    arguments = ("classify", *QUICK, recordings, "-o", tmp_path / "out", "--engine", "ray", "--ray-address")
    result = run(*arguments, "127.0.0.1:9")
    assert (result.exit_code, "cluster at 127.0.0.1:9 cannot be reached" in result.stderr) == (10, True), result.stderr
    client = run(*arguments, "ray://127.0.0.1:10001")
    assert (client.exit_code, "is an address of Ray Client" in client.stderr) == (2, True), client.stderr
    assert not (tmp_path / "out").exists()


def test_ray_on_this_machine_goes_on_where_one_process_ended(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "120")
    place = ("-o", tmp_path / "out", "--format", "parquet")
    assert run("classify", *QUICK, recordings, *place).exit_code == 8
    events = tmp_path / "out/events"
    expected = parquet.read_table(events).to_pylist()
    entries = sorted((tmp_path / "out/_done").glob("*.json"))
    (entry,) = (path for path in entries if path.name != "run.json")
    entry.unlink()
    result = run("classify", *QUICK, recordings, *place, "--engine", "ray")
    assert result.exit_code == 8, result.stderr
    assert "Ray: 1 node, " in result.stderr
    assert "in 3 of 4 recordings" in result.stderr
    found = parquet.read_table(events).to_pylist()
    assert bounds(found, "") == bounds(expected, "") != []
    # A worker of another precision is off by hundredths.
    assert sorted(row["score"] for row in found) == pytest.approx(sorted(row["score"] for row in expected), abs=1e-5)


def test_a_place_of_another_run_is_refused(recordings: Path, tmp_path: Path) -> None:
    arguments = ("classify", *QUICK, recordings / "a.wav", "--format", "parquet", "-o", tmp_path / "out")
    assert run(*arguments).exit_code == 0
    before = sorted(path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*"))
    other = run(*arguments, "--confirm", "1")
    assert (other.exit_code, "holds results made with" in other.stderr) == (2, True)
    assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")) == before

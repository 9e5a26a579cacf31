"""Shards: what goes in comes out, by our reader, by tarfile and by the webdataset package."""

from __future__ import annotations

import io
import itertools
import json
import os
import tarfile
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from flexiast.data.audio import Part, read_audio
from flexiast.data.clips import Dataset
from flexiast.data.dataset import load_waveforms, read_dataset
from flexiast.data.shards import INDEX, read_index, write_shards
from flexiast.errors import DataError, UsageError

Float = NDArray[np.float32]
Shard = Callable[..., Dataset]

NAMES = (
    "low/a.wav",
    "low/a.flac",
    "low/b.v2.ogg",
    "low/ちりん été.wav",
    f"low/{'n' * 150}.wav",
    "high/c.MP3",
    "high/d",
)
"""One stem twice, two dots, another script, more than a tar header holds, capitals, no suffix at all."""


@pytest.fixture
def source(tmp_path: Path, write_audio: Callable[..., Path]) -> Path:
    """A CSV of all those names, each clip of noise of its own."""
    rng = np.random.default_rng(0)
    lines = ["path,label,split"]
    for number, name in enumerate(NAMES):
        options = {"format": "WAV"} if name == "high/d" else {}
        write_audio(tmp_path / "data" / name, rng.uniform(-0.5, 0.5, 3_000 + number).astype(np.float32), **options)
        lines.append(
            f"{name},{'low;wide' if name.endswith('flac') else name.split('/')[0]},{('train', 'val')[number % 2]}"
        )
    (tmp_path / "data" / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "data"


@pytest.fixture
def shards(source: Path, tmp_path: Path) -> Path:
    write_shards(read_dataset(source), source, tmp_path / "shards", shard_bytes=20_000)
    return tmp_path / "shards"


def members(folder: Path) -> dict[tuple[str, str], dict[str, bytes]]:
    """(shard, key) → suffix → bytes, by WebDataset's convention: the key is the name up to the first dot."""
    found: dict[tuple[str, str], dict[str, bytes]] = defaultdict(dict)
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, suffix = member.name.split(".", 1)
                content = tar.extractfile(member)
                assert content is not None
                assert suffix not in found[path.name, key]
                found[path.name, key][suffix] = content.read()
    return found


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    index = json.loads((folder / INDEX).read_bytes())
    change(index)
    (folder / INDEX).write_text(json.dumps(index))


# ----- what goes in comes out


def test_a_data_set_comes_back_in_its_order_with_its_audio(source: Path, shards: Path) -> None:
    before, after = read_dataset(source), read_dataset(shards)
    assert (after.labels, after.task, after.split_rule) == (before.labels, before.task, before.split_rule)
    assert [(clip.labels, clip.split) for clip in after.clips] == [(clip.labels, clip.split) for clip in before.clips]
    for packed, file in zip(load_waveforms(after, 16_000)[1], load_waveforms(before, 16_000)[1], strict=True):
        np.testing.assert_array_equal(packed, file)
    np.testing.assert_array_equal(after.targets(after.labels), before.targets(before.labels))


def test_columns_tell_of_a_data_set_what_its_clips_do(source: Path, tmp_path: Path) -> None:
    metadata = source / "metadata.csv"
    metadata.write_text(metadata.read_text(encoding="utf-8").replace("high/d,high", "high/d,"), encoding="utf-8")
    before = read_dataset(source)
    write_shards(before, source, tmp_path / "some", shard_bytes=20_000)
    after = read_dataset(tmp_path / "some")
    assert after.count_splits() == before.count_splits() == Counter(clip.split for clip in after.clips)
    for split in (None, "train", "val", "test"):
        assert after.count_labels(split) == before.count_labels(split)
    labels = (*reversed(before.labels), "more")
    np.testing.assert_array_equal(after.targets(labels), before.targets(labels))
    for part in (lambda data: data.labelled.clips, lambda data: data.background, lambda data: data.split("val").clips):
        assert [clip.labels for clip in part(after)] == [clip.labels for clip in part(before)] != []
    for dataset in (before, after):
        with pytest.raises(DataError, match="is labelled 'wide', which the model does not know; it knows low"):
            dataset.targets(("low", "high"))


def test_the_tars_follow_the_webdataset_convention(source: Path, shards: Path) -> None:
    found = members(shards)
    assert len(found) == len(NAMES)
    clips = read_dataset(source).clips
    for (tar, _), files in found.items():
        (suffix,) = set(files) - {"json"}
        described = json.loads(files["json"])
        clip = next(clip for clip in clips if clip.path == source / described["source"])
        assert files[suffix] == clip.path.read_bytes()
        assert (tuple(described["labels"]), described["split"]) == (clip.labels, clip.split)
        assert tar.startswith(f"{clip.split}-0000")
        assert suffix == (clip.path.suffix.lower()[1:] or "audio")


def test_the_webdataset_package_streams_them(source: Path, shards: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="the package that the layout is meant for")
    streamed = []
    for path in sorted(shards.glob("*.tar")):
        with path.open("rb") as file:
            files = webdataset.tariterators.tar_file_expander([{"url": path.name, "stream": file}])
            streamed += list(webdataset.tariterators.group_by_keys(files))
    assert {sample["__key__"] for sample in streamed} == {key for _, key in members(shards)}
    sources = {clip.path for clip in read_dataset(source).clips}
    for sample in streamed:
        path = source / json.loads(sample["json"])["source"]
        (suffix,) = {name for name in sample if not name.startswith("__")} - {"json"}
        assert sample[suffix] == path.read_bytes()
        sources.remove(path)
    assert not sources


def test_the_index_points_at_what_tarfile_finds(shards: Path) -> None:
    for shard in read_index(shards)[0].shards:
        with tarfile.open(shards / shard.name) as tar:
            expected = {
                (int(member.name[:9]), member.offset_data, member.size)
                for member in tar
                if not member.name.endswith(".json")
            }
        assert {(clip.number, clip.offset, clip.size) for clip in shard.clips} == expected


def test_no_shard_is_larger_than_told_unless_one_clip_is(shards: Path) -> None:
    index, _ = read_index(shards)
    assert len(index.shards) > 2
    for shard in index.shards:
        content = max(clip.offset + clip.size for clip in shard.clips)
        assert content <= 20_000 or len(shard.clips) == 1
        assert len({*shard.clips}) == len(shard.clips)


def test_the_same_clips_give_the_same_bytes_wherever_they_lie(source: Path, shards: Path, tmp_path: Path) -> None:
    for path in source.rglob("*"):
        os.utime(path, (0, 0))
    moved = source.rename(tmp_path / "moved")
    write_shards(read_dataset(moved), moved, tmp_path / "again", shard_bytes=20_000)
    first, second = (
        {path.name: path.read_bytes() for path in folder.iterdir()} for folder in (shards, tmp_path / "again")
    )
    assert first == second


def test_labels_are_mixed_within_a_shard(tmp_path: Path, write_audio: Callable[..., Path]) -> None:
    for label in ("a", "b"):
        for number in range(40):
            write_audio(tmp_path / "data" / label / f"{number}.wav", np.ones(10, np.float32))
    write_shards(read_dataset(tmp_path / "data"), tmp_path / "data", tmp_path / "shards", shard_bytes=10**6)
    (shard,) = [shard for shard in read_index(tmp_path / "shards")[0].shards if shard.split == "train"]
    order = [clip.labels[0] for clip in shard.clips]
    changes = sum(left != right for left, right in itertools.pairwise(order))
    assert changes > 16  # 31.5 are expected of 64 fair draws, with a deviation of 4; sorted ones change once


# ----- writing


def test_bad_files_are_left_out_of_shards(source: Path, tmp_path: Path) -> None:
    (source / "low" / "a.wav").write_bytes(b"not audio")
    content = (source / "low" / "a.flac").read_bytes()
    (source / "low" / "a.flac").write_bytes(content[: len(content) // 2])
    (source / "high" / "d").unlink()
    index, errors = write_shards(read_dataset(source), source, tmp_path / "shards", shard_bytes=10**6)
    assert sum(len(shard.clips) for shard in index.shards) == 4
    assert len(errors) == 3
    assert all(any(name in str(error) for error in errors) for name in ("a.wav", "a.flac", "high/d"))
    clips = read_dataset(tmp_path / "shards").clips
    assert [part(clip) for clip in clips] == [(source / name).read_bytes() for name in NAMES[2:6]]


def part(clip: Any) -> bytes:
    with clip.path.open("rb") as file:
        file.seek(clip.part.offset)
        return bytes(file.read(clip.part.size))


def test_where_most_files_are_bad_all_are_listed_and_nothing_is_left(
    tmp_path: Path, write_audio: Callable[..., Path], make_tone: Callable[..., Float]
) -> None:
    write_audio(tmp_path / "data" / "dog" / "good.wav", make_tone(440))
    for name in ("a", "b"):
        (tmp_path / "data" / "dog" / f"{name}.wav").write_bytes(b"not audio")
    with pytest.raises(DataError, match="2 of 3 files") as caught:
        write_shards(read_dataset(tmp_path / "data"), tmp_path, tmp_path / "shards", shard_bytes=10**6)
    assert all(name in str(caught.value) for name in ("a.wav", "b.wav"))
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_an_interrupted_write_leaves_nothing(source: Path, tmp_path: Path) -> None:
    def interrupted(clips: list[Any]) -> Any:
        yield clips[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(read_dataset(source), source, tmp_path / "shards", shard_bytes=1, progress=interrupted)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_what_exists_is_not_replaced(source: Path, shards: Path) -> None:
    with pytest.raises(UsageError, match="exists; remove it"):
        write_shards(read_dataset(source), source, shards, shard_bytes=10**6)


def test_shards_are_not_sharded_again(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds shards already"):
        write_shards(read_dataset(shards), shards, tmp_path / "again", shard_bytes=10**6)


@pytest.mark.parametrize("split", ["../train", "a/b", ".hidden", "two words", "a.b"])
def test_a_split_that_cannot_name_a_file_is_refused(tmp_path: Path, split: str) -> None:
    (tmp_path / "clips.csv").write_text(f"path,label,split\na.wav,dog,{split}\n")
    with pytest.raises(DataError, match="cannot begin a file's name"):
        write_shards(read_dataset(tmp_path / "clips.csv"), tmp_path, tmp_path / "shards", shard_bytes=10**6)


def test_a_file_name_that_is_not_utf8_is_packed(tmp_path: Path) -> None:
    content = io.BytesIO()
    soundfile.write(content, np.ones(100), 16_000, format="WAV")
    (tmp_path / "data" / "dog").mkdir(parents=True)
    Path(os.fsdecode(os.fsencode(tmp_path / "data/dog") + b"/\xff.wav")).write_bytes(content.getvalue())
    write_shards(read_dataset(tmp_path / "data"), tmp_path / "data", tmp_path / "shards", shard_bytes=10**6)
    ((_, files),) = members(tmp_path / "shards").items()
    assert os.fsencode(json.loads(files["json"])["source"]) == b"dog/\xff.wav"


# ----- reading what was damaged or edited


def test_a_truncated_shard_is_found_before_any_clip_is_read(shards: Path) -> None:
    path = next(shards.glob("*.tar"))
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(DataError, match=rf"{path.name} has [\d,]+ bytes, its index says [\d,]+; copy it again"):
        read_dataset(shards)


def test_a_missing_shard_is_named(shards: Path) -> None:
    path = next(shards.glob("*.tar"))
    path.unlink()
    with pytest.raises(DataError, match=rf"{path.name} cannot be read: No such file"):
        read_dataset(shards)


def test_a_folder_without_its_index_is_no_data_set(shards: Path) -> None:
    (shards / INDEX).unlink()
    with pytest.raises(DataError, match="no audio in folders"):
        read_dataset(shards)
    with pytest.raises(DataError, match=r"shards\.json does not exist"):
        read_index(shards)


def test_a_fold_cannot_be_chosen_afterwards(shards: Path) -> None:
    with pytest.raises(DataError, match="was split when its shards were written"):
        read_dataset(shards, "2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.update(schema_version="2.0"), "schema_version"),
        (lambda index: index.update(extra=1), "extra"),
        (lambda index: index.update(shards=[]), "shards"),
        (lambda index: index.update(task="single"), "several labels"),
        (lambda index: index.update(labels=["low", "low", "wide"]), "label stands twice"),
        (lambda index: index.update(labels=["low\x1b[31m", "high", "wide"]), "control characters"),
        (lambda index: index.update(labels=["low"]), "not among the 1"),
        (lambda index: index.update(split_rule="\x1b[2J"), "control characters"),
        (lambda index: index["shards"].append(index["shards"][0]), "a clip stands twice"),
        (lambda index: index["shards"][0].update(name=index["shards"][1]["name"]), "a shard stands twice"),
        (lambda index: index["shards"][0].update(name="../data.tar"), "name"),
        (lambda index: index["shards"][0].update(name="/etc/passwd"), "name"),
        (lambda index: index["shards"][0].update(name=".."), "name"),
        (lambda index: index["shards"][0].update(split="../x"), "split"),
        (lambda index: index["shards"][0].update(clips=[]), "clips"),
        (lambda index: index["shards"][0]["clips"][0].__setitem__(1, 10**9), "beyond the end"),
        (
            lambda index: index["shards"][0]["clips"][0].__setitem__(1, -1),
            "offset: expected a whole number of 0 or more, given -1",
        ),
        (
            lambda index: index["shards"][0]["clips"][0].__setitem__(2, 0),
            "size: expected a whole number of 1 or more, given 0",
        ),
        (
            lambda index: index["shards"][0]["clips"][0].__setitem__(2, "9"),
            "size: expected a whole number of 1 or more, given '9'",
        ),
        (lambda index: index["shards"][0]["clips"][0].__setitem__(3, [7]), "not among the 3"),
        (
            lambda index: index["shards"][0]["clips"][0].__setitem__(3, [-1]),
            "labels: expected a whole number of 0 or more",
        ),
        (lambda index: index["shards"][0]["clips"][0].pop(), "clips"),
    ],
)
def test_an_edited_index_is_refused(shards: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    edit(shards, change)
    with pytest.raises(DataError, match=r"shards\.json is not an index of shards: ") as caught:
        read_dataset(shards)
    assert message in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_an_index_that_is_no_json_is_refused(shards: Path, content: bytes) -> None:
    (shards / INDEX).write_bytes(content)
    with pytest.raises(DataError, match="not an index of shards"):
        read_dataset(shards)


def test_a_wrong_offset_is_named_with_its_place(shards: Path) -> None:
    edit(shards, lambda index: index["shards"][0]["clips"][0].__setitem__(1, 0))
    with pytest.raises(DataError, match=r"\.tar at byte 0 cannot be read as audio"):
        load_waveforms(read_dataset(shards), 16_000)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_a_file_inside_another_is_read_as_if_alone(
    tmp_path: Path, write_audio: Callable[..., Path], make_tone: Callable[..., Float], suffix: str
) -> None:
    path = write_audio(tmp_path / f"tone.{suffix}", make_tone(440, rate_hz=44_100), 44_100)
    content = path.read_bytes()
    (tmp_path / "around").write_bytes(b"before" + content + b"after")
    np.testing.assert_array_equal(
        read_audio(tmp_path / "around", 16_000, Part(6, len(content))), read_audio(path, 16_000)
    )


def test_a_span_of_a_recording_is_written_as_a_file_of_its_own(
    tmp_path: Path, write_audio: Callable[..., Path]
) -> None:
    ramp = np.arange(80_000) / 80_000
    write_audio(tmp_path / "day.wav", ramp, subtype="FLOAT")
    (tmp_path / "clips.csv").write_text("path,label,split,start_s,end_s\nday.wav,dog,train,1,2.5\nday.wav,cat,val,,\n")
    write_shards(read_dataset(tmp_path / "clips.csv"), tmp_path, tmp_path / "shards", shard_bytes=1_000_000)
    for split, (start, end) in {"train": (16_000, 40_000), "val": (0, 80_000)}.items():
        _, (waveform,), _ = load_waveforms(read_dataset(tmp_path / "shards").split(split), 16_000)
        np.testing.assert_array_equal(waveform, np.float32(ramp[start:end]))

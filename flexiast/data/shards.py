"""A data set in a few large files: WebDataset tars and an index of where each clip lies.

``<split>-000000.tar`` holds two files a clip, ``000000042.flac`` with the original encoded bytes and ``000000042.json``
with labels, split and source: the layout that the webdataset package streams. Our own reading is by offset from
``shards.json``, so any clip can be had at any time and a batch stays a function of (seed, step).
"""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, NamedTuple, overload

import numpy as np
import soundfile
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, ValidationError, model_validator
from typing_extensions import Self

from flexiast.arrays import Float
from flexiast.data.audio import AUDIO_SUFFIXES, check_bad_files, decode_audio
from flexiast.data.clips import Clip, Dataset
from flexiast.data.media import MEDIA_SUFFIXES
from flexiast.data.targets import LabelTargets
from flexiast.errors import DataError, UsageError
from flexiast.files import write_atomically
from flexiast.log import Log, log_nothing
from flexiast.manifest import FileName
from flexiast.objects import RemoteShard
from flexiast.spec import Value, check_label, describe
from flexiast.storage import Folder, RemotePath, list_objects

INDEX = "shards.json"

SPLIT = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
"""A split's name begins the names of its shards."""

Text = Annotated[str, AfterValidator(check_label)]


class _Sample(NamedTuple):
    """One clip on its way into a shard."""

    number: int
    split: str
    suffix: str
    audio: bytes
    description: bytes
    labels: tuple[int, ...]


class Entry(NamedTuple):
    """One clip of a shard."""

    number: int
    """Its place in the data set that was sharded; also its key in the tar; 0 or more, as the next is."""
    offset: int
    """Of its audio in the tar, in bytes."""
    size: int
    """1 or more."""
    labels: Sequence[int]
    """Indices into the labels of the index; none of background."""


MOST = 2**62
"""Of any number of an entry: two of them have a sum in 64 bits"""


@dataclass(frozen=True, eq=False)
class Entries(Sequence[Entry]):
    """The clips of a shard in columns, each [clips]: a hundredth of the memory of as many tuples."""

    numbers: NDArray[np.int64]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    targets: LabelTargets
    """[clips, …], by indices into the labels of the index"""

    @classmethod
    def parse(cls, value: object) -> Entries:
        """From a list of lists, as JSON has it; raises ValueError for anything else."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, list | tuple) or not value:
            raise ValueError("expected a list of one clip or more")
        if not all(isinstance(each, list | tuple) and len(each) == len(Entry._fields) for each in value):
            raise ValueError("expected [number, offset, size, [labels]] of each clip")
        numbers, offsets, sizes, labels = zip(*value, strict=True)
        if not all(isinstance(each, list | tuple) for each in labels):
            raise ValueError("labels: expected a list of each clip")
        width = 1 + int(_to_integers("labels", list(chain.from_iterable(labels)), 0).max(initial=-1))
        return cls(
            _to_integers("number", numbers, 0),
            _to_integers("offset", offsets, 0),
            _to_integers("size", sizes, 1),
            LabelTargets.from_lists(labels, width),
        )

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, place: int) -> Entry: ...
    @overload
    def __getitem__(self, place: slice) -> list[Entry]: ...
    def __getitem__(self, place: int | slice) -> Entry | list[Entry]:
        if isinstance(place, slice):
            return [self[each] for each in range(len(self))[place]]
        place = range(len(self))[place]
        starts = self.targets.starts
        labels = self.targets.columns[starts[place] : starts[place + 1]].tolist()
        return Entry(int(self.numbers[place]), int(self.offsets[place]), int(self.sizes[place]), tuple(labels))


def _to_integers(name: str, values: Sequence[object], least: int) -> NDArray[np.int64]:
    """Raises ValueError for what is none, or too small or large."""
    wrong = [value for value in values if type(value) is not int or not least <= value <= MOST]
    if wrong:
        raise ValueError(f"{name}: expected a whole number of {least} or more, given {wrong[0]!r}")
    return np.array(values, np.int64)


class Shard(Value):
    """One tar."""

    name: FileName
    split: str = Field(pattern=f"^{SPLIT}$")
    size: int = Field(ge=0)
    """In bytes; a shard of another size is not read."""
    clips: Annotated[Entries, PlainValidator(Entries.parse), PlainSerializer(list)]

    @model_validator(mode="after")
    def _clips_lie_inside(self) -> Self:
        if (self.clips.sizes > self.size - self.clips.offsets).any():
            raise ValueError(f"a clip lies beyond the end of {self.name}")
        return self


class ShardIndex(Value):
    """Schema 1.0; unknown fields are refused."""

    schema_version: Literal["1.0"] = "1.0"
    task: Literal["single", "multi"]
    split_rule: Text
    labels: tuple[Text, ...]
    shards: tuple[Shard, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _clips_stand_once_and_have_labels(self) -> Self:
        numbers = np.concatenate([shard.clips.numbers for shard in self.shards])
        if len(np.unique(numbers)) != len(numbers):
            raise ValueError("a clip stands twice")
        if len({shard.name for shard in self.shards}) != len(self.shards):
            raise ValueError("a shard stands twice")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("a label stands twice")
        targets = [shard.clips.targets for shard in self.shards]
        if any(each.width > len(self.labels) for each in targets):
            raise ValueError(f"a clip has a label that is not among the {len(self.labels)}")
        if self.task == "single" and any(each.counts.max() > 1 for each in targets):
            raise ValueError("a clip has several labels, but the task is 'single'")
        return self


def read_index(folder: Path | RemotePath) -> tuple[ShardIndex, dict[str, Path | RemoteShard]]:
    """The index of a folder of shards, and where each shard lies.

    Raises DataError where it is damaged or a shard is missing or cut off.
    """
    path = f"{folder}/{INDEX}"
    try:
        content = Folder(str(folder)).read(INDEX)
        if content is None:
            raise DataError(f"{path} does not exist; give a folder of shards, such as `flexiast data shard` writes")
        index = ShardIndex.model_validate(json.loads(content, object_hook=_pack))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        reason = describe(error) if isinstance(error, ValidationError) else error
        raise DataError(f"{path} is not an index of shards: {reason}; write the shards again") from error
    if isinstance(folder, RemotePath):
        return index, _find_remote(folder, index)
    for shard in index.shards:
        _check_size(folder / shard.name, shard.size)
    return index, {shard.name: folder / shard.name for shard in index.shards}


def _pack(found: dict[str, Any]) -> dict[str, Any]:
    """An object of the index as soon as it is read, so that the lists of one shard alone are held."""
    if "clips" in found:
        with suppress(ValueError):  # the check of the whole index names the shard
            found["clips"] = Entries.parse(found["clips"])
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def _find_remote(folder: RemotePath, index: ShardIndex) -> dict[str, Path | RemoteShard]:
    stored = {object_.path.rpartition("/")[2]: object_ for object_ in list_objects(folder.url)}
    found: dict[str, Path | RemoteShard] = {}
    for shard in index.shards:
        if shard.name not in stored:
            raise DataError(f"{folder}/{shard.name} does not exist; copy it again or write the shards again")
        remote = RemoteShard(*stored[shard.name])
        _compare_size(remote, remote.size, shard.size)
        found[shard.name] = remote
    return found


def write_shards(
    dataset: Dataset,
    root: Path,
    output: Path,
    *,
    shard_bytes: int,
    progress: Callable[[list[tuple[int, Clip]]], Iterable[tuple[int, Clip]]] = iter,
    log: Log = log_nothing,
) -> tuple[ShardIndex, list[DataError]]:
    """Write a folder of shards of about ``shard_bytes`` at most; return its index, and what was left out and why.

    Every file is decoded once, so that training meets none that cannot be; raises DataError where most are bad. Sources
    are named relative to ``root``. The same clips give the same bytes. The folder appears whole or
    not at all; raises UsageError where something of its name exists, or the clips lie in shards already.
    """
    if any(clip.part for clip in dataset.clips):
        raise UsageError(f"{root} holds shards already; shard the data set that they were made from")
    clips = sorted(enumerate(dataset.clips), key=lambda item: (item[1].split, sha256(_key(item[0]).encode()).digest()))
    for split in {clip.split for clip in dataset.clips}:
        if re.fullmatch(SPLIT, split) is None:
            raise DataError(f"split {split!r} cannot begin a file's name; expected letters, digits, - and _")
    columns = {label: column for column, label in enumerate(dataset.labels)}
    errors: list[DataError] = []
    with _stage_folder(output) as stage:
        samples = _samples(progress(clips), root, columns, errors, log)
        groups = itertools.groupby(_shard_names(samples, shard_bytes), key=lambda named: named[0])
        shards = tuple(_write_shard(stage / name, (sample for _, sample in group)) for name, group in groups)
        check_bad_files(errors, len(clips))
        index = ShardIndex(task=dataset.task, split_rule=dataset.split_rule, labels=dataset.labels, shards=shards)
        write_atomically(stage / INDEX, index.model_dump_json().encode())
    return index, errors


def _key(number: int) -> str:
    return f"{number:09}"


def _check_size(path: Path, expected: int) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; copy it again or write the shards again") from error
    _compare_size(path, size, expected)


def _compare_size(path: Path | RemotePath, size: int, expected: int) -> None:
    if size != expected:
        raise DataError(
            f"{path} has {size:,} bytes, its index says {expected:,}; copy it again or write the shards again"
        )


def _samples(
    clips: Iterable[tuple[int, Clip]],
    root: Path,
    columns: dict[str, int],
    errors: list[DataError],
    log: Log,
) -> Iterator[_Sample]:
    """Clips that can be decoded, read; the errors of the others are appended."""
    for number, clip in clips:
        try:
            decoded = decode_audio(clip.path, log=log, span_s=clip.span_s)
            audio = clip.path.read_bytes() if clip.span_s is None else _encode_wav(*decoded)
        except DataError as error:
            errors.append(error)
            continue
        suffix = clip.path.suffix.lower() if clip.span_s is None else ".wav"
        suffix = suffix if suffix in AUDIO_SUFFIXES | MEDIA_SUFFIXES else ".audio"
        source = os.path.relpath(clip.path, root).replace(os.sep, "/")
        description = json.dumps({"labels": clip.labels, "source": source, "split": clip.split}).encode()
        labels = tuple(columns[label] for label in clip.labels)
        yield _Sample(number, clip.split, suffix, audio, description, labels)


def _encode_wav(mono: Float, rate_hz: int) -> bytes:
    """A part of a recording as a file of its own, to the same samples."""
    file = io.BytesIO()
    soundfile.write(file, mono, rate_hz, format="WAV", subtype="FLOAT")
    return file.getvalue()


def _shard_names(samples: Iterable[_Sample], shard_bytes: int) -> Iterator[tuple[str, _Sample]]:
    """Samples, ordered by split, with the shard that each goes to; one that is larger than a shard has its own."""
    split, count, held = "", 0, 0
    for sample in samples:
        size = _tar_bytes(sample.audio) + _tar_bytes(sample.description)
        if sample.split != split:
            split, count, held = sample.split, 0, 0
        elif held + size > shard_bytes:
            count, held = count + 1, 0
        held += size
        yield f"{split}-{count:06}.tar", sample


def _tar_bytes(content: bytes) -> int:
    """What a file takes in a tar: its header and its content, in whole blocks."""
    return tarfile.BLOCKSIZE * (1 - -len(content) // tarfile.BLOCKSIZE)


def _write_shard(path: Path, samples: Iterable[_Sample]) -> Shard:
    clips, split = [], ""
    with path.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for sample in samples:
                offset = _add(tar, file, _key(sample.number) + sample.suffix, sample.audio)
                _add(tar, file, _key(sample.number) + ".json", sample.description)
                clips.append(Entry(sample.number, offset, len(sample.audio), sample.labels))
                split = sample.split
        file.flush()
        os.fsync(file.fileno())
        return Shard(name=path.name, split=split, size=file.tell(), clips=Entries.parse(clips))


def _add(tar: tarfile.TarFile, file: BinaryIO, name: str, content: bytes) -> int:
    """Append a file and return where its bytes begin: a short name's header, of no owner and no time, is one block."""
    offset = file.tell() + tarfile.BLOCKSIZE
    header = tarfile.TarInfo(name)
    header.size = len(content)
    tar.addfile(header, io.BytesIO(content))
    return offset


@contextmanager
def _stage_folder(output: Path) -> Iterator[Path]:
    """A folder to fill beside ``output``, renamed to it when the block ends and removed when it raises."""
    output = output.absolute()
    if output.exists() or output.is_symlink():
        raise UsageError(f"{output} exists; remove it or choose another name")
    output.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}.tmp-"))
    try:
        yield stage
        stage.chmod(0o755)
        stage.rename(output)
    finally:
        shutil.rmtree(stage, ignore_errors=True)  # gone already once published

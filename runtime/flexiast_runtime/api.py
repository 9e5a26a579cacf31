"""The public Python interface: load a model, classify an array, find the events of a file or of a stream.

Its names are re-exported by `flexiast`, and kept: they change only with a new major version, and the changelog says so.
Every other module of the four packages is internal. It runs what `flexiast classify` and `flexiast listen` run, so that
equal samples give equal events.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import soxr
from numpy.typing import ArrayLike, NDArray
from typing_extensions import Self

from flexiast.errors import FlexiastError, UsageError
from flexiast.evaluation.evaluate import Windows, classify
from flexiast.frontend import Frontend
from flexiast.manifest import Variant
from flexiast.spec import PatchSize
from flexiast_runtime.audio.arrays import PushedSource, as_frames, check_rate
from flexiast_runtime.audio.source import Block, FileSource, chunks
from flexiast_runtime.batch.runner import BLOCK_S
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import DEFAULT, find_bundle
from flexiast_runtime.detection.listener import StreamClassifier
from flexiast_runtime.detection.records import Event, Record
from flexiast_runtime.detection.rules import EventRules
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.governor.live import Conditions, FixedSize, GovernedController
from flexiast_runtime.governor.presets import POLICIES
from flexiast_runtime.governor.worth import frontier
from flexiast_runtime.inference.backends import Backend, load_engines
from flexiast_runtime.inference.engine import Engine, Engines, label_scores
from flexiast_runtime.profiling.options import measure_options
from flexiast_runtime.sinks.clips import Clips
from flexiast_runtime.sinks.outbox import Outbox, open_outboxes
from flexiast_runtime.sinks.parse import parse_sink
from flexiast_runtime.sinks.sink import RunContext, Sink

__all__ = [
    "Bundle",
    "Engine",
    "Event",
    "EventRules",
    "FlexiastError",
    "LabelScore",
    "Model",
    "PatchSize",
    "Record",
    "Sink",
    "Stream",
    "Variant",
    "load",
]

_log = logging.getLogger("flexiast")

Float = NDArray[np.float32]


class LabelScore(NamedTuple):
    """A label and how sure the model is of it, 0 … 1."""

    label: str
    score: float


def load(
    model: str | Path = DEFAULT,
    *,
    patch_size: str | int | PatchSize | None = None,
    precision: str | None = None,
    backend: Backend | str = Backend.CPU,
    make_engine: Callable[[Bundle, Variant], Engine] | None = None,
) -> Model:
    """Open a bundle and load its engines.

    Args:
        model: A bundle folder, or the name of a shipped model: ``"sounds"`` or ``"commands"``.
        patch_size: Load and run this size only, such as ``16`` or ``"16x32"`` (mel bins × frames). Without it all
            sizes are loaded, and the one that was measured best is run.
        precision: ``"fp32"``, ``"fp16"``, ``"int8"`` or ``"int8-static"``; the bundle's first one unless named.
        backend: ``"cpu"``, ``"cuda"`` or ``"tensorrt"``. None stands in for another.
        make_engine: Makes the engine of each variant, in place of the backend's.

    Raises:
        ModelError: The bundle is missing or cannot be read.
        VerificationError: A file is not the one that was exported.
        UsageError: The bundle lacks the size or precision, or an engine of your own answers in another shape.
        GpuError, PlanError, MissingExtraError: The backend cannot run here.

    """
    bundle = Bundle.open(find_bundle(str(model)))
    manifest = bundle.manifest
    patches = manifest.patches if patch_size is None else (PatchSize.parse(patch_size),)
    try:
        chosen = Backend(backend)
    except ValueError:
        known = ", ".join(one.value for one in Backend)
        raise UsageError(f"{backend!r} is not a backend; there are {known}") from None
    if make_engine is None:
        engines = load_engines(bundle, patches, precision, chosen, _log.info)
    else:
        variants = [manifest.variant(patch, precision) for patch in patches]
        engines = Engines(manifest, {one.patch_size: make_engine(bundle, one) for one in variants})
        engines.bundle_sha256 = bundle.sha256
        _check_shapes(engines)
    return Model(engines, manifest.best_patch if patch_size is None else patches[0])


class Model:
    """Engines of one bundle, loaded by `load`. Any number of streams may use it, one at a time."""

    def __init__(self, engines: Engines, patch_size: PatchSize) -> None:
        self._engines, self._frontend = engines, Frontend(engines.spec.frontend)
        self.patch_size = patch_size
        """Size that runs unless a call names another"""

    @property
    def labels(self) -> tuple[str, ...]:
        """What the model knows."""
        return self._engines.spec.labels

    @property
    def patch_sizes(self) -> tuple[PatchSize, ...]:
        """Sizes that are loaded."""
        return self._engines.patches

    @property
    def rate_hz(self) -> int:
        """Sample rate of the model; audio at other rates is resampled."""
        return self._frontend.spec.sample_rate_hz

    @property
    def window_s(self) -> float:
        """Seconds of audio that are classified at once."""
        return self._frontend.spec.window_s

    @property
    def rules(self) -> EventRules:
        """The bundle's own, with the thresholds that ``flexiast calibrate`` chose for single labels and sizes.

        Change a copy with ``dataclasses.replace(model.rules, confirm_s=0.5)``.
        """
        manifest = self._engines.manifest
        return EventRules(label_thresholds=manifest.thresholds, size_thresholds=manifest.size_thresholds)

    def classify(
        self, samples: ArrayLike, rate_hz: int, *, patch_size: str | int | PatchSize | None = None
    ) -> tuple[LabelScore, ...]:
        """Score every label for a clip as a whole, the best first.

        A clip longer than one window is cut into windows side by side; their logits are averaged, as `flexiast
        evaluate` does. A shorter one is padded with silence at its end.

        Args:
            samples: Floats [frames] or [frames, channels] in −1 … 1; channels are averaged.
            rate_hz: Sample rate of ``samples``.
            patch_size: One of ``patch_sizes``.

        Raises:
            UsageError: The samples, the rate or the size cannot be used.

        """
        patch, rate_hz = self._select_patch(patch_size), check_rate(rate_hz)
        mono = as_frames(samples).mean(axis=1, dtype=np.float32)
        waveform: Float = mono if rate_hz == self.rate_hz else soxr.resample(mono, rate_hz, self.rate_hz)
        if not len(waveform):
            raise UsageError("there are no samples to classify; give one at least")
        windows = Windows([waveform], self._frontend)
        (logits,) = windows.clip_mean(classify(self._engines, windows, patch))
        found = label_scores(logits / np.float32(self._engines[patch].variant.temperature), self._engines.spec)
        return tuple(LabelScore(self.labels[index], float(found[index])) for index in np.argsort(-found, kind="stable"))

    def events(
        self, path: str | Path, *, patch_size: str | int | PatchSize | None = None, rules: EventRules | None = None
    ) -> tuple[Event, ...]:
        """Events of an audio file, in the order in which they end: those of `flexiast classify`.

        Args:
            path: WAV, FLAC, Ogg, Opus, MP3 or AIFF of any rate and channels.
            patch_size: One of ``patch_sizes``.
            rules: What makes an event of scores; the model's own unless given.

        Raises:
            DataError: The file cannot be read.
            UsageError: The size is not loaded, or the rules name a label that the model lacks.

        """
        source, controller = FileSource(Path(path), BLOCK_S), FixedSize(self._select_patch(patch_size))
        settings = DetectionSettings.from_frontend(self._frontend.spec, self.rules if rules is None else rules)
        listener = StreamClassifier(
            self._engines, controller, settings, source=source.name, conditions=lambda _: Conditions(settings.step_s)
        )
        return tuple(one for one in listener.run(chunks(source, self.rate_hz)) if isinstance(one, Event))

    def stream(
        self,
        blocks: Iterable[ArrayLike],
        rate_hz: int,
        *,
        patch_size: str | int | PatchSize | None = None,
        deadline_s: float | None = None,
        rules: EventRules | None = None,
        sinks: Sequence[Sink | str] = (),
        name: str = "stream",
    ) -> Iterator[Event]:
        """Events of audio that arrives in blocks, each as soon as it has ended.

        Args:
            blocks: Arrays as `classify` takes them, of any length.
            rate_hz: Sample rate of the blocks.
            patch_size: Keep this size. It cannot be combined with ``deadline_s``.
            deadline_s: Seconds that one window may take; the governor then picks the size between windows.
            rules: What makes an event of scores; the model's own unless given.
            sinks: Objects or lines such as ``"jsonl:events.jsonl"`` that every record is delivered to.
            name: Source of the events.

        Raises:
            UsageError: A value cannot be used. All errors are raised while the events are iterated.
            SinkError: A sink cannot be opened.

        """
        options = {"patch_size": patch_size, "deadline_s": deadline_s}
        with Stream(self, rate_hz, **options, rules=rules, sinks=sinks, name=name) as stream:  # type: ignore[arg-type]
            for block in blocks:
                yield from stream.push(block)
            yield from stream.finish()

    def _select_patch(self, patch_size: str | int | PatchSize | None) -> PatchSize:
        patch = self.patch_size if patch_size is None else PatchSize.parse(patch_size)
        if patch not in self.patch_sizes:
            known = ", ".join(map(str, self.patch_sizes))
            raise UsageError(f"patch size {patch} is not loaded; there are {known}")
        return patch


class Stream:
    """One stream of audio: its state, from the resampler to the events that go on.

    `Model.stream` is the short way. Use this where blocks are pushed to you, for example in a callback. Use it from one
    thread at a time, and as a context manager: the sinks are closed at its end.
    """

    def __init__(
        self,
        model: Model,
        rate_hz: int,
        *,
        patch_size: str | int | PatchSize | None = None,
        deadline_s: float | None = None,
        rules: EventRules | None = None,
        sinks: Sequence[Sink | str] = (),
        name: str = "stream",
    ) -> None:
        """Takes and raises what `Model.stream` does."""
        engines = model._engines
        settings = DetectionSettings.from_frontend(engines.spec.frontend, model.rules if rules is None else rules)
        if deadline_s is not None and patch_size is not None:
            raise UsageError("patch_size keeps one size, deadline_s picks among them; give one of the two")
        self._deadline_s = settings.step_s
        controller: GovernedController | FixedSize = FixedSize(model._select_patch(patch_size))
        if deadline_s is not None:
            self.deadline_s = deadline_s
            if len(engines.patches) > 1:
                controller = GovernedController(
                    frontier(measure_options(engines)), POLICIES["balanced"], Conditions(deadline_s)
                )
        self._controller = controller
        self._listener = StreamClassifier(
            engines,
            controller,
            settings,
            source=name,
            conditions=lambda _: Conditions(self._deadline_s),
            run=secrets.token_hex(8),
        )
        self._source = PushedSource(name, check_rate(rate_hz))
        self._chunks = chunks(self._source, model.rate_hz)
        self._outboxes: Sequence[Outbox] = ()
        self._exit = ExitStack()
        self._exit.callback(self._report_losses)  # the last of all: what waits is delivered while the outboxes close
        self._outboxes = self._exit.enter_context(
            open_outboxes([_as_sink(one) for one in sinks], RunContext(model.labels, (name,)), log=_log.warning)
        )

    @property
    def patch_size(self) -> PatchSize:
        """Size that runs the next window."""
        return self._controller.patch

    @property
    def deadline_s(self) -> float:
        """Seconds that one window may take; the governor obeys a new value from the next window on."""
        return self._deadline_s

    @deadline_s.setter
    def deadline_s(self, value: float) -> None:
        if not 0 < value < float("inf"):
            raise UsageError(f"a deadline of {value} s cannot be used; give seconds above 0")
        self._deadline_s = value

    def push(self, samples: ArrayLike, lost: int = 0) -> list[Event]:
        """Take a block and return the events that it ends.

        Args:
            samples: Floats [frames] or [frames, channels] in −1 … 1, of any length.
            lost: Frames known to be missing before the block. Events end where the audio broke off.

        Raises:
            UsageError: The samples cannot be used, or the stream is finished.

        """
        if self._source.ended:
            raise UsageError("this stream is finished; open another one for more audio")
        if lost < 0:
            raise UsageError(f"{lost} lost frames cannot be; give 0 or more")
        self._source.pending.append(Block(as_frames(samples), lost))
        return self._process()

    def finish(self) -> list[Event]:
        """End the stream: classify its last, partial window and return the events that were going on.

        A second call returns nothing.
        """
        if self._source.ended:
            return []
        self._source.ended = True
        events = self._process()
        return events + self._publish(self._listener.finish())

    def close(self) -> None:
        """Let the sinks deliver what waits, for five seconds, and close them. Audio still held is dropped."""
        self._source.ended = True
        self._exit.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _process(self) -> list[Event]:
        events = []
        for chunk in self._chunks:
            if not len(chunk.samples):  # nothing is pending
                break
            events += self._publish(self._listener.push(chunk))
        return events

    def _publish(self, records: Iterable[Record]) -> list[Event]:
        events = []
        for record in records:
            for outbox in self._outboxes:
                outbox.put(record)
            if isinstance(record, Event):
                events.append(record)
        return events

    def _report_losses(self) -> None:
        for counts in (outbox.counts for outbox in self._outboxes):
            if counts.lost:
                _log.warning("%s lost %d of %d records: %s", counts.name, counts.lost, counts.given, counts.last_error)


def _as_sink(sink: Sink | str) -> Sink:
    parsed = parse_sink(sink) if isinstance(sink, str) else sink
    if isinstance(parsed, Clips):
        raise UsageError(
            f"{parsed.name}: clips are cut by `flexiast listen --to {parsed.name}` only; name another sink"
        )
    return parsed


def _check_shapes(engines: Engines) -> None:
    """Raise UsageError for an engine of the user's own that answers in another shape than [batch, classes]."""
    frontend = Frontend(engines.spec.frontend)
    silence = np.full((1, frontend.spec.window_frames, frontend.spec.mel_bins), frontend.floor, np.float32)
    for patch in engines.patches:
        shape, expected = np.shape(engines[patch].run(silence)), (1, engines.spec.classes)
        if shape != expected:
            raise UsageError(f"the engine of {patch} answers {silence.shape} with {shape}; expected {expected}")

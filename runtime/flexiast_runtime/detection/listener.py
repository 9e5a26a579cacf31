"""The streaming path, from chunks to records. Files and microphones share it.

chunk → window → features → logits → scores → smoothed → events
                              ↑ the controller names the engine; between windows, never within one
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flexiast.errors import FlexiastError
from flexiast.frontend import Frontend
from flexiast.spec import PatchSize, Spec
from flexiast_runtime.audio.signal import Signal
from flexiast_runtime.audio.source import Chunk
from flexiast_runtime.detection.accounting import Accounting, Timing
from flexiast_runtime.detection.cascade import Cascade
from flexiast_runtime.detection.detector import Detection, Detector, ScoreConsumer
from flexiast_runtime.detection.framer import Framer, Window
from flexiast_runtime.detection.gate import Gate
from flexiast_runtime.detection.records import EngineFailure, Event, Overload, Record, SourceNotice, Status, Switch
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.detection.smoothing import Smoother
from flexiast_runtime.governor.live import Conditions, FixedSize, GovernedController
from flexiast_runtime.governor.types import Observation
from flexiast_runtime.inference.engine import Engines

Float = NDArray[np.float32]

TOP_LABELS = 5
"""Labels in a status."""


class WindowResult(NamedTuple):
    """The scores of one window, and where they come from."""

    patch: PatchSize
    scores: Float
    """[classes]"""
    engine_s: float
    """Seconds that the engine took"""
    ran: bool = True
    """Whether an engine ran for this window"""
    option: int | None = None
    """Index of the governor's option, where it is not the one that the governor chose"""
    cheap_pass_s: float = 0.0
    """Seconds of the cheap pass before it. It comes once for an event, so it is not part of each window's overhead."""


RecordsAndResult = Generator[Record, None, WindowResult | None]
"""Yields records, then returns a window's result; None if no engine gave one."""


class StreamClassifier:
    """Turns the chunks of one source into records, with the engines of one bundle."""

    def __init__(
        self,
        engines: Engines,
        controller: GovernedController | FixedSize,
        settings: DetectionSettings,
        *,
        source: str,
        conditions: Callable[[float], Conditions],
        backlog: Callable[[], int] = lambda: 0,
        signal: Callable[[], Signal | None] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
        unix_s: Callable[[int], float | None] = lambda sample: None,
        cascade: Cascade | None = None,
        detector: ScoreConsumer | None = None,
        run: str = "",
        channel: int | None = None,
    ) -> None:
        """``conditions`` takes the seconds of audio so far; ``backlog`` gives the samples that wait.

        ``signal`` gives the state of the source. ``unix_s`` converts a sample number to Unix seconds, or None for
        recordings. ``detector`` replaces the one that the settings describe. ``cascade`` skips windows in which nothing
        changes; None runs every one. ``run`` is part of each event's id, so that two runs never share one. ``channel``
        is the one that events report.
        """
        frontend = engines.spec.frontend
        self._engines, self._controller, self._source = engines, controller, source
        self._conditions, self._backlog, self._signal = conditions, backlog, signal
        self._clock, self._unix_s = clock, unix_s
        self._rate = frontend.sample_rate_hz
        self._step = round(settings.step_s * self._rate)
        self._framer = Framer(Frontend(frontend), self._step)
        self._smoother = Smoother(settings.smoothing_s, settings.step_s)
        self._detector: ScoreConsumer = detector or create_detector(engines.spec, settings)
        self._gate = Gate(settings.gate_dbfs)
        self._cascade, self._run_id, self._channel = cascade, run, channel
        self._silence = np.zeros(len(engines.spec.labels), np.float32)
        self._accounting = Accounting()
        self._is_interrupted = False  # since the audio broke off
        self._carried_cpu_s = 0.0  # CPU time of chunks that completed no window yet
        self._last_of_old: list[Event] = []  # events of a model that was swapped, not yet yielded

    def run(self, chunks: Iterable[Chunk]) -> Iterator[Record]:
        """Yield records while the chunks last, then finish the stream."""
        return process_streams(((self, chunk) for chunk in chunks), [self])

    def push(self, chunk: Chunk) -> Iterator[Record]:
        """Process one chunk and yield the records it completes."""
        yield from self._pop_last_of_old()
        for state, reason in chunk.notices:
            yield SourceNotice(self._source, self._framer.end / self._rate, state, reason)
            if state == "lost":
                yield from self._interrupt()
        if not len(chunk.samples):
            return
        if self._is_interrupted or chunk.start != self._framer.end:
            yield from self._restart(chunk.start)
        self._gate.update(chunk.start, chunk.samples)
        yield from self._process_windows(self._framer.push(chunk.samples))

    @property
    def time_s(self) -> float:
        """Seconds of audio so far."""
        return self._framer.end / self._rate

    def swap_model(
        self,
        engines: Engines,
        controller: GovernedController | FixedSize,
        settings: DetectionSettings,
        cascade: Cascade | None,
    ) -> None:
        """Go on with another model from the next window on. No audio is dropped, and no window is left out.

        Its labels, window and rate must be those of the model before, as ``check_takes_over`` says; its normalisation
        may differ. Each event is of one model: one that is open ends where the next window's score begins, and comes
        with the next chunk.
        """
        detector = create_detector(engines.spec, settings)
        start, first = self._framer.next_window
        self._last_of_old += self._emit_events(self._detector.flush(detector.slot_start(start, first=first)))
        self._engines, self._controller, self._detector, self._cascade = engines, controller, detector, cascade
        self._framer.renormalise(Frontend(engines.spec.frontend))
        self._smoother.reset()  # scores of two models have no mean

    def _pop_last_of_old(self) -> Iterator[Event]:
        events, self._last_of_old = self._last_of_old, []
        yield from events

    def finish(self) -> Iterator[Record]:
        """End the stream: yield the records of its last window, its last events and the summary."""
        yield from self._pop_last_of_old()
        yield from self._interrupt()
        yield self._accounting.summarise(self._source, self._framer.end, self._engines.spec)

    @property
    def busiest_label(self) -> str | None:
        """The label that was a candidate most often, if the cascade skipped no window because of candidates."""
        busiest = None if self._cascade is None else self._cascade.busiest_label
        return None if busiest is None else self._engines.spec.labels[busiest]

    def _interrupt(self) -> Iterator[Record]:
        """Classify the last, partial window and end all events: the audio has broken off."""
        if not self._is_interrupted:
            self._is_interrupted = True
            yield from self._process_windows(self._framer.flush())
            yield from self._emit_events(self._detector.flush(self._framer.end))

    def _restart(self, start: int) -> Iterator[Record]:
        """Start again at a sample after a discontinuity, with nothing remembered across it."""
        yield from self._interrupt()
        self._is_interrupted = False
        self._accounting.add_discontinuity(start - self._framer.end)
        self._smoother.reset()
        if self._cascade is not None:
            self._cascade.reset()
        self._framer.restart(start)

    def _process_windows(self, windows: Iterator[Window]) -> Iterator[Record]:
        """Classify windows as they are cut. CPU time of chunks that complete none goes to the next window."""
        started_s, started_cpu_s = self._clock(), time.process_time()
        for window in windows:
            result = yield from self._classify(window)
            if result is None:
                yield from self._emit_events(self._detector.flush(window.end))
                self._smoother.reset()
                continue
            smoothed = self._smoother.push(result.scores)
            cpu_s = time.process_time() - started_cpu_s + self._carried_cpu_s
            timing = Timing(self._clock() - started_s, cpu_s)
            self._carried_cpu_s = 0.0
            yield from self._emit_events(self._detector.push(window, smoothed, result.patch))
            yield from self._account(window, result, smoothed, timing)
            started_s, started_cpu_s = self._clock(), time.process_time()
        self._carried_cpu_s += time.process_time() - started_cpu_s

    def _classify(self, window: Window) -> RecordsAndResult:
        """Return the result of a window, from the first engine that gives one; None while all of them fail."""
        if self._gate.silent(window.start, window.end):
            self._smoother.reset()  # the sound before it is over: no label lingers
            return WindowResult(self._controller.patch, self._silence, 0.0, ran=False)
        started_s = self._clock()
        if self._cascade is not None and (level := self._cascade.level(window)) != "sharp":
            result = yield from self._cheap_pass(window, self._cascade, skip=level == "skip")
            if result is not None:
                self._cascade.skipped += 1
                return result
        cheap_pass_s = self._clock() - started_s
        result = yield from self._run_selected(window)
        if result is None:
            return None
        if self._cascade is not None:
            self._cascade.update(result.scores, result.patch)
        return result._replace(cheap_pass_s=cheap_pass_s)

    def _cheap_pass(self, window: Window, cascade: Cascade, *, skip: bool) -> RecordsAndResult:
        """Return the last scores again, or those of the cheapest size; None if the window may hold an event."""
        if skip and cascade.last is not None:
            return WindowResult(*cascade.last, 0.0, ran=False)
        if cascade.cheap == self._controller.patch:
            return None
        try:
            result = self._run(window, cascade.cheap)
        except Exception as error:  # noqa: BLE001 (reported, and the chosen size classifies the window instead)
            yield EngineFailure(self._source, window.end / self._rate, cascade.cheap, str(error))
            cascade.record_failure()
            return None
        if cascade.update(result.scores, result.patch):
            cascade.wasted += 1
            return None
        return result._replace(option=0)

    def _run_selected(self, window: Window) -> RecordsAndResult:
        """Return the result of the chosen size or, where its engine fails, of the next one chosen."""
        time_s = window.end / self._rate
        observation = self._conditions(time_s).to_observation(time_s)
        if self._controller.degraded:
            yield from self._apply_decision(observation)
        while not self._controller.degraded:
            patch = self._controller.patch
            try:
                return self._run(window, patch)
            except Exception as error:
                if isinstance(self._controller, FixedSize):  # there is no other engine to fall back on
                    raise
                yield EngineFailure(self._source, time_s, patch, str(error))
                yield from self._apply_decision(replace(observation, failed=True))
        return None

    def _run(self, window: Window, patch: PatchSize) -> WindowResult:
        started_s = self._clock()
        scores = self._engines.scores(window.features[None], patch)[0]
        return WindowResult(patch, scores, self._clock() - started_s)

    def _apply_decision(self, observation: Observation) -> Iterator[Record]:
        """Let the controller decide, and prepare the engine it chose. Report a switch, and an overload that begins."""
        before, was_overloaded = self._controller.patch, self._controller.overloaded
        reason = self._controller.observe(observation)
        if self._controller.overloaded and not was_overloaded:
            self._accounting.overloads += 1
            latency_s = (observation.latency_s or 0.0) + observation.overhead_s
            yield Overload(self._source, observation.time_s, before, latency_s, observation.deadline_s)
        if reason:
            self._accounting.switches += 1
            self._engines.prepare(self._controller.patch)
            yield Switch(self._source, observation.time_s, before, self._controller.patch, reason)

    def _account(self, window: Window, result: WindowResult, smoothed: Float, timing: Timing) -> Iterator[Record]:
        """Count the window, report its status, and let the controller decide what runs next."""
        time_s = window.end / self._rate
        conditions, backlog = self._conditions(time_s), self._backlog()
        if result.ran:
            self._accounting.add_window(result.patch, timing, conditions.deadline_s)
        else:
            self._accounting.skipped += 1
        yield self._status(window, result.patch, smoothed, timing.latency_s, conditions, backlog)
        observation = replace(
            conditions.to_observation(time_s),
            latency_s=result.engine_s if result.ran else None,
            option=result.option,
            overhead_s=timing.latency_s - result.engine_s - result.cheap_pass_s,
            backlog_steps=backlog / self._step,
        )
        yield from self._apply_decision(observation)

    def _status(
        self, window: Window, patch: PatchSize, smoothed: Float, latency_s: float, conditions: Conditions, backlog: int
    ) -> Status:
        labels = self._engines.spec.labels
        best = np.argsort(-smoothed)[:TOP_LABELS]
        return Status(
            source=self._source,
            time_s=window.end / self._rate,
            patch=patch,
            top=tuple((labels[index], float(smoothed[index])) for index in best),
            active=tuple(labels[index] for index in self._detector.active),
            latency_s=latency_s,
            deadline_s=conditions.deadline_s,
            backlog_s=backlog / self._rate,
            dropped_s=self._accounting.lost_samples / self._rate,
            skipped=self._accounting.skipped,
            battery=conditions.battery,
            signal=self._signal(),
            thermal_headroom_c=conditions.thermal_headroom_c,
            frames=window.new,
        )

    def _emit_events(self, detections: Iterator[Detection]) -> Iterator[Event]:
        for detection in detections:
            self._accounting.events += 1
            yield Event(
                self._source,
                self._engines.spec.labels[detection.class_index],
                detection.start,
                detection.end,
                self._rate,
                detection.score,
                detection.patch,
                self._unix_s(detection.start),
                self._run_id,
                self._channel,
                detection.threshold,
                self._engines.bundle_sha256,
            )


def create_detector(spec: Spec, settings: DetectionSettings) -> Detector:
    """The detector of a stream whose windows are classified and smoothed as the settings say."""
    rate_hz = spec.frontend.sample_rate_hz
    step = round(settings.step_s * rate_hz)
    delay = round(Smoother(settings.smoothing_s, settings.step_s).delay_steps * step)
    return Detector(settings.rules, spec.labels, rate_hz, spec.frontend.window_samples, step, delay)


def process_streams(
    chunks: Iterable[tuple[StreamClassifier, Chunk]], classifiers: Sequence[StreamClassifier]
) -> Iterator[Record]:
    """Yield the records of chunks, each paired with its classifier; at the end finish every classifier."""
    failure = None
    try:
        for classifier, chunk in chunks:
            yield from classifier.push(chunk)
    except (FlexiastError, OSError) as error:  # the audio before a source failed is reported first
        failure = error
    for classifier in classifiers:
        yield from classifier.finish()
    if failure is not None:
        raise failure

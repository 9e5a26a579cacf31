"""The streaming path, from chunks to records; files and microphones go the same way.

chunk → window → features → logits → scores → smoothed → events
                              ↑ the engine the governor named: asked between windows, never within one
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flexiast.errors import FlexiastError
from flexiast.frontend import Frontend
from flexiast.spec import FrontendSpec, PatchSize
from flexiast_runtime.audio.signal import Signal
from flexiast_runtime.audio.source import Chunk
from flexiast_runtime.detection.cascade import Cascade
from flexiast_runtime.detection.detector import Detection, Detector
from flexiast_runtime.detection.framer import Framer, Window
from flexiast_runtime.detection.gate import DIGITAL_SILENCE_DBFS, Gate
from flexiast_runtime.detection.records import (
    EngineFailure,
    Event,
    Overload,
    Record,
    SourceNotice,
    Status,
    Summary,
    Switch,
    VariantUse,
)
from flexiast_runtime.detection.rules import EventRules
from flexiast_runtime.detection.smoothing import Smoother
from flexiast_runtime.governor.step import init_state, step
from flexiast_runtime.governor.types import Decision, Observation, Option, Policy
from flexiast_runtime.hardware.battery import Battery
from flexiast_runtime.inference.engine import Engines
from flexiast_runtime.percentiles import percentile
from flexiast_runtime.profiling.measure import measure_paced_s

Float = NDArray[np.float32]

TOP = 5
"""Labels in a status."""
KEPT_LATENCIES = 10_000
"""Latencies per variant that percentiles are taken of: memory stays flat over weeks."""


@dataclass(frozen=True)
class Settings:
    """How a stream is turned into events."""

    step_s: float
    smoothing_s: float
    rules: EventRules = EventRules()
    gate_dbfs: float = DIGITAL_SILENCE_DBFS
    """A window whose samples are all below this peak is not run; −inf runs all but digital silence."""

    @classmethod
    def for_frontend(
        cls,
        frontend: FrontendSpec,
        rules: EventRules = EventRules(),
        *,
        smoothing_s: float | None = None,
        gate_dbfs: float = DIGITAL_SILENCE_DBFS,
    ) -> Settings:
        """Four looks at every sound, at least two a second, in whole hops; smoothed over one and a half of them."""
        hop_s = frontend.hop_samples / frontend.sample_rate_hz
        step_s = max(1, round(min(frontend.window_s / 4, 0.5) / hop_s)) * hop_s
        return cls(step_s, 1.5 * step_s if smoothing_s is None else smoothing_s, rules, gate_dbfs)


@dataclass(frozen=True)
class Conditions:
    """What the machine and the user allow right now."""

    deadline_s: float
    battery: Battery | None = None
    heat_room_k: float | None = None
    """Kelvins to where the kernel holds the processor back"""
    throttled: bool | None = None
    power_saver: bool | None = None

    def at(self, time_s: float) -> Observation:
        """As the governor sees them, before any window."""
        return Observation(
            time_s,
            self.deadline_s,
            battery=self.battery,
            thermal_headroom_c=self.heat_room_k,
            throttled=self.throttled,
            power_saver=self.power_saver,
        )


class GovernedController:
    """The governor with its state: asked before the first window and after each."""

    def __init__(self, options: tuple[Option, ...], policy: Policy, conditions: Conditions) -> None:
        self.options, self.policy, self.first = options, policy, conditions.at(0.0)
        self.record: Callable[[Observation, Decision], None] = lambda seen, decision: None
        """Told of each observation and what was decided"""
        self._state = init_state(policy, options, self.first)

    @property
    def index(self) -> int:
        return self._state.index

    @property
    def patch(self) -> PatchSize:
        return self.options[self._state.index].patch

    def observe(self, seen: Observation) -> str | None:
        """Learn from one window; the reason if another patch size runs from now on."""
        self._state, decision = step(self.policy, self.options, self._state, seen)
        self.record(seen, decision)
        return decision.reason

    @property
    def degraded(self) -> bool:
        """Every engine failed, and rests."""
        return self._state.degraded

    @property
    def overloaded(self) -> bool:
        """Even the cheapest size misses the deadline again and again."""
        return self._state.overloaded


class FixedSize:
    """One patch size, whatever happens."""

    degraded = overloaded = False

    def __init__(self, patch: PatchSize) -> None:
        self.patch = patch

    def observe(self, seen: Observation) -> str | None:
        return None


@dataclass
class VariantStats:
    """What one variant did: windows, missed deadlines, latencies."""

    windows: int = 0
    misses: int = 0
    cpu_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)

    def add(self, spent: Timing, deadline_s: float) -> None:
        self.windows += 1
        self.misses += spent.latency_s > deadline_s
        self.cpu_s += spent.cpu_s
        self.latencies_s.append(spent.latency_s)
        del self.latencies_s[:-KEPT_LATENCIES]

    def report(self, patch: PatchSize) -> VariantUse:
        p50_s, p95_s = (percentile(sorted(self.latencies_s), percent) for percent in (50, 95))
        return VariantUse(patch, self.windows, self.misses, self.cpu_s, p50_s, p95_s)


class WindowResult(NamedTuple):
    """To one window."""

    patch: PatchSize
    scores: Float
    """[classes]"""
    engine_s: float
    """What it took"""
    ran: bool = True
    """An engine ran for this window"""
    option: int | None = None
    """Of the governor's, where it was not the one that it chose"""
    glance_s: float = 0.0
    """What the cheapest size took beforehand: once for an event, so no part of what a window must hold"""


class Timing(NamedTuple):
    """On one window, from its last audio to its smoothed scores."""

    latency_s: float
    cpu_s: float


class StreamClassifier:
    """Turns chunks into records with the engines of one bundle."""

    def __init__(
        self,
        engines: Engines,
        chooser: GovernedController | FixedSize,
        settings: Settings,
        *,
        source: str,
        conditions: Callable[[float], Conditions],
        backlog: Callable[[], int] = lambda: 0,
        signal: Callable[[], Signal | None] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
        unix_s: Callable[[int], float | None] = lambda sample: None,
        cascade: Cascade | None = None,
        run: str = "",
    ) -> None:
        """``conditions`` is asked with the seconds of audio so far; ``backlog`` gives samples that wait.

        ``signal`` tells what the source is like now. ``unix_s`` gives the Unix seconds at which a sample sounded; None
        for recordings. ``cascade``, which needs a chooser that is governed, says how closely to listen. ``run`` makes
        the ids of its events other than those of any other run.
        """
        frontend = engines.spec.frontend
        self._engines, self._chooser, self._source = engines, chooser, source
        self._conditions, self._backlog, self._signal = conditions, backlog, signal
        self._clock, self._unix_s = clock, unix_s
        self._rate = frontend.sample_rate_hz
        self._step = round(settings.step_s * self._rate)
        self._framer = Framer(Frontend(frontend), self._step)
        self._smoother = Smoother(settings.smoothing_s, settings.step_s)
        delay = round(self._smoother.delay_steps * self._step)
        self._detector = Detector(
            settings.rules, engines.spec.labels, self._rate, frontend.window_samples, self._step, delay
        )
        self._gate = Gate(settings.gate_dbfs)
        self._cascade, self._run_id = cascade, run
        self._nothing = np.zeros(len(engines.spec.labels), np.float32)
        self._used: dict[PatchSize, VariantStats] = defaultdict(VariantStats)
        self._events = self._switches = self._overloads = self._discontinuities = self._lost = self._skipped = 0
        self._is_broken = False  # since the audio broke off
        self._unspent_cpu_s = 0.0
        self._begun_cpu_s = time.process_time()

    def run(self, chunks: Iterable[Chunk]) -> Iterator[Record]:
        """Records while the chunks last; what the last ones began is finished, then comes the summary."""
        return process_streams(((self, chunk) for chunk in chunks), [self])

    def push(self, chunk: Chunk) -> Iterator[Record]:
        """What one chunk brings to an end."""
        for state, reason in chunk.notices:
            yield SourceNotice(self._source, self._framer.end / self._rate, state, reason)
            if state == "lost":
                yield from self._break_off()
        if not len(chunk.samples):
            return
        if self._is_broken or chunk.start != self._framer.end:
            yield from self._begin_again(chunk.start)
        self._gate.update(chunk.start, chunk.samples)
        yield from self._windows(self._framer.push(chunk.samples))

    def finish(self) -> Iterator[Record]:
        """The stream has ended: so do its last window and its events; then comes the summary."""
        yield from self._break_off()
        yield self._summary(time.process_time() - self._begun_cpu_s)

    @property
    def kept_busy_by(self) -> str | None:
        """The label that may have been an event most often, where therefore the cascade spared no window."""
        busy = None if self._cascade is None else self._cascade.busiest_label
        return None if busy is None else self._engines.spec.labels[busy]

    def _break_off(self) -> Iterator[Record]:
        """The audio has broken off, for now: its last window and its events end with it."""
        if not self._is_broken:
            self._is_broken = True
            yield from self._windows(self._framer.flush())
            yield from self._ended(self._detector.flush(self._framer.end))

    def _begin_again(self, start: int) -> Iterator[Record]:
        """After a discontinuity, at a sample: nothing is remembered across it."""
        yield from self._break_off()
        self._is_broken = False
        self._discontinuities += start != self._framer.end  # else what was late has come after all
        self._lost += start - self._framer.end
        self._smoother.reset()
        if self._cascade is not None:
            self._cascade.reset()
        self._framer.restart(start)

    def _windows(self, windows: Iterator[Window]) -> Iterator[Record]:
        """Classify windows as they are cut; CPU time of chunks that complete none goes to the next window."""
        begun_s, begun_cpu_s = self._clock(), time.process_time()
        for window in windows:
            answers: list[WindowResult] = []
            yield from self._record_window(window, answers)
            if not answers:
                yield from self._ended(self._detector.flush(window.end))
                self._smoother.reset()
                continue
            (answer,) = answers
            smoothed = self._smoother.push(answer.scores)
            cpu_s = time.process_time() - begun_cpu_s + self._unspent_cpu_s
            spent = Timing(self._clock() - begun_s, cpu_s)
            self._unspent_cpu_s = 0.0
            yield from self._ended(self._detector.push(window, smoothed, answer.patch))
            yield from self._account(window, answer, smoothed, spent)
            begun_s, begun_cpu_s = self._clock(), time.process_time()
        self._unspent_cpu_s += time.process_time() - begun_cpu_s

    def _record_window(self, window: Window, answers: list[WindowResult]) -> Iterator[Record]:
        """Add the answer to a window, from the first engine that gives one; none while all of them fail."""
        if self._gate.silent(window.start, window.end):
            answers.append(WindowResult(self._chooser.patch, self._nothing, 0.0, ran=False))
            self._smoother.reset()  # what sounded before it sounds no longer: no label lingers
            return
        glanced_s = self._clock()
        if self._cascade is not None and (level := self._cascade.level(window)) != "sharp":
            yield from self._cheap_pass(window, answers, self._cascade, skip=level == "skip")
            self._cascade.spared += len(answers)
        if not answers:
            glanced_s = self._clock() - glanced_s
            yield from self._run_selected(window, answers)
            answers[:] = [answer._replace(glance_s=glanced_s) for answer in answers]
            if answers and self._cascade is not None:
                self._cascade.is_candidate(answers[0].scores)

    def _cheap_pass(
        self, window: Window, answers: list[WindowResult], cascade: Cascade, *, skip: bool
    ) -> Iterator[Record]:
        """Add what was said before, or what the cheapest size says unless it may be an event."""
        if skip and cascade.quiet is not None:
            answers.append(WindowResult(cascade.cheap, cascade.quiet, 0.0, ran=False))
        elif cascade.cheap != self._chooser.patch:
            try:
                answer = self._run(window, cascade.cheap)
            except Exception as error:  # noqa: BLE001 (said, and the chosen size answers instead)
                yield EngineFailure(self._source, window.end / self._rate, cascade.cheap, str(error))
                cascade.record_failure()
            else:
                if not cascade.is_candidate(answer.scores):
                    answers.append(answer._replace(option=0))

    def _run_selected(self, window: Window, answers: list[WindowResult]) -> Iterator[Record]:
        """Add what the size says that was chosen, or, where its engine fails, the next one chosen."""
        seen = self._conditions(window.end / self._rate).at(window.end / self._rate)
        if self._chooser.degraded:
            yield from self._apply_decision(seen)
        while not answers and not self._chooser.degraded:
            patch = self._chooser.patch
            try:
                answers.append(self._run(window, patch))
            except Exception as error:
                if isinstance(self._chooser, FixedSize):  # there is nothing to go on with
                    raise
                yield EngineFailure(self._source, seen.time_s, patch, str(error))
                yield from self._apply_decision(replace(seen, failed=True))

    def _run(self, window: Window, patch: PatchSize) -> WindowResult:
        begun_s = self._clock()
        scores = self._engines.scores(window.features[None], patch)[0]
        return WindowResult(patch, scores, self._clock() - begun_s)

    def _apply_decision(self, seen: Observation) -> Iterator[Record]:
        """Ask what runs next, and get it ready; say so when nothing is fast enough any more."""
        before, was_overloaded = self._chooser.patch, self._chooser.overloaded
        reason = self._chooser.observe(seen)
        if self._chooser.overloaded and not was_overloaded:
            self._overloads += 1
            latency_s = (seen.latency_s or 0.0) + seen.overhead_s
            yield Overload(self._source, seen.time_s, before, latency_s, seen.deadline_s)
        if reason:
            self._switches += 1
            self._engines.prepare(self._chooser.patch)
            yield Switch(self._source, seen.time_s, before, self._chooser.patch, reason)

    def _account(self, window: Window, answer: WindowResult, smoothed: Float, spent: Timing) -> Iterator[Record]:
        """Count the window, report it, and ask the governor what runs next."""
        time_s = window.end / self._rate
        conditions, backlog = self._conditions(time_s), self._backlog()
        if answer.ran:
            self._used[answer.patch].add(spent, conditions.deadline_s)
        else:
            self._skipped += 1
        yield self._status(window, answer.patch, smoothed, spent.latency_s, conditions, backlog)
        seen = replace(
            conditions.at(time_s),
            latency_s=answer.engine_s if answer.ran else None,
            option=answer.option,
            overhead_s=spent.latency_s - answer.engine_s - answer.glance_s,
            backlog_steps=backlog / self._step,
        )
        yield from self._apply_decision(seen)

    def _status(
        self, window: Window, patch: PatchSize, smoothed: Float, latency_s: float, conditions: Conditions, backlog: int
    ) -> Status:
        labels = self._engines.spec.labels
        best = np.argsort(-smoothed)[:TOP]
        return Status(
            source=self._source,
            time_s=window.end / self._rate,
            patch=patch,
            top=tuple((labels[index], float(smoothed[index])) for index in best),
            active=tuple(labels[index] for index in self._detector.active),
            latency_s=latency_s,
            deadline_s=conditions.deadline_s,
            backlog_s=backlog / self._rate,
            dropped_s=self._lost / self._rate,
            skipped=self._skipped,
            battery=conditions.battery,
            signal=self._signal(),
            heat_room_k=conditions.heat_room_k,
            frames=window.new,
        )

    def _ended(self, detections: Iterator[Detection]) -> Iterator[Event]:
        labels = self._engines.spec.labels
        for found in detections:
            self._events += 1
            label = labels[found.class_index]
            yield Event(
                self._source,
                label,
                found.start,
                found.end,
                self._rate,
                found.score,
                found.patch,
                self._unix_s(found.start),
                self._run_id,
            )

    def _summary(self, cpu_s: float) -> Summary:
        uses = sorted(self._used.items(), key=lambda item: -self._engines.spec.tokens(item[0]))
        return Summary(
            source=self._source,
            audio_s=(self._framer.end - self._lost) / self._rate,
            windows=self._skipped + sum(use.windows for _, use in uses),
            skipped=self._skipped,
            events=self._events,
            switches=self._switches,
            overloads=self._overloads,
            discontinuities=self._discontinuities,
            dropped_s=self._lost / self._rate,
            cpu_s=cpu_s,
            variants=tuple(use.report(patch) for patch, use in uses),
        )


def process_streams(
    stream: Iterable[tuple[StreamClassifier, Chunk]], listeners: Sequence[StreamClassifier]
) -> Iterator[Record]:
    """Chunks, each with the listener that it is for → their records; at the end each listener's last ones."""
    failure = None
    try:
        for listener, chunk in stream:
            yield from listener.push(chunk)
    except (FlexiastError, OSError) as error:  # what was heard before a source failed is reported first
        failure = error
    for listener in listeners:
        yield from listener.finish()
    if failure is not None:
        raise failure


def options(
    engines: Engines,
    profiled_s: Mapping[PatchSize, float] | None = None,
    repeats: int = 7,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Option, ...]:
    """The governor's options, with each engine's median latency: profiled, or that of a few runs on silence now.

    Either way every engine is warmed up, so that the first window after a switch is as fast as the next.
    """
    profiled_s = profiled_s or {}
    spec = engines.spec
    shape = (1, spec.frontend.window_frames, spec.frontend.mel_bins)
    features = np.full(shape, Frontend(spec.frontend).floor, np.float32)
    found = []
    for patch in engines.patches:
        engine = engines[patch]
        engine.run(features)
        latency_s = profiled_s[patch] if patch in profiled_s else measure_paced_s(engine, features, repeats, clock)
        found.append(Option(patch, latency_s, engine.variant.metric))
    return tuple(found)

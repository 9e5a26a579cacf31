"""Training clips → batches, each a pure function of (seed, step) and of the rank that asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import soxr
from numpy.typing import NDArray

from flexiast.arrays import Double, Float
from flexiast.data.remote_shards import ClipShards, ShardFetcher
from flexiast.data.targets import Targets
from flexiast.data.waveforms import memory_budget
from flexiast.errors import FlexiastError
from flexiast.frontend import Frontend
from flexiast.spec import FrontendSpec, Spec
from flexiast.training.augment import (
    SILENCE,
    Loudness,
    Noise,
    audible_part,
    cut_audible,
    echo,
    equalise,
    gain,
    half,
    mask,
    mix,
    mix_log_mel,
    place,
    place_audible,
    scale_to_snr,
)
from flexiast.training.recipe import Augment, Training
from flexiast.training.sampling import Order, ShardOrder, Step, draw

SILENT_SHARE = 0.02
"""Of the examples of a background alone: a muted microphone is nothing too."""

Track = Callable[[Sequence[int]], Iterable[int]]
"""Hands items on and shows how many are done"""

SPEEDS = 5
"""Speeds at which each clip is transformed, evenly spaced."""


class LogMels:
    """Log-mels of clips at a few speeds, computed when they are first used and kept as far as memory allows.

    They are rounded to float16, off by at most 0.008 nat, a thousandth of what augmentation adds.
    """

    def __init__(
        self,
        waveforms: Sequence[Float],
        frontend: FrontendSpec,
        augment: Augment,
        *,
        memory_bytes: int | None = None,
    ) -> None:
        self._waveforms = waveforms
        self._frontend = Frontend(frontend)
        self.speeds = np.linspace(1 - augment.speed, 1 + augment.speed, SPEEDS) if augment.speed else np.ones(1)
        self._room = memory_budget() if memory_bytes is None else memory_bytes
        self._stored: dict[int, NDArray[np.float16]] = {}

    def __len__(self) -> int:
        return len(self._waveforms)

    def __call__(self, clip: int, speed: int) -> Float:
        """Log-mel [frames, mels] of a clip at one of the speeds; at least one frame."""
        number = clip * len(self.speeds) + speed
        log_mel = self._stored.get(number)
        if log_mel is None:
            log_mel = self._compute(clip, speed)
            if self._room > 0:
                self._stored[number] = log_mel
                self._room -= log_mel.nbytes
        return log_mel.astype(np.float32)

    def fill(self, progress: Track = iter) -> None:
        """Compute all that memory allows, clip after clip.

        For processes that are forked, each of which would compute its own, and for recordings, which are decoded once
        when their parts are read in order.
        """
        for clip in progress(range(len(self))):
            for speed in range(len(self.speeds)):
                if self._room <= 0:
                    return
                self(clip, speed)

    def _compute(self, clip: int, speed: int) -> NDArray[np.float16]:
        waveform, rate = self._waveforms[clip], float(self.speeds[speed])
        if rate != 1:
            waveform = soxr.resample(waveform, 1000 * rate, 1000.0, quality="LQ")
        missing = self._frontend.spec.taper_samples - len(waveform)
        return self._frontend.log_mel(np.pad(waveform, (0, max(0, missing)))).astype(np.float16)


class Backgrounds:
    """Recorded backgrounds of a run, cut at random.

    A source is drawn as often as the square root of its length says. So minutes of speech are heard beside hours of
    music, and the few moments that were mined do not crowd out all else.
    """

    def __init__(self, sources: Sequence[LogMels], seconds: Sequence[Sequence[float]]) -> None:
        """``seconds`` are the lengths of each source's stretches."""
        self._sources = tuple(sources)
        self._ends = [np.cumsum(lengths) for lengths in seconds]
        roots = np.sqrt([ends[-1] for ends in self._ends])
        self._shares = np.cumsum(roots) / np.sum(roots)
        self._shares[-1] = 1.0  # whatever the sum was rounded to

    def __call__(self, frames: int, rng: np.random.Generator) -> Float:
        """Log-mel [frames, mels]; a recording that is shorter stands somewhere in silence."""
        source = int(np.searchsorted(self._shares, rng.random(), side="right"))
        ends = self._ends[source]
        stretch = int(np.searchsorted(ends, rng.random() * ends[-1], side="right"))
        log_mel = self._sources[source](min(stretch, len(ends) - 1), 0)
        return place(log_mel, frames, 0.0, rng)[0]

    @property
    def identity(self) -> list[list[float]]:
        """What tells these backgrounds from others."""
        return [ends.tolist() for ends in self._ends]


class Batches(Sequence[tuple[Float, Float]]):
    """Step → (features [clips, window_frames, mels], targets [clips, columns]) of one rank's share of the step.

    Each clip is varied by a generator of its place in the run, so any number of ranks sees the same clips.
    """

    def __init__(
        self,
        log_mels: LogMels,
        targets: Targets,
        spec: Spec,
        training: Training,
        steps: Sequence[Step],
        *,
        probabilities: Double | None = None,
        backgrounds: Backgrounds | None = None,
        embedding_width: int = 0,
        rank: int = 0,
        ranks: int = 1,
        shards: ClipShards | None = None,
    ) -> None:
        """``embedding_width`` of the targets' columns, the last ones, are a teacher's embedding.

        With ``shards``, where the clips lie in an object store, each rank reads shards of its own.
        """
        self._log_mels, self._targets, self._training, self._steps = log_mels, targets, training, steps
        self._frontend = Frontend(spec.frontend)
        self._order: Order | ShardOrder = Order(training.seed, len(log_mels), probabilities, rank, ranks)
        self._copying: tuple[ShardOrder, ShardFetcher] | None = None
        if shards is not None:
            self._order = order = ShardOrder(training.seed, shards.numbers, probabilities, rank, ranks)
            self._copying = order, ShardFetcher(shards.shards)
        self._noise = Noise(self._frontend, training.seed) if training.augment.noise_share else None
        self._backgrounds, self._loudness = backgrounds, Loudness(self._frontend)
        self._nothing = _nothing_target(spec, targets.shape[1] - embedding_width, embedding_width)

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, step: int) -> tuple[Float, Float]:  # type: ignore[override]  # no slices
        _, first, count, progress = self._steps[step]
        mixing, partners = progress >= self._training.augment.mix_from, self._order.partners(first, count)
        pairs = [self._example(place, partners, mixing=mixing) for place in self._order.places(first, count)]
        frontend = self._frontend.spec
        features = np.empty((len(pairs), frontend.window_frames, frontend.mel_bins), np.float32)
        targets = np.empty((len(pairs), self._targets.shape[1]), np.float32)
        for row, pair in enumerate(pairs):
            features[row], targets[row] = pair
        return features, targets

    def _example(self, place_: int, partners: range, *, mixing: bool) -> tuple[Float, Float]:
        """One clip, maybe mixed with one of the partners, maybe in noise, masked and normalised; its target."""
        augment, rng = self._training.augment, draw(self._training.seed, "mix", place_)
        log_mel, target, real = self._augment_clip(place_, mixing=mixing)
        if mixing and rng.random() < augment.mix_share:
            share = float(rng.beta(augment.mix_alpha, augment.mix_alpha))
            share = max(share, 1 - share)
            other, other_target, other_real = self._augment_clip(
                partners[int(rng.integers(len(partners)))], mixing=mixing
            )
            log_mel, target = mix(log_mel, other, share), share * target + (1 - share) * other_target
            real = slice(min(real.start, other_real.start), max(real.stop, other_real.stop))
        if self._noise is not None:
            log_mel, target, real = self._add_noise(self._noise, place_, log_mel, target, real)
        if self._backgrounds is not None:
            log_mel, target, real = self._add_background(
                self._backgrounds, place_, log_mel, target, real, mixing=mixing
            )
        features = self._frontend.finish(self._frontend.normalise(log_mel), real)
        return mask(features, augment.masks, augment.mask_share, self._frontend.floor, rng), target

    def _augment_clip(self, place_: int, *, mixing: bool) -> tuple[Float, Float, slice]:
        augment, rng = self._training.augment, draw(self._training.seed, "augment", place_)
        clip, spec = self._order[place_], self._frontend.spec
        if self._copying is not None:
            order, fetcher = self._copying
            fetcher.fetch(*order.groups(place_))
        log_mel, target = self._log_mels(clip, int(rng.integers(len(self._log_mels.speeds)))), self._targets[clip]
        log_mel = cut_audible(log_mel, spec.window_frames, rng)
        log_mel = equalise(gain(log_mel, augment.gain_db, rng), augment.filter_db, rng)
        if self._backgrounds is None or not mixing:
            window, real = place(log_mel, spec.window_frames, augment.shift, rng)
            return window, target, real
        if rng.random() < augment.half_share:
            log_mel, target = half(log_mel, rng), self._nothing
        window, real = place_audible(log_mel, spec.window_frames, rng)
        if rng.random() < augment.echo_share:
            window, real = echo(window, spec.hop_samples / spec.sample_rate_hz, rng), slice(0, len(window))
        return window, target, real

    def _add_background(
        self, backgrounds: Backgrounds, place_: int, log_mel: Float, target: Float, real: slice, *, mixing: bool
    ) -> tuple[Float, Float, slice]:
        """A window over a background, or that alone, or as it is; at a random level. Before mixing only that alone."""
        augment, rng = self._training.augment, draw(self._training.seed, "background", place_)
        alone = rng.random() < augment.background_alone_share
        under = mixing and rng.random() < augment.background_share
        if alone or under:
            behind = equalise(backgrounds(len(log_mel), rng), augment.filter_db, rng)
            if alone:  # where no background is under it, a clip has silence around it, which must tell nothing
                behind = behind if under else _silence_around(real, behind)
                log_mel, target = behind, self._nothing
            else:
                snr_db = float(rng.uniform(*augment.background_snr_db))
                log_mel = mix_log_mel(log_mel, scale_to_snr(behind, snr_db, log_mel[audible_part(log_mel)]))
            real = slice(0, len(log_mel)) if under else real
        if alone and rng.random() < SILENT_SHARE:
            return np.full_like(log_mel, SILENCE), target, real
        if not mixing:
            return log_mel, target, real
        return self._loudness.set(log_mel, float(rng.uniform(*augment.level_dbfs))), target, real

    def _add_noise(
        self, noise: Noise, place_: int, log_mel: Float, target: Float, real: slice
    ) -> tuple[Float, Float, slice]:
        """A window in noise, or noise instead of it, or as it is."""
        augment, rng = self._training.augment, draw(self._training.seed, "noise", place_)
        if rng.random() >= augment.noise_share:
            return log_mel, target, real
        behind = noise(len(log_mel), augment.filter_db, rng)
        behind = scale_to_snr(behind, float(rng.uniform(*augment.noise_snr_db)), log_mel[real])
        if rng.random() < augment.nothing_share:
            log_mel, target = np.maximum(behind, SILENCE), self._nothing
        else:
            log_mel = mix_log_mel(log_mel, behind)
        return log_mel, target, slice(0, len(log_mel))


class ErrorsAsItems:
    """Batches that return a FlexiastError as an item, so that it leaves a worker process unchanged.

    PyTorch would raise an error of its own that holds the traceback as text.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, step: int) -> tuple[Float, Float] | FlexiastError:
        try:
            return self._batches[step]
        except FlexiastError as error:
            return error


def _silence_around(real: slice, log_mel: Float) -> Float:
    """Frames [frames, mels] where a clip sounded, silence around them."""
    window = np.full_like(log_mel, SILENCE)
    window[real] = log_mel[real]
    return window


def _nothing_target(spec: Spec, classes: int, width: int) -> Float:
    """The target of a window in which nothing sounds [classes + width]: its class, or no label likelier than another.

    The ``width`` columns of a teacher's embedding are NaN: no teacher was asked about such a window.
    """
    if spec.nothing_class:
        scores = np.eye(classes, dtype=np.float32)[-1]
    else:
        scores = np.full(classes, 1 / max(classes, 1) if spec.task == "single" else 0.0, np.float32)
    return np.concatenate((scores, np.full(width, np.nan, np.float32)))

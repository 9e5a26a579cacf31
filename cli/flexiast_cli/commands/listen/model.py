"""The model that `listen` runs, and how another one takes its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flexiast.errors import ModelError
from flexiast_cli.governor import Candidates, Controller, load_candidates, prepare
from flexiast_cli.options.common import EventOptions, bundle_event_settings
from flexiast_cli.options.policy import PolicyOptions
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_bundle
from flexiast_runtime.detection.settings import DetectionSettings
from flexiast_runtime.detection.takeover import check_takes_over
from flexiast_runtime.governor.live import Conditions
from flexiast_runtime.inference.selfcheck import golden_errors

SHOWN = 8
"""Digits of a bundle's hash in a message"""


@dataclass(frozen=True)
class ModelId:
    """A bundle by the name that it was given, and what lay there."""

    name: str
    sha256: str
    """Of the manifest, which has the hash of every file"""

    def __str__(self) -> str:
        return f"{self.name} ({self.sha256[:SHOWN]})"


@dataclass(frozen=True)
class RunningModel:
    """A bundle with everything that depends on it."""

    id: ModelId
    settings: DetectionSettings
    candidates: Candidates
    controller: Controller


@dataclass(frozen=True)
class ModelLoader:
    """Loads models with the options that `listen` was given."""

    sizes: PolicyOptions
    events: EventOptions
    conditions: Callable[[], Conditions]

    def load(
        self, name: str, running: RunningModel, time_s: float, expected: ModelId | None = None
    ) -> RunningModel | None:
        """Another model, verified and measured, to take over from the running one at this time of the stream.

        None where the running one itself lies there. Every file is compared with its hash, and every engine answers the
        golden inputs. ``expected``: what must lie there. Raises UsageError for a model that cannot take over, or that
        lacks what the options ask for, and as ``Bundle.open`` and ``load_engines`` do.
        """
        bundle = Bundle.open(find_bundle(name))
        found = ModelId(name, bundle.sha256)
        if expected is not None and found != expected:
            raise ModelError(
                f"{expected} ran before, but {found} lies there now; give the path of a copy: flexiast swap OLD.bundle"
            )
        check_takes_over(running.candidates.engines.spec, bundle.manifest.spec, name)
        bundle.check_files()
        if found.sha256 == running.id.sha256:
            return None
        settings = bundle_event_settings(bundle, self.events)
        candidates = load_candidates(bundle, self.sizes)
        try:
            golden_errors(bundle, candidates.engines)
            controller = prepare(candidates, self.sizes, self.conditions(), time_s=time_s)
        except BaseException:
            candidates.engines.close()
            raise
        return RunningModel(found, settings, candidates, controller)

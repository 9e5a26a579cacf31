"""Swaps the model of a running `listen`: the next one is loaded beside it, and takes over between two windows.

A thread of its own loads and verifies; it sleeps while nobody asks. The loop that classifies looks before each chunk
whether a model is ready. If loading fails, nothing has changed: the old model goes on, and the error is the answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Literal, TypeVar

from typing_extensions import Self

from flexiast.errors import ExitCode, FlexiastError, UsageError
from flexiast.log import Log
from flexiast.manifest import MANIFEST
from flexiast_cli.commands.listen.model import ModelId, ModelLoader, RunningModel
from flexiast_cli.commands.listen.stations import Station, create_cascade
from flexiast_runtime.governor.live import GovernedController
from flexiast_runtime.inference.engine import Engines
from flexiast_runtime.memory import return_free_memory
from flexiast_runtime.sinks.sink import Model

T = TypeVar("T")

Action = Literal["swap", "back", "reload"]

AUDIO_S = 10.0
"""Seconds that the answer waits for the model to take over: without a microphone there is no next window."""


@dataclass
class SwapRequest:
    """What to run next, and what came of it."""

    action: Action
    name: str = ""
    """Of the model, for ``swap``"""
    result: Future[str] = field(default_factory=Future)
    """A line that says what runs now"""

    def end(self, text: str | FlexiastError) -> None:
        """Answer, unless it was answered already."""
        with suppress(InvalidStateError):
            if isinstance(text, str):
                self.result.set_result(text)
            else:
                self.result.set_exception(text)


class ModelSwapper:
    """The model that runs, and the one that may follow it. Owns the engines of both while it is used as a context."""

    def __init__(self, first: RunningModel, stations: Sequence[Station], loader: ModelLoader, log: Log) -> None:
        self.running = first
        self.models: dict[str, Model] = {}
        """What ran so far, by its bundle's hash: sinks tell by it whose an event is"""
        self._remember(first)
        self.observers: list[Callable[[ModelId], None]] = []
        """Called with each model that has taken over"""
        self._before: ModelId | None = None
        self._stations, self._loader, self._log = stations, loader, log
        self._requests: SimpleQueue[SwapRequest | None] = SimpleQueue()
        self._ready: SimpleQueue[tuple[RunningModel, SwapRequest]] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="flexiast-swap", daemon=True)

    @property
    def engines(self) -> Engines:
        return self.running.candidates.engines

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._requests.put(None)  # a model that is being loaded just now ends with the process
        self._drop_ready("listening has ended")
        self.engines.close()

    def reload(self) -> None:
        """Re-read the bundle from its path; safe in a signal handler."""
        self._requests.put(SwapRequest("reload"))

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a document such as ``{"action": "swap", "model": "new.bundle"}``; waits until it is known."""
        names = ", ".join(station.name for station in self._stations)
        if (action := request.get("action")) == "describe":
            return {"text": f"{self.running.id}, listening to {names}"}
        if action not in {"swap", "back", "reload"}:
            return {"error": f"{action!r} is none of swap, back, reload", "code": int(ExitCode.USAGE)}
        swap = SwapRequest(action, str(request.get("model", "")))
        self._requests.put(swap)
        try:
            return {"text": swap.result.result()}
        except FlexiastError as error:
            return {"error": str(error), "code": int(error.exit_code)}

    def describe(self) -> dict[str, Any]:
        """What runs, what ran before, and the bundles beside the running one, by their names."""
        before = None if self._before is None else asdict(self._before)
        return {"running": asdict(self.running.id), "before": before, "choices": sorted(self._list_choices())}

    def answer_page(self, request: dict[str, Any]) -> dict[str, Any]:
        """As ``answer``, for a browser: it names no path but one of the bundles that ``describe`` gives."""
        if request.get("action") != "swap":
            return self.answer(request)
        path = self._list_choices().get(str(request.get("model")))
        if path is None:
            text = f"{request.get('model')!r} is no bundle beside the one that runs; look at the list again"
            return {"error": text, "code": int(ExitCode.USAGE)}
        return self.answer({"action": "swap", "model": str(path)})

    def _list_choices(self) -> dict[str, Path]:
        running = self.running.candidates.bundle.folder.absolute()
        try:
            others = [path for path in running.parent.iterdir() if path != running and (path / MANIFEST).is_file()]
        except OSError:  # the folder is gone, or may not be listed
            return {}
        return {path.name: path for path in others}

    def swap_between(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items; before each of them, a model that is ready takes over. Called by the loop that classifies.

        Items are chunks of audio, and each is classified to its last window before the next is asked for.
        """
        for item in items:
            if not self._ready.empty():
                self._take_over()
            yield item

    def _take_over(self) -> None:
        try:
            model, request = self._ready.get_nowait()
        except Empty:  # another request came just now
            return
        old, self.running = self.running, model
        self._before = old.id
        self._remember(model)
        engines, controller, settings = model.candidates.engines, model.controller, model.settings
        is_cascaded = self._loader.sizes.cascade
        for station in self._stations:
            cascade = create_cascade(controller, settings, engines.spec) if is_cascaded else None
            station.classifier.swap_model(engines, controller, settings, cascade)
        old.candidates.engines.close()
        return_free_memory()
        text = f"{model.id} runs now; `flexiast swap --back` returns to {old.id}"
        if self._loader.sizes.record is not None and isinstance(old.controller, GovernedController):
            text += f". The recording {self._loader.sizes.record} ends here: it is of one model"
        self._log(text)
        for observe in self.observers:
            observe(model.id)
        request.end(text)

    def _remember(self, model: RunningModel) -> None:
        self.models[model.id.sha256] = Model(model.id.name, model.candidates.engines.spec.labels)

    def _serve(self) -> None:
        while (request := self._requests.get()) is not None:
            try:
                model = self._load(request)
            except FlexiastError as error:
                self._refuse(request, type(error), str(error))
            except Exception as error:  # noqa: BLE001 (whatever it is, the model that runs goes on)
                self._refuse(request, FlexiastError, f"{type(error).__name__}: {error}")
            else:
                if model is None:
                    request.end(f"{self.running.id} is what runs already; nothing was swapped")
                else:
                    self._offer(model, request)

    def _refuse(self, request: SwapRequest, kind: type[FlexiastError], reason: str) -> None:
        return_free_memory()
        text = f"{reason}. {self.running.id} goes on"
        self._log(f"the model was not swapped: {text}")
        request.end(kind(text))

    def _load(self, request: SwapRequest) -> RunningModel | None:
        expected = None
        if request.action == "back" and (expected := self._before) is None:
            raise UsageError("nothing was swapped yet, so there is nothing to go back to")
        name = expected.name if expected else request.name or self.running.id.name
        time_s = max(station.classifier.time_s for station in self._stations)
        return self._loader.load(name, self.running, time_s, expected)

    def _offer(self, model: RunningModel, request: SwapRequest) -> None:
        self._drop_ready(f"{model.id} was asked for meanwhile")
        self._ready.put((model, request))
        with suppress(FutureTimeoutError, FlexiastError):
            request.result.result(AUDIO_S)
            return
        request.end(f"{model.id} is loaded and takes over with the next audio; none comes just now")

    def _drop_ready(self, reason: str) -> None:
        """Close a model that waits for audio and will not run."""
        with suppress(Empty):
            model, request = self._ready.get_nowait()
            model.candidates.engines.close()
            request.end(FlexiastError(f"{model.id} was not swapped in: {reason}"))

"""flexiast: one audio spectrogram transformer, many patch sizes.

This package holds what every stage shares (the spec, the front end, the patch matrices, labels and the bundle's
manifest, all numpy only) and the training side (model, data, train, evaluate), which needs the extra ``train``.

The public Python interface (``flexiast.load`` and the names in ``__all__``) lives in the runtime and is imported when
it is first used: ``import flexiast`` alone loads no numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flexiast_runtime.api import (
        Bundle,
        Engine,
        Event,
        EventRules,
        FlexiastError,
        LabelScore,
        Model,
        PatchSize,
        Record,
        Sink,
        Stream,
        Variant,
        load,
    )

__version__ = "0.1.0"

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


def __getattr__(name: str) -> Any:
    if name in __all__:
        from flexiast_runtime import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

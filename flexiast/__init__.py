"""flexiast: one audio spectrogram transformer, many patch sizes.

This package holds what every stage shares (the spec, the front end, the patch matrices, labels and the bundle's
manifest, all numpy only) and the training side (model, data, train, evaluate), which needs the extra ``train``.

The public Python interface (``flexiast.load`` and the names in ``__all__``) lives in the runtime and is imported when
it is first used: ``import flexiast`` alone loads no numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flexiast_runtime.api import *  # noqa: F403 (its `__all__` is the public interface, listed there alone)

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name.startswith("__") and name != "__all__":  # of what inspects any module
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from flexiast_runtime import api

    if name == "__all__":
        return api.__all__
    if name in api.__all__:
        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})

"""A bundle checks itself on the device that runs it: every file's hash, every engine against stored answers."""

from __future__ import annotations

import numpy as np

from flexiast.errors import VerificationError
from flexiast.spec import PatchSize
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.engine import Engines
from flexiast_runtime.ort import load_engines


def golden_key(patch: PatchSize) -> str:
    """Name of a patch size's logits in the golden file."""
    return f"logits-{patch}"


def verify_bundle(bundle: Bundle) -> dict[PatchSize, float]:
    """Check every file and run every engine; the largest logit error of each patch size.

    Raises VerificationError that names the file or patch size that fails.
    """
    for entry in bundle.manifest.files:
        bundle.read(entry.name)
    return golden_errors(bundle, load_engines(bundle))


def golden_errors(bundle: Bundle, engines: Engines) -> dict[PatchSize, float]:
    """Each engine's largest logit error on the golden inputs; raises VerificationError above the tolerance."""
    golden = bundle.arrays(bundle.manifest.golden)
    errors = {}
    for patch in engines.patches:
        if not {"features", golden_key(patch)} <= golden.keys():
            raise VerificationError(
                f"{bundle.folder / bundle.manifest.golden} has no answers of patch size {patch}; export again"
            )
        found, expected = engines.logits(golden["features"], patch), golden[golden_key(patch)]
        error = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("nan")
        tolerance = bundle.manifest.variant(patch).parity.tolerance
        if not error <= tolerance:  # also catches NaN
            raise VerificationError(
                f"{bundle.folder}: patch size {patch} answers the golden inputs with an error of {error:.2g} "
                f"(allowed {tolerance:g}) on this machine; export again, or report this CPU"
            )
        errors[patch] = error
    return errors

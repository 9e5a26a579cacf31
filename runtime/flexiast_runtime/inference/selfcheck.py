"""Verifies a bundle on the device that runs it: every file's hash, and every graph against stored results."""

from __future__ import annotations

import numpy as np

from flexiast.errors import VerificationError
from flexiast.manifest import Variant
from flexiast.spec import PatchSize
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.inference.engine import Engines
from flexiast_runtime.inference.ort import load_engines, load_session

FRONTEND_TOLERANCE_NAT = 1e-3
"""Largest difference of a log-mel that the front end's graph may make. In float64 it is 1e-6, and 1e-3 moves no logit
by more than the engines' own tolerance."""


def golden_key(patch: PatchSize) -> str:
    """Name of a patch size's logits in the golden file."""
    return f"logits-{patch}"


def verify_bundle(bundle: Bundle) -> list[tuple[Variant, float]]:
    """Verify every file, run the front end and every engine. Returns each variant with its largest logit error.

    Raises VerificationError that names the file or variant that fails.
    """
    bundle.check_files()
    frontend_error(bundle)
    return [
        found
        for precision in bundle.manifest.precisions
        for found in golden_errors(bundle, load_engines(bundle, precision=precision))
    ]


def golden_errors(bundle: Bundle, engines: Engines) -> list[tuple[Variant, float]]:
    """Each engine's largest logit error on the golden inputs; raises VerificationError above the tolerance."""
    golden = bundle.arrays(bundle.manifest.golden)
    errors = []
    for patch in engines.patches:
        if not {"features", golden_key(patch)} <= golden.keys():
            raise VerificationError(
                f"{bundle.folder / bundle.manifest.golden} has no answers of patch size {patch}; export again"
            )
        variant = engines[patch].variant
        found, expected = engines.logits(golden["features"], patch), golden[golden_key(patch)]
        error = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("nan")
        if not error <= variant.parity.tolerance:  # also catches NaN
            raise VerificationError(
                f"{bundle.folder}: {variant} answers the golden inputs with an error of {error:.2g} "
                f"(allowed {variant.parity.tolerance:.2g}) on this machine; export again, or report this CPU"
            )
        errors.append((variant, error))
    return errors


def frontend_error(bundle: Bundle) -> float | None:
    """The largest error of the front end's graph on the golden samples, in nat; None where a bundle has none.

    Raises VerificationError above the tolerance.
    """
    manifest = bundle.manifest
    if manifest.frontend is None:
        return None
    golden = bundle.arrays(manifest.golden)
    if not {"samples", "features-of-samples"} <= golden.keys():
        raise VerificationError(f"{bundle.folder / manifest.golden} has no answers of the front end; export again")
    (found,) = load_session(bundle, manifest.frontend).run(None, {"samples": golden["samples"]})
    expected = golden["features-of-samples"]
    scale = 2 * manifest.spec.frontend.std
    error = scale * float(np.abs(found - expected).max()) if found.shape == expected.shape else float("nan")
    if not error <= FRONTEND_TOLERANCE_NAT:  # also catches NaN
        raise VerificationError(
            f"{bundle.folder}: {manifest.frontend} answers the golden samples with an error of {error:.2g} nat "
            f"(allowed {FRONTEND_TOLERANCE_NAT:.2g}) on this machine; export again, or report this CPU"
        )
    return error

"""More patch sizes for a bundle, from the bundle alone: a device needs neither the checkpoint nor torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from flexiast.arrays import Float
from flexiast.errors import UsageError
from flexiast.manifest import PRECISIONS, Manifest, Precision, read_manifest
from flexiast.spec import PatchSize, Spec
from flexiast_export.embedding import Weights, tokens, unpack
from flexiast_export.graph import check_opset
from flexiast_export.publish import check_place, stage_bundle
from flexiast_export.verify import MAX_DROP, Comparison, VerificationData
from flexiast_export.writer import BundleWriter, Progress
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.inference.ort import OrtEngine, load_engines
from flexiast_runtime.inference.selfcheck import verify_bundle


def highest_precision(manifest: Manifest) -> Precision:
    return min(manifest.precisions, key=PRECISIONS.index)


class Reference:
    """Tokens by numpy, then the bundle's finest encoder, which its golden answers have confirmed on this machine.

    Of float32 that is the source model. From a bundle that has a coarse one only, nobody can tell what it loses at a
    new size: there the embedders alone are compared, and the figures say so (``Parity.against``).
    """

    def __init__(self, bundle: Bundle, weights: Weights) -> None:
        manifest = bundle.manifest
        engine = load_engines(bundle, manifest.patches[:1], highest_precision(manifest))[manifest.patches[0]]
        self._encoder = cast(OrtEngine, engine).encoder
        self._spec, self._weights = manifest.spec, weights

    @property
    def spec(self) -> Spec:
        return self._spec

    def logits(self, features: Float, patch: PatchSize) -> Float:
        """Features [batch, window_frames, mels] → logits [batch, classes]."""
        (logits,) = self._encoder.run(None, {"tokens": tokens(self._spec, self._weights, features, patch)})
        return cast(Float, logits)


def check_addition(
    bundle: Bundle, patches: Sequence[PatchSize], output: Path, *, force: bool
) -> tuple[list[PatchSize], dict[str, Float]]:
    """The sizes that are new, and what their embedders are made from.

    Raises UsageError, ModelError and VerificationError for all that ``add_sizes`` can refuse before its first work.
    """
    manifest = bundle.manifest
    new = [patch for patch in dict.fromkeys(patches) if patch not in manifest.patches]
    if not new and manifest.frontend is not None:
        have = f"{bundle.folder} has these sizes already: {', '.join(map(str, manifest.patches))}"
        raise UsageError(have if patches else f"{have}; name others with --patch-sizes")
    weights = unpack(bundle) if new else {}
    for patch in new:
        manifest.spec.check_patch(patch)
    check_opset(manifest.opset)
    place, force = _place(bundle, output, force=force)
    check_place(place, force=force)
    return new, weights


def _place(bundle: Bundle, output: Path, *, force: bool) -> tuple[Path, bool]:
    """Where to publish, and whether in place of what is there: of the bundle itself, whatever it is called, always."""
    if output.exists() and output.samefile(bundle.folder):
        return output.resolve(), True
    return output, force


def add_sizes(
    bundle: Bundle,
    patches: Sequence[PatchSize],
    output: Path,
    *,
    sounds: VerificationData | None = None,
    max_drop: float = MAX_DROP,
    force: bool = False,
    progress: Progress = iter,
) -> Manifest:
    """Publish the bundle with engines for these patch sizes too, at ``output``, which may be the bundle itself.

    Each new size gets every precision of the bundle; one from before the front end was a graph gets that too, and
    then ``patches`` may be empty. Everything in it is checked first and kept to the byte. Raises
    UsageError for sizes larger than a window or all there already, ModelError for a bundle that takes no more, and
    VerificationError when an old engine does not answer as it did or a new one is not what it should be; then nothing
    is published.
    """
    old, spec = bundle.manifest, bundle.manifest.spec
    new, weights = check_addition(bundle, patches, output, force=force)
    verify_bundle(bundle)
    best = highest_precision(old)
    if sounds is not None and best != "fp32":
        sounds = sounds.drop_labels()  # there is no model here that an engine could lose against
    against = None if best == "fp32" else best
    comparison = Comparison(Reference(bundle, weights), sounds or VerificationData(spec), max_drop, against)
    place, force = _place(bundle, output, force=force)
    with stage_bundle(place, force=force) as folder:
        if read_manifest(bundle.folder) != old:
            raise UsageError(f"{bundle.folder} was replaced meanwhile; add the sizes again")
        writer = BundleWriter(folder, old)
        writer.copy_files(bundle)
        if new:
            comparison.check(writer.measure(writer.add_patches(weights, new), comparison, progress))
            writer.add_golden(comparison.golden(new))
        if old.frontend is None:
            writer.add_frontend()
        return writer.finish()

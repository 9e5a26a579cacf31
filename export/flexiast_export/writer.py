"""A bundle while it is written: its folder, and the manifest that lists what the folder holds so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from flexiast.arrays import Float
from flexiast.manifest import MANIFEST, Encoder, FileEntry, Manifest, Parity, Precision, Variant
from flexiast.spec import PatchSize
from flexiast_export.embedding import Weights, npz
from flexiast_export.frontend import FRONTEND, frontend, golden
from flexiast_export.graph import embedder
from flexiast_export.verify import TOLERANCE, Comparison
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.inference.ort import load_engines
from flexiast_runtime.inference.selfcheck import frontend_error

Progress = Callable[[Iterable[Variant]], Iterable[Variant]]

UNMEASURED = Parity(inputs=1, real_inputs=0, max_abs_error=0.0, tolerance=TOLERANCE, top1_agreement=1.0)
"""Of a variant that has not been compared with its source yet; `BundleWriter.measure` replaces it."""


class BundleWriter:
    """Fills the folder of a bundle. The manifest need not be valid before ``finish``, which writes it last."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """``manifest`` is what is known at the start; it may still lack encoders, variants and files."""
        self.folder, self.manifest = folder, manifest
        self._golden: dict[str, Float] = {}

    def add_file(self, name: str, content: bytes) -> None:
        """Write a file and list it, in place of one of that name."""
        (self.folder / name).write_bytes(content)
        entry = FileEntry(name=name, size=len(content), sha256=sha256(content).hexdigest())
        files = {listed.name: listed for listed in self.manifest.files} | {name: entry}
        self._update(files=tuple(files.values()))

    def remove_file(self, name: str) -> None:
        """Remove a file that no variant needs, if there is one of that name."""
        (self.folder / name).unlink(missing_ok=True)
        self._update(files=tuple(entry for entry in self.manifest.files if entry.name != name))

    def copy_files(self, bundle: Bundle) -> None:
        """Add every file of another bundle, to the byte; raises VerificationError for one that is damaged."""
        for entry in bundle.manifest.files:
            self.add_file(entry.name, bundle.read(entry.name))
        self._golden = bundle.arrays(bundle.manifest.golden)

    def add_encoder(self, precision: Precision, encoder: Encoder, graph: Any) -> None:
        """Write the ONNX graph that all patch sizes of a precision share, in place of an earlier one."""
        self.add_file(encoder.file, graph.SerializeToString())
        self._update(encoders=self.manifest.encoders | {precision: encoder})

    def add_patches(self, weights: Weights, patches: Sequence[PatchSize]) -> tuple[Variant, ...]:
        """Write the embedders of new patch sizes. Each gets a variant, not yet measured, in every precision."""
        spec = self.manifest.spec
        files = {patch: f"embed-{patch}.onnx" for patch in patches}
        for patch, file in files.items():
            self.add_file(file, embedder(spec, weights, patch, self.manifest.opset).SerializeToString())
        added = tuple(
            Variant(
                patch_size=patch,
                precision=precision,
                embedder=file,
                tokens=spec.tokens(patch),
                gmac=spec.gmac(patch),
                parity=UNMEASURED,
                metric=self.manifest.measured.get(str(patch)),
            )
            for precision in self.manifest.precisions
            for patch, file in files.items()
        )
        self._update(variants=(*self.manifest.variants, *added))
        return added

    def variants(self, precision: Precision) -> tuple[Variant, ...]:
        return tuple(variant for variant in self.manifest.variants if variant.precision == precision)

    def measure(self, variants: Sequence[Variant], comparison: Comparison, progress: Progress = iter) -> list[Variant]:
        """Run the engines of these variants and enter their figures; ``Comparison.check`` says whether they pass."""
        bundle, patches = Bundle(self.folder, self.manifest), tuple(dict.fromkeys(one.patch_size for one in variants))
        engines = {
            precision: load_engines(bundle, patches, precision)
            for precision in dict.fromkeys(variant.precision for variant in variants)
        }
        measured = [comparison.verify_variant(engines[variant.precision], variant) for variant in progress(variants)]
        figures = {(variant.patch_size, variant.precision): variant for variant in measured}
        old = self.manifest.variants
        self._update(variants=tuple(figures.get((one.patch_size, one.precision), one) for one in old))
        return measured

    def add_golden(self, arrays: Mapping[str, Float]) -> None:
        """Add inputs and answers that a device compares its own with to those that were written before."""
        self._golden |= arrays
        self.add_file(self.manifest.golden, npz(self._golden))

    def add_frontend(self) -> None:
        """Write the graph from samples to features, and what it must answer; check that it does.

        Raises VerificationError where this machine's ONNX Runtime answers otherwise.
        """
        spec = self.manifest.spec
        self.add_file(FRONTEND, frontend(spec, self.manifest.opset).SerializeToString())
        self.add_golden(golden(spec.frontend))
        self._update(frontend=FRONTEND)
        frontend_error(Bundle(self.folder, self.manifest))

    def finish(self) -> Manifest:
        """Write the manifest; raises ValidationError for one that a reader would refuse."""
        manifest = Manifest.model_validate_json(self.manifest.model_dump_json())
        (self.folder / MANIFEST).write_bytes(manifest.model_dump_json(indent=1, exclude_none=True).encode())
        return manifest

    def _update(self, **fields: Any) -> None:
        self.manifest = self.manifest.model_copy(update=fields)

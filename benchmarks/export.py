"""Our graphs in each precision and two opsets, compared with those of `torch.onnx.export` and Hugging Face optimum.

`python -m benchmarks.export [MODEL ...] [--optimum FOLDER]`

    torch     the default graph of torch.onnx.export (the exporter on torch.export; needs onnxscript), one a patch size
    optimum   an AST of transformers with random weights, exported by optimum and imported by us, so of equal shape;
              FOLDER is the AST's, with optimum's model.onnx in FOLDER/onnx

optimum-onnx wants an older transformers than our tests, so it gets an environment of its own:

    python -m benchmarks.export --make-ast sounds AST    # as shipped: 128 × 6, patches of 16 side by side on 498 frames
    python -m venv OPTIMUM
    OPTIMUM/bin/pip install "torch==2.11.*" optimum-onnx onnxruntime
    OPTIMUM/bin/optimum-cli export onnx --model AST --task audio-classification AST/onnx
    python -m benchmarks.export --optimum AST

`--make-ast base AST` is the AST of the paper instead: 768 × 12, patches of 16 in steps of 10 on 1,024 frames.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.measure import cpu_ms, heading
from flexiast.checkpoint import Checkpoint, load_checkpoint
from flexiast.importing import import_model
from flexiast.manifest import OPSET, Precision
from flexiast.networks import Model, TorchClassifier, load_model
from flexiast.spec import PatchSize, Spec, parse_patches
from flexiast_export.encoder import ATTENTION
from flexiast_export.to_onnx import export_onnx
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_checkpoint
from flexiast_runtime.inference.engine import Engines
from flexiast_runtime.inference.ort import PROVIDERS, OrtEngine, load_engines

Float = NDArray[np.float32]
Run = Callable[[], Float]

PATCHES = parse_patches("8,16,32,48")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
GOAL = 1.25
"""How many times as fast as either of them we mean to be."""
TOLERANCE = 1e-3
"""Of logits; graphs that differ more are not the same network, and their times say nothing."""

GEOMETRIES = {
    "sounds": {
        "hidden_size": 128,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "max_length": 498,
        "frequency_stride": 16,
        "time_stride": 16,
    },
    "base": {},  # the defaults are the paper's
}


class AtPatch(nn.Module):
    """The model at one patch size, a function of tensors only, as exporters want it."""

    def __init__(self, model: nn.Module, patch: PatchSize) -> None:
        super().__init__()
        self.model, self.patch = model, patch

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.model(features, self.patch)
        return logits


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help="shipped names or checkpoints; sounds and commands")
    parser.add_argument("--optimum", type=Path, metavar="FOLDER", help="an AST with optimum's graph in FOLDER/onnx")
    parser.add_argument("--make-ast", nargs=2, metavar=("GEOMETRY", "FOLDER"), help=f"{' or '.join(GEOMETRIES)}")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.make_ast is not None:
        make_ast(GEOMETRIES[given.make_ast[0]], Path(given.make_ast[1]))
        return
    for model in given.models or (() if given.optimum else ("sounds", "commands")):
        compare(model, load_checkpoint(find_checkpoint(model)), PATCHES)
    if given.optimum is not None:
        checkpoint = import_model(given.optimum)
        compare("AST of transformers", checkpoint, (checkpoint.spec.base_patch,), given.optimum / "onnx" / "model.onnx")


def make_ast(geometry: Mapping[str, int], folder: Path) -> None:
    """An AST of transformers with random weights, as `save_pretrained` leaves it."""
    import transformers

    torch.manual_seed(0)
    make_config, make_extractor = cast(Any, transformers.ASTConfig), cast(Any, transformers.ASTFeatureExtractor)
    config = make_config(**geometry, num_labels=50, problem_type="single_label_classification")
    transformers.ASTForAudioClassification(config).save_pretrained(folder)
    make_extractor(max_length=config.max_length).save_pretrained(folder)


def compare(name: str, checkpoint: Checkpoint, patches: tuple[PatchSize, ...], optimum: Path | None = None) -> None:
    """Print the CPU milliseconds of one window at these patch sizes; graphs that disagree end the program."""
    spec, model = checkpoint.spec, load_model(checkpoint).cpu()
    features = example_of(spec)
    with tempfile.TemporaryDirectory() as folder:
        bundle, newer = (written(checkpoint, model, patches, Path(folder), opset) for opset in (OPSET, ATTENTION))
        engines, newer_engines = engines_of(bundle), engines_of(newer)
        graphs = {patch: Path(folder) / f"{patch}.onnx" for patch in patches}
        for patch, path in graphs.items():
            example = torch.zeros(1, spec.frontend.window_frames, spec.frontend.mel_bins)
            torch.onnx.export(AtPatch(model, patch).eval(), (example,), path, verbose=False)
        title(name, spec)
        for patch, path in graphs.items():
            foreign = {"torch": path} | ({"optimum": optimum} if optimum else {})
            report(engines["fp32"], patch, foreign, features)
        precisions(bundle, engines, features)
        opsets(engines, newer_engines, features)


def written(checkpoint: Checkpoint, model: Model, patches: tuple[PatchSize, ...], folder: Path, opset: int) -> Bundle:
    place = folder / f"opset-{opset}"
    export_onnx(checkpoint, TorchClassifier(model), patches, place, precisions=PRECISIONS, opset=opset)
    return Bundle.open(place)


def engines_of(bundle: Bundle) -> dict[Precision, Engines]:
    return {precision: load_engines(bundle, precision=precision) for precision in PRECISIONS}


def precisions(bundle: Bundle, engines: Mapping[Precision, Engines], features: Float) -> None:
    """What float16 and int8 gain on this CPU, and in bytes of the encoder."""
    manifest = bundle.manifest
    sizes = [manifest.entry(encoder.file).size for encoder in manifest.encoders.values()]
    shares = ", ".join(f"{name} {size / sizes[0]:.3f}" for name, size in zip(PRECISIONS, sizes, strict=True))
    print(f"bytes of the encoder, of fp32's: {shares}; CPU ms, and how many times as fast as fp32:")
    for patch in engines["fp32"].patches:
        figures = cpu_ms({name: partial(of.logits, features, patch) for name, of in engines.items()}, rounds=31)
        columns = [f"{name} {ms:8.2f} ({figures['fp32'] / ms:.2f} ×)" for name, ms in figures.items()]
        print(f"{patch!s:>6}  " + "  ".join(columns))


def opsets(old: Mapping[Precision, Engines], new: Mapping[Precision, Engines], features: Float) -> None:
    """What the operators of a newer opset gain."""
    print(f"written for opset {ATTENTION}: CPU ms, and how many times as fast as for {OPSET}:")
    for patch in old["fp32"].patches:
        columns = []
        for name in PRECISIONS:
            runs = {
                "old": partial(old[name].logits, features, patch),
                "new": partial(new[name].logits, features, patch),
            }
            figures = cpu_ms(runs, rounds=31)
            columns.append(f"{name} {figures['new']:8.2f} ({figures['old'] / figures['new']:.2f} ×)")
        print(f"{patch!s:>6}  " + "  ".join(columns))


def title(name: str, spec: Spec) -> None:
    network = spec.network
    versions = f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"
    heading(f"{name}: {network.width} × {network.depth}, one window of {spec.frontend.window_s:g} s ({versions})")
    print("CPU ms of our engine, and of the others' graphs with how many times ours is as fast")


def example_of(spec: Spec) -> Float:
    shape = (1, spec.frontend.window_frames, spec.frontend.mel_bins)
    return np.random.default_rng(0).normal(scale=0.5, size=shape).astype(np.float32)


def report(engines: Engines, patch: PatchSize, foreign: Mapping[str, Path], features: Float) -> None:
    engine = engines[patch]
    assert isinstance(engine, OrtEngine)
    ours: Run = lambda: engine.run(features)  # noqa: E731
    runs = {"ours": ours} | {name: session_of(engine, path, features) for name, path in foreign.items()}
    expected = ours()
    for name, run in runs.items():
        np.testing.assert_allclose(run(), expected, rtol=0, atol=TOLERANCE, err_msg=f"{name} at {patch}")
    figures = cpu_ms(runs, rounds=31)
    others = ""
    for name in foreign:
        ratio = figures[name] / figures["ours"]
        others += f"  {name} {figures[name]:8.2f} ({ratio:.2f} ×{'' if ratio >= GOAL else f', under {GOAL}'})"
    print(f"{patch!s:>6} {engines.spec.tokens(patch):5} tokens  {figures['ours']:8.2f}{others}")


def session_of(engine: OrtEngine, path: Path, features: Float) -> Run:
    """Another's graph with the options of our own session."""
    session = onnxruntime.InferenceSession(path, engine.encoder.get_session_options(), providers=PROVIDERS["cpu"])
    (source,) = session.get_inputs()

    def run() -> Float:
        (logits,) = session.run(None, {source.name: features})
        return logits

    return run


if __name__ == "__main__":
    main()

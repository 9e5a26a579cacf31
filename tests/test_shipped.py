"""The models inside: what their cards say is what they do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from flexiast.checkpoint import load_checkpoint
from flexiast.data.dataset import load_waveforms, read_dataset
from flexiast.evaluation.evaluate import Windows, evaluate
from flexiast.frontend import Frontend
from flexiast.networks import TorchClassifier, load_model
from flexiast.spec import PatchSize
from flexiast_cli.commands.demo.soundscape import RATE_HZ, SCENES, soundscape
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_bundle, find_checkpoint, list_shipped
from flexiast_runtime.inference.ort import load_engines

DATA = {"commands": "english", "commands-ar": "commands", "sounds": "esc50"}

ROW = re.compile(r"^\| (\d+) \| (\d+) \| ([\d.]+) \| ([\d.]+) % \|$", re.MULTILINE)


def card(name: str) -> str:
    return (find_checkpoint(name).parent / "MODEL_CARD.md").read_text()


def table(name: str) -> dict[PatchSize, tuple[int, float, float]]:
    """Patch size → tokens, GMAC and accuracy in per cent, as the card says."""
    return {
        PatchSize(int(size), int(size)): (int(tokens), float(gmac), float(accuracy))
        for size, tokens, gmac, accuracy in ROW.findall(card(name))
    }


def test_every_model_is_known_here() -> None:
    assert set(list_shipped()) == set(DATA)


@pytest.mark.parametrize("name", DATA)
def test_matrices_ship_in_float16(name: str) -> None:
    weights = safetensors.numpy.load_file(find_checkpoint(name))
    assert {str(value.dtype) for value in weights.values() if value.ndim == 2} == {"float16"}


@pytest.mark.parametrize("name", DATA)
def test_cards_name_data_licence_recipe_and_limits(name: str) -> None:
    text = card(name)
    for part in ("**Data:**", "**Licence of these weights:**", "flexiast train", "## Figures", "## Limits"):
        assert part in text


@pytest.mark.parametrize("name", DATA)
def test_cards_tabulate_the_trained_sizes_and_their_cost(name: str) -> None:
    spec = load_checkpoint(find_checkpoint(name)).spec
    found = table(name)
    assert tuple(found) == spec.trained_patches
    for patch, (tokens, gmac, _) in found.items():
        assert tokens == spec.tokens(patch)
        assert gmac == pytest.approx(spec.gmac(patch), abs=0.0005)  # three decimals


@pytest.mark.parametrize("size", [32, 48])
@pytest.mark.parametrize("name", DATA)
def test_cards_say_what_the_models_reach(name: str, size: int, real_metadata: Callable[[str], Path]) -> None:
    checkpoint, patch = load_checkpoint(find_checkpoint(name)), PatchSize(size, size)
    engines = load_engines(Bundle.open(find_bundle(name)), [patch])
    dataset = read_dataset(real_metadata(DATA[name]), "4" if name == "sounds" else None).labelled.split("val")
    clips, waveforms, _ = load_waveforms(dataset, checkpoint.spec.frontend.sample_rate_hz)
    windows, targets = Windows(waveforms, Frontend(checkpoint.spec.frontend)), clips.targets(checkpoint.spec.labels)
    for classifier in (engines, TorchClassifier(load_model(checkpoint))):
        (result,) = evaluate(classifier, windows, targets, [patch])
        # A tie between two labels, broken otherwise on another processor, moves one clip; the card has one decimal.
        assert 100 * result.metric == pytest.approx(table(name)[patch][2], abs=0.05 + 100 / len(waveforms))


@pytest.mark.parametrize("size", [16, 20, 48])
def test_the_demo_plays_what_the_model_knows(size: int) -> None:
    """The middle of each scene, a window of five seconds, at the sizes that the demo spends most of its time at."""
    patch = PatchSize(size, size)
    engines = load_engines(Bundle.open(find_bundle("sounds")), [patch])
    frontend, wave = Frontend(engines.spec.frontend), soundscape()
    middles = [(scene.start_s + scene.end_s) / 2 for scene in SCENES]
    windows = [wave[round((middle - 2.5) * RATE_HZ) :][: frontend.spec.window_samples] for middle in middles]
    logits = engines.logits(np.stack([frontend.window(window) for window in windows]), patch)
    heard = [engines.spec.labels[best] for best in logits.argmax(axis=1)]
    assert heard == [scene.imitates for scene in SCENES]

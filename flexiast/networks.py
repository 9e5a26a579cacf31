"""The PyTorch network of a spec, transformer or convnet, and its weights as arrays. Importing this needs torch."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from flexiast.arrays import Float
from flexiast.checkpoint import Checkpoint
from flexiast.convnet import ConvNet
from flexiast.model import FlexiAST
from flexiast.spec import PatchSize, Spec

Model = FlexiAST | ConvNet


def build_model(spec: Spec) -> Model:
    """The network of a spec, freshly initialised."""
    return ConvNet(spec) if spec.network.kind == "convolutional" else FlexiAST(spec)


def load_model(checkpoint: Checkpoint) -> Model:
    """The network of a checkpoint, ready to evaluate, on a GPU where there is one."""
    model = build_model(checkpoint.spec)
    load_weights(model, checkpoint.weights)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def load_weights(model: Model, weights: Mapping[str, Float]) -> None:
    """Copy the weights of a checked checkpoint, or some of them, into the model.

    All others, and batch norm's counters, stay as they are.
    """
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, strict=False)


def weights_of(model: Model) -> dict[str, Float]:
    """Name → float32 array of every weight. Batch norm's counters are not weights."""
    floats = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    return {name: value.detach().float().cpu().numpy() for name, value in floats.items()}


class TorchClassifier:
    """A PyTorch model as a ``Classifier`` of NumPy arrays."""

    def __init__(self, model: Model) -> None:
        self._model = model.eval()

    @property
    def spec(self) -> Spec:
        return self._model.spec

    @torch.inference_mode()
    def logits(self, features: Float, patch: PatchSize) -> Float:
        """Features [batch, window_frames, mels] → logits [batch, classes]."""
        device = next(self._model.parameters()).device
        logits: Float = self._model(torch.from_numpy(features).to(device), patch).float().cpu().numpy()
        return logits

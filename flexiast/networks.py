"""The PyTorch network of a spec, transformer or convnet, and its weights as arrays. Importing this needs torch."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from flexiast.arrays import Float
from flexiast.checkpoint import Checkpoint, weight_shapes
from flexiast.convnet import ConvNet
from flexiast.errors import ModelError
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
    """Name → float32 array of every weight of the spec; what a model has only while it trains is left out."""
    state = model.state_dict()
    return {name: state[name].detach().float().cpu().numpy() for name in weight_shapes(model.spec) if name in state}


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


class Embedder:
    """A transformer as a ``Classifier`` whose answers are its embeddings instead of logits."""

    def __init__(self, model: Model) -> None:
        """Raises ModelError for a convnet."""
        if not isinstance(model, FlexiAST):
            raise ModelError("a convnet has no embedding; give a transformer, such as a checkpoint of nano")
        self._model = model.eval()

    @property
    def spec(self) -> Spec:
        return self._model.spec

    @torch.inference_mode()
    def logits(self, features: Float, patch: PatchSize) -> Float:
        """Features [batch, window_frames, mels] → embeddings [batch, width]."""
        device = next(self._model.parameters()).device
        embeddings: Float = self._model.embed(torch.from_numpy(features).to(device), patch).float().cpu().numpy()
        return embeddings

"""A convolutional teacher: it learns from two dozen clips a label, where a transformer needs hundreds.

It is trained like any model (``size = "convnet"``), costs the same at every patch size, and serves as a ``--teacher``.
VGG-like, after PANNs (arXiv 1912.10211): pairs of 3 × 3 convolutions between halvings, then the mean over mel bins and
the mean plus maximum over time. Importing this module needs torch.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexiast.errors import UsageError
from flexiast.pcen_torch import PCEN
from flexiast.spec import FrontendSpec, PatchSize, Spec

DROPOUT = 0.3
"""Of the pooled features, while training."""


class ConvNet(nn.Module):
    """Features [batch, frames, mels] → logits [batch, classes]; a patch size is accepted and changes nothing.

    Raises UsageError for a window of which the halvings would leave nothing.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        _check_window(spec.frontend, 2 ** (spec.network.depth + 1) - 1)
        self.spec = spec
        channels = spec.network.channels
        self.pcen = PCEN(spec.frontend) if spec.pcen else nn.Identity()
        self.input_norm = nn.BatchNorm1d(spec.frontend.mel_bins)
        self.stem = Convolution(1, channels[0], stride=2)
        self.stages = nn.ModuleList(
            nn.Sequential(Convolution(before, after), Convolution(after, after)) for before, after in pairwise(channels)
        )
        self.head = nn.Linear(channels[-1], spec.classes)

    def forward(self, features: Tensor, patch: PatchSize | None = None, keep: int | None = None) -> Tensor:
        """Features [batch, window_frames, mels] → logits [batch, classes]."""
        image = self.input_norm(self.pcen(features).transpose(1, 2))[:, None]
        image = self.stem(image.contiguous(memory_format=torch.channels_last))  # a fifth faster on CPUs
        for stage in self.stages:
            image = stage(F.avg_pool2d(image, 2))
        over_time = image.mean(dim=2)
        pooled = F.dropout(over_time.mean(dim=2) + over_time.amax(dim=2), DROPOUT, self.training)
        logits: Tensor = self.head(pooled)
        return logits


def _check_window(frontend: FrontendSpec, least: int) -> None:
    """``least`` frames are rounded up when the stem halves them, and down by each stage."""
    if frontend.window_frames < least:
        samples = frontend.taper_samples + (least - 1) * frontend.hop_samples
        raise UsageError(
            f"a window of {frontend.window_s:g} s is too short for the convnet; "
            f"give --window {samples / frontend.sample_rate_hz:g} or more"
        )


class Convolution(nn.Module):
    """3 × 3 convolution, batch norm, ReLU."""

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(after)

    def forward(self, image: Tensor) -> Tensor:
        return F.relu(self.norm(self.convolution(image)))

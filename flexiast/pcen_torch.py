"""PCEN of a batch in PyTorch; what it is stands in ``pcen``. Importing this module needs torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexiast.pcen import ALPHA, DELTA, smoothing_matrices
from flexiast.spec import FrontendSpec


class PCEN(nn.Module):
    """Features [batch, window_frames, mels] of a front end → the same after PCEN; it has no weights."""

    within: Tensor
    fading: Tensor
    carried: Tensor

    def __init__(self, frontend: FrontendSpec) -> None:
        super().__init__()
        self._frontend = frontend
        for name, matrix in smoothing_matrices(frontend.window_frames)._asdict().items():
            self.register_buffer(name, torch.from_numpy(matrix), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):  # energies reach over seven decades
            log_mel = features.float() * (2 * self._frontend.std) + self._frontend.mean
            gained = torch.exp(log_mel - ALPHA * torch.log(self._smooth(log_mel.exp())))
            return (gained + DELTA) ** 0.5 - DELTA**0.5

    def _smooth(self, energy: Tensor) -> Tensor:
        """The running mean [batch, frames, mels], which begins at the first frame."""
        (batch, frames, mels), block = energy.shape, len(self.within)
        blocks = F.pad(energy, (0, 0, 0, -frames % block)).reshape(batch, len(self.carried), block, mels)
        local = self.within @ blocks
        before = self.carried @ torch.cat((energy[:, :1], local[:, :-1, -1]), dim=1)
        smooth: Tensor = (local + before[:, :, None] * self.fading).flatten(1, 2)[:, :frames]
        return smooth

"""docs/explanation/patch-size.svg: one sound cut into patches of three sizes.

python scripts/draw_patches.py docs/explanation/patch-size.svg
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from sample_sounds import RATE_HZ, doorbell, room

from flexiast.frontend import Frontend
from flexiast.spec import FrontendSpec, PatchSize

SIZES = (PatchSize(48, 48), PatchSize(16, 16), PatchSize(16, 48))
SIZE_IN = (10.0, 3.6)


def draw(path: Path) -> None:
    """Write the picture; the same bytes each time."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "flexiast", "font.size": 11})
    from matplotlib import pyplot

    rng = np.random.default_rng(3)
    samples = (room(1.5, rng) + 0.3 * doorbell(rng)).astype(np.float32)[: round(1.465 * RATE_HZ)]
    spec = FrontendSpec(window_samples=len(samples), mean=-9.0, std=4.0)
    features = Frontend(spec).window(samples).T
    figure, axes = pyplot.subplots(1, len(SIZES), figsize=SIZE_IN, layout="constrained", sharey=True)
    for axis, size in zip(axes, SIZES, strict=True):
        axis.imshow(features, origin="lower", aspect="auto", cmap="magma", interpolation="nearest")
        for frames in range(size.frames, features.shape[1], size.frames):
            axis.axvline(frames - 0.5, color="white", linewidth=0.9)
        for mels in range(size.mels, features.shape[0], size.mels):
            axis.axhline(mels - 0.5, color="white", linewidth=0.9)
        rows, columns = -(-features.shape[0] // size.mels), -(-features.shape[1] // size.frames)
        axis.set_title(f"{size.mels} × {size.frames}: {rows * columns} patches", fontweight="bold")
        axis.set_xlabel("frames (10 ms each)")
    axes[0].set_ylabel("mel bins (low to high)")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))

"""Front end against torchaudio and its own graph on 10 s, and the cost of one 0.5 s step.

`python -m benchmarks.frontend`
"""

from __future__ import annotations

import numpy as np
import onnxruntime
import torch
import torchaudio

from benchmarks.measure import cpu_ms, heading
from flexiast.frontend import FeatureStream, Frontend
from flexiast.spec import FrontendSpec
from flexiast_export.frontend import frontend as write_frontend
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_bundle

SECONDS = 10
GOAL = 1.5
"""Times as long as numpy's that `frontend.onnx` may take"""


def main() -> None:
    torch.set_num_threads(1)
    frontend = Frontend(FrontendSpec(window_samples=16_000 * SECONDS, mean=-4.27, std=4.57))
    waveform = (0.1 * np.random.default_rng(0).standard_normal(16_000 * SECONDS)).astype(np.float32)
    tensor = torch.from_numpy(waveform)[None]
    stream, step = FeatureStream(frontend), waveform[:8_000]

    def kaldi() -> torch.Tensor:
        return torchaudio.compliance.kaldi.fbank(
            tensor, htk_compat=True, window_type="hanning", num_mel_bins=128, dither=0.0
        )

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = write_frontend(Bundle.open(find_bundle("sounds")).manifest.spec)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    figures = cpu_ms(
        {
            "flexiast": lambda: frontend(waveform),
            "torchaudio": kaldi,
            "graph": lambda: session.run(None, {"samples": waveform[None]}),
            "step": lambda: stream.push(step),
        }
    )
    heading(f"Front end, {SECONDS} s of noise at 16 kHz → 128 mels")
    print(f"flexiast    {figures['flexiast']:6.2f} ms")
    print(
        f"torchaudio  {figures['torchaudio']:6.2f} ms  ({figures['torchaudio'] / figures['flexiast']:.2f} × flexiast)"
    )
    ratio = figures["graph"] / figures["flexiast"]
    print(f"graph       {figures['graph']:6.2f} ms  ({ratio:.2f} × flexiast; the aim is at most {GOAL})")
    share = figures["step"] / figures["flexiast"]
    print(f"0.5 s step  {figures['step']:6.2f} ms  ({share:.3f} of 10 s; its share is 0.050)")


if __name__ == "__main__":
    main()

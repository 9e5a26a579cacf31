"""Arrays by what they hold; shapes stand in each docstring, such as [clips, labels]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
Double = NDArray[np.float64]

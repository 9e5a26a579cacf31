"""A head in which a class may have several rows: its logit is the log-sum-exp of theirs.

A linear head gives a class one direction in which it sounds. What a place makes of a class is often several things that
have nothing in common: its door, its coffee machine. Each has a row of its own, and what they have in common is the
class.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flexiast.arrays import Float
from flexiast.spec import Spec

ABSENT = -1e4
"""Added to the logit of a row that only fills up the table: it leaves nothing of it, and float16 can hold it."""


def tabulate_rows(spec: Spec) -> tuple[NDArray[np.int64], Float]:
    """The rows of each class [classes, most], and what their logits get added: 0, or ABSENT where a class has fewer."""
    rows = [[number] for number in range(spec.classes)]
    for row, number in enumerate(spec.extra_rows, start=spec.classes):
        rows[number].append(row)
    most = max((len(each) for each in rows), default=0)
    table = np.array([each + each[:1] * (most - len(each)) for each in rows], np.int64)
    missing = np.array([[0.0] * len(each) + [ABSENT] * (most - len(each)) for each in rows], np.float32)
    return table, missing


def join_rows(logits: Float, spec: Spec) -> Float:
    """Logits of the rows [..., head_rows] → of the classes [..., classes]."""
    if not spec.extra_rows:
        return logits
    table, missing = tabulate_rows(spec)
    several = logits[..., table] + missing
    joined: Float = np.logaddexp.reduce(several, axis=-1)
    return joined

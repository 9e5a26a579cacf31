"""Which model may take over a stream from the one that runs."""

from __future__ import annotations

from flexiast.errors import UsageError
from flexiast.spec import FrontendSpec, Spec
from flexiast.text import preview


def check_takes_over(before: Spec, after: Spec, name: str) -> None:
    """Raise UsageError unless the model ``name`` with the spec ``after`` can take over a stream from another one.

    Audio that was read is counted in its rate, windows in progress in its frames; sinks, thresholds and the page were
    opened with its labels. Size, weights, patch sizes, precision, thresholds and normalisation may differ.
    """
    old, new = before.frontend, after.frontend
    different = [
        f"{field} is {getattr(new, field)}, not {getattr(old, field)}"
        for field in FrontendSpec.model_fields
        if field not in {"mean", "std"} and getattr(new, field) != getattr(old, field)
    ]
    if after.task != before.task:
        different.append(f"its task is {after.task}, not {before.task}")
    if after.labels != before.labels:
        strange = preview(sorted(set(after.labels) ^ set(before.labels))) or "their order"
        different.append(f"its labels differ ({strange})")
    if different:
        raise UsageError(
            f"{name} cannot take over: {'; '.join(different)}. Audio and windows in progress are counted by the "
            "running model, and sinks were opened with its labels; end `flexiast listen` and start it with this model"
        )

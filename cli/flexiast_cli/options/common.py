"""Options that several commands share: one spelling, one help text."""

from __future__ import annotations

import math
import shlex
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from flexiast.errors import UsageError
from flexiast_cli.options.validators import (
    not_negative,
    positive,
    power_source_line,
    public_urls,
    validate_with,
    web_address,
)
from flexiast_cli.terminal.console import log
from flexiast_runtime.inference.backends import Backend

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flexiast.manifest import Manifest
    from flexiast.spec import PatchSize
    from flexiast_runtime.bundle import Bundle
    from flexiast_runtime.detection.settings import DetectionSettings
    from flexiast_runtime.hardware.power_source import ReportedOnce

PrecisionOption = Annotated[
    str | None,
    typer.Option(
        "--precision",
        help="Precision of the engines.",
        show_default="the bundle's first; for `listen` int8 where it is fast and good",
    ),
]
BackendOption = Annotated[
    Backend, typer.Option("--backend", help="What runs the engines; tensorrt builds its plans first.")
]
PowerSourceOption = Annotated[
    str | None,
    typer.Option(
        "--power-source",
        metavar="SOURCE",
        callback=power_source_line,
        help="A battery or meter that the system does not know, such as a UPS HAT: file:FILE or exec:COMMAND; "
        "see docs/how-to/power.md.",
        show_default=False,
    ),
]

# ----- what becomes an event

GATE = "-80"


def _label_thresholds(texts: Iterable[str]) -> dict[str, float]:
    return dict(map(_label_threshold, texts))


def _label_threshold(text: str) -> tuple[str, float]:
    label, _, value = text.rpartition("=")
    try:
        return label, float(value)
    except ValueError:
        raise UsageError(f"--label-threshold {text!r} cannot be read; write dog=0.7") from None


def _level(text: str) -> float:
    try:
        level = -math.inf if text == "off" else float(text)
    except ValueError:
        level = math.nan
    if not level <= 0:
        raise UsageError(f"--gate {text} cannot be used; give a level of at most 0 dBFS, such as {GATE}, or off")
    return level


ThresholdOption = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        min=0.01,
        max=1.0,
        help="Score at which an event begins.",
        show_default="the bundle's for a label, else 0.5",
    ),
]
LabelThresholdOption = Annotated[
    list[str] | None,
    typer.Option(
        "--label-threshold",
        metavar="LABEL=SCORE",
        callback=validate_with(_label_thresholds),
        help="The same for one label; may be repeated.",
    ),
]
AllowOption = Annotated[
    list[str] | None,
    typer.Option("--allow", metavar="LABELS", help="Report these labels only; by commas, or repeated."),
]
DenyOption = Annotated[
    list[str] | None, typer.Option("--deny", metavar="LABELS", help="Do not report these; by commas, or repeated.")
]
MinDurationOption = Annotated[
    float, typer.Option("--min-duration", min=0, metavar="SECONDS", help="Do not report shorter events.")
]
ConfirmOption = Annotated[
    float, typer.Option("--confirm", min=0, metavar="SECONDS", help="A score must stay at its threshold for so long.")
]
MergeGapOption = Annotated[
    float, typer.Option("--merge-gap", min=0, metavar="SECONDS", help="Events of a label with a shorter gap are one.")
]
SmoothingOption = Annotated[
    float | None,
    typer.Option(
        "--smoothing",
        min=0,
        metavar="SECONDS",
        callback=not_negative,
        help="Time constant of the scores' mean.",
        show_default="1.5 steps",
    ),
]
GateOption = Annotated[
    str,
    typer.Option(
        "--gate",
        metavar="DBFS|off",
        callback=validate_with(_level),
        help="A window whose peak is below this level is silence: nothing begins, no engine runs.",
    ),
]

FalseAlarmsOption = Annotated[
    float | None,
    typer.Option(
        "--false-alarms-per-day",
        metavar="NUMBER",
        callback=positive,
        help="Use the thresholds that `flexiast calibrate` stored for so many false alarms of all labels together.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class EventOptions:
    """What becomes an event, as the command line gave it."""

    false_alarms_per_day: FalseAlarmsOption = None
    threshold: ThresholdOption = None
    label_thresholds: LabelThresholdOption = None
    allow: AllowOption = None
    deny: DenyOption = None
    min_duration: MinDurationOption = 0.0
    confirm: ConfirmOption = 0.0
    merge_gap: MergeGapOption = 0.0
    smoothing: SmoothingOption = None
    gate: GateOption = GATE


def power_source_of(text: str | None) -> ReportedOnce | None:
    """The power source, which logs its faults on stderr; raises UsageError."""
    from flexiast_runtime.hardware.power_source import ReportedOnce, parse_power_source

    return None if text is None else ReportedOnce(parse_power_source(text), log)


def bundle_event_settings(bundle: Bundle, options: EventOptions) -> DetectionSettings:
    """Detection settings from the options of `listen`; raises as ``event_settings``.

    And UsageError for a number of false alarms that the bundle was not calibrated for.
    """
    given = asdict(options)
    per_day = given.pop("false_alarms_per_day")
    return event_settings(bundle.manifest if per_day is None else _choose_point(bundle, per_day, options), **given)


def _choose_point(bundle: Bundle, per_day: float, options: EventOptions) -> Manifest:
    """The manifest with the thresholds of an operating point, which is logged."""
    if options.threshold is not None:
        raise UsageError("--threshold and --false-alarms-per-day both choose thresholds; give one of them")
    calibration = bundle.read_calibration()
    if calibration is None:
        raise UsageError(
            f"{bundle.name} was not calibrated with background, so --false-alarms-per-day cannot choose thresholds; "
            f"make some with: flexiast calibrate {shlex.quote(bundle.name)} --background HOURS --false-alarms-per-hour "
            f"{per_day / 24:.3g} -o new.bundle"
        )
    point = calibration.point(per_day / 24)
    shown = max(size.at_most_per_hour for size in point.sizes.values())
    log(
        f"Thresholds for {24 * point.false_alarms_per_hour:.3g} false alarms a day; {calibration.hours:.1f} h of "
        f"background showed with 90 % confidence that there are at most {24 * shown:.3g}"
    )
    by_size = point.size_thresholds
    missing = [str(patch) for patch in bundle.manifest.patches if patch not in by_size]
    if missing:
        log(f"{', '.join(missing)} not calibrated for it: these sizes keep their own thresholds")
    variants = [
        one.model_copy(update={"thresholds": by_size.get(one.patch_size, one.thresholds)})
        for one in bundle.manifest.variants
    ]
    return bundle.manifest.model_copy(update={"variants": tuple(variants)})


def event_settings(
    manifest: Manifest,
    *,
    threshold: float | None,
    label_thresholds: list[str] | None,
    allow: list[str] | None,
    deny: list[str] | None,
    min_duration: float,
    confirm: float,
    merge_gap: float,
    smoothing: float | None,
    gate: str,
) -> DetectionSettings:
    """Detection settings from a command's options, which override the bundle's thresholds; raises UsageError."""
    from flexiast_runtime.detection import rules as detection_rules
    from flexiast_runtime.detection import settings as detection_settings

    labels, own_thresholds = manifest.spec.labels, _label_thresholds(label_thresholds or ())
    rules = detection_rules.EventRules(
        threshold=detection_rules.THRESHOLD if threshold is None else threshold,
        label_thresholds=(manifest.thresholds if threshold is None else {}) | own_thresholds,
        size_thresholds={} if threshold is not None else _drop_labels(own_thresholds, manifest.size_thresholds),
        confirm_s=confirm,
        merge_s=merge_gap,
        min_duration_s=min_duration,
        allow=_labels(allow or (), labels),
        deny=_labels(deny or (), labels),
    )
    rules.thresholds(labels)  # a label that the model lacks is refused before anything is opened
    return detection_settings.DetectionSettings.from_frontend(
        manifest.spec.frontend, rules, smoothing_s=smoothing, gate_dbfs=_level(gate)
    )


def _drop_labels(
    labels: Iterable[str], thresholds: Mapping[PatchSize, Mapping[str, float]]
) -> dict[PatchSize, dict[str, float]]:
    """Thresholds of all labels but these."""
    dropped = set(labels)
    return {
        patch: {label: value for label, value in own.items() if label not in dropped}
        for patch, own in thresholds.items()
    }


def _labels(given: Iterable[str], known: tuple[str, ...]) -> tuple[str, ...]:
    """Each value is a label, which may itself hold commas, or several by commas."""
    parts = ([value] if value in known else value.split(",") for value in given)
    return tuple(part.strip() for group in parts for part in group if part.strip())


WebOption = Annotated[
    str | None,
    typer.Option(
        "--web",
        metavar="[HOST:]PORT",
        callback=web_address,
        help="Show what is detected on a web page, such as --web 8642 for this machine's.",
    ),
]
WebUrlOption = Annotated[
    list[str] | None,
    typer.Option(
        "--web-url",
        metavar="URL",
        callback=public_urls,
        help="Where a proxy shows the page of --web, such as https://sounds.example.org/kitchen/; may be repeated; see "
        "docs/how-to/web.md.",
        show_default=False,
    ),
]

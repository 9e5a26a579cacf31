"""``flexiast engines``: TensorRT plans of this machine: list, build, verify, prune."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from flexiast_runtime.bundle import Bundle
    from flexiast_runtime.inference.tensorrt.plan_store import Flavour, PlanEntry, PlanStore
    from flexiast_runtime.inference.tensorrt.plans import PlanResult

ALL = "all"


class FlavourName(str, Enum):
    """The two TensorRTs."""

    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"


FlavourOption = Annotated[
    FlavourName | None,
    typer.Option("--flavour", help="tensorrt (Jetson) or tensorrt-rtx (PC).", show_default="the one installed"),
]


def list_(as_json: Annotated[bool, typer.Option("--json", help="Print the plans as JSON.")] = False) -> None:
    """Show the plans in the cache."""
    from rich.table import Table

    from flexiast_cli.terminal.console import count_noun, print_json, stderr, stdout
    from flexiast_runtime.inference.tensorrt.plan_store import PlanStore

    store = PlanStore.default()
    entries = store.entries()
    if as_json:
        plans = [
            {"digest": entry.key.digest} | json.loads(entry.model_dump_json(exclude={"schema_version"}))
            for entry in entries
        ]
        print_json({"folder": str(store.folder), "plans": plans})
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("plan", "graph", "precision", "for", "by", "profiles", "MB", "built", "s"):
        table.add_column(name, justify="right" if name in {"profiles", "MB", "s"} else "left")
    for entry in entries:
        table.add_row(*_row(entry))
    console = stdout()
    if entries:
        console.print(table)
    total = sum(entry.size for entry in entries) / 1e6
    console.print(
        f"{count_noun(len(entries), 'plan')}, {total:.1f} MB, in {store.folder}", markup=False, soft_wrap=True
    )
    if unsound := len(store.digests()) - len(entries):
        stderr().print(f"{unsound} more cannot be read; see `flexiast engines verify`", style="yellow")


def _row(entry: PlanEntry) -> tuple[str, ...]:
    key = entry.key
    return (
        key.digest[:12],
        entry.name,
        key.precision,
        f"{key.gpu} ({key.compute_capability})" if key.gpu else key.target,
        f"{key.flavour} {key.version}",
        str(len(key.profiles)),
        f"{entry.size / 1e6:.1f}",
        entry.built,
        f"{entry.build_s:.1f}",
    )


def build(
    model: Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle folder, or the name of a shipped model.")],
    patch_sizes: Annotated[
        str | None, typer.Option("--patch-sizes", help="Sizes to build for, e.g. 8,16,32.", show_default="all")
    ] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="Of the bundle's.", show_default="fp16 if the bundle has it")
    ] = None,
    flavour: FlavourOption = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            help="Build for another GPU, without one: sm86 and the like, or any; tensorrt-rtx only. Shows that it can "
            "be built; the device builds its own.",
            show_default="this machine's GPU",
        ),
    ] = None,
    memory_limit: Annotated[
        int | None,
        typer.Option("--memory-limit", min=1, help="Scratch memory to plan with, MB.", show_default="the GPU's"),
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build also what the cache has.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plans as JSON.")] = False,
) -> None:
    """Build the TensorRT plans of a bundle for this machine's GPU, and keep them in the cache."""
    from flexiast.spec import parse_patches
    from flexiast_cli.terminal.console import print_json, say, stdout
    from flexiast_runtime.bundle import Bundle
    from flexiast_runtime.catalog import find_bundle
    from flexiast_runtime.inference.tensorrt.build import CURRENT, find_tensorrt
    from flexiast_runtime.inference.tensorrt.plan_store import PlanStore
    from flexiast_runtime.inference.tensorrt.plans import Target, get_or_build, list_plan_requests, plan_precision

    bundle = Bundle.open(find_bundle(model))
    chosen = plan_precision(bundle.manifest, precision)
    patches = bundle.manifest.patches if patch_sizes is None else parse_patches(patch_sizes)
    place = Target.resolve(find_tensorrt(_flavour(flavour)), target or CURRENT, memory_limit)
    store = PlanStore.default()
    plans = list(list_plan_requests(bundle, patches, chosen, place))  # a size that it lacks is refused before a build
    found = [get_or_build(store, wanted, place, rebuild=rebuild, say=say) for wanted in plans]
    if as_json:
        print_json({"place": str(place), "precision": chosen, "plans": [_described(one) for one in found]})
        return
    for one in found:
        entry, what = one.entry, f"built in {one.entry.build_s:.1f} s" if one.fresh else "was there"
        line = f"{entry.name}: {entry.size / 1e6:.1f} MB, {what}, {entry.key.digest[:12]}"
        stdout().print(line, markup=False, soft_wrap=True)


def _described(found: PlanResult) -> dict[str, Any]:
    entry = found.entry
    facts = {"name": entry.name, "size": entry.size, "sha256": entry.sha256, "build_s": entry.build_s}
    return {"digest": entry.key.digest} | facts | {"built_now": found.fresh}


def _flavour(name: FlavourName | None) -> Flavour | None:
    flavours: dict[str, Flavour] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx"}
    return None if name is None else flavours[name.value]


def verify(
    model: Annotated[
        str, typer.Argument(metavar="BUNDLE|all", help="A bundle whose plans to check, or all plans in the cache.")
    ] = ALL,
    flavour: FlavourOption = None,
) -> None:
    """Check each plan's sha256 and who may write to it; of a BUNDLE on a GPU, also its answers."""
    from flexiast.errors import VerificationError
    from flexiast_cli.terminal.console import count_noun, say, stdout
    from flexiast_runtime.bundle import Bundle
    from flexiast_runtime.catalog import find_bundle
    from flexiast_runtime.inference.tensorrt.plan_store import PlanStore

    store = PlanStore.default()
    bundle = None if model == ALL else Bundle.open(find_bundle(model))
    graphs = None if bundle is None else {entry.sha256 for entry in bundle.manifest.files}
    bad, checked = [], 0
    for digest in store.digests():
        try:
            entry = store.entry(digest)
            if graphs is None or entry.key.onnx_sha256 in graphs:
                store.load(entry.key)
                checked += 1
        except VerificationError as error:
            bad.append(str(error))
    for line in bad[1:]:
        say(f"flexiast: {line}")
    if bad:
        raise VerificationError(bad[0])
    verb = "is as it was" if checked == 1 else "are as they were"
    stdout().print(f"{count_noun(checked, 'plan')} {verb} built", markup=False)
    if bundle is not None:
        _verify_answers(bundle, store, _flavour(flavour), say)


def _verify_answers(bundle: Bundle, store: PlanStore, flavour: Flavour | None, say: Callable[[str], None]) -> None:
    """Run what was built for this GPU against the stored answers; say so where nothing can be run."""
    from flexiast.errors import GpuError, MissingExtraError
    from flexiast_cli.terminal.console import stdout
    from flexiast_runtime.inference.selfcheck import golden_errors
    from flexiast_runtime.inference.tensorrt.build import find_tensorrt
    from flexiast_runtime.inference.tensorrt.engines import load_engines
    from flexiast_runtime.inference.tensorrt.plans import Target, list_cached_plans

    try:
        place = Target.resolve(find_tensorrt(flavour))
    except (GpuError, MissingExtraError) as error:
        say(f"the plans were not run: {error}")
        return
    ready = list_cached_plans(bundle, store, place)
    if not ready:
        say(f"no plan of {bundle.folder} was built for {place}; build them with: flexiast engines build")
    for one in ready:
        engines = load_engines(
            bundle,
            one.patches,
            one.precision,
            flavour=place.tensorrt.flavour,
            store=store,
            memory_limit_mb=one.memory_limit_mb,
        )
        errors = ", ".join(f"{variant.patch_size} {error:.1e}" for variant, error in golden_errors(bundle, engines))
        engines.close()
        stdout().print(f"largest logit errors in {one.precision}: {errors}", markup=False, soft_wrap=True)


def prune(
    older_than: Annotated[
        float | None, typer.Option("--older-than", min=0, metavar="DAYS", help="Remove what was built before.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all plans.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
) -> None:
    """Remove plans that cannot be used any more: of another TensorRT, driver or GPU than this machine's, or damaged."""
    from flexiast.errors import UsageError
    from flexiast_cli.terminal.console import count_noun, stdout
    from flexiast_runtime.inference.tensorrt.plan_store import PlanStore

    if everything and older_than is not None:
        raise UsageError("--all removes also what is younger than --older-than; give one of them")
    store, console = PlanStore.default(), stdout()
    with store.lock():  # what a build is still writing looks like a leftover
        chosen = dict(_to_prune(store, older_than, everything=everything))
        leftovers = store.leftovers(chosen)
        freed = sum(store.size(digest) for digest in chosen) + sum(path.lstat().st_size for path in leftovers)
        for digest, reason in chosen.items():
            console.print(f"{digest[:12]}  {reason}", markup=False, soft_wrap=True)
            if not dry_run:
                store.remove(digest)
        for path in () if dry_run else leftovers:
            path.unlink(missing_ok=True)
    more = f" and {count_noun(len(leftovers), 'file')} that no plan needs" if leftovers else ""
    console.print(
        f"{count_noun(len(chosen), 'plan')}{more}, {freed / 1e6:.1f} MB, {'would be ' * dry_run}removed", markup=False
    )


def _to_prune(store: PlanStore, older_than: float | None, *, everything: bool) -> Iterable[tuple[str, str]]:
    """Digest and reason of each plan to remove."""
    from flexiast.errors import VerificationError
    from flexiast_runtime.inference.tensorrt.plans import check_usable

    for digest in store.digests():
        try:
            entry = store.entry(digest)
            store.load(entry.key)
        except VerificationError as error:
            yield digest, str(error)
            continue
        if everything:
            yield digest, entry.name
        elif older_than is not None:
            if entry.age_days >= older_than:
                yield digest, f"{entry.name}, built {entry.built}"
        elif reason := check_usable(entry.key):
            yield digest, f"{entry.name}: {reason}"

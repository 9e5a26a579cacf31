"""The work of `flexiast engines`: TensorRT plans of this machine are listed, built, verified and pruned."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from rich.table import Table

from flexiast.errors import GpuError, MissingExtraError, VerificationError
from flexiast.spec import parse_patches
from flexiast_cli.terminal.console import count_noun, log, print_json, stderr, stdout
from flexiast_runtime.bundle import Bundle
from flexiast_runtime.catalog import find_bundle
from flexiast_runtime.inference.selfcheck import golden_errors
from flexiast_runtime.inference.tensorrt.build import CURRENT, find_tensorrt
from flexiast_runtime.inference.tensorrt.engines import load_engines
from flexiast_runtime.inference.tensorrt.plan_store import Flavour, PlanEntry, PlanStore
from flexiast_runtime.inference.tensorrt.plans import (
    PlanResult,
    Target,
    check_usable,
    get_or_build,
    list_cached_plans,
    list_plan_requests,
    plan_precision,
)


def list_plans(*, as_json: bool) -> None:
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


def build_plans(
    model: str,
    patch_sizes: str | None,
    precision: str | None,
    flavour: Flavour | None,
    target: str | None,
    memory_limit: int | None,
    *,
    rebuild: bool,
    as_json: bool,
) -> None:
    """Raises UsageError for a size that the bundle lacks, before anything is built."""
    bundle = Bundle.open(find_bundle(model))
    chosen = plan_precision(bundle.manifest, precision)
    patches = bundle.manifest.patches if patch_sizes is None else parse_patches(patch_sizes)
    place = Target.resolve(find_tensorrt(flavour), target or CURRENT, memory_limit)
    store = PlanStore.default()
    plans = list(list_plan_requests(bundle, patches, chosen, place))
    found = [get_or_build(store, request, place, rebuild=rebuild, log=log) for request in plans]
    if as_json:
        print_json({"place": str(place), "precision": chosen, "plans": [_describe_plan(one) for one in found]})
        return
    for one in found:
        entry, what = one.entry, f"built in {one.entry.build_s:.1f} s" if one.fresh else "was there"
        line = f"{entry.name}: {entry.size / 1e6:.1f} MB, {what}, {entry.key.digest[:12]}"
        stdout().print(line, markup=False, soft_wrap=True)


def _describe_plan(found: PlanResult) -> dict[str, Any]:
    entry = found.entry
    facts = {"name": entry.name, "size": entry.size, "sha256": entry.sha256, "build_s": entry.build_s}
    return {"digest": entry.key.digest} | facts | {"built_now": found.fresh}


def verify_plans(model: str | None, flavour: Flavour | None) -> None:
    """Check the plans of a bundle, or all of them where it is None; raises VerificationError."""
    store = PlanStore.default()
    bundle = None if model is None else Bundle.open(find_bundle(model))
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
        log(f"flexiast: {line}")
    if bad:
        raise VerificationError(bad[0])
    verb = "is as it was" if checked == 1 else "are as they were"
    stdout().print(f"{count_noun(checked, 'plan')} {verb} built", markup=False)
    if bundle is not None:
        _verify_answers(bundle, store, flavour)


def _verify_answers(bundle: Bundle, store: PlanStore, flavour: Flavour | None) -> None:
    """Run what was built for this GPU against the stored answers; report where nothing can be run."""
    try:
        place = Target.resolve(find_tensorrt(flavour))
    except (GpuError, MissingExtraError) as error:
        log(f"the plans were not run: {error}")
        return
    ready = list_cached_plans(bundle, store, place)
    if not ready:
        log(f"no plan of {bundle.folder} was built for {place}; build them with: flexiast engines build")
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


def prune_plans(older_than: float | None, *, everything: bool, dry_run: bool) -> None:
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

"""Benchmarks run seldom; at least each is whole: what it imports is there."""

from __future__ import annotations

import importlib
import pkgutil

import benchmarks


def test_every_benchmark_can_be_imported() -> None:
    for module in pkgutil.walk_packages(benchmarks.__path__, "benchmarks."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

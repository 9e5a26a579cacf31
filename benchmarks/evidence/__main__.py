"""Run, list and report the experiments."""

from __future__ import annotations

import argparse
from fnmatch import fnmatchcase
from pathlib import Path

from benchmarks.evidence.experiments import EXPERIMENTS, TASKS, Experiment
from benchmarks.evidence.report import report
from benchmarks.evidence.running import run_experiment
from benchmarks.evidence.sounds import measure
from benchmarks.evidence.together import measure_latency, run_ensemble


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="names of the experiments")
    commands.add_parser("latency", help="time every size in an engine; on a quiet machine")
    commands.add_parser("report", help="write docs/benchmarks/results.md and its plots")
    run = commands.add_parser("run", help="train and measure, one after the other")
    run.add_argument("names", nargs="+", type=matching, metavar="NAME", help="a name, or a pattern such as 'esc50/*'")
    ensemble = commands.add_parser("ensemble", help="fixed models together against flexible ones; after their runs")
    ensemble.add_argument("task", choices=TASKS)
    sounds = commands.add_parser("sounds", help="measure a run of `flexiast train` on esc50")
    sounds.add_argument("run", type=Path)
    sounds.add_argument("name", choices=("teacher", "nano", "tiny"))
    for each in (run, ensemble, sounds):
        each.add_argument("--data", type=Path, required=True, help="folder that holds esc50, commands and speakers")
        each.add_argument("--fold", help="fold that validates, on esc50 (default: the last)", required=each is sounds)
    for each in (run, ensemble):
        each.add_argument("--seed", type=int, default=0)
    run.add_argument("--teacher", type=Path, help="the convolutional teacher of the task: a run or a checkpoint")
    given = parser.parse_args()
    if given.command == "list":
        print("\n".join(EXPERIMENTS))
    elif given.command == "latency":
        measure_latency()
    elif given.command == "report":
        report()
    elif given.command == "sounds":
        measure(given.run, given.name, given.data, given.fold)
    elif given.command == "ensemble":
        run_ensemble(given.task, given.data, given.fold, given.seed)
    else:
        chosen = [experiment for found in given.names for experiment in found]
        if given.teacher is None and (taught := [experiment.key for experiment in chosen if experiment.taught]):
            parser.error(f"{taught[0]} is taught: give a --teacher")
        for experiment in chosen:
            run_experiment(experiment, given.data, given.fold, given.seed, given.teacher)


def matching(pattern: str) -> list[Experiment]:
    found = [experiment for key, experiment in EXPERIMENTS.items() if fnmatchcase(key, pattern)]
    if not found:
        raise argparse.ArgumentTypeError(f"{pattern!r} matches no experiment; `list` names them")
    return found


if __name__ == "__main__":
    main()

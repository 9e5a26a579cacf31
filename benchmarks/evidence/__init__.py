"""The evidence behind flexiast's claims: experiments that are declared, run one at a time, and reported.

    python -m benchmarks.evidence list
    python -m benchmarks.evidence run 'commands/*' --data ../shared/data --teacher runs/commands-teacher
    python -m benchmarks.evidence ensemble commands --data ../shared/data
    python -m benchmarks.evidence latency
    python -m benchmarks.evidence report

Each run leaves one JSON file in ``docs/benchmarks/results``; the report writes ``docs/benchmarks/results.md`` and its
plots from them. What has its file is not run again; what was interrupted goes on from its state in ``runs/evidence``.
"""

"""The evidence behind flexiast's claims: experiments that are declared, run one at a time, and reported.

    python -m benchmarks.evidence list
    python -m benchmarks.evidence run commands/flexible commands/fixed-16 --data ../shared/data
    python -m benchmarks.evidence report

Each run leaves one JSON file in ``docs/results``; the report writes ``docs/results.md`` and its plots from them.
"""

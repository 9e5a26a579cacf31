"""Examples of each command, for its help and docs/reference/commands.md; a test parses every one."""

from __future__ import annotations

from flexiast_cli.settings.layers import Words

EXAMPLES: dict[Words, tuple[str, ...]] = {
    ("listen",): (
        "flexiast listen",
        "flexiast listen home.bundle --latency 100 --explain",
        "flexiast listen home.bundle --device USB --to sqlite --to mqtt://broker --web 8642",
        "flexiast listen --until 18:00 --min-battery 30 --record evening.jsonl",
        "flexiast listen --config garden.toml --json",
        "flexiast listen home.bundle --to sqlite --keep-audio 24h",
        "flexiast listen home.bundle --false-alarms-per-day 2",
        "arecord -t raw -f S16_LE -c 1 -r 16000 | flexiast listen home.bundle --input -",
    ),
    ("swap",): ("flexiast swap new.bundle", "flexiast swap --back"),
    ("history",): (
        "flexiast history --since 24h",
        "flexiast history --label dog --since 2026-11-01 --format csv",
        "flexiast history --verdicts",
    ),
    ("review", "start"): ("flexiast review", "flexiast review garden.db --label dog --order newest"),
    ("review", "export"): ("flexiast review export -o corrections.csv",),
    ("review", "mark"): (
        "flexiast review mark doorbell --at 30s",
        "flexiast review mark doorbell --at 14:03 --seconds 1.5 --dry-run",
    ),
    ("review", "marks"): ("flexiast review marks", "flexiast review marks --remove 0123456789abcdef"),
    ("record",): ("flexiast record -o place --hours 2", "flexiast record -o place --device USB --disk-limit 1GB"),
    ("devices",): ("flexiast devices", "flexiast devices --device USB --json"),
    ("calibrate",): (
        "flexiast calibrate home.bundle --data sounds --dry-run",
        "flexiast calibrate home.bundle --data sounds --precision-target 0.9",
        "flexiast calibrate home.bundle --data sounds --background hours --false-alarms-per-hour 0.5",
    ),
    ("classify",): (
        "flexiast classify recordings",
        "flexiast classify home.bundle recordings --format csv -o events.csv",
        "flexiast classify home.bundle recordings --format raven --output-dir found --workers 4",
        "flexiast classify home.bundle s3://yard/2026/ -o s3://results/run1/ --workers 16",
        "flexiast classify home.bundle s3://yard/2026/ -o s3://results/run1/ --engine ray --ray-address auto",
    ),
    ("train",): (
        "flexiast train sounds -o runs/first",
        "flexiast train sounds -o runs/first --resume",
        "flexiast train sounds -o runs/student --config recipes/sounds.toml --teacher runs/teacher",
    ),
    ("learn",): (
        "flexiast learn --from home.bundle -o tonight.bundle",
        "flexiast learn --from home.bundle --data sounds -o tonight.bundle",
        "flexiast learn --from home.bundle --data sounds --background hours --false-alarms-per-hour 0.5 -o new.bundle",
    ),
    ("import",): ("flexiast import ast/model.safetensors -o ast.safetensors",),
    ("embed",): ("flexiast embed commands recordings -o embeddings.parquet",),
    ("evaluate",): (
        "flexiast evaluate runs/first sounds --split val --plot accuracy.png",
        "flexiast evaluate runs/first sounds --split test --per-label --confusion confusion.png",
        "flexiast evaluate commands-ar commands/metadata.csv --json",
        "flexiast evaluate home.bundle --mix sounds --split val --background hours --snr quiet,20,10 --det det.png",
        "flexiast evaluate home.bundle --streams recordings --json",
    ),
    ("export",): (
        "flexiast export runs/first --patch-sizes 8,16,32,48 -o home.bundle --verify-data sounds",
        "flexiast export home.bundle --patch-sizes 12,20x40",
        "flexiast export commands --patch-sizes 16 --single-file -o models",
        "flexiast export commands --web site",
        "flexiast export home.bundle --conformance answers",
    ),
    ("mine",): ("flexiast mine home.bundle hours -o hard.csv",),
    ("inspect",): ("flexiast inspect sounds", "flexiast inspect runs/first --json"),
    ("verify",): ("flexiast verify home.bundle",),
    ("profile",): (
        "flexiast profile sounds",
        "flexiast profile home.bundle --patch-sizes 16,32 --power --html report.html",
        "flexiast profile home.bundle --compare before.json --budget-ms 50",
    ),
    ("simulate",): (
        "flexiast simulate",
        "flexiast simulate sounds --scenario bursts --policy greedy --plot bursts.png",
        "flexiast simulate --trace evening.jsonl --json",
    ),
    ("demo",): ("flexiast demo",),
    ("doctor",): ("flexiast doctor", "flexiast doctor home.bundle --record 2", "flexiast doctor --json"),
    ("data", "manifest"): ("flexiast data manifest esc50 ESC-50-master -o esc50.csv",),
    ("data", "shard"): ("flexiast data shard sounds -o shards",),
    ("engines", "list"): ("flexiast engines list --json",),
    ("engines", "build"): ("flexiast engines build home.bundle --patch-sizes 16,32",),
    ("engines", "verify"): ("flexiast engines verify", "flexiast engines verify home.bundle"),
    ("engines", "prune"): ("flexiast engines prune --dry-run", "flexiast engines prune --older-than 30"),
    ("config", "init"): ("flexiast config init", "flexiast config init garden.toml"),
    ("config", "show"): ("flexiast config show --origin",),
    ("config", "validate"): ("flexiast config validate", "flexiast config validate garden.toml"),
    ("config", "schema"): ("flexiast config schema > flexiast.schema.json",),
    ("service", "install"): (
        "flexiast service install",
        "sudo flexiast service install --config /etc/flexiast/flexiast.toml --apply",
        "flexiast service install --user --apply",
    ),
    ("service", "uninstall"): ("flexiast service uninstall", "sudo flexiast service uninstall --apply"),
    ("service", "show"): ("flexiast service show --user",),
}


def epilog(words: Words) -> str | None:
    """The examples as the end of a help text, a line each."""
    lines = EXAMPLES.get(words)
    return None if lines is None else "\n\n".join(("Examples:", *(f"  {line}" for line in lines)))

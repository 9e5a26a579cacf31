"""``flexiast review``: listen to events in the terminal and say what each was; export what was said."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from flexiast_cli.commands.history.command import QueryOptions
from flexiast_cli.options.grouping import ungroup

DatabaseArgument = Annotated[
    Path | None,
    typer.Argument(metavar="[DATABASE]", help="A file that listen wrote.", show_default="the user's own"),
]
ClipsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--clips", help="Folder of the clips; may be repeated.", show_default="where listen cut them", metavar="FOLDER"
    ),
]


class ReviewGroup(TyperGroup):
    """`flexiast review` alone, or with a database or options, is `flexiast review start`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words after `review`."""
        return super().parse_args(ctx, self.name_command(args))

    def name_command(self, args: list[str]) -> list[str]:
        """The words with the command that they mean before them."""
        asks_group = args and (args[0] in self.commands or args[0] in {"-h", "--help"})
        return args if asks_group else ["start", *args]


@ungroup
def start(
    database: DatabaseArgument = None,
    *,
    query: QueryOptions,
    clips: ClipsOption = None,
    order: Annotated[
        Literal["least-sure", "newest", "oldest"],
        typer.Option(
            "--order",
            help="What comes first; least-sure: of each label in turn the nearest to the threshold, then its surest.",
        ),
    ] = "least-sure",
    again: Annotated[bool, typer.Option("--again", help="Show events that have a verdict, too.")] = False,
) -> None:
    """Listen to events one by one and say what each was; `flexiast review` alone does this.

    Space plays, the arrows walk; 1 right, 2 wrong, 3 another label, 0 nothing, u takes the last verdict back, q ends.
    Where stdin is no terminal, each of its lines is a key.
    """
    from flexiast_cli.commands.review.start import run

    run(database, query, clips, order, again=again)


@ungroup
def export(
    database: DatabaseArgument = None,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="CSV to write; the audio goes into a folder by it.")],
    query: QueryOptions,
    clips: ClipsOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a CSV that exists.")] = False,
) -> None:
    """Write what the verdicts say as a CSV that `flexiast train` reads, with the audio beside it.

    A right event gives its label, another label gives that one, wrong and nothing give background. Sounds that were
    marked as missed come with their label.
    """
    from flexiast_cli.commands.review.export import run

    run(database, output, query, clips, force=force)


def mark(
    label: Annotated[str, typer.Argument(metavar="LABEL", help="What sounded.")],
    database: DatabaseArgument = None,
    *,
    at: Annotated[
        str,
        typer.Option("--at", help="When it began, by the local clock or so long ago: 14:03:20, 30s, 2026-11-25T14:30."),
    ],
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, max=60.0, help="How long it lasted.")] = 2.0,
    source: Annotated[
        str | None,
        typer.Option("--source", help="Where it sounded.", show_default="the only one of which sound is kept"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what sounded then, with 10 s around it, and store nothing.")
    ] = False,
) -> None:
    """Mark a sound that no event reported, in the audio that `listen --keep-audio` keeps.

    It shows the spectrogram, and stores the label with a copy of that audio for `flexiast review export`.
    """
    from flexiast_cli.commands.review.mark import run

    run(database, label, at, seconds, source, dry_run=dry_run)


def marks(
    database: DatabaseArgument = None,
    *,
    remove: Annotated[
        list[str] | None,
        typer.Option("--remove", metavar="ID", help="Take this mark back; may be repeated.", show_default=False),
    ] = None,
) -> None:
    """List the sounds that were marked, the oldest first, or take marks back."""
    from flexiast_cli.commands.review.mark import print_marks, remove_marks

    remove_marks(database, remove) if remove else print_marks(database)

"""The options of `listen` that no other command has: what it listens to, and where its records go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from flexiast_cli.options.common import WebOption, WebUrlOption
from flexiast_cli.options.validators import (
    duration_text,
    known_sinks,
    named_channel,
    parse_channel,
    positive,
    size_text,
)

InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        help="An audio file, or raw mono 16-bit PCM at the model's rate: - for stdin, or a named pipe; may be "
        "repeated.",
        show_default="the microphone",
    ),
]
RealtimeOption = Annotated[bool, typer.Option("--realtime", help="Play a file at the pace of a microphone.")]
DeviceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        help="Microphone by name, part of it or USB id, see `flexiast devices`; may be repeated.",
        show_default=False,
    ),
]
ChannelOption = Annotated[
    str | None,
    typer.Option(
        "--channel",
        metavar="N|each",
        callback=named_channel,
        help="Channel of the microphone or file, counted from 1, or `each` as a source of its own.",
        show_default="two of a microphone, all of a file",
    ),
]
DeviceLossOption = Annotated[
    Literal["retry", "exit"],
    typer.Option("--on-device-loss", help="Poll for a lost microphone until it is back, or exit."),
]
SourceLossOption = Annotated[
    Literal["continue", "exit"] | None,
    typer.Option(
        "--on-source-loss",
        help="When one of several sources breaks: run the others to their end, or exit.",
        show_default="continue; exit with --on-device-loss exit",
    ),
]
DurationOption = Annotated[
    float | None, typer.Option("--duration", callback=positive, help="Stop after so many seconds of audio.")
]
SinkOption = Annotated[
    list[str] | None,
    typer.Option(
        "--to",
        metavar="SINK",
        callback=known_sinks,
        help="Where events go besides the screen, e.g. sqlite, jsonl:FILE, mqtt://HOST, clips:FOLDER; may be "
        "repeated; see docs/how-to/sinks.md.",
        show_default=False,
    ),
]
KeepAudioOption = Annotated[
    str | None,
    typer.Option(
        "--keep-audio",
        metavar="DURATION",
        callback=duration_text,
        help="Keep all live sound of the last so long, such as 24h, beside the database of --to sqlite, for "
        "`flexiast review mark`.",
        show_default="no sound but clips",
    ),
]
KeepAudioLimitOption = Annotated[
    str,
    typer.Option("--keep-audio-limit", metavar="SIZE", callback=size_text, help="What that takes on disk at most."),
]
ExplainOption = Annotated[bool, typer.Option("--explain", help="Log each switch and its reason on stderr.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSONL records: event, switch, status, summary.")]


@dataclass(frozen=True)
class SourceOptions:
    """What is listened to."""

    inputs: InputOption = None
    realtime: RealtimeOption = False
    devices: DeviceOption = None
    channel_text: ChannelOption = None
    on_device_loss: DeviceLossOption = "retry"
    on_source_loss: SourceLossOption = None
    duration: DurationOption = None

    @property
    def channel(self) -> int | Literal["each"] | None:
        return None if self.channel_text is None else parse_channel(self.channel_text)

    @property
    def live(self) -> bool:
        """Sound that cannot wait: late audio is dropped."""
        return not self.inputs or self.realtime

    @property
    def exits_on_source_loss(self) -> bool:
        return (self.on_source_loss or self.on_device_loss) == "exit"


@dataclass(frozen=True)
class OutputOptions:
    """Where records go."""

    to: SinkOption = None
    keep_audio: KeepAudioOption = None
    keep_audio_limit: KeepAudioLimitOption = "5GB"
    explain: ExplainOption = False
    as_json: JsonOption = False
    web: WebOption = None
    web_url: WebUrlOption = None

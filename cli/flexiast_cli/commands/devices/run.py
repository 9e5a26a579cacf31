"""The work of `flexiast devices`."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from flexiast_cli.terminal.console import log, print_json, stdout
from flexiast_runtime.audio.devices import InputDevice, choose, input_devices, no_microphone_hint

COLUMNS = ("", "name", "host API", "channels", "rate", "USB id")


def run(device: str | None, *, as_json: bool) -> None:
    """Raises DeviceError where no microphone, or more than one, has the name."""
    found = input_devices()
    chosen = choose(found, device) if found or device is not None else None
    if as_json:
        print_json({"devices": [_describe_device(one) | {"chosen": one == chosen} for one in found]})
    elif found:
        _print_table(found, chosen)
    if not found:
        log(no_microphone_hint())


def _describe_device(device: InputDevice) -> dict[str, object]:
    return {name: getattr(device, name) for name in ("name", "host_api", "channels", "rate_hz", "usb_id")}


def _print_table(devices: tuple[InputDevice, ...], chosen: InputDevice | None) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in {"channels", "rate"} else "left")
    for one in devices:
        mark = "*" if one == chosen else ""
        table.add_row(
            mark, escape(one.name), escape(one.host_api), str(one.channels), f"{one.rate_hz} Hz", one.usb_id or ""
        )
    stdout().print(table)

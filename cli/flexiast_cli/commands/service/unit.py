"""The systemd unit that runs `flexiast listen`, as text: a pure function of what it starts."""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flexiast.errors import ExitCode

Scope = Literal["system", "user"]

NAME = "flexiast.service"
MARK = "# Written by `flexiast service install`; change it with a drop-in: systemctl edit flexiast"

NO_RESTART_CODES = (ExitCode.USAGE, ExitCode.MODEL, ExitCode.VERIFICATION, ExitCode.EXTRA)
"""Exit codes of errors that a restart cannot fix: systemd does not restart after these."""

COMMON = """\
Type=notify
Restart=on-failure
RestartSec=5
# Re-reads the bundle from its path, without a gap; fails where the bundle cannot take over.
ExecReload={reload}
RestartPreventExitStatus={no_restart}
# Notified after every window, see flexiast_runtime/systemd.py. TensorRT plans are built before the first one.
WatchdogSec=60
TimeoutStartSec=600
TimeoutStopSec=20
StateDirectory=flexiast
CacheDirectory=flexiast
WorkingDirectory=%S/flexiast
Environment=FLEXIAST_CACHE=%C/flexiast
# Passwords, such as FLEXIAST_MQTT_PASSWORD=…; make it readable by its owner only.
EnvironmentFile=-{secrets}
MemoryMax=512M
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
"""

# No MemoryDenyWriteExecute: libffi, through which PortAudio calls Python, needs such memory on some machines.
SYSTEM = """\
DynamicUser=yes
# The socket of `flexiast swap`
RuntimeDirectory=flexiast
RuntimeDirectoryMode=0700
# Profiles, plans and history: /var/lib/flexiast.
Environment=XDG_DATA_HOME=%S
SupplementaryGroups=audio
DevicePolicy=closed
DeviceAllow=char-alsa rw
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=yes
ProtectProc=invisible
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
UMask=0027
"""


@dataclass(frozen=True)
class Service:
    """What systemd starts, in whose name."""

    scope: Scope
    python: Path
    config: Path

    def _time_sync(self) -> str:
        """Wait for the clock, in a system unit only: a user's manager has no such target, and at login it is set."""
        if self.scope == "user":
            return ""
        return (
            " time-sync.target\n"
            "# Events and clips bear the time: a board may boot in another year until its clock is set.\n"
            "# It waits where systemd-time-wait-sync.service or chrony-wait.service is enabled.\n"
            "Wants=time-sync.target"
        )

    def text(self) -> str:
        """The unit file. A user's manager lacks the rights to confine a service, so that unit has fewer lines."""
        flexiast = f"{quote_word(str(self.python))} -m flexiast_cli.main"
        secrets = "/etc/flexiast/environment" if self.scope == "system" else "%E/flexiast/environment"
        no_restart = " ".join(str(code.value) for code in NO_RESTART_CODES)
        parts = (
            MARK,
            "[Unit]\nDescription=flexiast, sound recognition\nAfter=sound.target" + self._time_sync(),
            "# A microphone may be plugged in next week.\nStartLimitIntervalSec=0\n",
            f"[Service]\nExecStart={flexiast} listen --config {quote_word(str(self.config))}",
            COMMON.format(reload=f"{flexiast} swap --pid $MAINPID", secrets=secrets, no_restart=no_restart)
            + (SYSTEM if self.scope == "system" else ""),
            f"[Install]\nWantedBy={'multi-user' if self.scope == 'system' else 'default'}.target\n",
        )
        return "\n".join(parts)


def quote_word(word: str) -> str:
    """Escape a word of ExecStart, in which systemd interprets quotes, % and $."""
    if re.fullmatch(r"[\w./:=@,+-]+", word):
        return word
    plain = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{plain}"'


def unreachable(path: Path) -> Path | None:
    """The first part of a path that a system service, which runs as an unprivileged user, may not enter; else None."""
    resolved = path.resolve()
    for part in (*reversed(resolved.parents), resolved):
        if part in {Path("/home"), Path("/root"), Path("/run/user")}:  # ProtectHome
            return part
        needed = stat.S_IXOTH if part.is_dir() else stat.S_IROTH
        if not part.stat().st_mode & needed:
            return part
    return None

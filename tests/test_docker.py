"""The image, as far as it can be told without Docker: what is copied exists, is let through, and makes the wheel."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COPIED = [
    source for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE) for source in line.split()[:-1]
]


def test_only_what_is_copied_reaches_the_build() -> None:
    ignored, *rest = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert ignored == "*"
    assert {line[1:] for line in rest if line.startswith("!")} == set(COPIED)


def test_what_is_copied_makes_the_wheel(tmp_path: Path) -> None:
    for name in COPIED:
        if (ROOT / name).is_dir():
            copytree(ROOT / name, tmp_path / "context" / name, ignore=ignore_patterns("__pycache__"))
        else:
            (tmp_path / "context" / name).parent.mkdir(parents=True, exist_ok=True)
            copy(ROOT / name, tmp_path / "context" / name)
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "-o", tmp_path, tmp_path / "context"]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {
        f"{package}/py.typed" for package in ("flexiast", "flexiast_cli", "flexiast_export", "flexiast_runtime")
    } <= names
    assert "flexiast_runtime/models/sounds/bundle/manifest.json" in names


def test_it_listens_as_a_user_without_rights_and_is_stopped_as_listen_expects() -> None:
    lines = DOCKERFILE.splitlines()
    assert lines.index("USER flexiast") < lines.index('ENTRYPOINT ["flexiast"]')
    assert "STOPSIGNAL SIGTERM" in lines
    assert "torch" not in DOCKERFILE.replace("without torch", "")

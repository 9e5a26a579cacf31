"""What ships: the wheel's contents, and a base install that never needs torch."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
HEAVY = (
    "torch",
    "torchaudio",
    "ai_edge_litert",
    "pyarrow",
    "safetensors",
    "onnx",
    "matplotlib",
    "sounddevice",
    "paho",
    "prometheus_client",
    "starlette",
    "tensorrt",
    "uvicorn",
    "websockets",
)
TORCH_CODE = (
    "model",
    "convnet",
    "pcen_torch",
    "networks",
    "training.distillation",
    "training.distributed",
    "training.journal",
)
NEEDS_TORCH = {
    f"flexiast.{name}"
    for name in (
        *TORCH_CODE,
        "training.adaptation",
        "training.embedding_targets",
        "training.linear_head",
        "training.optimizer",
        "training.warm_start",
        "training.run_state",
        "training.trainer",
        "training.validation",
    )
}
NEEDS_TORCH |= {
    f"flexiast_cli.commands.train.{name}"
    for name in ("external", "prepare", "progress", "report", "run", "start", "summary")
}
NEEDS_TORCH |= {
    f"flexiast_cli.commands.learn.{name}" for name in ("comparison", "model", "report", "run", "sources", "tables")
}
NEEDS_TORCH |= {"flexiast_cli.commands.embed.run"}
DRAWS = {
    f"flexiast_cli.{name}"
    for name in (
        "plot_axes",
        "commands.evaluate.plot",
        "commands.history.plot",
        "commands.simulate.plot",
        "commands.profile.report",
    )
}
"""Modules of pictures, imported when one is asked for: they begin with matplotlib."""
SERVES = {"flexiast_cli.web.application"}
"""Imported when the page is opened: it begins with starlette."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist, as an installer would; hatchling comes from this environment."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--sdist", "-o", folder, ROOT],
        check=True,
        capture_output=True,
    )
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    source = folder / sdist.name.removesuffix(".tar.gz")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--wheel", "-o", folder, source],
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_four_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "flexiast",
        "flexiast_cli",
        "flexiast_export",
        "flexiast_runtime",
    }


def test_the_wheel_brings_the_shipped_models_whole(wheel: Path) -> None:
    folder = ROOT / "runtime/flexiast_runtime/models"
    expected = {path.relative_to(ROOT / "runtime").as_posix() for path in folder.rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"commands", "sounds"} <= {path.name for path in folder.iterdir()}
    assert expected <= names
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 40e6


def test_the_files_of_the_repository_stay_under_60_mb() -> None:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], check=False, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("these are not the files of a clone")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert len(files) > 100
    assert sum(path.stat().st_size for path in files if path.is_file()) < 60e6


def test_the_wheel_brings_the_pages(wheel: Path) -> None:
    folders = ("flexiast_cli/web/page", "flexiast_cli/browser")
    expected = {f"{folder}/{path.name}" for folder in folders for path in (ROOT / "cli" / folder).iterdir()}
    with zipfile.ZipFile(wheel) as archive:
        assert expected <= set(archive.namelist())
    for folder in folders:
        assert {f"{folder}/index.html", f"{folder}/page.js"} <= expected


def test_the_wheel_has_a_licence_and_types(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {
        f"{package}/py.typed" for package in ("flexiast", "flexiast_cli", "flexiast_export", "flexiast_runtime")
    } <= set(names)


def test_base_install_code_imports_without_any_extra() -> None:
    """Every module but the three that are torch code, and the command line, with the extras made unimportable."""
    modules = [
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        for root in (ROOT, ROOT / "export", ROOT / "runtime", ROOT / "cli")
        for package in root.glob("flexiast*")
        for path in sorted(package.rglob("*.py"))
    ]
    wanted = [module for module in modules if module not in NEEDS_TORCH | DRAWS | SERVES]
    assert len(wanted) > 30
    lines = [
        "import sys, importlib",
        f"for name in {HEAVY!r}: sys.modules[name] = None",
        f"for name in {wanted!r}: importlib.import_module(name)",
    ]
    code = "\n".join(lines)
    finished = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize(("lock", "extras"), [("base", ()), ("dev", ("dev",))])
def test_the_locked_lists_hold_what_the_project_asks_for(lock: str, extras: tuple[str, ...]) -> None:
    """Every requirement has one hashed version for each Python, within the bounds; `make lock` renews the lists."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional, pending, wanted = project["optional-dependencies"], list(extras), [*project["dependencies"]]
    while pending:
        for text in optional[pending.pop()]:
            requirement = Requirement(text)
            if requirement.name == project["name"]:
                pending += sorted(requirement.extras)
            else:
                wanted.append(text)
    text = (ROOT / f"requirements/{lock}.txt").read_text(encoding="utf-8")
    entries = [
        block for block in text.replace("\\\n", " ").splitlines() if block and not block.lstrip().startswith("#")
    ]
    assert all("--hash=sha256:" in entry for entry in entries)
    locked = [Requirement(entry.partition(" --hash")[0]) for entry in entries]
    for python in ("3.10", "3.11", "3.12", "3.13"):
        environment = {**default_environment(), "python_version": python, "python_full_version": f"{python}.0"}
        for requirement in map(Requirement, wanted):
            if requirement.marker and not requirement.marker.evaluate(environment):
                continue
            found = [
                next(iter(entry.specifier)).version
                for entry in locked
                if canonicalize_name(entry.name) == canonicalize_name(requirement.name)
                and (entry.marker is None or entry.marker.evaluate(environment))
            ]
            assert len(found) == 1, (python, requirement.name, found)
            assert requirement.specifier.contains(found[0]), (python, str(requirement), found)


def test_torch_and_torchaudio_are_named_exactly() -> None:
    """They load beside one build of the other only, so a range will break some day."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [Requirement(text) for texts in project["optional-dependencies"].values() for text in texts]
    pair = [str(entry.specifier) for entry in listed if entry.name in ("torch", "torchaudio")]
    assert len(pair) == 2
    assert all(text.startswith("==") and "*" not in text for text in pair)
    assert len(set(pair)) == 1

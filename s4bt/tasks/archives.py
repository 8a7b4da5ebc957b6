"""Archives from elsewhere, unpacked safely.

No links, nothing outside of the folder, whole or not at all.
"""

from __future__ import annotations

import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from s4bt.files import UserError, atomic_path
from s4bt.progress import progress_bar

ARCHIVES = (".tar", ".tgz", ".gz", ".zip")
DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    OSError,
)


def _inside(name: str, archive: Path) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise UserError(
            f"{archive}: its entry {name!r} would be written outside of the folder it is unpacked "
            "into. Nothing was unpacked; get the archive from its publisher"
        )
    return path


def _members(path: Path) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    """(name, open file) of every regular file of a tar or zip archive.

    It is read to its very end, where its checksum is.

    Raises UserError at a link or a name that leads outside, EOFError if the end is missing.
    """
    link = "{}: its entry {!r} is a link or a device, which may lead anywhere. Nothing was unpacked"
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            for entry in archive:
                archive.members = []  # else a million entries are kept
                name = _inside(entry.name, path)
                if not (entry.isfile() or entry.isdir()):
                    raise UserError(link.format(path, entry.name))
                if entry.isfile():
                    yield name, archive.extractfile(entry)
            if archive.fileobj.tell() != archive.offset + tarfile.BLOCKSIZE:
                raise EOFError("the block that ends a tar archive is missing")
            while archive.fileobj.read(1 << 20):
                pass
    else:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                name = _inside(entry.filename, path)
                if stat.S_ISLNK(entry.external_attr >> 16):
                    raise UserError(link.format(path, entry.filename))
                if not entry.is_dir():
                    with archive.open(entry) as file:
                        yield name, file


def extract(path: Path, target: Path) -> None:
    try:
        with (
            atomic_path(target) as temporary,
            progress_bar(None, f"unpack {path.name}", unit=" files") as bar,
        ):
            temporary.mkdir()
            for name, file in _members(path):
                goal = temporary / name
                goal.parent.mkdir(parents=True, exist_ok=True)
                with open(goal, "wb") as out:
                    shutil.copyfileobj(file, out, 1 << 20)
                bar.update()
    except DAMAGED as error:
        raise UserError(
            f"{path}: the archive is damaged, was cut, or cannot be unpacked "
            f"({type(error).__name__}: {error}). Delete it and get it again"
        ) from error


def is_archive(path: Path) -> bool:
    """Whether a file is a tar (compressed or not, whatever its name) or zip archive."""
    return path.is_file() and (tarfile.is_tarfile(path) or zipfile.is_zipfile(path))

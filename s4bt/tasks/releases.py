"""Official releases: from a folder, an archive or an address to the files that a task needs.

source   what params.yaml names: a folder, a .tar, .tar.gz or .zip file, or an http(s) address of
         such a file
root     the folder below which the release lies; its files are found wherever they sit there

An archive is unpacked once, whole or not at all, below data/raw/releases/.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import urllib.parse
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from filelock import FileLock

from s4bt.files import ROOT, UserError
from s4bt.progress import progress_bar
from s4bt.tasks.archives import ARCHIVES, extract, is_archive
from s4bt.tasks.downloads import download, verify
from s4bt.tasks.options import Official

RAW = ROOT / "data" / "raw"
SHOWN = 12  # files listed in an error message


def unpack(path: Path, sha256: str | None = None, releases: Path = RAW / "releases") -> Path:
    """Unpack an archive into a folder named after its content, once.

    An archive that is alone in it is unpacked, too.
    """
    target = releases / f"{path.name.split('.')[0]}-{verify(path, path.name, sha256)[:16]}"
    if not target.exists():
        extract(path, target)
    inner = list(itertools.islice((p for p in target.rglob("*") if p.is_file()), 2))
    if len(inner) == 1 and is_archive(inner[0]):
        return unpack(inner[0], releases=releases)
    return target


def open_release(data: Official, raw: Path = RAW) -> Path:
    """The folder below which the release named by data.source lies.

    It is downloaded and unpacked if need be, by one process at a time.

    Raises UserError.
    """
    source, releases = str(data.source), Path(raw) / "releases"
    path, remote = (
        Path(source).expanduser(),
        urllib.parse.urlsplit(source).scheme in ("http", "https"),
    )
    if path.is_dir() and not remote:
        if data.sha256:
            raise UserError(
                f"{path} is a folder, and sha256 in params.yaml is that of an archive: delete "
                "sha256, or name the archive"
            )
        return path
    if not remote and not path.exists():
        raise UserError(
            f"{path}: there is no such folder or file. Name the release's folder, its archive or "
            "an http(s) address as source in params.yaml"
        )
    if not remote and not is_archive(path):
        raise UserError(
            f"{path} is neither a folder nor a tar or zip archive ({path.stat().st_size:,} bytes). "
            "If it was cut, get it again"
        )
    releases.mkdir(parents=True, exist_ok=True)
    with FileLock(releases / ".lock"):
        for leftover in releases.glob(".*.part"):  # of a killed process
            shutil.rmtree(leftover)
        if remote:
            name = (
                PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(source).path)).name
                or "download"
            )
            path = download(
                source,
                releases / hashlib.sha256(source.encode()).hexdigest()[:8] / name,
                data.sha256,
            )
        return unpack(path, data.sha256, releases)


def find(root: Path, wanted: dict[str, str], release: str) -> dict[str, Path]:
    """The files or folders whose paths end as the values of `wanted` say, by its keys.

    Wherever they sit below root.

    Raises UserError, with what was looked for and what is there, if one is missing, and if there
    are two of one.
    """
    ends = {key: PurePosixPath(end).parts for key, end in wanted.items()}
    found: dict[str, list[Path]] = {key: [] for key in wanted}
    seen: list[str] = []
    above = Path(root).resolve().parts
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(
            f for f in folders if not f.startswith(".") and f != "imgs"
        )  # a million names, none looked for
        here = Path(folder).relative_to(root)
        for name in [*folders, *sorted(files)] + [""] * (here == Path()):  # "": the root itself
            path = Path(folder, name)
            for key, end in ends.items():
                if (
                    name in ("", end[-1])
                    and (*above, *path.relative_to(root).parts)[-len(end) :] == end
                ):
                    found[key].append(path)
        seen += [str(here / name) for name in sorted(files)[:SHOWN]] if len(seen) < SHOWN else []
    for key, paths in found.items():
        if len(paths) > 1:
            raise UserError(
                f"{root}: {wanted[key]} is there twice: {paths[0]} and {paths[1]}. Name the folder "
                "of one of them as source"
            )
    if missing := [wanted[key] for key, paths in found.items() if not paths]:
        packed = [name for name in seen if name.endswith(ARCHIVES)]
        raise UserError(
            f"{root} does not hold {release}: {', '.join(missing)} not found. It holds "
            f"{', '.join(seen[:SHOWN]) or 'no file'}{', ...' if len(seen) > SHOWN else ''}. "
            + (
                f"If {packed[0]} holds the release, name that file as source in params.yaml"
                if packed
                else "Name the folder or the archive of the release as source in params.yaml"
            )
        )
    return {key: paths[0] for key, paths in found.items()}


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line without its end) of a UTF-8 text file, ends of line being \\n or \\r\\n only.

    Raises UserError at other bytes.
    """
    with (
        open(path, "rb") as file,
        progress_bar(path.stat().st_size, path.name, unit="B", unit_scale=True) as bar,
    ):
        for number, line in enumerate(file, 1):
            bar.update(len(line))
            if not line.endswith(b"\n"):
                raise UserError(
                    f"{path}, line {number}: the last line has no end, so the file may have been "
                    "cut. Get it again; if it is whole, add a line break at its end"
                )
            try:
                yield number, line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}, line {number}: byte {error.start + 1} is not UTF-8 ({error.reason}). "
                    "Get the file again"
                ) from error

"""Official releases: from a folder, an archive or an address to the files that a task needs.

source   what params.yaml names: a folder, a .tar, .tar.gz or .zip file, or an http(s) address of
         such a file
root     the folder below which the release lies; its files are found wherever they sit there

An archive is unpacked once, whole or not at all, below data/raw/releases/.
"""

from __future__ import annotations

import filecmp
import hashlib
import itertools
import os
import shutil
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

from filelock import FileLock

from s4bt.files import ROOT, UserError
from s4bt.progress import progress_bar
from s4bt.tasks.archives import ARCHIVES, extract, is_archive
from s4bt.tasks.downloads import download, verify
from s4bt.tasks.options import Official

RAW = ROOT / "data" / "raw"
SHOWN = 12  # files listed in an error message
LEFT_BEHIND = (".DS_Store", "__MACOSX", ".Spotlight-V100", ".Trashes", ".fseventsd", ".directory")
LEFT_BEHIND += ("Thumbs.db", "desktop.ini", "$RECYCLE.BIN", "System Volume Information", "@eaDir")


def unpack(path: Path, sha256: str | None = None, releases: Path = RAW / "releases") -> Path:
    """Unpack an archive into a folder named after its content, once.

    An archive that is alone in it is unpacked, too.
    """
    target = releases / f"{path.name.split('.')[0]}-{verify(path, path.name, sha256)[:16]}"
    if not target.exists():
        extract(path, target)
    files = (p for p in target.rglob("*") if p.is_file())
    whole = (p for p in files if not left_behind(p.relative_to(target)))
    inner = list(itertools.islice(whole, 2))
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


def left_behind(path: PurePath) -> bool:
    """Whether a path is what an operating system or a file manager leaves in folders."""
    return any(part.startswith("._") or part in LEFT_BEHIND for part in path.parts)


@dataclass(frozen=True)
class Found:
    """Paths by their keys, and how many files were skipped that an operating system left there."""

    paths: dict[str, Path]
    skipped: int

    def __getitem__(self, key: str) -> Path:
        return self.paths[key]

    def notes(self) -> list[str]:
        """What a reader of the arrays is told."""
        said = f"{self.skipped} files that an operating system left behind were skipped"
        return [said] * bool(self.skipped)


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Like os.walk, with links followed, every folder once, and no hidden ones or images.

    Folders that an operating system left are named among the files. Images are a million names, and
    none is looked for.
    """
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        place = os.stat(folder)
        if (place.st_dev, place.st_ino) in seen:
            folders[:] = []
            continue
        seen.add((place.st_dev, place.st_ino))
        files += [name for name in folders if left_behind(PurePath(name))]
        hidden = {name for name in folders if name.startswith(".")} | {"imgs", *files}
        folders[:] = sorted(set(folders) - hidden)
        yield Path(folder), folders, sorted(files)


def same(a: Path, b: Path) -> bool:
    """Whether two paths are one place, or files that hold the same bytes."""
    files = a.is_file() and b.is_file()
    return a.samefile(b) or (files and filecmp.cmp(a, b, shallow=False))


def look(root: Path, wanted: dict[str, str]) -> tuple[dict[str, list[Path]], int, list[str]]:
    """Paths that end as wanted, by key; files left behind; the first other files that are there."""
    ends = {key: PurePosixPath(end).parts for key, end in wanted.items()}
    found: dict[str, list[Path]] = {key: [] for key in wanted}
    seen: list[str] = []
    above, skipped = Path(root).resolve().parts, 0
    for folder, folders, files in walk(root):
        here = folder.relative_to(root)
        whole = [name for name in files if not left_behind(here / name)]
        skipped += len(files) - len(whole)
        for name in [*folders, *whole] + [""] * (here == Path()):  # "": the root itself
            path = folder / name
            parts = (*above, *path.relative_to(root).parts)
            for key, end in ends.items():
                fits = name in ("", end[-1]) and parts[-len(end) :] == end
                if fits and path.exists() and not left_behind(path.relative_to(root)):
                    found[key].append(path)
        seen += [str(here / name) for name in whole[: SHOWN - len(seen)]]
    return found, skipped, seen


def find(
    root: Path,
    wanted: dict[str, str],
    release: str,
    prefer: str = "",
    hint: str = "",
    instead: dict[str, str] | None = None,
) -> Found:
    """The files or folders whose paths end as the values of `wanted` say, by its keys.

    Wherever they sit below root, also behind links. Of two, files of the same bytes are one, and a
    path that holds `prefer` comes first. instead: other names, for those that are not there; hint:
    for the message.
    Raises UserError, with what was looked for and what is there, if one is missing, and if there
    are two of one.
    """
    found, skipped, seen = look(root, wanted)
    if instead and not all(found.values()):
        renamed, _, _ = look(root, instead)
        found = {key: paths or renamed[key] for key, paths in found.items()}
    for key, paths in found.items():
        if prefer and any(prefer in path.as_posix() for path in paths):
            paths[:] = [path for path in paths if prefer in path.as_posix()]
        while len(paths) > 1 and same(paths[0], paths[1]):
            del paths[1]
        if len(paths) > 1:
            raise UserError(
                f"{root}: {wanted[key]} is there twice: {paths[0]} and {paths[1]}. Name the folder "
                "of one of them as source"
            )
    if missing := [wanted[key] for key, paths in found.items() if not paths]:
        packed = [name for name in seen if name.endswith(ARCHIVES)]
        remedy = "Name the folder or the archive of the release as source in params.yaml"
        if packed:
            remedy = f"If {packed[0]} holds the release, name that file as source in params.yaml"
        more = ", ..." if len(seen) >= SHOWN else ""
        raise UserError(
            f"{root} does not hold {release}: {', '.join(missing)} not found. It holds "
            f"{', '.join(seen) or 'no file'}{more}. {hint or remedy}"
        )
    return Found({key: paths[0] for key, paths in found.items()}, skipped)


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line without its end) of a UTF-8 text file, ends of line being \\n or \\r\\n only.

    A byte order mark and empty lines are passed over.
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
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}, line {number}: byte {error.start + 1} is not UTF-8 ({error.reason}). "
                    "Get the file again"
                ) from error
            if text.strip():
                yield number, text

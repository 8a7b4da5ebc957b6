"""Official releases: from a folder, an archive or an address to the files that a task needs, and from texts to tokens.

source   what params.yaml names: a folder, a .tar, .tar.gz or .zip file, or an http(s) address of such a file
root     the folder below which the release lies; its files are found wherever they sit there
tokens   bytes: those of the UTF-8 text, 0 for padding and 255, which UTF-8 never uses, for the end;
         characters: 0 padding, 1 any rare one, then those that the training split holds min_count times or more, then the end

Downloads go on where they were broken off, and an archive is unpacked once, whole or not at all, below data/raw/releases/.
"""
from __future__ import annotations

import fcntl
import hashlib
import itertools
import lzma
import os
import shutil
import stat
import tarfile
import urllib.parse
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import requests
import urllib3

from s4bt.config import Official, Tokens
from s4bt.files import RAW, UserError, atomic_path, progress_bar

PUBLISHED = {       # md5 sums that the publishers' pages print
    "aclImdb_v1.tar.gz": "7c2ac02c03563afcf9b574c7e56c153a",
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
}
ARCHIVES = (".tar", ".tgz", ".gz", ".zip")
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError, OSError)
SHOWN = 12          # files listed in an error message
END = 255           # token behind the last byte


def verify(path: Path, name: str, sha256: str | None) -> str:
    """The file's sha256; raises UserError unless it is the one the user gave, and its md5 the one published for its name."""
    sums = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    with open(path, "rb") as file, progress_bar(path.stat().st_size, f"check {name}", unit="B", unit_scale=True) as bar:
        while block := file.read(1 << 20):
            for found in sums.values():
                found.update(block)
            bar.update(len(block))
    for kind, expected in (("sha256", sha256), ("md5", PUBLISHED.get(name))):
        if expected and (found := sums[kind].hexdigest()) != expected.lower():
            raise UserError(f"{path}: its {kind} is {found}, expected {expected}. The file is damaged or another one: delete it and get "
                            "it again")
    return sums["sha256"].hexdigest()


def download(url: str, target: Path, sha256: str | None = None) -> Path:
    """Fetch the archive at `url` into `target`, with a bar; what a broken transfer left in <target>.part is gone on from.

    The file gets its name only when it has the announced length, is an archive, and has the checksum.  Raises UserError.
    """
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part, version = target.with_name(target.name + ".part"), target.with_name(target.name + ".etag")
    have = part.stat().st_size if part.exists() and version.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-", "If-Range": version.read_text()} if have else {})
    remedy = "Start again to go on from there, or download the file by other means and name its path as source in params.yaml"
    try:
        with requests.get(url, headers=headers, stream=True, timeout=60) as answer:
            if answer.status_code == 416 and answer.headers.get("Content-Range") == f"bytes */{have}":
                announced = have                                     # all of it was there, but not checked yet
            elif answer.status_code in (200, 206):
                announced = _receive(answer, part, version, have if answer.status_code == 206 else 0)
            else:
                for path in (part, version) if answer.status_code == 416 else ():
                    path.unlink()                                    # the file there is another one now
                raise UserError(f"{url} answers {answer.status_code} {answer.reason}. Start again; if it stays so, open the address in a "
                                "browser, and name the new address, or the path of a copy, as source in params.yaml")
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise UserError(f"{url}: the transfer broke off ({error}). {remedy}") from error
    except OSError as error:
        raise UserError(f"{part} could not be written ({error}). Free some space or make the folder writable. {remedy}") from error
    if announced is not None and (size := part.stat().st_size) != announced:
        if size > announced:
            part.unlink()
        raise UserError(f"{url}: the transfer ended after {size:,} of {announced:,} bytes. {remedy}")
    try:
        if not is_archive(part):
            raise UserError(f"{url} answers with something that is neither a tar nor a zip archive: "
                            f"{part.read_bytes()[:60]!r}. Open the address in a browser, and name the right one as source in params.yaml")
        verify(part, target.name, sha256)
    except UserError:
        part.unlink()
        version.unlink(missing_ok=True)
        raise
    os.replace(part, target)
    version.unlink(missing_ok=True)
    return target


def _receive(answer: requests.Response, part: Path, version: Path, have: int) -> int | None:
    """Write what comes, as it comes, behind the `have` bytes that are there; the announced size of the whole, if any."""
    tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
    version.write_text(tag) if tag else version.unlink(missing_ok=True)
    announced = int(answer.headers["Content-Length"]) + have if "Content-Length" in answer.headers else None
    with open(part, "ab" if have else "wb") as file, \
            progress_bar(announced, f"download {part.stem}", initial=have, unit="B", unit_scale=True) as bar:
        for block in answer.raw.stream(1 << 18, decode_content=False):
            file.write(block)
            bar.update(len(block))
    return announced


def _inside(name: str, archive: Path) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{archive}: its entry {name!r} would be written outside of the folder it is unpacked into. Nothing was "
                        "unpacked; get the archive from its publisher")
    return path


def _members(path: Path) -> Iterator[tuple[PurePosixPath, object]]:
    """(name, open file) of every regular file of a tar or zip archive, read to its very end, where its checksum is.

    Raises UserError at a link or a name that leads outside, EOFError if the end is missing.
    """
    link = "{}: its entry {!r} is a link or a device, which may lead anywhere. Nothing was unpacked"
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            for entry in archive:
                archive.members = []                                 # else a million entries are kept
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


def _extract(path: Path, target: Path) -> None:
    try:
        with atomic_path(target) as temporary, progress_bar(None, f"unpack {path.name}", unit=" files") as bar:
            temporary.mkdir()
            for name, file in _members(path):
                goal = temporary / name
                goal.parent.mkdir(parents=True, exist_ok=True)
                with open(goal, "wb") as out:
                    shutil.copyfileobj(file, out, 1 << 20)
                bar.update()
    except DAMAGED as error:
        raise UserError(f"{path}: the archive is damaged, was cut, or cannot be unpacked ({type(error).__name__}: {error}). Delete it "
                        "and get it again") from error


def is_archive(path: Path) -> bool:
    """Whether a file is a tar (compressed or not, whatever its name) or zip archive."""
    return path.is_file() and (tarfile.is_tarfile(path) or zipfile.is_zipfile(path))


def unpack(path: Path, sha256: str | None = None, releases: Path = RAW / "releases") -> Path:
    """Unpack an archive into a folder named after its content, once; an archive that is alone in it is unpacked, too."""
    target = releases / f"{path.name.split('.')[0]}-{verify(path, path.name, sha256)[:16]}"
    if not target.exists():
        _extract(path, target)
    inner = list(itertools.islice((p for p in target.rglob("*") if p.is_file()), 2))
    if len(inner) == 1 and is_archive(inner[0]):
        return unpack(inner[0], releases=releases)
    return target


def open_release(data: Official, raw: Path = RAW) -> Path:
    """The folder below which the release named by data.source lies, downloaded and unpacked if need be, by one process at a time.

    Raises UserError.
    """
    source, releases = str(data.source), Path(raw) / "releases"
    path, remote = Path(source).expanduser(), urllib.parse.urlsplit(source).scheme in ("http", "https")
    if path.is_dir() and not remote:
        if data.sha256:
            raise UserError(f"{path} is a folder, and sha256 in params.yaml is that of an archive: delete sha256, or name the archive")
        return path
    if not remote and not path.exists():
        raise UserError(f"{path}: there is no such folder or file. Name the release's folder, its archive or an http(s) address as source "
                        "in params.yaml")
    if not remote and not is_archive(path):
        raise UserError(f"{path} is neither a folder nor a tar or zip archive ({path.stat().st_size:,} bytes). If it was cut, get it again")
    releases.mkdir(parents=True, exist_ok=True)
    with open(releases / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in releases.glob(".*.part"):                    # of a killed process
            shutil.rmtree(leftover)
        if remote:
            name = PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(source).path)).name or "download"
            path = download(source, releases / hashlib.sha256(source.encode()).hexdigest()[:8] / name, data.sha256)
        return unpack(path, data.sha256, releases)


def find(root: Path, wanted: dict[str, str], release: str) -> dict[str, Path]:
    """The files or folders whose paths end as the values of `wanted` say, wherever they sit below root, by the keys of `wanted`.

    Raises UserError, with what was looked for and what is there, if one is missing, and if there are two of one.
    """
    ends = {key: PurePosixPath(end).parts for key, end in wanted.items()}
    found: dict[str, list[Path]] = {key: [] for key in wanted}
    seen: list[str] = []
    above = Path(root).resolve().parts
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "imgs")   # a million names, none looked for
        here = Path(folder).relative_to(root)
        for name in [*folders, *sorted(files)] + [""] * (here == Path()):                  # "": the root itself
            path = Path(folder, name)
            for key, end in ends.items():
                if name in ("", end[-1]) and (*above, *path.relative_to(root).parts)[-len(end):] == end:
                    found[key].append(path)
        seen += [str(here / name) for name in sorted(files)[:SHOWN]] if len(seen) < SHOWN else []
    for key, paths in found.items():
        if len(paths) > 1:
            raise UserError(f"{root}: {wanted[key]} is there twice: {paths[0]} and {paths[1]}. Name the folder of one of them as source")
    if missing := [wanted[key] for key, paths in found.items() if not paths]:
        packed = [name for name in seen if name.endswith(ARCHIVES)]
        raise UserError(f"{root} does not hold {release}: {', '.join(missing)} not found. It holds "
                        f"{', '.join(seen[:SHOWN]) or 'no file'}{', ...' if len(seen) > SHOWN else ''}. "
                        + (f"If {packed[0]} holds the release, name that file as source in params.yaml" if packed else
                           "Name the folder or the archive of the release as source in params.yaml"))
    return {key: paths[0] for key, paths in found.items()}


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line without its end) of a UTF-8 text file, ends of line being \\n or \\r\\n only.  Raises UserError at other bytes."""
    with open(path, "rb") as file, progress_bar(path.stat().st_size, path.name, unit="B", unit_scale=True) as bar:
        for number, line in enumerate(file, 1):
            bar.update(len(line))
            if not line.endswith(b"\n"):
                raise UserError(f"{path}, line {number}: the last line has no end, so the file may have been cut. Get it again; if it is "
                                "whole, add a line break at its end")
            try:
                yield number, line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise UserError(f"{path}, line {number}: byte {error.start + 1} is not UTF-8 ({error.reason}). Get the file again") \
                    from error


def pad(rows: list[np.ndarray], width: int, end: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of codes, cut to `width`, with `end` behind each if that is not 0, then padded with 0: (n, width), lengths (n,)."""
    x, lengths = np.zeros((len(rows), width), rows[0].dtype), np.empty(len(rows), np.int32)
    for i, row in enumerate(rows):
        row = row[:width - bool(end)]
        x[i, :len(row)] = row
        x[i, len(row):len(row) + bool(end)] = end
        lengths[i] = len(row) + bool(end)
    return x, lengths


class Coder:
    """Texts to token numbers, as `data` says; `texts` are those whose characters are counted."""

    def __init__(self, data: Tokens, texts: Iterable[str]):
        self.data, self.width = data, data.length
        self.code, self.symbols, self.vocabulary, self.end, self.dtype = {}, "", 256, END * data.end_token, np.uint8
        if data.tokens == "characters":
            counts = Counter()
            for text in texts:
                counts.update(self.cut(text))
            frequent = sorted(c for c, n in counts.items() if n >= data.min_count)
            self.code = {c: i for i, c in enumerate(frequent, 2)}
            self.symbols = "".join(["\0\N{WHITE SQUARE}", *frequent, "\N{END OF PROOF}" * data.end_token])
            self.vocabulary = 2 + len(frequent) + data.end_token
            self.end = (self.vocabulary - 1) * data.end_token
            self.dtype = np.uint8 if self.vocabulary <= 256 else np.uint16

    def cut(self, text: str):
        """The part of a text that is kept, as characters or bytes."""
        units, most = (text if self.data.tokens == "characters" else text.encode()), self.width - self.data.end_token
        return units[:most] if self.data.keep == "first" else units[-most:]

    def __call__(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Padded codes (n, length) and the lengths (n,)."""
        rows = [np.frombuffer(part, np.uint8) if isinstance(part, bytes) else np.array([self.code.get(c, 1) for c in part], self.dtype)
                for part in map(self.cut, texts)]
        return pad(rows, self.width, self.end)

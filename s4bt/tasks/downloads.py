"""Downloads that go on where they were broken off, and checksums."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import requests
import urllib3

from s4bt.files import UserError
from s4bt.progress import progress_bar
from s4bt.tasks.archives import is_archive

# md5 sums that the publishers' pages print
PUBLISHED = {
    "aclImdb_v1.tar.gz": "7c2ac02c03563afcf9b574c7e56c153a",
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
}


def verify(path: Path, name: str, sha256: str | None) -> str:
    """The file's sha256.

    Raises UserError unless it is the one the user gave, and its md5 the one published for its name.
    """
    sums = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    with (
        open(path, "rb") as file,
        progress_bar(path.stat().st_size, f"check {name}", unit="B", unit_scale=True) as bar,
    ):
        while block := file.read(1 << 20):
            for found in sums.values():
                found.update(block)
            bar.update(len(block))
    for kind, expected in (("sha256", sha256), ("md5", PUBLISHED.get(name))):
        if expected and (found := sums[kind].hexdigest()) != expected.lower():
            raise UserError(
                f"{path}: its {kind} is {found}, expected {expected}. The file is damaged or "
                "another one: delete it and get it again"
            )
    return sums["sha256"].hexdigest()


def download(url: str, target: Path, sha256: str | None = None) -> Path:
    """Fetch the archive at `url` into `target`, with a bar.

    What a broken transfer left in <target>.part is gone on from.

    The file gets its name only when it has the announced length, is an archive, and has the
    checksum.  Raises UserError.
    """
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part, version = target.with_name(target.name + ".part"), target.with_name(target.name + ".etag")
    have = part.stat().st_size if part.exists() and version.exists() else 0
    headers = {"Accept-Encoding": "identity"} | (
        {"Range": f"bytes={have}-", "If-Range": version.read_text()} if have else {}
    )
    remedy = (
        "Start again to go on from there, or download the file by other means and name its path as "
        "source in params.yaml"
    )
    try:
        with requests.get(url, headers=headers, stream=True, timeout=60) as answer:
            if (
                answer.status_code == 416
                and answer.headers.get("Content-Range") == f"bytes */{have}"
            ):
                announced = have  # all of it was there, but not checked yet
            elif answer.status_code in (200, 206):
                announced = _receive(
                    answer, part, version, have if answer.status_code == 206 else 0
                )
            else:
                for path in (part, version) if answer.status_code == 416 else ():
                    path.unlink()  # the file there is another one now
                raise UserError(
                    f"{url} answers {answer.status_code} {answer.reason}. Start again; if it stays "
                    "so, open the address in a browser, and name the new address, or the path of a "
                    "copy, as source in params.yaml"
                )
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise UserError(f"{url}: the transfer broke off ({error}). {remedy}") from error
    except OSError as error:
        raise UserError(
            f"{part} could not be written ({error}). Free some space or make the folder writable. "
            f"{remedy}"
        ) from error
    if announced is not None and (size := part.stat().st_size) != announced:
        if size > announced:
            part.unlink()
        raise UserError(
            f"{url}: the transfer ended after {size:,} of {announced:,} bytes. {remedy}"
        )
    try:
        if not is_archive(part):
            raise UserError(
                f"{url} answers with something that is neither a tar nor a zip archive: "
                f"{part.read_bytes()[:60]!r}. Open the address in a browser, and name the right "
                "one as source in params.yaml"
            )
        verify(part, target.name, sha256)
    except UserError:
        part.unlink()
        version.unlink(missing_ok=True)
        raise
    os.replace(part, target)
    version.unlink(missing_ok=True)
    return target


def _receive(answer: requests.Response, part: Path, version: Path, have: int) -> int | None:
    """Write what comes, as it comes, behind the `have` bytes that are there.

    The announced size of the whole, if any.
    """
    tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
    version.write_text(tag) if tag else version.unlink(missing_ok=True)
    announced = (
        int(answer.headers["Content-Length"]) + have if "Content-Length" in answer.headers else None
    )
    with (
        open(part, "ab" if have else "wb") as file,
        progress_bar(
            announced, f"download {part.stem}", initial=have, unit="B", unit_scale=True
        ) as bar,
    ):
        for block in answer.raw.stream(1 << 18, decode_content=False):
            file.write(block)
            bar.update(len(block))
    return announced

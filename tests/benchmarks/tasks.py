"""How fast data are made, read and delivered, and with how much memory: `make bench` writes
results/bench/tasks.csv.

Each row is measured in a process of its own; memory is the peak of its and its workers' resident
pages, those of mapped files, which the kernel takes back at will, not counted.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import psutil
import torch

from s4bt.files import ROOT
from s4bt.nn.s4 import S4Model
from s4bt.study.batches import batch, deliver, shuffled
from s4bt.study.config import load_task
from s4bt.study.devices import seed_everything
from s4bt.study.train import optimizer
from s4bt.tasks import TASKS, Dataset, Info, Split, text
from s4bt.tasks import listops as listops_task
from s4bt.tasks import pathfinder as pathfinder_task
from s4bt.tasks.options import ListOpsData, TextData
from s4bt.tasks.prepare import prepare
from s4bt.tasks.releases import RAW
from tests.benchmarks.common import OUT, finish  # first, because it sets the number of threads

MEMORY = 2000  # MB


def generate(task: str, data) -> int:
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        return sum(len(s) for s in prepare(task, data, Path(folder) / "arrays").splits.values())


def listops() -> int:
    return generate(
        "listops", ListOpsData(train=96000, val=2000, test=2000, min_length=500, max_length=2000)
    )


def paths(task: str, count: int) -> int:
    data = load_task("paper", task)[0].data
    return generate(task, data.model_copy(update={"train": count - 200, "val": 100, "test": 100}))


def reviews(folder: Path) -> int:
    """50,000 files in the layout of aclImdb, made of the packaged reviews."""
    data = TextData(
        train=22500,
        val=2400,
        test=25000,
        length=4096,
        tokens="characters",
        end_token=True,
        source=str(folder),
    )
    return generate("text", data)


def write_reviews(folder: Path) -> None:
    for split in ("train", "test"):
        for number, (review, label) in enumerate(text.packaged(RAW).items()):
            path = (
                folder / "aclImdb" / split / ("neg", "pos")[label] / f"{number}_{9 * label + 1}.txt"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{split}: {review}")
        for extra in range(25_000 - number - 1):
            (path.parent / f"{number + 1 + extra}_9.txt").write_text(f"{split} {extra}: {review}")


def train_from_disk(steps: int = 60) -> int:
    """Steps of a small model on 200,000 rows of 16,384 bytes, batches of 16 from a random order."""
    seed_everything(0)
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        x = np.lib.format.open_memmap(Path(folder) / "x.npy", "w+", np.uint8, (200_000, 16_384))
        block = np.random.default_rng(0).integers(0, 256, (1000, 16_384), np.uint8)
        for start in range(0, len(x), 1000):
            x[start : start + 1000] = block
        x.flush()
        del x
        x = np.load(Path(folder) / "x.npy", mmap_mode="r")
        split = Split(x, np.full(len(x), 16_384, np.int32), np.arange(len(x)) % 2)
        model = S4Model(0, 2, layers=1, width=4, state=4)
        opt = torch.optim.SGD(model.parameters(), 0.1)
        info = Info(0, 2, mean=127.5, std=127.5)
        numbers = shuffled(np.random.default_rng(0), split.lengths, 16, 1)
        for _, (rows, lengths, y) in zip(
            range(steps), deliver(info, split, numbers, torch.device("cpu"))
        ):
            opt.zero_grad()
            torch.nn.functional.cross_entropy(model(rows, lengths), y).backward()
            opt.step()
    return steps


def delivery(task: str) -> dict[str, float]:
    """Share of a training step that making its batch takes, scale laptop, one thread,
    median of 40.
    """
    seed_everything(0)
    config, _ = load_task("laptop", task)
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        data: Dataset = prepare(task, config.data, Path(folder) / "arrays")
        info, train = data.info, data["train"]
        model = S4Model(info.vocabulary, info.classes, info.documents, **config.model.model_dump())
        opt = optimizer(model, config.pretrain, 0.01)
        numbers = shuffled(
            np.random.default_rng(0),
            np.array(train.lengths).reshape(len(train), -1).max(1),
            config.pretrain.batch,
            config.pretrain.bucket,
        )
        took = []
        for _, index in zip(range(50), numbers):
            start = time.perf_counter()
            x, lengths, y = batch(info, train, index, torch.device("cpu"))
            middle = time.perf_counter()
            opt.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(model(x, lengths), y).backward()
            opt.step()
            took.append((middle - start, time.perf_counter() - start))
    return {"share": float(np.median([a / b for a, b in took[10:]]))}


def bucketing(steps: int = 200) -> dict[str, float]:
    """Seconds of a training step of listops, scale laptop, with buckets of 8, over those without;
    alternately, one thread.
    """
    seed_everything(0)
    config, _ = load_task("laptop", "listops")
    took = {1: 0.0, 8: 0.0}
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        data = prepare("listops", config.data, Path(folder) / "arrays")
        model = S4Model(data.info.vocabulary, data.info.classes, **config.model.model_dump())
        opt = optimizer(model, config.pretrain, 0.01)
        numbers = {
            b: shuffled(
                np.random.default_rng(0), np.array(data["train"].lengths), config.pretrain.batch, b
            )
            for b in took
        }
        for step in range(2 * steps):
            b = (1, 8)[step % 2]
            start = time.perf_counter()
            x, lengths, y = batch(data.info, data["train"], next(numbers[b]), torch.device("cpu"))
            opt.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(model(x, lengths), y).backward()
            opt.step()
            took[b] += time.perf_counter() - start
    return {"share": took[8] / took[1]}


def draw_generators(path: Path) -> None:
    """Lengths and labels of ListOps and samples of both Pathfinders, at Long Range Arena size."""
    drawn = [
        listops_task.trees(ListOpsData(train=1, val=1, test=1, min_length=500, max_length=2000), c)
        for c in range(16)
    ]
    lengths, labels = np.concatenate([d[1] for d in drawn]), np.concatenate([d[2] for d in drawn])
    share = len(lengths) / (16 * listops_task.TREES)
    print(
        f"ListOps: {share:.1%} of the trees whose root is an operator are kept; mean length "
        f"{lengths.mean():.0f}; labels "
        + " ".join(f"{n / len(labels):.1%}" for n in np.bincount(labels))
    )
    figure = plt.figure(figsize=(9, 5.4), layout="constrained")
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=[1.5, 1, 1])
    a, b = top.subplots(1, 2)
    a.hist(lengths, 40)
    a.set(xlabel="length, tokens", ylabel="expressions", title="ListOps")
    b.bar(range(10), 100 * np.bincount(labels) / len(labels))
    b.set(xlabel="label", ylabel="percent", xticks=range(10))
    for part, task in ((middle, "pathfinder"), (bottom, "pathx")):
        data = load_task("paper", task)[0].data
        s = pathfinder_task.scenes(data, 0)
        few = pathfinder_task.Scenes([c[:9] for c in s.contours], s.discs[:9], s.labels[:9])
        for ax, image, label in zip(
            part.subplots(1, 9), pathfinder_task.draw(few, data), few.labels
        ):
            ax.imshow(image, cmap="gray", vmin=0, vmax=255)
            ax.set_title(f"label {label}", size=8)
            ax.axis("off")
    figure.savefig(path, dpi=100)


def measured(expression: str) -> tuple[float, float, float]:
    """(value, seconds, peak MB) of an expression over this file's names,
    in a process of its own.
    """
    code = (
        f"import json, sys, time; from pathlib import Path; sys.path[:0] = [{str(ROOT)!r}, "
        f"{str(Path(__file__).parent)!r}]; import tasks\nif __name__ == '__main__':\n    start = "
        f"time.perf_counter(); value = tasks.{expression}\n    print(json.dumps([value, "
        "time.perf_counter() - start]))"
    )
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(code)
        script.flush()
        process, peak = (
            subprocess.Popen([sys.executable, script.name], stdout=subprocess.PIPE, text=True),
            [0.0],
        )

        def watch() -> None:
            while process.poll() is None:
                total = 0
                for p in [
                    psutil.Process(process.pid),
                    *psutil.Process(process.pid).children(recursive=True),
                ]:
                    try:
                        memory = p.memory_info()
                        total += memory.rss - memory.shared
                    except psutil.Error:
                        continue
                peak[0] = max(peak[0], total / 1e6)
                time.sleep(0.1)

        watcher = threading.Thread(target=watch)
        watcher.start()
        text_, _ = process.communicate()
        watcher.join()
    if process.returncode:
        raise SystemExit(f"{expression} failed")
    value, seconds = json.loads(text_.splitlines()[-1])
    return value, seconds, peak[0]


def main() -> None:
    rows: list[dict] = []

    def row(what: str, expression: str, limit: float, unit: str, score) -> None:
        value, seconds, peak = measured(expression)
        reached = score(value, seconds)
        met = (reached >= limit if unit.endswith("/s") else reached <= limit) and peak < MEMORY
        rows.append(
            {
                "what": what,
                "value": f"{reached:.3g}",
                "unit": unit,
                "limit": limit,
                "memory_MB": round(peak),
                "met": met,
            }
        )
        print(rows[-1], flush=True)

    row("ListOps, 100,000 expressions of 500 to 2000 tokens", "listops()", 180, "s", lambda _, s: s)
    row(
        "Pathfinder 32 x 32, 200,000 images",
        "paths('pathfinder', 200_000)",
        600,
        "s",
        lambda _, s: s,
    )
    row(
        "Path-X 128 x 128, 10,000 images",
        "paths('pathx', 10_000)",
        100,
        "images/s",
        lambda n, s: n / s,
    )
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        write_reviews(Path(folder))
        row("aclImdb, 50,000 files", f"reviews(Path({folder!r}))", 60, "s", lambda _, s: s)
    row(
        "Path-X 200,000 x 16,384 trained from disk, 60 steps",
        "train_from_disk()",
        600,
        "s",
        lambda _, s: s,
    )
    for task in TASKS:
        row(
            f"batch of {task}, share of a training step",
            f"delivery({task!r})",
            0.05,
            "share",
            lambda v, _: v["share"],
        )
    row(
        "ListOps, step with buckets of 8 over one without",
        "bucketing()",
        1.0,
        "ratio",
        lambda v, _: v["share"],
    )
    draw_generators(OUT / "generators.png")
    finish("tasks", rows)


if __name__ == "__main__":
    main()

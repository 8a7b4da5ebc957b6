"""Growth of one DSS layer's time and memory, forward and backward, with L, N, H and B: `make bench`
writes results/bench/scaling.csv and scaling.png. One thread; memory is what the peak of the process
rises above its start.

The layer with 64 modes convolves by FFT up to L = 8192, all others in chunks; the published
formula, (H, N, L) exponentials, stops where it needs a gigabyte.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch

from s4bt.files import ROOT
from s4bt.study.styles import save, use_style
from tests.benchmarks.common import (
    OUT,
    exponent,
    finish,
    row,
    seconds,
)  # first, because it sets the number of threads
from tests.benchmarks.layer import Layers

CASES = {
    "L": ([2**k for k in range(10, 21)], lambda v, N: (1, v, 8, N)),
    "N": ([16, 32, 64, 128, 256, 512], lambda v, N: (4, 1024, 16, v)),
    "H": ([16, 32, 64, 128, 256, 512], lambda v, N: (4, 1024, v, N)),
    "B": ([1, 2, 4, 8, 16, 32, 64], lambda v, N: (v, 1024, 16, N)),
}
LIMITS = {
    "L": 1.25,
    "N": 1.1,
    "B": 1.15,
}  # powers; an FFT's logarithm adds to that of L, and mixing the channels takes H^2


def shapes():
    """(letter, name, size, (B, L, H, N)) of everything that is measured;
    the formula stops where its array needs a gigabyte.
    """
    for letter, (sizes, shape) in CASES.items():
        for what, N in (("s4bt, N = 64", 64), ("s4bt, N = 8", 8), ("formula, N = 64", 64)):
            for size in sizes if letter != "N" or N == 64 else ():
                B, L, H, modes = shape(size, N)
                if what.startswith("s4bt") or 8 * H * modes * L <= 2**27:
                    yield (
                        letter,
                        what.split(", ")[0] if letter == "N" else what,
                        size,
                        (B, L, H, modes),
                    )
    for N in (64, 256, 512):
        yield "input", f"s4bt, N = {N}", N, (1, 2**16, 4, N)


def runner(name: str, shape: tuple):
    layers = Layers(*shape, torch.device("cpu"))
    return layers.formula if name.startswith("formula") else layers.s4bt


def megabytes(function) -> float:
    """Rise of this process's peak of resident memory while the function runs (Linux)."""

    def resident(name):
        return int(Path("/proc/self/status").read_text().split(name)[1].split()[0]) / 1024

    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before = resident("VmRSS:")
    function()
    return max(resident("VmHWM:") - before, 0.01)


def memory() -> list[float]:
    """Megabytes of all shapes; in a process of its own, whose allocator gives memory back at once,
    or the peak would miss what it kept.
    """
    found = []
    for _, name, _, shape in shapes():
        run = runner(name, shape)
        run()
        found.append(megabytes(run))
    return found


def measured() -> dict[tuple[str, str], dict]:
    """Curves of results/bench/scaling.csv: by (letter, name) sizes, ms, MB and both exponents."""
    curves: dict[tuple[str, str], dict] = {}
    kinds = {"": "ms", ", memory": "MB"}
    for what, value in pd.read_csv(OUT / "scaling.csv")[["what", "value"]].itertuples(index=False):
        if found := re.fullmatch(r"against (\w), (.+): \1 = (\d+)(, memory)?", what):
            letter, name, size, memory = found.groups()
            curve = curves.setdefault((letter, name), {"ms": {}, "MB": {}})
            curve[kinds[memory or ""]][int(size)] = value
        elif found := re.fullmatch(r"against (\w), (.+): exponent of (time|memory)", what):
            letter, name, kind = found.groups()
            curves[letter, name][kind] = value
    return curves


def draw() -> None:
    """results/bench/scaling.png from the table; legends above the curves."""
    use_style()
    curves = measured()
    figure, axes = plt.subplots(2, len(CASES), figsize=(13, 6.5), squeeze=False)
    for column, letter in enumerate(CASES):
        for (_, name), marker in zip([k for k in curves if k[0] == letter], "os^vD", strict=False):
            curve = curves[letter, name]
            for ax, kind, power in zip(axes[:, column], ("ms", "MB"), ("time", "memory")):
                label = f"{name}: power {curve[power]:.2f}"
                ax.loglog(*zip(*curve[kind].items()), marker=marker, ms=3, label=label)
        axes[1, column].set_xlabel(letter)
        for ax in axes[:, column]:
            ax.legend(fontsize=7, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
            ax.minorticks_off()
            if letter != "L":
                ax.set_xticks(CASES[letter][0], CASES[letter][0])
    axes[0, 0].set_ylabel("ms, forward and backward")
    axes[1, 0].set_ylabel("memory, MB")
    save(figure, OUT / "scaling.png")


def main() -> None:
    torch.set_num_threads(1)
    rows, curves = [], {}
    code = (
        "import json, torch; torch.set_num_threads(1); from tests.benchmarks import scaling; "
        "print(json.dumps(scaling.memory()))"
    )
    exact = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    output = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=exact,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for (letter, name, size, shape), rise in zip(shapes(), json.loads(output), strict=True):
        if letter == "input":
            limit = (
                60.0 if size == 512 else None
            )  # the formula's array alone would be 4,096 times the input
            rows.append(
                row(
                    f"(B, L, H, N) = {shape}: memory over that of the input",
                    rise / (4 * shape[0] * shape[1] * shape[2] / 2**20),
                    "ratio",
                    limit,
                )
            )
            continue
        took = seconds(runner(name, shape), 2 if shape[1] > 10**5 else 4)
        curves.setdefault((letter, name), []).append((size, took, rise))
        rows += [
            row(f"against {letter}, {name}: {letter} = {size}", 1000 * took, "ms"),
            row(f"against {letter}, {name}: {letter} = {size}, memory", rise, "MB"),
        ]
    for (letter, name), points in curves.items():
        sizes, took, rise = zip(*points)
        powers = exponent(sizes, took), exponent(sizes, rise)
        limit = LIMITS.get(letter) if name.startswith("s4bt") else None
        rows += [
            row(f"against {letter}, {name}: exponent of {what}", power, "power", limit)
            for what, power in zip(("time", "memory"), powers)
        ]
    finish("scaling", rows)
    draw()


if __name__ == "__main__":
    main()

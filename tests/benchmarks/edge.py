"""What a step of a stream costs against the modes kept: results/bench/edge.csv and its figure.

One thread; PyTorch as it is called (eager), onnxruntime, the C program; the layer by itself, and
the whole model (vocabulary 256, two layers, width 32, as at scale laptop). *Floor* is the time in
which memory delivers the parameters that a step reads. Microcontrollers: a Cortex-M4F computes 42
to 52 million operations a second (S-Edge), and a sample at 16 kHz leaves 62 microseconds.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import onnxruntime
import torch

from s4bt.deploy.bits import bytes_of
from s4bt.deploy.c_source import bytes_of_state, c_source
from s4bt.deploy.cell import Cell, multiply_adds
from s4bt.deploy.header import Header
from s4bt.deploy.onnx_files import save_onnx
from s4bt.nn.s4 import S4Model
from s4bt.study.styles import save, use_style
from tests.benchmarks.common import OUT, finish, row, seconds

RANKS = (64, 32, 16, 8, 4, 2, 1)
STEPS, SOME = 20_000, 2_000  # timed steps of C, and of what Python calls
M4F, SAMPLE = 47e6, 62e-6  # operations a second, seconds
TWICE, SMALL = 2.0, 8  # times the floor, up to so many modes

DRIVER = """\
#define _POSIX_C_SOURCE 199309L
#define S4_NO_MAIN
#include "model.c"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
int main(int argc, char **argv) {
  static s4_stream stream;
  float u[WIDTH] = {0}, sum = 0;
  const int steps = atoi(argv[1]), alone = argc > 2;
  int i;
  s4_init(&stream);
  for (i = 0; i < steps; i++) {
    const double start = now();
    if (alone) {
      u[i % WIDTH] = (float)(i % 7) - 3;
      layer_step(&layers[0], u, stream.state);
    } else {
      s4_step(&stream, 1 + (i * 31) % 200);
    }
    printf("%.9f\\n", now() - start);
    sum += stream.state[i % STATE];
  }
  fprintf(stderr, "%f\\n", (double)sum);
  return 0;
}
"""


def bandwidth() -> float:
    """Bytes that memory delivers to one thread in a second."""
    x = torch.ones(2**26)
    return x.numel() * 4 / seconds(lambda: x.sum(), 5)


def microseconds(times) -> tuple[float, float]:
    """Median and 99th percentile, without the first tenth."""
    times = np.asarray(times[len(times) // 10 :]) * 1e6
    return float(np.median(times)), float(np.quantile(times, 0.99))


def called(function, steps: int = SOME) -> tuple[float, float]:
    import time

    times = []
    for _ in range(steps):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return microseconds(times)


def of_c(cell: Cell, alone: bool) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.c").write_text(c_source(cell, Header(vocabulary=256)))
        (Path(folder) / "driver.c").write_text(DRIVER)
        command = ["gcc", "-std=c99", "-O3", "driver.c", "-lm", "-o", "driver"]
        subprocess.run(command, cwd=folder, check=True)
        program = [str(Path(folder) / "driver"), str(STEPS), *(["alone"] if alone else [])]
        out = subprocess.run(program, check=True, capture_output=True, text=True).stdout
    return microseconds([float(line) for line in out.split()])


@torch.no_grad()
def of_torch(cell: Cell, alone: bool) -> tuple[float, float]:
    if alone:
        layer, u = cell.layers[0], torch.randn(1, cell.width)
        state = torch.zeros(1, layer.numbers)
        return called(lambda: layer(u, state))
    x, state = torch.tensor([5]), cell.start()
    return called(lambda: cell(x, *state))


def of_onnx(cell: Cell) -> tuple[float, float]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "step.onnx"
        save_onnx(cell, Header(vocabulary=256), path)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = dict(zip(("state", "pooled", "count"), (s.numpy() for s in cell.start()), strict=True))
    given["x"] = np.array([5])
    return called(lambda: session.run(None, given))


def read_in_a_step(cell: Cell, alone: bool) -> int:
    """Bytes of parameters: of a layer, or of all of them, with one row of the table."""
    layers = cell.layers[:1] if alone else cell.layers
    count = sum(
        4 * layer.w_re.numel() + layer.mix.numel() + 4 * layer.D.numel() for layer in layers
    )
    return 4 * (count + (0 if alone else 3 * cell.width))


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows, times, speed = [], {}, bandwidth()
    rows.append(row("memory delivers to one thread", speed / 1e9, "GB/s"))
    for rank in RANKS:
        model = S4Model(vocabulary=256, classes=2, layers=2, width=32, state=rank, norm="batch")
        cell = Cell(model.eval())
        for what, alone in (("layer", True), ("model", False)):
            floor = 1e6 * read_in_a_step(cell, alone) / speed
            rows.append(row(f"{what}, r = {rank}: floor", floor, "us"))
            times[what, rank, "floor"] = floor
            tools = {"eager PyTorch": lambda c=cell, a=alone: of_torch(c, a)}
            if not alone:
                tools["onnxruntime"] = lambda c=cell: of_onnx(c)
            if shutil.which("gcc"):
                tools["C"] = lambda c=cell, a=alone: of_c(c, a)
            for name, tool in tools.items():
                median, late = tool()
                times[what, rank, name] = median
                rows.append(row(f"{what}, r = {rank}: {name}", median, "us"))
                rows.append(row(f"{what}, r = {rank}: {name}, 99th percentile", late, "us"))
            if "C" in tools:
                limit = TWICE if rank <= SMALL and not alone else None
                over = times[what, rank, "C"] / floor
                rows.append(row(f"{what}, r = {rank}: C over the floor", over, "ratio", limit))
        work = multiply_adds(cell)
        rows.append(row(f"model, r = {rank}: multiply-adds a step", work, "count"))
        rows.append(row(f"model, r = {rank}: weights", bytes_of(cell), "bytes"))
        rows.append(row(f"model, r = {rank}: weights in 8 bits", bytes_of(cell, 8), "bytes"))
        rows.append(row(f"model, r = {rank}: state", bytes_of_state(cell), "bytes"))
        share = 2 * work / M4F / SAMPLE
        rows.append(
            row(f"model, r = {rank}: of a sample at 16 kHz on a Cortex-M4F", share, "ratio")
        )
    draw(times)
    finish("edge", rows)


def draw(times: dict) -> None:
    use_style()
    figure, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True)
    lines = {"eager PyTorch": ":", "onnxruntime": "--", "C": "-", "floor": "-."}
    for ax, what in zip(axes, ("layer", "model"), strict=True):
        for name, line in lines.items():
            known = [(r, times[what, r, name]) for r in RANKS if (what, r, name) in times]
            if known:
                ax.plot(*zip(*known), "k", ls=line, marker=".", label=name)
        ax.set(xscale="log", yscale="log", xlabel="modes r", title=f"a step of the {what}")
        ax.set_xticks(RANKS, RANKS)
        ax.minorticks_off()
    axes[0].set_ylabel("microseconds, median")
    axes[1].legend(fontsize=7)
    save(figure, OUT / "edge.png")


if __name__ == "__main__":
    main()

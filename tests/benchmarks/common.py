"""What the benchmarks share: rows with limits, timing, exponents, and files that are whole."""

import csv
import os
import sys
import time

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
if "numpy" in sys.modules and any(os.environ.get(name) != "1" for name in ONE_THREAD):
    raise SystemExit(
        "NumPy was loaded before its threads were set: start benchmarks by `make bench`, or with "
        + " ".join(f"{name}=1" for name in ONE_THREAD)
    )
for threads in ONE_THREAD:  # torch sets its own
    os.environ[threads] = "1"

import numpy as np
import torch

from s4bt.files import ROOT, atomic_path

OUT = ROOT / "results" / "bench"


def synchronise() -> None:
    """Wait for the accelerator, if there is one, so that times are times of work done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(function, repeat: int = 3) -> float:
    """The best of some runs, after one to warm up."""
    return side_by_side({"": function}, repeat)[""]


def side_by_side(functions: dict, repeat: int = 3) -> dict[str, float]:
    """The best of some runs of each function in seconds, taken in turn,
    so that a slow moment of the machine meets all of them.
    """
    best = dict.fromkeys(functions, np.inf)
    for turn in range(repeat + 1):
        for name, function in functions.items():
            synchronise()
            start = time.perf_counter()
            function()
            synchronise()
            if turn:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def exponent(sizes, values) -> float:
    """Power of growth, fitted to the upper half."""
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(values[half:]), 1)[0])


def row(what: str, value: float, unit: str, limit: float | None = None) -> dict:
    """A line of the table; `met` says whether the value is at most the limit."""
    line = {
        "what": what,
        "value": f"{value:.3g}",
        "unit": unit,
        "limit": "" if limit is None else f"{limit:.3g}",
        "met": "" if limit is None else value <= limit,
    }
    print(line, flush=True)
    return line


def write(path, lines: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for line in lines for key in line)))
        writer.writeheader()
        writer.writerows(lines)


def finish(name: str, rows: list[dict]) -> None:
    """Write results/bench/<name>.csv.  Ends the program with a message if a limit was missed."""
    write(OUT / f"{name}.csv", rows)
    if missed := [line["what"] for line in rows if line["met"] is False]:
        raise SystemExit("a limit was missed: " + "; ".join(missed))

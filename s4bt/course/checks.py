"""Checks of exercises, and solutions that begin where their lesson ends."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess

import matplotlib.pyplot as plt
import numpy as np

from s4bt.files import ROOT


def check(exercise: str, yours, right, tolerance: float = 1e-6) -> None:
    """Print what an exercise computed beside what is right, and whether they agree.

    Entry by entry, to a relative `tolerance`.

    yours, right: numbers or arrays of one shape; entries below a thousandth of the largest need
    agree to `tolerance` times that only. For arrays the entry that is furthest off is shown.
    Whatever `yours` is, nothing is raised, so that a notebook with open exercises runs to its end.
    """
    right = np.asarray(right)
    try:
        numbers = np.asarray(yours.detach() if hasattr(yours, "detach") else yours)
        if numbers.dtype.kind not in "biufc":
            raise TypeError
    except Exception:  # anything can stand in an exercise
        print(f"{exercise}: not yet. This is not a number or an array of numbers: {yours!r}")
        return
    yours = numbers.astype(complex if np.iscomplexobj(numbers) else float)
    if yours.shape != right.shape:
        print(f"{exercise}: not yet. Your shape is {yours.shape}, the right one {right.shape}")
        return
    with np.errstate(invalid="ignore"):
        off = np.abs(yours - right) / np.maximum(
            np.abs(right), 1e-3 * np.abs(right).max()
        )  # the imaginary part counts, too
    worst = np.unravel_index(np.argmax(np.where(np.isnan(off), np.inf, off)), off.shape)
    solved = bool(off[worst] <= tolerance)

    def show(x) -> str:
        return f"{complex(x):.6g}" if np.iscomplexobj(x) else f"{float(x):.6g}"

    place = f" (entry {', '.join(map(str, worst))})" if right.shape and not solved else ""
    print(
        f"{exercise}: {'solved' if solved else 'not yet'}. Yours {show(yours[worst])}, right "
        f"{show(right[worst])}{place}"
    )


def run_lesson(name: str, scope: dict) -> None:
    """Run the code of a lesson quietly in the namespace `scope`.

    Solutions then begin where the lesson ends; pictures are not shown.

    The lesson as it was committed, if git knows: what was changed or tried in the file does not
    disturb. Else the file, and what stands below its heading "Exercises" may be somebody's attempt:
    a cell that fails there is passed over.
    """
    from IPython.core.inputtransformer2 import TransformerManager

    path = f"notebooks/lessons/{name}.ipynb"
    kept = (
        subprocess.run(
            ["git", "show", f"HEAD:{path}"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if shutil.which("git")
        else None
    )
    cells = json.loads(kept.stdout if kept and not kept.returncode else (ROOT / path).read_text())[
        "cells"
    ]
    attempts = False
    with contextlib.redirect_stdout(io.StringIO()):
        for cell in cells:
            source = "".join(cell["source"])
            attempts |= cell["cell_type"] == "markdown" and "## Exercises" in source
            if cell["cell_type"] != "code" or {"colab", "live"} & set(
                cell["metadata"].get("tags", [])
            ):
                continue
            with contextlib.suppress(Exception) if attempts else contextlib.nullcontext():
                exec(compile(TransformerManager().transform_cell(source), name, "exec"), scope)
            plt.close("all")

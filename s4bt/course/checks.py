"""Checks of exercises, hints and answers, and solutions that begin where their lesson ends."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import shutil
import subprocess
from typing import Any

import matplotlib.pyplot as plt

from s4bt.course.exercise import EXERCISES, Exercise, judge
from s4bt.files import ROOT, UserError

_given: dict[str, int] = {}  # hints of an exercise that were asked for


def find(number: str) -> Exercise:
    """The exercise of that number.  Raises UserError if there is none."""
    number = str(number)
    lesson = number.partition(".")[0]
    if number not in EXERCISES and lesson.isdigit() and int(lesson) < 100:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(f"s4bt.course.exercises.lesson_{int(lesson):02d}")
    if number not in EXERCISES:
        raise UserError(f"there is no exercise {number!r}; they are called like '2.1'")
    return EXERCISES[number]


def check(number: str, answer: Any) -> None:
    """Say whether `answer`, the function that was asked for, is right on inputs of its own.

    A common mistake is named. Nothing is raised, whatever `answer` does.
    """
    verdict = judge(find(number), answer)
    print(f"{number}: {'solved' if verdict.solved else 'not yet'}. {verdict.says}")


def hint(number: str) -> None:
    """Print the next hint of an exercise; after the last one, that there is an answer."""
    hints, k = find(number).hints, _given.get(number, 0)
    _given[number] = k + 1
    if k < len(hints):
        print(f"{number}, hint {k + 1} of {len(hints)}: {hints[k]}")
    else:
        print(f'{number}: there are no more hints. answer("{number}") shows the answer.')


def answer(number: str) -> None:
    """Show the solution of an exercise, words and code; before any hint was asked for, a hint."""
    from IPython.display import Markdown, display

    if find(number).hints and not _given.get(number):
        hint(number)
        print(f'If that was not enough, answer("{number}") again.')
        return
    (path,) = (ROOT / "notebooks/lessons/solutions").glob(f"{int(number.split('.')[0]):02d}_*")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    k = next(k for k, text in enumerate(sources) if text.startswith(f"**{number}**"))
    code = sources[k + 1].partition(f'\n\n\ncheck("{number}"')[0]
    display(Markdown(f"{sources[k]}\n\n```python\n{code}\n```"))


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

"""What the lessons share: checks of exercises, a slider that needs neither kernel nor network, and the systems they look at, as NumPy arrays.

A, b, c    real (n, n), (n,), (n,)   x' = A x + b u,  y = c x
poles      complex (N,)              lambda; of a real system one of each conjugate pair, imaginary part >= 0
residues   complex (N,)              h(t) = Re sum_n residues_n exp(poles_n t)

Importing this file does not import torch; `lti`, `network` and `examples` do.
"""
from __future__ import annotations

import base64
import contextlib
import html
import io
import json
import shutil
import subprocess
from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from s4bt.config import TASK_NAMES
from s4bt.files import ROOT, UserError, task_dir

HOME = task_dir("laptop", "course")     # models and examples of the study that are in git


# -- exercises ------------------------------------------------------------------------------------------------------------------

def check(exercise: str, yours, right, tolerance: float = 1e-6) -> None:
    """Print what an exercise computed beside what is right, and whether they agree, entry by entry, to a relative `tolerance`.

    yours, right: numbers or arrays of one shape; entries below a thousandth of the largest need agree to `tolerance` times that only. For
    arrays the entry that is furthest off is shown. Whatever `yours` is, nothing is raised, so that a notebook with open exercises runs to its end.
    """
    right = np.asarray(right)
    try:
        numbers = np.asarray(yours.detach() if hasattr(yours, "detach") else yours)
        if numbers.dtype.kind not in "biufc":
            raise TypeError
    except Exception:                                                # noqa: BLE001  anything can stand in an exercise
        print(f"{exercise}: not yet. This is not a number or an array of numbers: {yours!r}")
        return
    yours = numbers.astype(complex if np.iscomplexobj(numbers) else float)
    if yours.shape != right.shape:
        print(f"{exercise}: not yet. Your shape is {yours.shape}, the right one {right.shape}")
        return
    with np.errstate(invalid="ignore"):
        off = np.abs(yours - right) / np.maximum(np.abs(right), 1e-3 * np.abs(right).max())      # the imaginary part counts, too
    worst = np.unravel_index(np.argmax(np.where(np.isnan(off), np.inf, off)), off.shape)
    solved = bool(off[worst] <= tolerance)
    show = lambda x: f"{complex(x):.6g}" if np.iscomplexobj(x) else f"{float(x):.6g}"  # noqa: E731
    place = f" (entry {', '.join(map(str, worst))})" if right.shape and not solved else ""
    print(f"{exercise}: {'solved' if solved else 'not yet'}. Yours {show(yours[worst])}, right {show(right[worst])}{place}")


def run_lesson(name: str, scope: dict) -> None:
    """Run the code of a lesson quietly in the namespace `scope`, so that solutions begin where the lesson ends; pictures are not shown.

    The lesson as it was committed, if git knows: what was changed or tried in the file does not disturb. Else the file, and what stands below
    its heading "Exercises" may be somebody's attempt: a cell that fails there is passed over.
    """
    from IPython.core.inputtransformer2 import TransformerManager
    path = f"notebooks/lessons/{name}.ipynb"
    kept = subprocess.run(["git", "show", f"HEAD:{path}"], cwd=ROOT, capture_output=True, text=True, check=False) if shutil.which("git") else None
    cells = json.loads(kept.stdout if kept and not kept.returncode else (ROOT / path).read_text())["cells"]
    attempts = False
    with contextlib.redirect_stdout(io.StringIO()):
        for cell in cells:
            source = "".join(cell["source"])
            attempts |= cell["cell_type"] == "markdown" and "## Exercises" in source
            if cell["cell_type"] != "code" or {"colab", "live"} & set(cell["metadata"].get("tags", [])):
                continue
            with contextlib.suppress(Exception) if attempts else contextlib.nullcontext():
                exec(compile(TransformerManager().transform_cell(source), name, "exec"), scope)
            plt.close("all")


# -- pictures that move ---------------------------------------------------------------------------------------------------------

# Handlers stand in the elements themselves: no script, no identifier, so any number of sliders can share a page, live or exported.
_SHOW = ("const s=this.closest('.s4bt-slider'),i=+s.querySelector('input').value;s.querySelectorAll('img').forEach((p,k)=>p.hidden=k!==i);"
         "s.querySelector('output').textContent=s.querySelectorAll('img')[i].alt")
_PLAY = ("const s=this.closest('.s4bt-slider'),r=s.querySelector('input');if(s.timer){clearInterval(s.timer);s.timer=0;this.textContent='play'}"
         "else{this.textContent='stop';s.timer=setInterval(()=>{r.value=+r.value>=+r.max?0:+r.value+1;r.oninput()},500)}")


def slider(draw: Callable[[object], object], values: Sequence, name: str = "r"):
    """A slider over pictures that are drawn now and travel inside the page: it works in JupyterLab, in an exported page, without network.

    draw(value): makes one pyplot figure; values: what the slider steps through, shown as `name = value`. Returns an IPython HTML object. The
    button plays it as an animation; on a page arrow keys move it (inside JupyterLab they do not arrive). Open figures are closed.  Raises ValueError if there is no value.
    """
    from IPython.display import HTML
    if not len(values):
        raise ValueError("a slider needs at least one value")
    pictures = []
    for value in values:
        plt.close("all")
        draw(value)
        file = io.BytesIO()
        plt.gcf().savefig(file, dpi=80, facecolor="white")
        plt.close("all")
        with Image.open(file) as picture:
            small = io.BytesIO()
            picture.convert("RGB").quantize(64).save(small, "png", optimize=True)
        text = f"{name} = {value}"
        pictures.append((text, base64.b64encode(small.getvalue()).decode()))
    first = len(pictures) // 3
    images = "".join(f'<img alt="{html.escape(text)}" src="data:image/png;base64,{data}" style="max-width:100%"{"" if k == first else " hidden"}>'
                     for k, (text, data) in enumerate(pictures))
    return HTML(f'<div class="s4bt-slider"><div><button type="button" onclick="{_PLAY}">play</button> '
                f'<input type="range" aria-label="{html.escape(name)}" min="0" max="{len(pictures) - 1}" value="{first}" style="width:50%;vertical-align:middle" '
                f'oninput="{_SHOW}"> <output>{html.escape(pictures[first][0])}</output></div>{images}</div>')


# -- a physical example ---------------------------------------------------------------------------------------------------------

def chain(masses: int = 8, stiffness: float = 1.0, damping: float = 0.1, drag: float = 0.1, force: int = -1, sensor: int = -1) -> tuple[np.ndarray, ...]:
    """A row of equal masses (1 kg) between springs (N/m), the first fixed to a wall: A (2n, 2n), b (2n,), c (2n,) of x = (positions, velocities).

    q'' + (drag I + damping K) q' + K q = e_force u, y = e_sensor q, with K = stiffness tridiag(-1, 2, -1) and half of that in the last
    corner, where the chain is free; u in newton, y in metres, damping in seconds, drag in 1/seconds. force, sensor: the masses, from 0.
    """
    K = stiffness * (2 * np.eye(masses) - np.eye(masses, k=1) - np.eye(masses, k=-1))
    K[-1, -1] = stiffness
    A = np.block([[np.zeros((masses, masses)), np.eye(masses)], [-K, -drag * np.eye(masses) - damping * K]])
    b, c = np.zeros(2 * masses), np.zeros(2 * masses)
    b[masses:][force] = 1
    c[:masses][sensor] = 1
    return A, b, c


def rod(points: int = 12, diffusivity: float = 1.0) -> tuple[np.ndarray, ...]:
    """A rod of length 1, cold at the far end and heated at the near one, where its temperature is measured: A (n, n) symmetric, b = c (n,).

    T' = diffusivity d^2 T / dx^2 by finite differences, no flux but u through the near end.
    """
    h = 1 / points
    A = diffusivity / h**2 * (np.eye(points, k=1) + np.eye(points, k=-1) - 2 * np.eye(points))
    A[0, 0] = -diffusivity / h**2
    b = np.zeros(points)
    b[0] = h**-0.5
    return A, b, b.copy()


def modes(A: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Poles and residues of a real system: one mode of each conjugate pair with twice its residue, and the real ones, by frequency."""
    values, V = np.linalg.eig(A)
    residues = (c @ V) * np.linalg.solve(V, b)
    order = np.lexsort((-values.real, values.imag))
    values, residues = values[order], residues[order]
    kept = values.imag >= 0
    return values[kept], np.where(values[kept].imag > 0, 2, 1) * residues[kept]


# -- trained layers -------------------------------------------------------------------------------------------------------------

def _file(task: str):
    if task not in TASK_NAMES:
        raise UserError(f"{task!r} is not a task; there are {', '.join(TASK_NAMES)}")
    return HOME / f"{task}.safetensors"


def layer(task: str = "image", number: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A trained DSS layer as it is stored: poles (N,) in 1/time, output weights W (H, N), steps dt (H,); float64.  (Gupta et al. 2022)"""
    from safetensors import safe_open
    with safe_open(_file(task), "np") as file:
        count = json.loads(file.metadata()["options"])["layers"]
        if not 0 <= number < count:
            raise UserError(f"the model of {task} has layers 0 to {count - 1}, not {number}")
        part = lambda name: file.get_tensor(f"blocks.{number}.dss.{name}").astype(float)  # noqa: E731
        W = part("W")
        return -np.exp(part("Lambda_re")) + 1j * part("Lambda_im"), W[..., 0] + 1j * W[..., 1], np.exp(part("log_dt"))


def lti(poles, residues, dt: float | None = None, real: bool = True):
    """The `s4bt.lti.DiagonalLTI` of arrays (N,) or (H, N), continuous, or discrete with step dt."""
    import torch

    from s4bt.lti import DiagonalLTI
    as_tensor = lambda x: torch.as_tensor(np.asarray(x, dtype=complex))  # noqa: E731
    return DiagonalLTI(as_tensor(poles), as_tensor(residues), dt=dt, real=real)


def network(task: str = "image"):
    """The pretrained model of a task, an `s4bt.model.S4Model`."""
    from s4bt.model import load_model
    return load_model(_file(task))


def examples(task: str = "image"):
    """256 training, 100 validation and 500 test examples of `image` or `pathx`, an `s4bt.tasks.Dataset`."""
    from s4bt.tasks import load
    if not (HOME / task).is_dir():
        raise UserError(f"only {' and '.join(sorted(p.name for p in HOME.iterdir() if p.is_dir()))} have examples in git, not {task!r}. "
                        "For the others: dvc repro prepare")
    return load(task, HOME / task)

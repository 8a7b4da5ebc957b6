"""Trained models of the study that are in git, and examples to try them on.

Importing this file does not import torch; `lti` and `network` do.
"""

from __future__ import annotations

import json

import numpy as np

from s4bt.files import UserError
from s4bt.study.places import existing, task_dir
from s4bt.tasks import TASKS, load

FIRST = "s0.safetensors"  # the model of the first seed


def _file(task: str):
    if task not in TASKS:
        raise UserError(f"{task!r} is not a task; there are {', '.join(TASKS)}")
    return existing(task_dir("laptop", task) / "pretrained" / FIRST, "laptop", f"pretrain@{task}")


def layer(task: str = "image", number: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A trained DSS layer as it is stored.

    Poles (N,) in 1/time, output weights W (H, N), steps dt (H,); float64.  (Gupta et al. 2022)
    """
    from safetensors import safe_open

    with safe_open(_file(task), "np") as file:
        count = json.loads(file.metadata()["s4bt"])["options"]["layers"]
        if not 0 <= number < count:
            raise UserError(f"the model of {task} has layers 0 to {count - 1}, not {number}")

        def part(name: str) -> np.ndarray:
            return file.get_tensor(f"blocks.{number}.dss.{name}").astype(float)

        W = part("W")
        return (
            -np.exp(part("Lambda_re")) + 1j * part("Lambda_im"),
            W[..., 0] + 1j * W[..., 1],
            np.exp(part("log_dt")),
        )


def lti(poles, residues, dt: float | None = None, real: bool = True):
    """The `s4bt.DiagonalLTI` of arrays (N,) or (H, N), continuous, or discrete with step dt."""
    import torch

    from s4bt.reduction.systems import DiagonalLTI

    system = (torch.as_tensor(np.asarray(x, dtype=complex)) for x in (poles, residues))
    return DiagonalLTI(*system, dt=dt, real=real)


def network(task: str = "image"):
    """The pretrained model of a task, an `s4bt.S4Model`."""
    from s4bt.nn.storage import load_model

    return load_model(_file(task))


def examples(task: str = "image"):
    """256 training, 100 validation and 500 test examples of `image` or `pathx`.

    An `s4bt.tasks.Dataset`.
    """
    home = task_dir("laptop", "examples")
    if not (home / task).is_dir():
        known = " and ".join(sorted(p.name for p in home.iterdir() if p.is_dir()))
        raise UserError(
            f"only {known} have examples in git, not {task!r}. For the others: dvc repro prepare"
        )
    return load(task, home / task)

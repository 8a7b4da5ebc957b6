"""Where things are.

scale   quick, laptop, study or paper;  task   one of the six tasks
phase   pretrain, truncate, retrain
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from pydantic import BaseModel
from ruamel.yaml import YAML

from s4bt.files import ROOT, UserError, digest


def task_dir(scale: str, task: str = "") -> Path:
    """Where the results of a scale, or of one of its tasks, are read.

    Tables, figures and the pretrained models of scale laptop are in git, the rest in DVC.
    """
    return ROOT / "results" / scale / task


def output_dir(scale: str, task: str = "") -> Path:
    """Where a notebook writes.

    `task_dir`, or its place below S4BT_STAGE, from where the runner moves it when all is done.
    """
    folder = task_dir(scale, task)
    if stage := os.environ.get("S4BT_STAGE"):
        folder = Path(stage) / folder.relative_to(ROOT)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def stage_code(phase: str) -> list[Path]:
    """The files of s4bt that a stage depends on, as dvc.yaml lists them.

    A test compares that list with what the stage's notebook imports.
    """
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    deps = stages[phase]["do"]["deps"]
    return [ROOT / path for path in deps if path.startswith("s4bt/")]


def scratch_dir(
    scale: str, task: str, phase: str, settings: list[BaseModel], *inputs: Path
) -> Path:
    """Where the finished runs of an interrupted phase wait.

    The name is made of what runs depend on: settings, inputs and `stage_code`.
    """
    parts = [section.model_dump_json() for section in settings]
    parts += [digest(path) for path in (*stage_code(phase), *inputs)]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return ROOT / ".scratch" / scale / task / f"{phase}-{key}"


def existing(path: Path, scale: str, stage: str) -> Path:
    """The path.  Raises UserError, with the command that makes it, if it is not there."""
    if not path.exists():
        make = f"dvc repro {stage}"
        if scale != "laptop":
            make = f"python -m tools.scales {scale} && dvc --cd results/{scale} repro {stage}"
        raise UserError(f"{path.relative_to(ROOT)} is not there. Make it with: {make}")
    return path

"""The study's only configuration, `params.yaml`, typed and validated.

Read by the parser that DVC reads it with, YAML 1.2.

scale   quick, laptop, study or paper: a section of params.yaml
task    one of the six Long Range Arena tasks
arm     one way of obtaining a trained small model
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator
from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.nodes import MappingNode, SequenceNode

from s4bt.files import ROOT, UserError
from s4bt.study.grid import Grid
from s4bt.tasks import TASKS
from s4bt.tasks.options import (
    Count,
    Fraction,
    ImageData,
    ListOpsData,
    PathfinderData,
    Positive,
    RetrievalData,
    Section,
    TextData,
)

PARAMS = ROOT / "params.yaml"
SCALES = ("quick", "laptop", "study", "paper")


class ModelConfig(Section):
    """Arguments of s4bt.nn.s4.S4Model that are not properties of the task."""

    layers: Count
    width: Count
    state: Count = 64
    version: Literal["exp", "softmax"] = "exp"
    norm: Literal["batch", "layer"] = "layer"
    prenorm: bool = True
    pooling: Literal["mean", "last"] = "mean"
    dropout: Fraction = 0.0
    dt_min: Positive = 1e-3
    dt_max: Positive = 1e-1
    length: Count | None = None

    @model_validator(mode="after")
    def _steps_are_in_order(self):
        if self.dt_min > self.dt_max:
            raise ValueError(f"dt_min {self.dt_min} is above dt_max {self.dt_max}")
        return self


class TrainConfig(Section):
    """AdamW with linear warm-up and cosine decay.

    The weights with the best validation accuracy are kept.

    lr: learning rates to choose from on validation data; ssm_lr: the rate of the DSS parameters as
    a fraction of lr, dt_lr: that of their steps, ssm_lr if not given (they have no weight decay);
    evaluations: how often validation accuracy is measured in a run, and a checkpoint written;
    bucket: how many batches' worth of examples are sorted by length together (1: not at all), which
    saves padding; precision: bfloat16 for the matrix products outside the DSS layers, which stay in
    float32.
    """

    steps: Count
    batch: Count = 32
    lr: Annotated[list[Positive], Field(min_length=1)]
    ssm_lr: Positive = 0.25
    dt_lr: Positive | None = None
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup: Fraction = 0.1
    evaluations: Count = 10
    bucket: Count = 1
    precision: Literal["float32", "bfloat16"] = "float32"


class TaskConfig(Section):
    """One task at one scale."""

    model: ModelConfig
    pretrain: TrainConfig
    retrain: TrainConfig


class ListOps(TaskConfig):
    data: ListOpsData


class Text(TaskConfig):
    data: TextData


class Retrieval(TaskConfig):
    data: RetrievalData


class Image(TaskConfig):
    data: ImageData


class Pathfinder(TaskConfig):
    data: PathfinderData


class Tasks(Section):
    """The six tasks."""

    listops: ListOps
    text: Text
    retrieval: Retrieval
    image: Image
    pathfinder: Pathfinder
    pathx: Pathfinder


class Scale(Section):
    """One section of params.yaml."""

    grid: Grid
    tasks: Tasks

    @model_validator(mode="after")
    def _ranks_fit(self):
        for name in TASKS:
            task = getattr(self.tasks, name)
            state, largest = (
                task.model.state,
                max([self.grid.choice.rank, *self.grid.one_shot.ranks, *self.grid.baseline_ranks]),
            )
            if max(task.pretrain.batch, task.retrain.batch) > task.data.train:
                raise ValueError(
                    f"task {name}: a batch is larger than the {task.data.train} training examples"
                )
            if largest > state:
                raise ValueError(
                    f"grid: rank {largest} is above the state dimension N = {state} of task "
                    f"{name}; truncation only makes N smaller"
                )
        return self


def _line(text: str, keys: tuple) -> int | None:
    """Line of params.yaml on which the deepest key of the path that exists stands."""
    node, line = YAML(typ="safe").compose(text), None
    for key in keys:
        if isinstance(node, MappingNode):
            match = [(k, v) for k, v in node.value if k.value == str(key)]
            if not match:
                break
            line, node = match[0][0].start_mark.line + 1, match[0][1]
        elif isinstance(node, SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line + 1
    return line


def _twins(node: Any) -> tuple[str, int, int] | None:
    """The first key that a mapping below a node holds twice, and both its lines."""
    if isinstance(node, SequenceNode):
        return next(filter(None, map(_twins, node.value)), None)
    if not isinstance(node, MappingNode):
        return None
    lines: dict[str, int] = {}
    for key, value in node.value:
        here = key.start_mark.line + 1
        if key.value in lines:
            return key.value, lines[key.value], here
        lines[key.value] = here
        if found := _twins(value):
            return found
    return None


def _read(path: Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        remedy = "Restore it with: git checkout params.yaml"
        raise UserError(f"{path}: no such file. {remedy}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}, line {line}: byte 0x{error.object[error.start]:02x} is not UTF-8. Save the "
            "file as UTF-8"
        ) from error


def _complaint(path: Path, keys: tuple, hint: str) -> str:
    """One line of a message: file, line, key and what is wrong."""
    return f"{path}, line {_line(_read(path), keys)}: {'.'.join(map(str, keys))}: {hint}"


def _hint(e: Any) -> str:
    """What pydantic found, and the value, where that says more than the message."""
    if e["type"] == "extra_forbidden":
        return "unknown key: correct or delete it"
    if e["type"] == "missing" or isinstance(e["input"], dict):
        return e["msg"]
    return f"{e['msg']} (got {e['input']!r})"


def load_scale(scale: str, path: Path = PARAMS) -> Scale:
    """Read and validate one section of params.yaml.

    Raises UserError naming file, line, key and remedy.
    """
    try:
        params = YAML(typ="safe").load(_read(path))
    except DuplicateKeyError as error:
        key, first, again = _twins(YAML(typ="safe").compose(_read(path)))
        raise UserError(
            f"{path}, line {again}: the key {key!r} stands at line {first} already. Delete one of "
            "the two"
        ) from error
    except YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    known = [s for s in SCALES if isinstance(params, dict) and s in params]
    if scale not in known:
        raise UserError(f"{path} has no scale {scale!r}. Use one of: {', '.join(known)}")
    try:
        return Scale.model_validate(params[scale])
    except ValidationError as error:
        lines = [_complaint(path, (scale, *e["loc"]), _hint(e)) for e in error.errors()]
        raise UserError("\n".join(lines)) from error


def check_methods(scale: str, known: Collection[str], path: Path = PARAMS) -> None:
    """Raise UserError, with the line, if a method of the scale is not known.

    The runner of a stage asks, before anything runs, so that what is pretrained does not depend on
    the registry of methods.
    """
    grid = load_scale(scale, path).grid
    lists = {
        ("grid", "one_shot", "methods"): grid.one_shot.methods,
        ("grid", "methods"): grid.methods,
    }
    lines = [
        _complaint(path, (scale, *keys, i), f"{name!r} is no method; use {', '.join(known)}")
        for keys, names in lists.items()
        for i, name in enumerate(names)
        if name not in known
    ]
    if lines:
        raise UserError("\n".join(lines))


def load_task(scale: str, task: str, path: Path = PARAMS) -> tuple[TaskConfig, Grid]:
    """Configuration of one task and the grid of its scale.  Raises UserError."""
    if task not in TASKS:
        raise UserError(f"unknown task {task!r}. Use one of: {', '.join(TASKS)}")
    section = load_scale(scale, path)
    return getattr(section.tasks, task), section.grid

"""The study's only configuration, `params.yaml`, typed and validated.

scale   quick, laptop, study or paper: a section of params.yaml
task    one of the six Long Range Arena tasks
arm     one way of obtaining a trained small model
"""
from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from s4bt.files import ROOT, UserError

PARAMS = ROOT / "params.yaml"
TASK_NAMES = ("listops", "text", "retrieval", "image", "pathfinder", "pathx")
SCALES = ("quick", "laptop", "study", "paper")

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of params.yaml; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Splits(Section):
    """Sizes of the three splits, in examples, and the seed that draws or splits them."""

    train: Count
    val: Count
    test: Count
    seed: Annotated[int, Field(ge=0)] = 0

    def sizes(self) -> dict[str, int]:
        return {"train": self.train, "val": self.val, "test": self.test}


class Official(Splits):
    """source: a folder, archive or http(s) address of the task's official release; none: examples made here or from a package.
    sha256: of the archive, if you know it."""

    source: str | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")] | None = None


class Tokens(Official):
    """Texts as bytes or as the characters that the training split holds min_count times or more; `length` of them at most, with a
    token behind the last one if end_token; keep: the first or last part of a longer text."""

    length: Annotated[int, Field(ge=2)]
    tokens: Literal["bytes", "characters"] = "bytes"
    min_count: Count = 15
    end_token: bool = False
    keep: Literal["first", "last"] = "first"


class ListOpsData(Official):
    """Expressions of min_length < tokens < max_length; end_token: one more token behind the expression.

    (Nangia & Bowman 2018; parameters of Tay et al. 2021)
    """

    end_token: bool = False
    min_length: Count
    max_length: Count
    max_depth: Annotated[int, Field(ge=2)] = 10
    max_arguments: Annotated[int, Field(ge=2)] = 10
    operator_probability: Fraction = 0.25

    @model_validator(mode="after")
    def _lengths_leave_room(self):
        if self.max_length - self.min_length < 2:
            raise ValueError(f"no length lies between min_length {self.min_length} and max_length {self.max_length}")
        return self


class TextData(Tokens):
    """Reviews."""


class RetrievalData(Tokens):
    """Pairs of documents. Without a source: passages of `length` bytes, cut at random from licence texts of at least that length, of
    licences with `texts` texts in every split.
    """

    texts: Annotated[int, Field(ge=2)] = 3

    @model_validator(mode="after")
    def _licences_are_bytes(self):
        if not self.source and (self.tokens, self.end_token) != ("bytes", False):
            raise ValueError("without a source the documents are passages of bytes: drop tokens and end_token, or name a source")
        return self


class ImageData(Official):
    """Without a source: digits of side x side pixels, side 28 or, by averaging blocks, 14 or 7. normalisation: by mean and deviation of
    the training split, or those of CIFAR-10 that DSS used."""

    side: Literal[7, 14, 28] = 28
    normalisation: Literal["measured", "dss"] = "measured"

    @model_validator(mode="after")
    def _dss_normalises_cifar(self):
        if not self.source and self.normalisation == "dss":
            raise ValueError("normalisation 'dss' is that of CIFAR-10: use 'measured', or name a source")
        return self


class PathfinderData(Official):
    """Two dashed contours, discs on two tips, distractors, on size x size pixels.  (Linsley et al. 2018)"""

    size: Annotated[int, Field(ge=8)]
    segments: Count
    distractors: Annotated[int, Field(ge=0)] = 0
    distractor_segments: Count = 4
    paddle_length: Positive = 2.0
    gap: Positive = 1.0
    thickness: Positive = 0.5
    radius: Positive = 1.5
    turn: Positive = 0.3
    contrast: Fraction = 1.0
    distractor_contrast: Fraction = 0.75


class ModelConfig(Section):
    """Arguments of s4bt.model.S4Model that are not properties of the task."""

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
    """AdamW with linear warm-up and cosine decay; the weights with the best validation accuracy are kept.

    lr: learning rates to choose from on validation data; ssm_lr: the rate of the DSS parameters as a fraction of lr, dt_lr: that of
    their steps, ssm_lr if not given (they have no weight decay); evaluations: how often validation accuracy is measured in a run, and
    a checkpoint written; bucket: how many batches' worth of examples are sorted by length together (1: not at all), which saves padding;
    precision: bfloat16 for the matrix products outside the DSS layers, which stay in float32.
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


Ranks = Annotated[list[Count], Field(min_length=1)]
Reducers = Annotated[list[Literal["bt-shared", "bt-channel", "bt-discrete", "bt-limited", "singular-perturbation", "modal", "h2", "hankel",
                                  "weighted"]], Field(min_length=1)]


def _refuse_twins(section: Section, *names: str) -> None:
    for name in names:
        if len(set(values := getattr(section, name))) < len(values):
            raise ValueError(f"{name} {values} holds a value twice")


class OneShot(Section):
    """Truncation without retraining: ranks, reducers, and how many training examples calibrate those that look at the data."""

    ranks: Ranks
    reducers: Reducers
    calibration: Count = 256

    @model_validator(mode="after")
    def _no_twins(self):
        _refuse_twins(self, "ranks", "reducers")
        return self


class Grid(Section):
    """What is compared: seeds; what is truncated without retraining, one_shot; what is retrained, ranks r and reducers, which are among
    those of one_shot; lr_rank is the rank at which each arm's learning rate is chosen, baseline_ranks those of the dear baselines: (b) with
    all the steps, and (a) and (e) with poles of each channel's own."""

    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    one_shot: OneShot
    ranks: Ranks
    reducers: Reducers
    lr_rank: Count
    baseline_ranks: Ranks

    @model_validator(mode="after")
    def _lists_fit(self):
        if self.lr_rank not in self.ranks:
            raise ValueError(f"lr_rank {self.lr_rank} is not one of the ranks {self.ranks}")
        _refuse_twins(self, "seeds", "ranks", "reducers", "baseline_ranks")
        for name in ("ranks", "reducers"):
            if extra := [x for x in getattr(self, name) if x not in getattr(self.one_shot, name)]:
                raise ValueError(f"{name} {extra} are retrained but not truncated: add them to one_shot.{name}")
        return self


class Scale(Section):
    """One section of params.yaml."""

    grid: Grid
    tasks: Tasks

    @model_validator(mode="after")
    def _ranks_fit(self):
        for name in TASK_NAMES:
            task = getattr(self.tasks, name)
            state, largest = task.model.state, max(self.grid.one_shot.ranks + self.grid.baseline_ranks)
            if max(task.pretrain.batch, task.retrain.batch) > task.data.train:
                raise ValueError(f"task {name}: a batch is larger than the {task.data.train} training examples")
            if largest > state:
                raise ValueError(f"grid: rank {largest} is above the state dimension N = {state} of "
                                 f"task {name}; truncation only makes N smaller")
        return self


def _line(text: str, keys: tuple) -> int | None:
    """Line of params.yaml on which the deepest key of the path that exists stands."""
    node, line = yaml.compose(text), None
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            match = [(k, v) for k, v in node.value if k.value == str(key)]
            if not match:
                break
            line, node = match[0][0].start_mark.line + 1, match[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line + 1
    return line


def load_scale(scale: str, path: Path = PARAMS) -> Scale:
    """Read and validate one section of params.yaml.  Raises UserError naming file, line, key and remedy."""
    try:
        text = Path(path).read_text()
        params = yaml.safe_load(text)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file. Restore it with: git checkout params.yaml") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    known = [s for s in SCALES if isinstance(params, dict) and s in params]
    if scale not in known:
        raise UserError(f"{path} has no scale {scale!r}. Use one of: {', '.join(known)}")
    try:
        return Scale.model_validate(params[scale])
    except ValidationError as error:
        lines = []
        for e in error.errors():
            keys = (scale, *e["loc"])
            line = _line(text, keys)
            hint = "unknown key: correct or delete it" if e["type"] == "extra_forbidden" else e["msg"]
            got = "" if e["type"] in ("missing", "extra_forbidden") or isinstance(e["input"], dict) else f" (got {e['input']!r})"
            lines.append(f"{path}, line {line}: {'.'.join(map(str, keys))}: {hint}{got}")
        raise UserError("\n".join(lines)) from error


def load_task(scale: str, task: str, path: Path = PARAMS) -> tuple[TaskConfig, Grid]:
    """Configuration of one task and the grid of its scale.  Raises UserError."""
    if task not in TASK_NAMES:
        raise UserError(f"unknown task {task!r}. Use one of: {', '.join(TASK_NAMES)}")
    section = load_scale(scale, path)
    return getattr(section.tasks, task), section.grid

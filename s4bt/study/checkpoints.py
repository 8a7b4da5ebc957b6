"""All that a run needs to go on as if it had not been interrupted, in one safetensors file.

model.*, best.*   weights now, and those with the best validation accuracy so far
opt.<i>.*         state of the optimiser;  generator.<i>   of the random generator of process i
header            best accuracy, learning curve, and the identity that a run must agree in

The last step of the curve is the position in the schedule and in the data.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, distributed

from s4bt.files import atomic_path
from s4bt.nn.s4 import S4Model
from s4bt.study.config import TrainConfig
from s4bt.study.devices import process_number, processes


@dataclass
class History:
    """What a run has seen: its learning curve, and its best weights with their accuracy.

    curve: one dict of step, loss, val_accuracy and val_loss per evaluation.
    """

    curve: list[dict] = field(default_factory=list)
    accuracy: float = float("-inf")
    weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """The last step that was evaluated."""
        return self.curve[-1]["step"]

    def add(self, row: dict, model: S4Model) -> None:
        """Append an evaluation; keep the model's weights if they are the best so far."""
        self.curve.append(row)
        if row["val_accuracy"] > self.accuracy:
            self.accuracy = row["val_accuracy"]
            self.weights = {k: v.clone() for k, v in model.state_dict().items()}


def identity_of(config: TrainConfig, lr: float, seed: int, where: torch.device) -> str:
    """What a checkpoint must agree in with the run that would go on from it."""
    parts = [config.model_dump(), lr, seed, processes(), where.type, torch.__version__]
    return json.dumps(parts)


def _generator_states(where: torch.device) -> list[Tensor] | None:
    """State of the random generator of every process; None if another process writes."""
    own = torch.cuda.get_rng_state(where) if where.type == "cuda" else torch.get_rng_state()
    if not distributed.is_initialized():
        return [own]
    states: list = [None] * processes()
    distributed.all_gather_object(states, own)
    return None if process_number() else states


def save_checkpoint(
    path: Path, model: S4Model, opt: torch.optim.Optimizer, history: History, identity: str
) -> None:
    """Write what `load_checkpoint` reads, whole or not at all; only the first process writes."""
    states = _generator_states(next(model.parameters()).device)
    if states is None:
        return
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in history.weights.items()}
    for i, state in opt.state_dict()["state"].items():
        tensors |= {f"opt.{i}.{k}": v for k, v in state.items()}
    tensors |= {f"generator.{i}": state for i, state in enumerate(states)}
    header = {
        "best": repr(history.accuracy),
        "curve": json.dumps(history.curve),
        "identity": identity,
    }
    with atomic_path(path) as temporary:
        whole = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        save_file(whole, temporary, metadata=header)


def _read(path: Path, identity: str) -> dict | None:
    """The contents of a checkpoint; None if there is none, it is damaged, or of another run."""
    found: dict = {"model": {}, "best": {}, "opt": {}, "generator": {}}
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            if header["identity"] != identity:
                return None
            for name in file.keys():  # noqa: SIM118
                kind, rest = name.split(".", 1)
                found[kind][rest] = file.get_tensor(name)
            best, curve = float(header["best"]), json.loads(header["curve"])
            return found | {"accuracy": best, "curve": curve}
    except (FileNotFoundError, SafetensorError, KeyError, ValueError, TypeError):
        return None


def _read_for_all(path: Path, identity: str) -> dict | None:
    """`_read`, which the first process does for all."""
    if not distributed.is_initialized():
        return _read(path, identity)
    box = [None if process_number() else _read(path, identity)]
    distributed.broadcast_object_list(box)
    return box[0]


def load_checkpoint(
    path: Path | None, model: S4Model, opt: torch.optim.Optimizer, identity: str
) -> History | None:
    """Put model, optimiser and generator into the state that `save_checkpoint` wrote.

    None, and nothing is changed, if there is no such state: the run starts from its beginning.
    """
    found = None if path is None else _read_for_all(path, identity)
    if found is None:
        return None
    where = next(model.parameters()).device
    state: dict[int, dict] = {}
    for name, value in found["opt"].items():
        number, key = name.split(".")
        state.setdefault(int(number), {})[key] = value
    model.load_state_dict(found["model"])
    opt.load_state_dict({"state": state, "param_groups": opt.state_dict()["param_groups"]})
    own = found["generator"][str(process_number())]
    torch.cuda.set_rng_state(own, where) if where.type == "cuda" else torch.set_rng_state(own)
    weights = {k: v.to(where) for k, v in found["best"].items()}
    return History(found["curve"], found["accuracy"], weights)

"""Training, evaluation and checkpoints of one model.

fit         AdamW, linear warm-up and cosine decay, best weights by validation accuracy
evaluate    accuracy and mean loss on a split
checkpoint  all that a run needs to go on as if it had not been interrupted

Every number depends on the seed and the code only: batches come from a NumPy generator, weights and dropout from torch's. Where
`torch.distributed` is started, every process takes its share of each batch and of each split, gradients are averaged, and dropout depends
on the number of processes, too.
"""
from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from s4bt.config import TrainConfig
from s4bt.files import UserError, atomic_path
from s4bt.model import S4Model, is_state_space
from s4bt.tasks import Dataset, Info, Split


class Diverged(UserError):
    """The training loss is not finite."""


def seed_everything(seed: int) -> None:
    """Seed torch and make it deterministic; one thread, so that sums are always taken in the same order."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    torch.utils.deterministic.fill_uninitialized_memory = False      # a debugging aid that takes a tenth of every step


def device() -> torch.device:
    """The accelerator that this process uses if there is one."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def share() -> slice:
    """The rows of a batch that are this process's: all of them, or every n-th with `torch.distributed`."""
    return slice(distributed.get_rank(), None, distributed.get_world_size()) if distributed.is_initialized() else slice(None)


def batch(info: Info, split: Split, index, where: torch.device) -> tuple[Tensor, Tensor | None, Tensor]:
    """Rows `index` of a split as tensors: tokens int64 or samples float32, lengths (None if nothing is padded), labels."""
    x = torch.from_numpy(np.array(split.x[index])).to(where, non_blocking=True)
    x = x.long() if info.vocabulary else (x.float() - info.mean) / info.std
    lengths = torch.from_numpy(np.array(split.lengths[index])).long()
    padded = bool((lengths < x.shape[-1]).any())
    if padded:
        x = x[..., :int(lengths.max())]
    y = torch.from_numpy(np.array(split.y[index]))
    return x, lengths.to(where) if padded else None, y.to(where)


def order(rng: np.random.Generator, lengths: np.ndarray, size: int, bucket: int) -> Iterator[np.ndarray]:
    """Numbers of the examples of one batch after the other, without end; what an epoch leaves over is put before the next.

    Batches are cut from `bucket` batches' worth of random examples sorted by length (n,), and come in random order: a batch then is
    padded little. bucket = 1: plain random batches.
    """
    waiting = np.empty(0, np.int64)
    while True:
        if len(waiting) < size:
            waiting = np.concatenate([waiting, rng.permutation(len(lengths))])
        count = min(bucket, len(waiting) // size)
        pool, waiting = waiting[:size * count], waiting[size * count:]
        if count == 1:
            yield np.sort(pool)
            continue
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        for number in rng.permutation(count):
            yield np.sort(pool[number * size:(number + 1) * size])


def deliver(info: Info, split: Split, numbers: Iterator[np.ndarray], where: torch.device) -> Iterator[tuple]:
    """`batch` of every array of numbers; for an accelerator made one ahead, in a thread and in pinned memory."""
    if where.type != "cuda":
        yield from (batch(info, split, index, where) for index in numbers)
        return

    def pinned() -> list[Tensor | None] | None:
        index = next(numbers, None)
        return index if index is None else [t if t is None else t.pin_memory() for t in batch(info, split, index, torch.device("cpu"))]

    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(pinned)
        while (ready := ahead.result()) is not None:
            ahead = thread.submit(pinned)
            yield tuple(t if t is None else t.to(where, non_blocking=True) for t in ready)


@torch.no_grad()
def evaluate(model: S4Model, dataset: Dataset, name: str, size: int = 128) -> dict[str, float]:
    """{"accuracy", "loss"} on a split, both means over its examples."""
    model.eval()
    where, split = next(model.parameters()).device, dataset[name]
    total = torch.zeros(2, dtype=torch.float64, device=where)
    for start in range(0, len(split), size)[share()]:
        x, lengths, y = batch(dataset.info, split, slice(start, start + size), where)
        logits = model(x, lengths)
        total += torch.stack([(logits.argmax(-1) == y).sum(), F.cross_entropy(logits, y, reduction="sum")])
    right, loss = (_summed(total, where) / len(split)).tolist()
    return {"accuracy": right, "loss": loss}


def _summed(x: Tensor, where: torch.device) -> Tensor:
    """x, or with `torch.distributed` its sum over the processes, on the CPU."""
    if distributed.is_initialized():
        distributed.all_reduce(x := x.to(where))
    return x.cpu()


def optimizer(model: S4Model, config: TrainConfig, lr: float) -> torch.optim.AdamW:
    """AdamW; the parameters of the DSS layers at ssm_lr * lr, their steps at dt_lr * lr, both without weight decay.

    (as the public DSS runs do)
    """
    groups = {"outside": [], "inside": [], "log_dt": []}
    for name, p in model.named_parameters():
        groups["outside" if not is_state_space(name) else "log_dt" if name.endswith("log_dt") else "inside"].append(p)
    return torch.optim.AdamW([{"params": groups["outside"], "lr": lr, "weight_decay": config.weight_decay},
                              {"params": groups["inside"], "lr": lr * config.ssm_lr, "weight_decay": 0.0},
                              {"params": groups["log_dt"], "lr": lr * (config.dt_lr or config.ssm_lr), "weight_decay": 0.0}], fused=True)


def learning_rate(step: int, steps: int, warmup: float) -> float:
    """Fraction of the full rate: linear warm-up over warmup * steps, then half a cosine down to zero."""
    start = max(1, round(warmup * steps))
    if step < start:
        return (step + 1) / start
    return 0.5 * (1 + math.cos(math.pi * (step - start) / max(1, steps - start)))


def _identity(config: TrainConfig, lr: float, seed: int, where: torch.device) -> str:
    """What a checkpoint must agree in with the run that would go on from it."""
    processes = distributed.get_world_size() if distributed.is_initialized() else 1
    return json.dumps([config.model_dump(), lr, seed, processes, where.type, torch.__version__])


def save_checkpoint(path: Path, model: S4Model, opt: torch.optim.Optimizer, best: tuple[float, dict], curve: list[dict], identity: str) -> None:
    """Write what `fit` goes on from: weights, best weights so far, optimiser, generators and the learning curve, whose last step is
    the position in the schedule and in the data. Safetensors, whole or not at all; with `torch.distributed` by the first process."""
    where = next(model.parameters()).device
    states = [torch.cuda.get_rng_state(where) if where.type == "cuda" else torch.get_rng_state()]
    if distributed.is_initialized():
        own, states = states[0], [None] * distributed.get_world_size()
        distributed.all_gather_object(states, own)
        if distributed.get_rank():
            return
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()} | {f"best.{k}": v for k, v in best[1].items()}
    tensors |= {f"opt.{i}.{k}": v for i, state in opt.state_dict()["state"].items() for k, v in state.items()}
    tensors |= {f"generator.{i}": state for i, state in enumerate(states)}
    with atomic_path(path) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary,
                  metadata={"best": repr(best[0]), "curve": json.dumps(curve), "identity": identity})


def _read_checkpoint(path: Path, identity: str) -> dict | None:
    """The contents of a checkpoint; None if there is none, it is damaged, or it is of another run."""
    found: dict = {"model": {}, "best": {}, "opt": {}, "generator": {}}
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            if about["identity"] != identity:
                return None
            for name in file.keys():
                kind, rest = name.split(".", 1)
                found[kind][rest] = file.get_tensor(name)
            return found | {"accuracy": float(about["best"]), "curve": json.loads(about["curve"])}
    except (FileNotFoundError, SafetensorError, KeyError, ValueError, TypeError):
        return None


def load_checkpoint(path: Path, model: S4Model, opt: torch.optim.Optimizer, identity: str) -> tuple[tuple[float, dict], list[dict]] | None:
    """Put model, optimiser and generator into the state that `save_checkpoint` wrote; returns (best, curve).

    None, and nothing is changed, if there is no such state, and the run starts from its beginning. With `torch.distributed` the first
    process reads for all.
    """
    where, rank = next(model.parameters()).device, 0
    if distributed.is_initialized():
        rank, box = distributed.get_rank(), [None]
        if not rank:
            box = [_read_checkpoint(path, identity)]
        distributed.broadcast_object_list(box)
        found = box[0]
    else:
        found = _read_checkpoint(path, identity)
    if found is None:
        return None
    state: dict[int, dict] = {}
    for name, value in found["opt"].items():
        number, key = name.split(".")
        state.setdefault(int(number), {})[key] = value
    model.load_state_dict(found["model"])
    opt.load_state_dict({"state": state, "param_groups": opt.state_dict()["param_groups"]})
    own = found["generator"][str(rank)]
    torch.cuda.set_rng_state(own, where) if where.type == "cuda" else torch.set_rng_state(own)
    return (found["accuracy"], {k: v.to(where) for k, v in found["best"].items()}), found["curve"]


def fit(model: S4Model, dataset: Dataset, config: TrainConfig, lr: float, seed: int,
        progress: Callable[[int, float], None] | None = None, checkpoint: Path | None = None) -> list[dict]:
    """Train for config.steps batches; the model ends with the weights of its best validation accuracy.

    Returns the learning curve: one dict of step, loss (mean since the last one), val_accuracy, val_loss per evaluation. With
    zero steps as its first row, so a truncated model that retraining cannot better is kept.  progress(step, accuracy) is
    called after each evaluation. checkpoint: a file that is written after each evaluation, and gone on from, on a CPU to the same end to
    the bit, if it is there and of this run.  Raises Diverged if the loss is not finite, UserError if there are more processes than rows.
    """
    if distributed.is_initialized() and distributed.get_world_size() > config.batch:
        raise UserError(f"{distributed.get_world_size()} processes cannot share a batch of {config.batch}; start fewer")
    rng, where = np.random.default_rng([seed, 1]), next(model.parameters()).device
    torch.manual_seed(seed + 1 + 7919 * (share().start or 0))
    opt, train = optimizer(model, config, lr), dataset["train"]
    rates = [group["lr"] for group in opt.param_groups]
    marks = {round(config.steps * (i + 1) / config.evaluations) for i in range(config.evaluations)}
    longest = np.array(train.lengths).reshape(len(train), -1).max(1)
    identity = _identity(config, lr, seed, where)
    saved = load_checkpoint(checkpoint, model, opt, identity) if checkpoint else None
    (best, curve), losses = saved or (None, []), []
    network = DistributedDataParallel(model) if distributed.is_initialized() else model

    def record(step: int) -> None:
        nonlocal best, losses
        score = evaluate(model, dataset, "val")
        loss = float(_summed(torch.stack(losses).mean(), where)) if losses else math.nan
        if losses and not math.isfinite(loss):
            raise Diverged(f"the loss is not finite at step {step} (learning rate {lr:g}); lower the learning rate in params.yaml")
        losses = []
        curve.append({"step": step, "loss": loss, "val_accuracy": score["accuracy"], "val_loss": score["loss"]})
        if best is None or score["accuracy"] > best[0]:
            best = (score["accuracy"], {k: v.clone() for k, v in model.state_dict().items()})
        if checkpoint:
            save_checkpoint(checkpoint, model, opt, best, curve, identity)
        if progress:
            progress(step, best[0])

    if not saved:
        record(0)
    done = curve[-1]["step"]
    numbers = itertools.islice(order(rng, longest, config.batch, config.bucket), done, config.steps)
    for step, (x, lengths, y) in zip(range(done + 1, config.steps + 1), deliver(dataset.info, train, numbers, where)):
        model.train()
        for group, rate in zip(opt.param_groups, rates):
            group["lr"] = rate * learning_rate(step - 1, config.steps, config.warmup)
        with torch.autocast(where.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            logits = network(x[share()], None if lengths is None else lengths[share()])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = F.cross_entropy(logits, y[share()], reduction="sum") / len(y)
        opt.zero_grad(set_to_none=True)
        (loss * distributed.get_world_size() if distributed.is_initialized() else loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        losses.append(loss.detach())
        if step in marks:
            record(step)
    model.load_state_dict(best[1])
    return curve

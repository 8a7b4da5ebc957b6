"""Training, evaluation and checkpoints of one model.

fit        AdamW, linear warm-up and cosine decay, best weights by validation accuracy
evaluate   accuracy and mean loss on a split

Every number depends on the seed and the code only: batches come from a NumPy generator, weights and dropout from torch's.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from s4bt.config import TrainConfig
from s4bt.files import UserError
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
    """The accelerator if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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

    def pinned() -> list[Tensor | None]:
        return [None if t is None else t.pin_memory() for t in batch(info, split, next(numbers), torch.device("cpu"))]

    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(pinned)
        while True:
            ready, ahead = ahead.result(), thread.submit(pinned)
            yield tuple(None if t is None else t.to(where, non_blocking=True) for t in ready)


@torch.no_grad()
def evaluate(model: S4Model, dataset: Dataset, name: str, size: int = 128) -> dict[str, float]:
    """{"accuracy", "loss"} on a split, both means over its examples."""
    model.eval()
    where, split = next(model.parameters()).device, dataset[name]
    right, loss = 0, 0.0
    for start in range(0, len(split), size):
        x, lengths, y = batch(dataset.info, split, slice(start, start + size), where)
        logits = model(x, lengths)
        right += int((logits.argmax(-1) == y).sum())
        loss += float(F.cross_entropy(logits, y, reduction="sum"))
    return {"accuracy": right / len(split), "loss": loss / len(split)}


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


def fit(model: S4Model, dataset: Dataset, config: TrainConfig, lr: float, seed: int,
        progress: Callable[[int, float], None] | None = None) -> list[dict]:
    """Train for config.steps batches; the model ends with the weights of its best validation accuracy.

    Returns the learning curve: one dict of step, loss (mean since the last one), val_accuracy, val_loss per evaluation. With
    zero steps as its first row, so a truncated model that retraining cannot better is kept.  progress(step, accuracy) is
    called after each evaluation.  Raises Diverged if the loss is not finite.
    """
    rng, where = np.random.default_rng([seed, 1]), next(model.parameters()).device
    torch.manual_seed(seed + 1)
    opt, train = optimizer(model, config, lr), dataset["train"]
    schedule = torch.optim.lr_scheduler.LambdaLR(opt, lambda s: learning_rate(s, config.steps, config.warmup))
    marks = {round(config.steps * (i + 1) / config.evaluations) for i in range(config.evaluations)}
    longest = np.array(train.lengths).reshape(len(train), -1).max(1)
    curve, losses, best = [], [], None

    def record(step: int) -> None:
        nonlocal best, losses
        score = evaluate(model, dataset, "val")
        loss = float(torch.stack(losses).mean()) if losses else math.nan
        if losses and not math.isfinite(loss):
            raise Diverged(f"the loss is not finite at step {step} (learning rate {lr:g}); lower the learning rate in params.yaml")
        losses = []
        curve.append({"step": step, "loss": loss, "val_accuracy": score["accuracy"], "val_loss": score["loss"]})
        if best is None or score["accuracy"] > best[0]:
            best = (score["accuracy"], {k: v.clone() for k, v in model.state_dict().items()})
        if progress:
            progress(step, best[0])

    record(0)
    examples = deliver(dataset.info, train, order(rng, longest, config.batch, config.bucket), where)
    for step, (x, lengths, y) in zip(range(1, config.steps + 1), examples):
        model.train()
        loss = F.cross_entropy(model(x, lengths), y)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        schedule.step()
        losses.append(loss.detach())
        if step in marks:
            record(step)
    model.load_state_dict(best[1])
    return curve

"""Training and evaluation of one model.

train       AdamW, linear warm-up and cosine decay, best weights by validation accuracy
evaluate    accuracy and mean loss on a split

Every number depends on the seed and the code only: batches come from a NumPy generator, weights and
dropout from torch's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

from s4bt.files import UserError
from s4bt.nn.s4 import S4Model, is_state_space
from s4bt.study.batches import Batch, batch, deliver, shuffled
from s4bt.study.checkpoints import History, identity_of, load_checkpoint, save_checkpoint
from s4bt.study.config import TrainConfig
from s4bt.study.devices import processes, share, summed
from s4bt.tasks import Dataset

LARGEST_GRADIENT = 1.0  # longer ones are clipped to this norm
PER_PROCESS = 7919  # a prime: dropout of every process has a seed of its own


class Diverged(UserError):
    """A loss or a weight is not finite."""


@torch.no_grad()
def evaluate(model: S4Model, dataset: Dataset, name: str, size: int = 128) -> dict[str, float]:
    """{"accuracy", "loss"} on a split, both means over its examples."""
    model.eval()
    where, split = next(model.parameters()).device, dataset[name]
    total = torch.zeros(2, dtype=torch.float64, device=where)
    for start in range(0, len(split), size)[share()]:
        x, lengths, y = batch(dataset.info, split, slice(start, start + size), where)
        logits = model(x, lengths)
        # an answer that is not finite is no answer
        right = ((logits.argmax(-1) == y) & logits.isfinite().all(-1)).sum()
        total += torch.stack([right, F.cross_entropy(logits, y, reduction="sum")])
    accuracy, loss = (summed(total, where) / len(split)).tolist()
    return {"accuracy": accuracy, "loss": loss}


def optimizer(model: S4Model, config: TrainConfig, lr: float) -> torch.optim.AdamW:
    """AdamW with three rates, as the public DSS runs do.

    The parameters of the DSS layers at ssm_lr * lr, their steps at dt_lr * lr, both without weight
    decay.
    """
    groups: dict[str, list] = {"outside": [], "inside": [], "log_dt": []}
    for name, p in model.named_parameters():
        inside = "log_dt" if name.endswith("log_dt") else "inside"
        groups[inside if is_state_space(name) else "outside"].append(p)
    rates = {
        "outside": (lr, config.weight_decay),
        "inside": (lr * config.ssm_lr, 0.0),
        "log_dt": (lr * (config.dt_lr or config.ssm_lr), 0.0),
    }
    return torch.optim.AdamW(
        [
            {"params": groups[name], "lr": rate, "weight_decay": decay}
            for name, (rate, decay) in rates.items()
        ],
        fused=True,
    )


def learning_rate(step: int, steps: int, warmup: float) -> float:
    """Fraction of the full rate: linear warm-up over warmup * steps, then half a cosine to zero."""
    start = max(1, round(warmup * steps))
    if step < start:
        return (step + 1) / start
    return 0.5 * (1 + math.cos(math.pi * (step - start) / max(1, steps - start)))


def schedule(opt: torch.optim.Optimizer, config: TrainConfig, done: int) -> LambdaLR:
    """`learning_rate` as a schedule of torch's, `done` steps on."""
    for group in opt.param_groups:
        group.setdefault("initial_lr", group["lr"])

    def rate(step: int) -> float:
        return learning_rate(step, config.steps, config.warmup)

    return LambdaLR(opt, rate, last_epoch=done - 1)


def loss_of(network: Callable, config: TrainConfig, examples: Batch) -> Tensor:
    """Mean cross entropy over the batch, of which this process takes its share."""
    x, lengths, y = examples
    bfloat16 = config.precision == "bfloat16"
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):
        logits = network(x[share()], None if lengths is None else lengths[share()])
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, y[share()], reduction="sum") / len(y)


def update(model: S4Model, opt: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step of the optimiser along the clipped gradient."""
    opt.zero_grad(set_to_none=True)
    # DistributedDataParallel averages gradients, and the loss is a share of a sum
    (loss * processes() if distributed.is_initialized() else loss).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), LARGEST_GRADIENT)
    opt.step()


def mean_loss(losses: list[Tensor], where: torch.device) -> float:
    """Mean of the losses since the last evaluation, nan if there is none."""
    return float(summed(torch.stack(losses).mean(), where)) if losses else math.nan


def require_finite(model: S4Model, step: int, lr: float, *losses: float) -> None:
    """Raise Diverged, with the step, unless losses, weights and statistics are finite.

    The loss is taken before a step and may be finite where its gradient is not.
    """
    state = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
    bad = [name for name, value in state.items() if not bool(torch.isfinite(value).all())]
    if bad or not all(map(math.isfinite, losses)):
        what = f"{bad[0]} is" if bad else "the loss is"
        raise Diverged(
            f"{what} not finite at step {step} (learning rate {lr:g}); "
            + ("lower the learning rate in params.yaml" if step else "train or truncate it anew")
        )


def train(
    model: S4Model,
    dataset: Dataset,
    config: TrainConfig,
    lr: float,
    seed: int,
    progress: Callable[[int, float], None] | None = None,
    checkpoint: Path | None = None,
) -> list[dict]:
    """Train for config.steps batches; the model ends with its best weights by validation accuracy.

    Returns the learning curve: one dict of step, loss (mean since the last one), val_accuracy,
    val_loss per evaluation, with zero steps as its first row, so a truncated model that retraining
    cannot better is kept.  progress(step, accuracy) is called after each evaluation. checkpoint: a
    file that is written after each evaluation, and gone on from, on a CPU to the same end to the
    bit, if it is there and of this run.
    Raises Diverged if a loss or a weight is not finite, UserError if there are more processes than
    rows.
    """
    if processes() > config.batch:
        raise UserError(
            f"{processes()} processes cannot share a batch of {config.batch}; start fewer"
        )
    rng, where = np.random.default_rng([seed, 1]), next(model.parameters()).device
    torch.manual_seed(seed + 1 + PER_PROCESS * (share().start or 0))
    opt, split = optimizer(model, config, lr), dataset["train"]
    identity = identity_of(config, lr, seed, where)
    history = load_checkpoint(checkpoint, model, opt, identity)
    network = DistributedDataParallel(model) if distributed.is_initialized() else model
    marks = {round(config.steps * (i + 1) / config.evaluations) for i in range(config.evaluations)}
    losses: list[Tensor] = []

    def record(step: int) -> None:
        assert history is not None
        score, loss = evaluate(model, dataset, "val"), mean_loss(losses, where)
        require_finite(model, step, lr, score["loss"], loss if losses else 0.0)
        losses.clear()
        row = {"step": step, "loss": loss}
        row |= {"val_accuracy": score["accuracy"], "val_loss": score["loss"]}
        history.add(row, model)
        if checkpoint:
            save_checkpoint(checkpoint, model, opt, history, identity)
        if progress:
            progress(step, history.accuracy)

    if history is None:
        history = History()
        record(0)
    rates = schedule(opt, config, history.step)
    longest = np.array(split.lengths).reshape(len(split), -1).max(1)
    every = shuffled(rng, longest, config.batch, config.bucket)
    numbers = itertools.islice(every, history.step, config.steps)
    batches = deliver(dataset.info, split, numbers, where)
    for step, examples in enumerate(batches, history.step + 1):
        model.train()
        loss = loss_of(network, config, examples)
        update(model, opt, loss)
        rates.step()
        losses.append(loss.detach())
        if step in marks:
            record(step)
    model.load_state_dict(history.weights)
    return history.curve

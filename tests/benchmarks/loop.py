"""Where the time of a training run goes, and whether small runs are faster together: `make bench`
writes results/bench/loop.csv and loop.png.

whole       `s4bt.study.train.train` of the product at scale laptop, with its evaluations and
            checkpoints
compute     the model, forward, backward, clipping and AdamW on the very batches of that run, made
            beforehand
evaluation  the evaluations of that run, by themselves
rest        what is left: making batches, checkpoints, the learning curve, Python

Together: S models that differ by their seed as one, with S H channels and one batched product to
mix them, against S runs one by one, on one thread: what a grid on as many processes as cores would
gain by it.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F

from s4bt.nn.dss import DSS
from s4bt.nn.s4 import S4Model
from s4bt.study.batches import batch, shuffled
from s4bt.study.config import load_task
from s4bt.study.devices import seed_everything
from s4bt.study.styles import save, use_style
from s4bt.study.train import evaluate, learning_rate, optimizer
from s4bt.tasks import TASKS, Dataset
from s4bt.tasks.prepare import prepare
from tests.benchmarks.common import (
    OUT,
    finish,
    row,
    side_by_side,
)  # first, because it sets the number of threads

STEPS, EVALUATIONS, REST = 60, 1, 0.10


def made(task: str, folder: Path) -> Dataset:
    return prepare(task, load_task("laptop", task)[0].data, folder / task)


def parts(task: str, data: Dataset, rows: list[dict]) -> dict[str, float]:
    """Seconds of a run and of its parts, the best of three taken in turn."""
    config = load_task("laptop", task)[0]
    settings = config.pretrain.model_copy(update={"steps": STEPS, "evaluations": EVALUATIONS})
    info, train = data.info, data["train"]

    def fresh() -> S4Model:
        seed_everything(0)
        return S4Model(info.vocabulary, info.classes, info.documents, **config.model.model_dump())

    longest = np.array(train.lengths).reshape(len(train), -1).max(1)
    numbers = shuffled(np.random.default_rng([0, 1]), longest, settings.batch, settings.bucket)
    batches = [batch(info, train, next(numbers), torch.device("cpu")) for _ in range(STEPS)]

    def compute() -> None:
        model = fresh()
        opt = optimizer(model, settings, 0.01)
        rates = [group["lr"] for group in opt.param_groups]
        model.train()
        for step, (x, lengths, y) in enumerate(batches):
            for group, rate in zip(opt.param_groups, rates):
                group["lr"] = rate * learning_rate(step, STEPS, settings.warmup)
            loss = F.cross_entropy(model(x, lengths), y)
            opt.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()

    def evaluation() -> None:
        model = fresh()
        for _ in range(EVALUATIONS + 1):
            evaluate(model, data, "val")

    with tempfile.TemporaryDirectory() as folder:

        def whole() -> None:
            Path(folder, "checkpoint").unlink(missing_ok=True)
            train(fresh(), data, settings, 0.01, 0, checkpoint=Path(folder, "checkpoint"))

        took = side_by_side({"whole": whole, "compute": compute, "evaluation": evaluation}, 3)
    took["rest"] = took["whole"] - took["compute"] - took["evaluation"]
    rows.append(
        row(
            f"{task}: {STEPS} steps of a laptop-scale run",
            STEPS / (took["whole"] - took["evaluation"]),
            "steps/s",
        )
    )
    rows += [
        row(f"{task}: {what}, per step", 1000 * took[what] / STEPS, "ms")
        for what in ("compute", "evaluation", "rest")
    ]
    rows.append(
        row(f"{task}: rest, share of the whole", took["rest"] / took["whole"], "share", REST)
    )
    return took


class Together(torch.nn.Module):
    """S classifiers of tokens (S, B, L) that share nothing, as one:
    the blocks of S4Model with S H channels.
    """

    def __init__(self, S: int, vocabulary: int, classes: int, layers: int, H: int, N: int):
        super().__init__()
        self.S, self.H = S, H
        self.embedding = torch.nn.Embedding(S * vocabulary, H)
        self.register_buffer("first", vocabulary * torch.arange(S)[:, None, None])
        self.dss = torch.nn.ModuleList(DSS(S * H, N, sharing="per-channel") for _ in range(layers))
        self.norms = torch.nn.ModuleList(torch.nn.BatchNorm1d(S * H) for _ in range(layers + 1))
        self.mix = torch.nn.ParameterList(torch.randn(S, H, H) / H**0.5 for _ in range(layers))
        self.head = torch.nn.Parameter(torch.randn(S, H, classes) / H**0.5)

    def forward(self, x):
        S, B, L = x.shape
        u = self.embedding(x + self.first).permute(0, 3, 1, 2).reshape(S * self.H, B, L)
        for dss, norm, mix in zip(self.dss, self.norms, self.mix):
            v = F.gelu(dss(norm(u.flatten(1)[None])[0].view_as(u).transpose(0, 1)).transpose(0, 1))
            u = u + torch.bmm(mix, v.reshape(S, self.H, B * L)).view_as(u)
        u = self.norms[-1](u.flatten(1)[None])[0].view(S, self.H, B, L).mean(-1)
        return u.mT @ self.head  # (S, B, classes)


def together(rows: list[dict]) -> dict[int, dict[int, float]]:
    """Milliseconds per step and run, by modes and number of runs taken together."""
    found: dict[int, dict[int, float]] = {}
    B, L = 32, 256
    for N in (4, 64):
        functions = {}
        for S in (0, 1, 2, 4, 8):  # 0: one run with the model of the product
            torch.manual_seed(0)
            model = (
                Together(S, 256, 2, 2, 32, N)
                if S
                else S4Model(256, 2, layers=2, width=32, state=N, norm="batch")
            )
            x, y = (
                torch.randint(256, (S, B, L) if S else (B, L)),
                torch.randint(2, (max(S, 1) * B,)),
            )
            opt = torch.optim.AdamW(model.parameters(), 0.01, fused=True)

            def steps(
                model=model, opt=opt, x=x, y=y
            ) -> None:  # as in a run, one step after the other
                for _ in range(10):
                    loss = F.cross_entropy(model(x).flatten(0, -2), y)
                    opt.zero_grad(set_to_none=True)
                    loss.backward()
                    opt.step()

            functions[S] = steps
        took = side_by_side(functions, 4)
        own = 100 * took.pop(0)
        found[N] = {S: 100 * seconds / S for S, seconds in took.items()}
        rows.append(row(f"text, N = {N}: one run, the model of the product, per step", own, "ms"))
        rows += [
            row(f"text, N = {N}: {S} runs as one model, per run and step", value, "ms")
            for S, value in found[N].items()
        ]
        rows.append(
            row(
                f"text, N = {N}: best number of seeds as one batched model, time per seed over "
                "that of one by one",
                min(found[N].values()) / own,
                "ratio",
            )
        )
    return found


def main() -> None:
    torch.set_num_threads(1)
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        took = {task: parts(task, made(task, Path(folder)), rows) for task in TASKS}
    found = together(rows)
    use_style()
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3))
    start = np.zeros(len(took))
    for what, grey in (("compute", "0.25"), ("evaluation", "0.6"), ("rest", "0.85")):
        values = np.array([1000 * max(t[what], 0) / STEPS for t in took.values()])
        left.barh(list(took), values, left=start, color=grey, label=what)
        start += values
    left.set(xlabel=f"ms per step, run of {STEPS} steps")
    left.legend(fontsize=7)
    for (N, values), marker in zip(found.items(), "os"):
        right.plot(list(values), list(values.values()), marker=marker, label=f"N = {N}")
    right.set(xlabel="runs as one model", ylabel="ms per run and step", ylim=(0, None))
    right.legend(fontsize=7)
    save(figure, OUT / "loop.png")
    finish("loop", rows)


if __name__ == "__main__":
    main()

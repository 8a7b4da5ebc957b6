"""Pretraining: N modes from Skew-HiPPO, one run per seed and learning rate."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from s4bt.nn.storage import save_model
from s4bt.study.config import TaskConfig
from s4bt.study.devices import seed_everything
from s4bt.study.experiments import configured, fresh, run_of, scores
from s4bt.study.train import Diverged, train


def pretrain_runs(
    scale: str, task: str, config: TaskConfig, seeds: list[int], rates: list[float]
) -> list[dict]:
    """One run per seed and learning rate."""
    steps = config.pretrain.steps
    return [run_of("pretrain", scale, task, steps, seed=s, lr=lr) for s in seeds for lr in rates]


def pretrain_run(run: dict, folder: Path, progress, checkpoint: Path) -> dict:
    """Train one model; leaves model.safetensors and curve.csv in the folder."""
    config, dataset = configured(run)
    seed_everything(run["seed"])
    model = fresh(config, dataset)
    curve = train(model, dataset, config.pretrain, run["lr"], run["seed"], progress, checkpoint)
    save_model(model, folder / "model.safetensors")
    pd.DataFrame(curve).to_csv(folder / "curve.csv", index=False)
    own = {key: run[key] for key in ("seed", "lr", "steps")}
    return own | scores(model, dataset, curve)


def best_rate(results: list[dict]) -> float:
    """The learning rate with the best mean validation accuracy; the smaller one if they tie.

    Raises Diverged if none is left.
    """
    if not results:
        raise Diverged(
            "every learning rate of an arm diverged; add a smaller one to its list `lr` in "
            "params.yaml"
        )
    accuracy = pd.DataFrame(results).groupby("lr").val_accuracy.mean()
    return float(accuracy.index[accuracy.to_numpy().argmax()])


def pretrain_all(runner, scale: str, task: str, config: TaskConfig, seeds: list[int]) -> list[dict]:
    """One run per seed, with the learning rate that is best on the first seed's validation data."""
    rates = config.pretrain.lr
    rate = rates[0]
    if len(rates) > 1:
        trials = pretrain_runs(scale, task, config, seeds[:1], rates)
        rate = best_rate(runner.run(pretrain_run, trials, may_fail=Diverged))
    return runner.run(pretrain_run, pretrain_runs(scale, task, config, seeds, [rate]))


def pretrain_steps(config: TaskConfig, seeds: list[int]) -> int:
    """Steps of all pretraining runs, choice of the learning rate included, for the ETA."""
    return config.pretrain.steps * (len(seeds) + len(config.pretrain.lr) - 1)

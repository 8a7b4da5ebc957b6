"""How careful a fit should be: eps and mu of the fits, tried on validation data.

eps   perturbation, the relative error of every number that the fit allows for
mu    white, the share of white input
"""

from __future__ import annotations

import copy
from pathlib import Path

from s4bt.nn.s4 import S4Model, with_dss_of
from s4bt.reduction.methods import CHOSEN
from s4bt.study.care import RETRAINED
from s4bt.study.config import TaskConfig
from s4bt.study.devices import seed_everything
from s4bt.study.experiments import configured, fresh, run_of
from s4bt.study.grid import Grid
from s4bt.study.robustness import COPIES, robustness
from s4bt.study.train import Diverged, train
from s4bt.study.truncation import COST, quietly, start_of

FIRST = next(iter(CHOSEN))  # the method whose fits are retrained, too
SEEDS_FROM = 2000  # seeds of this retraining: others than those of the study


def choose_runs(scale: str, task: str, config: TaskConfig, grid: Grid) -> list[dict]:
    """One run per method, eps and mu, the other at its default; one of the untruncated model."""
    seed, choice = grid.seeds[0], grid.choice
    runs = [run_of("choose", scale, task, COST, arm="untruncated", seed=seed)]
    for method, default in CHOSEN.items():
        pairs = [(eps, default["white"]) for eps in choice.perturbations]
        pairs += [(default["perturbation"], mu) for mu in choice.whites]
        for eps, mu in dict.fromkeys(pairs):
            tried = method == FIRST and mu == default["white"]
            retrained = RETRAINED if tried else ()
            options = {"perturbation": eps, "white": mu, "retrained": retrained}
            steps, arm = COST + len(retrained) * config.retrain.steps, f"eps{eps:g}-mu{mu:g}"
            run = run_of("choose", scale, task, steps, arm=arm, method=method, seed=seed, **options)
            runs.append(run)
    return runs


def choose_run(run: dict, folder: Path, progress, _: Path) -> dict:
    """Validation accuracy of a model as it is, longer, perturbed, and at the end of retraining.

    Retraining, of the first method and every eps: the whole network, and its DSS parameters in a
    random one, at the middle one of the learning rates, of two the larger.
    """
    model, dataset, sequences, grid = start_of(run)
    row = {key: run.get(key) for key in ("arm", "method", "seed", "perturbation", "white")}
    if run["arm"] == "untruncated":
        return row | robustness(model, run["task"], dataset, "val", run["seed"], COPIES)
    options = {key: run[key] for key in ("perturbation", "white")}
    small, report = quietly(model, grid.choice.rank, run["method"], sequences, **options)
    row |= robustness(small, run["task"], dataset, "val", run["seed"], COPIES)
    for name in ("cancellation", "feedthrough"):
        row[name] = max(layer[name] for layer in report)
    for kind in run["retrained"]:
        row[kind] = _retrained(run, small, kind, progress)
    return row


def _retrained(run: dict, small: S4Model, kind: str, progress) -> float:
    """Validation accuracy at the end of retraining a truncated model; 0 if it diverges."""
    config, dataset = configured(run)
    rate, seed = sorted(config.retrain.lr)[len(config.retrain.lr) // 2], SEEDS_FROM + run["seed"]
    seed_everything(seed)
    random = fresh(config, dataset)
    start = with_dss_of(random, small) if kind == "dss" else copy.deepcopy(small)
    done = COST + RETRAINED.index(kind) * config.retrain.steps

    def on(step: int, accuracy: float) -> None:
        progress(done + step, accuracy)

    try:
        return train(start, dataset, config.retrain, rate, seed, on)[-1]["val_accuracy"]
    except Diverged:
        return 0.0

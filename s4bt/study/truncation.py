"""Truncation of the pretrained models: every method and rank, and ranks by rules."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from s4bt.compression import FragileLayer, compress
from s4bt.nn.s4 import S4Model
from s4bt.nn.storage import load_model, save_model
from s4bt.reduction.methods import METHODS
from s4bt.reduction.quality import cancellation, singular_values
from s4bt.reduction.ranks import budget, energy_adaptive, layer_adaptive
from s4bt.study.batches import batch
from s4bt.study.config import load_task
from s4bt.study.devices import device, seed_everything
from s4bt.study.experiments import configured, pretrained_path, run_of, scores
from s4bt.study.grid import Grid
from s4bt.study.robustness import robustness
from s4bt.study.train import evaluate
from s4bt.tasks import Dataset

COST = 20  # of a truncation and its measurement, in training steps, for the ETA
DIGITS = 9  # of Hankel singular values in tables
RULES: dict[str, dict[str, Callable]] = {
    "bt-discrete": {"budget": budget},
    "weighted": {"budget": budget},
    "modal": {"layer-adaptive": layer_adaptive},
    "energy": {"layer-adaptive": energy_adaptive},
}


def truncate_runs(scale: str, task: str, grid: Grid) -> list[dict]:
    """One run per method and seed, with all ranks."""
    steps = COST * len(grid.one_shot.ranks)
    return [
        run_of("truncate", scale, task, steps, arm="one-shot", method=method, seed=seed)
        for method in grid.one_shot.methods
        for seed in grid.seeds
    ]


def calibration(dataset: Dataset, size: int, seed: int) -> tuple:
    """Training examples, drawn by the seed, as `s4bt.compress` takes them: (x, lengths)."""
    count = len(dataset["train"])
    chosen = np.random.default_rng([seed, 2]).choice(count, min(size, count), replace=False)
    return batch(dataset.info, dataset["train"], np.sort(chosen), device())[:2]


def start_of(run: dict) -> tuple[S4Model, Dataset, tuple, Grid]:
    """The pretrained model of a run, its data, calibration sequences and grid."""
    _, dataset = configured(run)
    _, grid = load_task(run["scale"], run["task"])
    seed_everything(run["seed"])
    model = load_model(pretrained_path(run["scale"], run["task"], run["seed"])).to(device())
    return model, dataset, calibration(dataset, grid.one_shot.calibration, run["seed"]), grid


def quietly(*arguments: Any, **options: Any) -> tuple[S4Model, list[dict]]:
    """`compress`, whose warnings of fragile layers are what is measured here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FragileLayer)
        return compress(*arguments, **options)


def truncate_run(run: dict, folder: Path, progress, _: Path) -> dict:
    """Truncate one pretrained model to every rank and measure each as it is.

    Leaves r<rank>.safetensors, layers.csv and robustness.csv in the folder.
    """
    model, dataset, sequences, grid = start_of(run)
    references: dict = {}
    layers, rows, robust = [], [], []
    for done, rank in enumerate(grid.one_shot.ranks, 1):
        start = time.perf_counter()
        small, report = quietly(model, rank, run["method"], sequences, references)
        took = round(time.perf_counter() - start, 1)
        save_model(small, folder / f"r{rank}.safetensors")
        layers += report
        measured = scores(small, dataset)
        own = {key: run[key] for key in ("arm", "method", "seed")}
        row = {"name": f"{run['name']}-r{rank}", **own, "rank": rank, **measured, "seconds": took}
        rows.append(row)
        robust.append(own | {"rank": rank} | _robust(small, run, dataset, report))
        progress(COST * done, measured["accuracy"])
    pd.DataFrame(layers).to_csv(folder / "layers.csv", index=False)
    pd.DataFrame(robust).to_csv(folder / "robustness.csv", index=False)
    return {"method": run["method"], "seed": run["seed"], "rows": rows}


def _robust(model: S4Model, run: dict, dataset: Dataset, report: list[dict]) -> dict:
    """Accuracy when inputs are longer or numbers move, and the largest numbers of the layers."""
    found = robustness(model, run["task"], dataset, "test", run["seed"])
    for name in ("cancellation", "feedthrough"):
        found[name] = max(row[name] for row in report)
    return found


def untruncated_run(run: dict, folder: Path, progress, _: Path) -> dict:
    """The same of the pretrained model as it is: a row of robustness.csv."""
    model, dataset, sequences, _ = start_of(run)
    layers = model.dss_layers()
    kernels = [layer.to_lti().discretize(layer.dt()) for layer in layers]
    report = [
        {
            "cancellation": float(cancellation(kernel, sequences[0].shape[-1]).max()),
            "feedthrough": float(layer.D.detach().abs().max()),
        }
        for kernel, layer in zip(kernels, layers, strict=True)
    ]
    own = {"arm": "untruncated", "seed": run["seed"], "rank": model.dss_layers()[0].state}
    return own | _robust(model, run, dataset, report)


def untruncated_runs(scale: str, task: str, grid: Grid) -> list[dict]:
    """One run per seed."""
    return [run_of("robust", scale, task, 1, arm="untruncated", seed=s) for s in grid.seeds]


def rule_runs(scale: str, task: str, grid: Grid) -> list[dict]:
    """One run per method that spreads the states of the first seed's model over its layers."""
    return [
        run_of("rules", scale, task, COST * (1 + len(rules)), method=method, seed=seed)
        for seed in grid.seeds[:1]
        for method, rules in RULES.items()
    ]


def rule_run(run: dict, folder: Path, progress, _: Path) -> dict:
    """Accuracy of one pretrained model when its states are spread by a rule, and evenly.

    One row per rule, at rank lr_rank. A rule gets as many states in all as the even spread, rank
    times layers.
    """
    model, dataset, sequences, grid = start_of(run)
    depth, references, rows = len(model.blocks), {}, []
    rank = grid.lr_rank
    for name, rule in {"even": None, **RULES[run["method"]]}.items():
        kept = rule(rank * depth) if rule else rank
        small, report = quietly(model, kept, run["method"], sequences, references)
        accuracy = evaluate(small, dataset, "test")["accuracy"]
        ranks = " ".join(str(row["rank"]) for row in report)
        row = {"method": run["method"], "rule": name, "states": rank * depth}
        rows.append(row | {"ranks": ranks, "accuracy": accuracy})
        progress(COST * len(rows), accuracy)
    return {"rows": rows}


def hankel_values(scale: str, task: str, seeds: list[int], methods: list[str]) -> pd.DataFrame:
    """Hankel singular values of every layer of the pretrained models, as a table.

    Columns seed, layer, method, index (from 1), sigma: of the whole layer, or, for what has values
    in every channel, the median over the channels.
    """
    rows = []
    for seed in seeds:
        model = load_model(pretrained_path(scale, task, seed))
        for number, dss in enumerate(model.dss_layers()):
            for method in methods:
                sigma = singular_values(dss.to_lti(), METHODS[method], dss.dt())
                sigma = sigma.median(0).values if sigma.dim() > 1 else sigma
                rows += [
                    {"seed": seed, "layer": number, "method": method, "index": i, "sigma": value}
                    for i, value in enumerate(sigma.tolist(), 1)
                ]
    table = pd.DataFrame(rows)
    return table.assign(sigma=[float(f"{value:.{DIGITS}g}") for value in table.sigma])


def error_shares(layers: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Errors of all layers as shares of the gain, mean by rank and method, and how many hold.

    layers: the rows of `compress`. The error must lie between limit and bound, up to rounding: the
    new layer is measured as it is stored, in single precision.
    """
    slack = 1e-5 * layers.gain
    above = layers.hinf >= 0.999 * layers.limit - slack
    below, bounded = layers.hinf <= 1.001 * layers.bound + slack, layers.bound.notna()
    share = layers[["limit", "hinf", "bound"]].div(layers.gain, axis=0)
    share = share.join(layers[["h2_error", "output_error"]])
    said = (
        f"{above.sum()} of {len(layers)} layers above the limit, {(below & bounded).sum()} of "
        f"{bounded.sum()} below the bound; {(share.bound > 1).sum()} bounds are above the gain; "
        f"the bound is {(layers.bound / layers.hinf).median():.1f} times the error, in the median"
    )
    return share.groupby([layers["rank"], layers.method]).mean(), said

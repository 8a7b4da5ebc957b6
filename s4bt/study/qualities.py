"""Poorer originals, and what becomes of them: the paper's second claim.

A better original gives a better compressed model, it says; that can be tested only where originals
differ. So some are pretrained for a share of the steps, each with a schedule of its own, and then
truncated and retrained like the others, at the learning rates that those chose.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from s4bt.nn.s4 import with_dss_of
from s4bt.nn.storage import load_model, save_model
from s4bt.study.config import TaskConfig
from s4bt.study.devices import device, seed_everything
from s4bt.study.experiments import configured, fresh, run_of, scores
from s4bt.study.grid import Grid
from s4bt.study.retraining import SEEDS_FROM
from s4bt.study.train import train
from s4bt.study.truncation import calibration, quietly

COLUMNS = ["share", "seed", "method", "rank", "transfer", "original", "start", "accuracy"]


def quality_runs(
    scale: str, task: str, config: TaskConfig, seeds: list[int], shares: list[float], lr: float
) -> list[dict]:
    """One run per seed and share of the pretraining steps."""
    return [
        run_of(
            "quality",
            scale,
            task,
            max(1, round(share * config.pretrain.steps)),
            arm=f"q{share:g}",
            share=share,
            seed=seed,
            lr=lr,
        )
        for share in shares
        for seed in seeds
    ]


def quality_run(run: dict, folder: Path, progress, checkpoint: Path) -> dict:
    """Pretrain one model for a share of the steps; leaves model.safetensors and curve.csv."""
    config, dataset = configured(run)
    seed_everything(run["seed"])
    model = fresh(config, dataset)
    settings = config.pretrain.model_copy(update={"steps": run["steps"]})
    curve = train(model, dataset, settings, run["lr"], run["seed"], progress, checkpoint)
    save_model(model, folder / "model.safetensors")
    pd.DataFrame(curve).to_csv(folder / "curve.csv", index=False)
    own = {key: run[key] for key in ("seed", "lr", "share", "steps")}
    return own | scores(model, dataset, curve)


def heir_runs(
    originals: list[dict], config: TaskConfig, grid: Grid, rates: pd.DataFrame, waiting: Path
) -> list[dict]:
    """One run per poorer original (a run of `quality_runs`), method, rank and transfer.

    rates: retrain.csv, whose truncated arms say the learning rate; waiting: where the originals
    lie.
    """
    assert grid.originals is not None
    chosen = rates[rates.arm == "truncated"].groupby(["method", "transfer"]).lr.first()
    return [
        run_of(
            "heir",
            original["scale"],
            original["task"],
            config.retrain.steps,
            arm=original["arm"],
            method=method,
            transfer=transfer,
            rank=rank,
            seed=original["seed"],
            lr=float(chosen[method, transfer]),
            share=original["share"],
            calibration=grid.one_shot.calibration,
            path=str(waiting / original["name"] / "model.safetensors"),
        )
        for original in originals
        for method in grid.originals.methods
        for transfer in ("dss", "whole")
        for rank in grid.originals.ranks
    ]


def heir_run(run: dict, folder: Path, progress, checkpoint: Path) -> dict:
    """Truncate a poorer original and retrain it, as `retraining` does with the others."""
    config, dataset = configured(run)
    model = load_model(Path(run["path"])).to(device())
    sequences = calibration(dataset, run["calibration"], run["seed"])
    seed_everything(run["seed"])
    small, _ = quietly(model, run["rank"], run["method"], sequences)
    start = scores(small, dataset)["accuracy"]
    seed = SEEDS_FROM + run["seed"]
    seed_everything(seed)
    random = fresh(config, dataset)
    small = with_dss_of(random, small) if run["transfer"] == "dss" else small
    curve = train(small, dataset, config.retrain, run["lr"], seed, progress, checkpoint)
    own = {key: run[key] for key in ("share", "seed", "method", "rank", "transfer", "lr")}
    return own | {"start": start} | scores(small, dataset, curve)


def table_of(
    originals: list[dict],
    heirs: list[dict],
    best: pd.DataFrame,
    retrained: pd.DataFrame,
    one: pd.DataFrame,
) -> pd.DataFrame:
    """COLUMNS, a row for every original and way to compress it, the fully pretrained ones with
    share 1 among them.

    best: pretrain.csv; retrained: retrain.csv; one: truncate.csv.
    """
    known = {(row["share"], row["seed"]): row["accuracy"] for row in originals}
    rows = pd.DataFrame(heirs)
    rows["original"] = [known[key] for key in zip(rows.share, rows.seed, strict=True)]
    same = ["method", "rank", "transfer"]
    whole = retrained[retrained.arm == "truncated"].merge(rows[same].drop_duplicates(), on=same)
    start = one[["method", "rank", "seed", "accuracy"]].rename(columns={"accuracy": "start"})
    whole = whole.merge(start, on=["method", "rank", "seed"]).assign(share=1.0)
    whole["original"] = whole.seed.map(best.set_index("seed").accuracy)
    return pd.concat([rows, whole], ignore_index=True)[COLUMNS]

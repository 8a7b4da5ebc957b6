"""Poorer originals: pretraining cut short, each with a schedule of its own.

The paper's second claim, that a better original gives a better compressed model, can be tested only
where originals differ.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from s4bt.nn.storage import save_model
from s4bt.study.config import TaskConfig
from s4bt.study.devices import seed_everything
from s4bt.study.experiments import configured, fresh, run_of, scores
from s4bt.study.train import train


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

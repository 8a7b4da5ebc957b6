"""Why a truncated start is not ahead on retrieval where the rest of the network is random, and what
was tried: results/bench/near_chance.csv and its figure.

DSS parameters only, against Skew-HiPPO with the same kind of poles, at r = 16, where `weighted` is
behind it at scale laptop. Three seeds, on test data after the fact; nothing is chosen by it. Tried:
four times the steps, three times the largest learning rate, and twice the batch.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from s4bt.study.devices import seed_everything
from s4bt.study.experiments import configured, fresh, run_of
from s4bt.study.retraining import SEEDS_FROM, start_of
from s4bt.study.styles import method_style, save, use_style
from s4bt.study.train import evaluate, train
from tests.benchmarks.common import OUT, write

TASK, RANK, SEEDS = "retrieval", 16, (0, 1, 2)
ARMS = {
    "weighted": {"arm": "truncated", "method": "weighted", "transfer": "dss"},
    "weighted-shared": {"arm": "truncated", "method": "weighted-shared", "transfer": "dss"},
    "Skew-HiPPO per channel": {"arm": "skew-hippo", "sharing": "per-channel"},
    "Skew-HiPPO": {"arm": "skew-hippo", "sharing": "tied"},
}
TRIED = {
    "as in the study": {},
    "four times the steps": {"steps": 4},
    "three times the rate": {"lr": 3},
    "twice the batch": {"batch": 2},
}


def accuracy(fields: dict, seed: int, tried: dict) -> float:
    run = run_of("retrain", "laptop", TASK, 0, rank=RANK, seed=seed, **fields)
    config, dataset = configured(run)
    factor = {"steps": 1, "lr": 1, "batch": 1} | tried
    settings = config.retrain.model_copy(
        update={name: getattr(config.retrain, name) * factor[name] for name in ("steps", "batch")}
    )
    seed_everything(SEEDS_FROM + seed)
    model = start_of(run, fresh(config, dataset))
    train(model, dataset, settings, max(config.retrain.lr) * factor["lr"], SEEDS_FROM + seed)
    return evaluate(model, dataset, "test")["accuracy"]


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for words, tried in TRIED.items():
        for name, fields in ARMS.items():
            for seed in SEEDS:
                found = accuracy(fields, seed, tried)
                rows.append({"tried": words, "arm": name, "seed": seed, "accuracy": f"{found:.4f}"})
                print(rows[-1], flush=True)
    write(OUT / "near_chance.csv", rows)
    draw(pd.DataFrame(rows).astype({"accuracy": float}))


def draw(rows: pd.DataFrame) -> None:
    use_style()
    figure, ax = plt.subplots(figsize=(7, 2.8))
    for k, (name, part) in enumerate(rows.groupby("arm", sort=False)):
        known = "truncated" in ARMS[name].values()
        style = method_style(name) if known else {"color": "#de8f05", "marker": "<^"[k - 2]}
        places = np.repeat(np.arange(len(TRIED)), len(SEEDS)) + 0.15 * (k - 1.5)
        ax.plot(places, 100 * part.accuracy, ls="", ms=5, **style | {"label": name})
    ax.axhline(50, color="0.6", ls=(0, (1, 3)), label="guessing")
    ax.set_xticks(range(len(TRIED)), TRIED)
    ax.set(ylabel="test accuracy, %", title=f"{TASK}, DSS parameters only, r = {RANK}")
    ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    save(figure, OUT / "near_chance.png")


if __name__ == "__main__":
    main()

"""An independent check of AIRE-Prune (Padhy et al. 2026), which prunes 61 % of the states for 0.3
points, without retraining: results/bench/pruned.csv.

The pretrained models of scale laptop, three seeds, on test data, 25 of 64 modes a layer in the
mean. `layer-adaptive` spreads them over the layers by the method's own rule.
"""

import pandas as pd
import torch

from s4bt.reduction.ranks import energy_adaptive, layer_adaptive
from s4bt.study.experiments import run_of
from s4bt.study.train import evaluate
from s4bt.study.truncation import quietly, start_of
from s4bt.tasks import TASKS
from tests.benchmarks.common import OUT, write

RANK, SEEDS = 25, (0, 1, 2)
RULES = {"energy": energy_adaptive, "modal": layer_adaptive}


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for task in TASKS:
        for seed in SEEDS:
            run = run_of("prune", "laptop", task, 0, seed=seed)
            model, dataset, sequences, _ = start_of(run)
            before = evaluate(model, dataset, "test")["accuracy"]
            layers = len(model.dss_layers())
            for method in ("energy", "modal", "bt-discrete", "weighted"):
                rules = {"uniform": RANK}
                if method in RULES:
                    rules["layer-adaptive"] = RULES[method](RANK * layers)
                for rule, rank in rules.items():
                    small, _ = quietly(model, rank, method, calibration=sequences)
                    after = evaluate(small, dataset, "test")["accuracy"]
                    line = {"task": task, "seed": seed, "method": method, "rule": rule}
                    rows.append(line | {"lost": f"{100 * (before - after):.2f}"})
                    print(rows[-1], flush=True)
    write(OUT / "pruned.csv", rows)
    lost = pd.DataFrame(rows).astype({"lost": float})
    print(lost.groupby(["method", "rule"]).lost.mean().round(1))


if __name__ == "__main__":
    main()

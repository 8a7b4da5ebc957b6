"""Retraining: the arms of the comparison.

arm              start of retraining
truncated        the truncated DSS parameters; transfer "dss": the rest of the network from its
                 random start, "whole": the rest as pretrained
skew-hippo       the same random start with r modes from Skew-HiPPO in its DSS layers, as many steps
                 as retraining                                                          baseline (a)
skew-hippo-long  the same with as many steps as pretraining and retraining together     baseline (b)
one-shot         the truncated model as it is, no retraining                            baseline (c)
untruncated      the pretrained model with all N modes                                  baseline (d)
skew-hippo-rest  the pretrained model with r modes from Skew-HiPPO; its dt, D and the rest stay as
                 pretrained                                                              control (e)
skew-hippo-steps the random start with r modes from Skew-HiPPO, but dt and D of the pretrained model
                                                                                         control (f)
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from s4bt.nn.s4 import S4Model, with_dss_of, with_skew_hippo
from s4bt.nn.storage import load_model, save_model
from s4bt.study.config import TaskConfig
from s4bt.study.devices import device, seed_everything
from s4bt.study.experiments import (
    configured,
    fresh,
    pretrained_path,
    run_of,
    scores,
    truncated_path,
)
from s4bt.study.grid import Grid
from s4bt.study.pretraining import best_rate
from s4bt.study.train import Diverged, train

SEEDS_FROM = 1000  # seeds of retraining: others than those of pretraining
OF_RUN = ("arm", "method", "transfer", "sharing", "rank", "seed", "lr", "steps")


def arms(grid: Grid, config: TaskConfig) -> list[dict]:
    """The arms that train, each with the ranks it has and its number of steps."""
    short, long = config.retrain.steps, config.pretrain.steps + config.retrain.steps
    kinds = ("tied", "per-channel")
    found = [
        {"arm": "truncated", "method": m, "transfer": t, "ranks": grid.ranks, "steps": short}
        for m in grid.methods
        for t in ("dss", "whole")
    ]
    found += [
        {
            "arm": "skew-hippo",
            "sharing": kind,
            "ranks": [*grid.ranks, *grid.more_ranks],
            "steps": short,
        }
        for kind in kinds
    ]
    dear = grid.baseline_ranks
    found.append({"arm": "skew-hippo-long", "sharing": "tied", "ranks": dear, "steps": long})
    found += [
        {"arm": "skew-hippo-rest", "sharing": kind, "ranks": ranks, "steps": short}
        for kind, ranks in zip(kinds, (grid.ranks, dear), strict=True)
    ]
    found.append({"arm": "skew-hippo-steps", "sharing": "tied", "ranks": dear, "steps": short})
    found.append({"arm": "untruncated", "ranks": [config.model.state], "steps": short})
    return found


def retrain_runs(
    scale: str, task: str, arm: dict, ranks: list[int], seeds: list[int], rates: list[float]
) -> list[dict]:
    """Runs of one arm."""
    fields = {key: arm[key] for key in ("arm", "method", "transfer", "sharing") if key in arm}
    return [
        run_of("retrain", scale, task, arm["steps"], **fields, rank=r, seed=s, lr=lr)
        for r in ranks
        for s in seeds
        for lr in rates
    ]


def start_of(run: dict, random: S4Model) -> S4Model:
    """The model that an arm starts from; random: the untrained one that all arms share."""
    arm = run["arm"]
    if arm in ("untruncated", "skew-hippo-rest", "skew-hippo-steps"):
        model = load_model(pretrained_path(run["scale"], run["task"], run["seed"])).to(device())
    elif arm == "truncated":
        model = load_model(truncated_path(run)).to(device())
        model = with_dss_of(random, model) if run["transfer"] == "dss" else model
    else:
        model = random
    if arm.startswith("skew-hippo"):
        model = with_skew_hippo(model, run["rank"], run["sharing"])
    return with_dss_of(random, model) if arm == "skew-hippo-steps" else model


def retrain_run(run: dict, folder: Path, progress, checkpoint: Path) -> dict:
    """Train one arm's model from its start.

    Leaves model.safetensors and curve.csv in the folder.
    """
    config, dataset = configured(run)
    seed = SEEDS_FROM + run["seed"]
    seed_everything(seed)
    # drawn for every arm, so that all share it and what follows
    model = start_of(run, fresh(config, dataset))
    extra = config.pretrain.evaluations if run["arm"] == "skew-hippo-long" else 0
    settings = config.retrain.model_copy(
        update={"steps": run["steps"], "evaluations": config.retrain.evaluations + extra}
    )
    curve = train(model, dataset, settings, run["lr"], seed, progress, checkpoint)
    save_model(model, folder / "model.safetensors")
    pd.DataFrame(curve).to_csv(folder / "curve.csv", index=False)
    return {key: run[key] for key in OF_RUN if key in run} | scores(model, dataset, curve)


def retrain_all(
    runner, scale: str, task: str, config: TaskConfig, grid: Grid
) -> tuple[list[dict], list[dict]]:
    """All retraining: each arm first chooses its learning rate, at one rank.

    At grid.lr_rank, or its first rank, on validation data of the first seed. Returns (results with
    the chosen rates, all results of the choice).
    """
    trials, rest = [], []
    every = arms(grid, config)
    for arm in every:
        first = grid.lr_rank if grid.lr_rank in arm["ranks"] else arm["ranks"][0]
        trials.append(retrain_runs(scale, task, arm, [first], grid.seeds[:1], config.retrain.lr))
    tried = runner.run(retrain_run, [run for runs in trials for run in runs], may_fail=Diverged)
    by_name = {result["name"]: result for result in tried}
    for arm, runs in zip(every, trials):
        rate = best_rate([by_name[run["name"]] for run in runs if run["name"] in by_name])
        rest += retrain_runs(scale, task, arm, arm["ranks"], grid.seeds, [rate])
    new = runner.run(retrain_run, [run for run in rest if run["name"] not in by_name])
    by_name |= {result["name"]: result for result in new}
    return [by_name[run["name"]] for run in rest], tried


def retrain_steps(config: TaskConfig, grid: Grid) -> int:
    """Steps of all retraining runs, choice of the learning rates included, for the ETA."""
    seeds, trials = len(grid.seeds), len(config.retrain.lr) - 1
    return sum(arm["steps"] * (len(arm["ranks"]) * seeds + trials) for arm in arms(grid, config))

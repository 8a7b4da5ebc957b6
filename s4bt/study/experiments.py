"""The arms of the comparison: what is pretrained, truncated and retrained.

arm              start of post-training
truncated        the truncated DSS parameters; transfer "dss": the rest of the network from its random start, "whole": the rest
                 as pretrained
skew-hippo       the same random start with r modes from Skew-HiPPO in its DSS layers, as many steps as retraining  baseline (a)
skew-hippo-long  the same with as many steps as pretraining and retraining together                            baseline (b)
one-shot         the truncated model as it is, no post-training                                                baseline (c)
untruncated      the pretrained model with all N modes                                                         baseline (d)
skew-hippo-rest  the pretrained model with r modes from Skew-HiPPO; its dt, D and the rest stay as pretrained    control (e)
"""
from __future__ import annotations

import hashlib
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd

from s4bt.config import Grid, TaskConfig, load_task
from s4bt.files import scratch_dir, task_dir
from s4bt.model import S4Model, count_parameters, load_model, save_model, truncate, with_dss_of, with_skew_hippo
from s4bt.ranks import budget, last
from s4bt.tasks import Dataset, load
from s4bt.train import Diverged, batch, device, evaluate, fit, seed_everything

TRUNCATION = 20     # what a truncation and its measurement cost, in training steps, for the ETA


def _data(run: dict) -> tuple[TaskConfig, Dataset]:
    config, _ = load_task(run["scale"], run["task"])
    return config, load(run["task"], task_dir(run["scale"], run["task"]) / "arrays")


def _fresh(config: TaskConfig, dataset: Dataset) -> S4Model:
    info = dataset.info
    return S4Model(info.vocabulary, info.classes, info.documents, **config.model.model_dump()).to(device())


def _scores(model: S4Model, dataset: Dataset, curve: list[dict] | None = None) -> dict:
    """Test and validation accuracy and sizes; the weights that `fit` leaves are those of the curve's best validation accuracy."""
    sizes = count_parameters(model)
    val = max(row["val_accuracy"] for row in curve) if curve else evaluate(model, dataset, "val")["accuracy"]
    return {"accuracy": evaluate(model, dataset, "test")["accuracy"], "val_accuracy": val, "parameters": sizes["total"],
            "state_space_parameters": sizes["state_space"]}


def _run(phase: str, scale: str, task: str, steps: int, **fields) -> dict:
    parts = [fields.get("arm"), fields.get("reducer"), fields.get("transfer"), fields.get("poles"),
             f"r{fields['rank']}" if "rank" in fields else None, f"s{fields['seed']}", f"lr{fields['lr']:g}" if "lr" in fields else None]
    return {"name": f"{phase}-{task}-" + "-".join(str(p) for p in parts if p), "scale": scale, "task": task, "steps": steps, **fields}


def scratch(scale: str, task: str, phase: str) -> Path:
    """Where the finished runs of a phase wait until all are done; its name depends on code, parameters and inputs."""
    folder, inputs = task_dir(scale, task), {"pretrain": ("arrays",), "truncate": ("arrays", "pretrained"),
                                             "retrain": ("arrays", "pretrained", "truncated")}[phase]
    return scratch_dir(scale, task, phase, [*load_task(scale, task)], *(folder / name for name in inputs))


# -- pretrain -------------------------------------------------------------------------------------------------------------

def pretrain_runs(scale: str, task: str, config: TaskConfig, seeds: list[int], rates: list[float]) -> list[dict]:
    """One run per seed and learning rate: N modes from Skew-HiPPO."""
    return [_run("pretrain", scale, task, config.pretrain.steps, seed=s, lr=lr) for s in seeds for lr in rates]


def pretrain_run(run: dict, folder: Path, progress, checkpoint: Path) -> dict:
    """Train one model; leaves model.safetensors and curve.csv in the folder."""
    config, dataset = _data(run)
    seed_everything(run["seed"])
    model = _fresh(config, dataset)
    curve = fit(model, dataset, config.pretrain, run["lr"], run["seed"], progress, checkpoint)
    save_model(model, folder / "model.safetensors")
    pd.DataFrame(curve).to_csv(folder / "curve.csv", index=False)
    return {"seed": run["seed"], "lr": run["lr"], "steps": run["steps"], **_scores(model, dataset, curve)}


# -- truncate -------------------------------------------------------------------------------------------------------------

def truncate_runs(scale: str, task: str, grid: Grid) -> list[dict]:
    """One run per reducer and seed, with all ranks; for the ETA each rank counts as TRUNCATION training steps."""
    return [_run("truncate", scale, task, TRUNCATION * len(grid.one_shot.ranks), arm="one-shot", reducer=m, seed=s)
            for m in grid.one_shot.reducers for s in grid.seeds]


def calibration(dataset: Dataset, size: int, seed: int) -> tuple:
    """Training examples, drawn by the seed, as `s4bt.model.truncate` takes them: (x, lengths)."""
    size = min(size, len(dataset["train"]))
    index = np.sort(np.random.default_rng([seed, 2]).choice(len(dataset["train"]), size, replace=False))
    return batch(dataset.info, dataset["train"], index, device())[:2]


def truncated_path(scale: str, task: str, run: dict) -> Path:
    """The truncated model of a run's reducer, rank and seed."""
    return task_dir(scale, task) / "truncated" / f"{run['reducer']}-r{run['rank']}-s{run['seed']}.safetensors"


def pretrained_path(scale: str, task: str, seed: int) -> Path:
    """The pretrained model of a seed."""
    return task_dir(scale, task) / "pretrained" / f"s{seed}.safetensors"


def truncate_run(run: dict, folder: Path, progress, _: Path) -> dict:
    """Truncate one pretrained model to every rank and measure each as it is; leaves r<rank>.safetensors and layers.csv in the folder."""
    config, dataset = _data(run)
    _, grid = load_task(run["scale"], run["task"])
    seed_everything(run["seed"])
    model = load_model(pretrained_path(run["scale"], run["task"], run["seed"])).to(device())
    seen, references, layers, rows = calibration(dataset, grid.one_shot.calibration, run["seed"]), {}, [], []
    for done, rank in enumerate(grid.one_shot.ranks):
        start = time.perf_counter()
        small, report = truncate(model, rank, run["reducer"], seen, references)
        took = round(time.perf_counter() - start, 1)
        save_model(small, folder / f"r{rank}.safetensors")
        layers += report
        scores = _scores(small, dataset)
        rows.append({"name": f"{run['name']}-r{rank}", **{key: run[key] for key in ("arm", "reducer", "seed")}, "rank": rank, **scores,
                     "seconds": took})
        progress(TRUNCATION * (done + 1), scores["accuracy"])
    pd.DataFrame(layers).to_csv(folder / "layers.csv", index=False)
    return {"reducer": run["reducer"], "seed": run["seed"], "rows": rows}


RULES = {"bt-discrete": {"budget": budget}, "weighted": {"budget": budget}, "modal": {"last": last}}


def rule_runs(scale: str, task: str, grid: Grid) -> list[dict]:
    """One run per method that spreads the states of the first seed's model over its layers."""
    return [_run("rules", scale, task, TRUNCATION * (1 + len(rules)) * len(grid.ranks[:-1]), reducer=method, seed=grid.seeds[0])
            for method, rules in RULES.items()]


def rule_run(run: dict, folder: Path, progress, _: Path) -> dict:
    """Accuracy of one pretrained model when its states are spread over the layers by a rule, and evenly: one row per rule and rank.

    A rule gets as many states in all as the even spread, rank times layers.
    """
    _, dataset = _data(run)
    _, grid = load_task(run["scale"], run["task"])
    seed_everything(run["seed"])
    model = load_model(pretrained_path(run["scale"], run["task"], run["seed"])).to(device())
    seen, depth, references, rows = calibration(dataset, grid.one_shot.calibration, run["seed"]), len(model.blocks), {}, []
    for rank in sorted(grid.ranks)[:-1]:
        for name, rule in {"even": None, **RULES[run["reducer"]]}.items():
            small, report = truncate(model, rule(rank * depth) if rule else rank, run["reducer"], seen, references)
            rows.append({"method": run["reducer"], "rule": name, "states": rank * depth,
                         "ranks": " ".join(str(row["rank"]) for row in report), "accuracy": evaluate(small, dataset, "test")["accuracy"]})
            progress(TRUNCATION * len(rows), rows[-1]["accuracy"])
    return {"rows": rows}


# -- retrain --------------------------------------------------------------------------------------------------------------

def arms(grid: Grid, config: TaskConfig) -> list[dict]:
    """The arms that train, each with the ranks it has and its number of steps."""
    short, long = config.retrain.steps, config.pretrain.steps + config.retrain.steps
    found = [{"arm": "truncated", "reducer": m, "transfer": t, "ranks": grid.ranks, "steps": short}
             for m in grid.reducers for t in ("dss", "whole")]
    found += [{"arm": "skew-hippo", "poles": p, "ranks": ranks, "steps": short}
              for p, ranks in (("tied", grid.ranks), ("per-channel", grid.baseline_ranks))]
    found.append({"arm": "skew-hippo-long", "poles": "tied", "ranks": grid.baseline_ranks, "steps": long})
    found += [{"arm": "skew-hippo-rest", "poles": p, "ranks": ranks, "steps": short}
              for p, ranks in (("tied", grid.ranks), ("per-channel", grid.baseline_ranks))]
    found.append({"arm": "untruncated", "ranks": [config.model.state], "steps": short})
    return found


def retrain_runs(scale: str, task: str, arm: dict, ranks: list[int], seeds: list[int], rates: list[float]) -> list[dict]:
    """Runs of one arm."""
    fields = {key: arm[key] for key in ("arm", "reducer", "transfer", "poles") if key in arm}
    return [_run("retrain", scale, task, arm["steps"], **fields, rank=r, seed=s, lr=lr) for r in ranks for s in seeds for lr in rates]


def retrain_run(run: dict, folder: Path, progress, checkpoint: Path) -> dict:
    """Train one arm's model from its start; leaves model.safetensors and curve.csv in the folder."""
    config, dataset = _data(run)
    seed_everything(1000 + run["seed"])
    random = _fresh(config, dataset)                                 # drawn for every arm, so that all share it and what follows
    if run["arm"] in ("untruncated", "skew-hippo-rest"):
        model = load_model(pretrained_path(run["scale"], run["task"], run["seed"])).to(device())
    elif run["arm"] == "truncated":
        model = load_model(truncated_path(run["scale"], run["task"], run)).to(device())
        model = with_dss_of(random, model) if run["transfer"] == "dss" else model
    else:
        model = random
    if run["arm"].startswith("skew-hippo"):
        model = with_skew_hippo(model, run["rank"], run["poles"])
    extra = config.pretrain.evaluations if run["arm"] == "skew-hippo-long" else 0
    settings = config.retrain.model_copy(update={"steps": run["steps"], "evaluations": config.retrain.evaluations + extra})
    curve = fit(model, dataset, settings, run["lr"], 1000 + run["seed"], progress, checkpoint)
    save_model(model, folder / "model.safetensors")
    pd.DataFrame(curve).to_csv(folder / "curve.csv", index=False)
    keep = ("arm", "reducer", "transfer", "poles", "rank", "seed", "lr", "steps")
    return {key: run[key] for key in keep if key in run} | _scores(model, dataset, curve)


def best_rate(results: list[dict]) -> float:
    """The learning rate with the best mean validation accuracy; the smaller one if they tie.  Raises Diverged if none is left."""
    if not results:
        raise Diverged("every learning rate of an arm diverged; add a smaller one to its list `lr` in params.yaml")
    frame = pd.DataFrame(results).groupby("lr").val_accuracy.mean()
    return float(frame.index[frame.to_numpy().argmax()])


def run_arms(grid_runner, scale: str, task: str, config: TaskConfig, grid: Grid) -> tuple[list[dict], list[dict]]:
    """All retraining: each arm first chooses its learning rate at grid.lr_rank on validation data of the first seed.

    Returns (results with the chosen rates, all results of the choice).
    """
    first = lambda arm: [grid.lr_rank] if grid.lr_rank in arm["ranks"] else arm["ranks"][:1]  # noqa: E731
    every = arms(grid, config)
    trials = {i: retrain_runs(scale, task, arm, first(arm), grid.seeds[:1], config.retrain.lr) for i, arm in enumerate(every)}
    tried = grid_runner.run(retrain_run, [run for runs in trials.values() for run in runs], may_fail=Diverged)
    by_name = {result["name"]: result for result in tried}
    rest = [run for i, arm in enumerate(every) for run in retrain_runs(
        scale, task, arm, arm["ranks"], grid.seeds, [best_rate([by_name[r["name"]] for r in trials[i] if r["name"] in by_name])])]
    new = grid_runner.run(retrain_run, [run for run in rest if run["name"] not in by_name])
    by_name |= {result["name"]: result for result in new}
    return [by_name[run["name"]] for run in rest], tried


def retrain_steps(config: TaskConfig, grid: Grid) -> int:
    """Steps of all retraining runs, choice of the learning rates included, for the ETA."""
    return sum(arm["steps"] * (len(arm["ranks"]) * len(grid.seeds) + len(config.retrain.lr) - 1) for arm in arms(grid, config))


# -- collect --------------------------------------------------------------------------------------------------------------

def collect(results: list[dict], scratch: Path, file: str, folder: Path, name) -> None:
    """Copy one file of every run's scratch folder into `folder` under name(result)."""
    folder.mkdir(parents=True, exist_ok=True)
    for result in results:
        shutil.copyfile(scratch / result["name"] / file, folder / name(result))


def flat_rows(results: list[dict]) -> list[dict]:
    """The rows of runs that measure several things."""
    return [row for result in results for row in result["rows"]]


def concatenate(results: list[dict], scratch: Path, file: str, keys: list[str]) -> pd.DataFrame:
    """The CSV tables that the runs left, one below the other, with columns that say whose rows they are."""
    frames = []
    for result in results:
        frame = pd.read_csv(scratch / result["name"] / file)
        for i, key in enumerate(keys):
            frame.insert(i, key, result.get(key))
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def table(results: list[dict]) -> pd.DataFrame:
    """Results without their seconds, which differ from one execution to the next."""
    return pd.DataFrame([{k: v for k, v in result.items() if k != "seconds"} for result in results])


def record_seconds(results: list[dict], known: Path, out: Path) -> None:
    """Write {run: {"result": digest, "seconds"}}; a run whose result is the same to the bit keeps the seconds in `known`.

    So the file changes only when a result does, and a repetition on the same kind of machine leaves git clean.
    """
    old = json.loads(known.read_text()) if known.exists() else {}
    new = {}
    for result in results:
        content = json.dumps({k: v for k, v in result.items() if k != "seconds"}, sort_keys=True)
        key = hashlib.sha256(content.encode()).hexdigest()[:16]
        kept = old.get(result["name"], {})
        new[result["name"]] = kept if kept.get("result") == key else {"result": key, "seconds": result["seconds"]}
    out.write_text(json.dumps(new, indent=1, sort_keys=True) + "\n")

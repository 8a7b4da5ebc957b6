"""Training, the grid over Dask, and the bookkeeping of the arms."""

import errno
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from distributed import Client, LocalCluster
from safetensors import safe_open
from safetensors.torch import save_file

from s4bt.files import UserError
from s4bt.nn.s4 import S4Model
from s4bt.study.batches import batch, deliver, shuffled
from s4bt.study.config import TrainConfig, load_task
from s4bt.study.devices import seed_everything
from s4bt.study.experiments import record_seconds
from s4bt.study.pretraining import best_rate
from s4bt.study.retraining import arms, retrain_runs
from s4bt.study.runner import Runner
from s4bt.study.statistics import across_tasks, correlations, gains, intervals
from s4bt.study.train import Diverged, evaluate, learning_rate, optimizer, train
from s4bt.study.workers import execute, finished
from s4bt.tasks.options import ListOpsData
from s4bt.tasks.prepare import prepare

with tempfile.TemporaryDirectory() as temporary:
    DATA = prepare(
        "listops",
        ListOpsData(
            train=64, val=32, test=32, min_length=4, max_length=16, max_depth=3, max_arguments=3
        ),
        Path(temporary) / "arrays",
    )
SETTINGS = TrainConfig(steps=12, batch=8, lr=[0.01], evaluations=3)


def model(seed=0):
    seed_everything(seed)
    return S4Model(DATA.info.vocabulary, 10, layers=1, width=8, state=4, norm="batch")


def test_training_is_the_same_to_the_bit_every_time():
    results = []
    for _ in range(2):
        net = model()
        results.append((train(net, DATA, SETTINGS, 0.01, seed=3), net.state_dict()))
    assert str(results[0][0]) == str(results[1][0])
    assert all(torch.equal(a, b) for a, b in zip(results[0][1].values(), results[1][1].values()))


def test_the_best_weights_by_validation_are_kept():
    net = model()
    curve = train(net, DATA, SETTINGS, 0.05, seed=0)
    assert [row["step"] for row in curve] == [0, 4, 8, 12]
    assert evaluate(net, DATA, "val")["accuracy"] == max(row["val_accuracy"] for row in curve)


def test_training_learns_something():
    net = model()
    before = evaluate(net, DATA, "train")["loss"]
    train(net, DATA, TrainConfig(steps=80, batch=16, lr=[0.01], evaluations=1), 0.02, seed=0)
    assert evaluate(net, DATA, "train")["loss"] < 0.9 * before


class Killed(Exception):
    pass


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("when", [0, 4, 8])
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, when, dropout):
    """Weights, optimiser, schedule, generator of the dropout,
    position in the data (buckets and all) and best weights so far.
    """
    options = TrainConfig(steps=12, batch=8, lr=[0.01], evaluations=3, bucket=3)

    def start():
        seed_everything(0)
        return S4Model(
            DATA.info.vocabulary, 10, layers=1, width=8, state=4, norm="batch", dropout=dropout
        )

    def kill(step, _):
        if step == when:
            raise Killed

    whole, first, rest = start(), start(), start()
    curve = train(whole, DATA, options, 0.02, seed=3)
    with pytest.raises(Killed):
        train(first, DATA, options, 0.02, seed=3, progress=kill, checkpoint=tmp_path / "run")
    steps = []
    torch.rand(17)
    again = train(
        rest,
        DATA,
        options,
        0.02,
        seed=3,
        progress=lambda step, _: steps.append(step),
        checkpoint=tmp_path / "run",
    )
    assert str(again) == str(curve) and steps == [s for s in (4, 8, 12) if s > when]
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), rest.state_dict().values())
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b"half a file"),
        lambda file: file.write_bytes(b""),
        lambda file: edit(file, lambda tensors, about: about.clear()),
        lambda file: edit(file, lambda tensors, about: about.update(curve="[")),
        lambda file: edit(file, lambda tensors, about: about.update(best="high")),
        lambda file: edit(file, lambda tensors, about: tensors.update(odd=torch.ones(1))),
        lambda file: edit(
            file,
            lambda tensors, about: about.update(
                identity=about["identity"].replace('"cpu"', '"cuda"')
            ),
        ),
    ],
    ids=[
        "torn",
        "empty",
        "no metadata",
        "no curve",
        "no accuracy",
        "a strange tensor",
        "of another kind of device",
    ],
)
def test_a_damaged_checkpoint_costs_the_run_not_the_result(tmp_path, damage):
    nets = [model() for _ in range(3)]
    curve = train(nets[0], DATA, SETTINGS, 0.01, seed=3)
    train(nets[1], DATA, SETTINGS, 0.01, seed=3, checkpoint=tmp_path / "run")
    damage(tmp_path / "run")
    steps = []
    again = train(
        model(),
        DATA,
        SETTINGS,
        0.01,
        seed=3,
        progress=lambda step, _: steps.append(step),
        checkpoint=tmp_path / "run",
    )
    assert str(again) == str(curve) and steps == [0, 4, 8, 12]


def edit(file, change):
    """Change tensors and metadata of a safetensors file."""
    with safe_open(file, "pt") as opened:
        tensors, about = (
            {name: opened.get_tensor(name) for name in opened.keys()},  # noqa: SIM118
            dict(opened.metadata()),
        )
    change(tensors, about)
    save_file(tensors, file, metadata=about)


@pytest.mark.parametrize(
    "other", [{"lr": 0.5}, {"seed": 9}, {"config": SETTINGS.model_copy(update={"batch": 16})}]
)
def test_a_checkpoint_of_another_run_is_not_gone_on_from(tmp_path, other):
    train(model(), DATA, SETTINGS, 0.01, seed=3, checkpoint=tmp_path / "run")
    arguments = {"config": SETTINGS, "lr": 0.01, "seed": 3} | other
    expected = train(model(), DATA, **arguments)
    assert str(train(model(), DATA, **arguments, checkpoint=tmp_path / "run")) == str(expected)


def test_mixed_precision_trains_as_well():
    found = []
    for precision in ("float32", "bfloat16"):
        net = model()
        train(
            net,
            DATA,
            TrainConfig(steps=80, batch=16, lr=[0.01], evaluations=1, precision=precision),
            0.02,
            seed=0,
        )
        found.append(evaluate(net, DATA, "train")["loss"])
    assert found[0] != found[1] and abs(found[0] - found[1]) < 0.1 * found[0]


def test_a_loss_that_is_not_finite_is_an_error():
    net = model()
    with torch.no_grad():
        net.head.bias[0] = float("nan")
    with pytest.raises(Diverged, match=r"head.bias is not finite at step 0"):
        train(net, DATA, SETTINGS, 0.01, seed=0)


@pytest.mark.parametrize("at", [1, 5, 12])
def test_a_gradient_that_is_not_finite_is_an_error_wherever_it_comes(tmp_path, at):
    """The loss before the step was finite; no checkpoint may keep what is not."""
    net, seen, kept = model(), [], tmp_path / "checkpoint"

    def spoil(gradient):
        seen.append(1)
        return gradient * float("nan") if len(seen) == at else gradient

    net.head.bias.register_hook(spoil)
    with pytest.raises(Diverged, match=r"not finite at step \d+ \(learning rate 0.01\)"):
        train(net, DATA, SETTINGS, 0.01, seed=0, checkpoint=kept)
    assert len(seen) < at + 4
    with safe_open(kept, "pt") as file:
        for name in file.keys():  # noqa: SIM118
            value = file.get_tensor(name)
            assert not value.is_floating_point() or bool(value.isfinite().all()), name


def test_answers_that_are_not_finite_are_wrong_answers():
    net = model()
    with torch.no_grad():
        net.head.bias[0] = float("nan")
    assert evaluate(net, DATA, "val")["accuracy"] == 0


def test_dss_parameters_have_their_own_rate_and_no_decay():
    for dt_lr, expected in ((None, 0.02), (2.0, 0.4)):
        outside, inside, log_dt = optimizer(
            model(), TrainConfig(steps=1, lr=[1.0], ssm_lr=0.1, dt_lr=dt_lr, weight_decay=0.5), 0.2
        ).param_groups
        assert (
            outside["lr"],
            outside["weight_decay"],
            inside["weight_decay"],
            log_dt["weight_decay"],
        ) == (0.2, 0.5, 0.0, 0.0)
        assert inside["lr"] == pytest.approx(0.02) and len(inside["params"]) == 4
        assert log_dt["lr"] == pytest.approx(expected) and log_dt["params"][0].shape == (8,)


def test_the_learning_rate_warms_up_and_goes_to_zero():
    rates = [learning_rate(s, 100, 0.1) for s in range(100)]
    assert (
        rates[0] == 0.1
        and max(rates) == 1 == rates[9]
        and rates[-1] < 1e-3
        and np.all(np.diff(rates[10:]) < 0)
    )


def test_batches_are_cut_to_their_longest_row():
    x, lengths, y = batch(DATA.info, DATA["train"], np.arange(5), torch.device("cpu"))
    assert x.shape == (5, int(lengths.max())) and x.dtype == torch.int64 and y.shape == (5,)


def test_a_bucket_larger_than_the_training_split_loses_and_repeats_nothing():
    numbers = list(itertools.islice(shuffled(np.random.default_rng(1), np.arange(130), 50, 8), 26))
    assert (
        len(set(np.concatenate(numbers[:2]))) == 100
    )  # where two epochs meet, an example may come twice
    counts = np.bincount(np.concatenate(numbers), minlength=130)
    assert counts.tolist() == [10] * 130


@pytest.mark.parametrize("bucket", [1, 4])
def test_every_example_comes_once_before_any_comes_again(bucket):
    lengths = np.random.default_rng(0).integers(1, 100, 96)
    numbers = list(itertools.islice(shuffled(np.random.default_rng(1), lengths, 8, bucket), 24))
    assert all(len(set(b)) == 8 and (np.diff(b) > 0).all() for b in numbers)
    assert (
        sorted(np.concatenate(numbers[:12]))
        == list(range(96))
        == sorted(np.concatenate(numbers[12:]))
    )


def test_buckets_save_padding():
    lengths = np.random.default_rng(0).integers(1, 100, 960)
    padded = {
        b: sum(
            lengths[i].max()
            for i in itertools.islice(shuffled(np.random.default_rng(1), lengths, 8, b), 120)
        )
        for b in (1, 20)
    }
    assert padded[20] * 8 < 1.1 * lengths.sum() < padded[1] * 8 / 1.5


def test_batches_for_an_accelerator_are_made_ahead_and_are_the_same(monkeypatch):
    """The thread and the pinned memory, with the accelerator played by the CPU."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self.clone())
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_, **__: self)
    numbers = [np.arange(i, i + 4) for i in range(12)]
    ahead = deliver(DATA.info, DATA["train"], iter(numbers), torch.device("cuda"))
    for index, (x, lengths, y) in zip(numbers[:10], ahead):
        expected = batch(DATA.info, DATA["train"], index, torch.device("cpu"))
        assert (
            torch.equal(x, expected[0])
            and torch.equal(lengths, expected[1])
            and torch.equal(y, expected[2])
        )
    ahead.close()


# -- the grid: functions at module level, so that workers can import them


def square(run, folder, progress, checkpoint):
    (folder / "log").write_text(str(os.getpid()))
    progress(run["steps"], 0.5)
    if run.get("fail"):
        raise UserError("on purpose")
    if run.get("crash"):
        return 1 / 0
    return {"value": run["x"] ** 2, "accuracy": 0.5}


def runs(count, **extra):
    return [{"name": f"run{i}", "steps": 1, "x": i, **extra} for i in range(count)]


@pytest.mark.parametrize("steps", [10, 1000], ids=["in this process", "in two workers"])
def test_the_grid_keeps_what_is_finished_and_names_what_failed(tmp_path, monkeypatch, capfd, steps):
    monkeypatch.setenv("S4BT_WORKERS", "2")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    )
    broken = runs(4)
    broken[2]["fail"] = True
    with (
        pytest.raises(
            UserError,
            match="1 of 4 runs failed; the others are kept.*\n.*run2: UserError: on purpose",
        ),
        Runner(tmp_path / "s", "test", steps) as grid,
    ):
        grid.run(square, broken)
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == [
        "run0",
        "run1",
        "run2.progress",
        "run3",
    ]
    before = (tmp_path / "s" / "run0" / "log").stat().st_mtime_ns
    with Runner(tmp_path / "s", "test", steps) as grid:
        results = grid.run(square, runs(4))
    assert [r["value"] for r in results] == [0, 1, 4, 9] and all("seconds" in r for r in results)
    assert (tmp_path / "s" / "run0" / "log").stat().st_mtime_ns == before
    text = capfd.readouterr().err
    assert (
        "3 of 4 runs were finished before" in text
        and "4 of 4  run2  accuracy 0.500" in text
        and "ETA" in text
    )
    if steps > 100:
        assert {int((tmp_path / "s" / f"run{i}" / "log").read_text()) for i in range(4)}.isdisjoint(
            {os.getpid()}
        )


@pytest.mark.parametrize("steps", [10, 1000], ids=["in this process", "in two workers"])
def test_an_unexpected_error_names_file_and_line(tmp_path, monkeypatch, steps):
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    )
    line = square.__code__.co_firstlineno + 6
    with (
        pytest.raises(UserError, match=rf"run0: ZeroDivisionError: .*test_train.py, line {line}\)"),
        Runner(tmp_path, "test", steps) as grid,
    ):
        grid.run(square, runs(1, crash=True))


def trouble(run, folder, progress, checkpoint):
    """What its name says; "dies once" writes a checkpoint,
    is killed as the system kills what takes too much memory, and goes on from it.
    """
    with open(folder.with_name(f"{run['name']}.attempts"), "a") as file:
        file.write(f"{time.time()}\n")
    if run["name"] == "dies once" and not checkpoint.exists():
        checkpoint.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
    if run["name"] == "always dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if run["name"] == "wants too much":
        torch.empty(10**15)
    if run["name"] == "disk is full":
        (folder / "log").symlink_to("/dev/full")
        (folder / "log").write_text("x" * 10**6)
    if run["name"] == "folder is read-only":
        raise OSError(errno.EROFS, "Read-only file system")
    if run["name"] == "loss is NaN":
        net = model()
        with torch.no_grad():
            net.head.bias[0] = float("nan")
        train(net, DATA, SETTINGS, 0.01, seed=0)
    time.sleep(0.3)
    return {"accuracy": 0.5, "resumed": checkpoint.exists()}


def test_what_goes_wrong_is_named_and_the_rest_is_done(tmp_path, monkeypatch):
    monkeypatch.setenv("S4BT_WORKERS", "2")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    )
    names = [
        "fine",
        "dies once",
        "always dies",
        "wants too much",
        "disk is full",
        "folder is read-only",
        "loss is NaN",
        "fine, too",
    ]
    with pytest.raises(UserError) as caught, Runner(tmp_path, "test", 1000) as grid:
        grid.run(trouble, [{"name": name, "steps": 1} for name in names])
    lines = str(caught.value).splitlines()
    assert "5 of 8 runs failed; the others are kept" in lines[0] and not any(
        "Traceback" in line for line in lines
    )
    said = {line.split(":")[0].strip(): line for line in lines[1:]}
    assert re.search(
        "its worker died 4 times. If memory ran out, lower S4BT_WORKERS", said["always dies"]
    )
    assert re.search(
        r"allocate memory.*test_train.py, line \d+\). Memory ran out: lower S4BT_WORKERS",
        said["wants too much"],
    )
    assert re.search(
        "could not be written: No space left on device. Free some space", said["disk is full"]
    )
    assert re.search(
        "could not be written: Read-only file system. .*make the folder writable",
        said["folder is read-only"],
    )
    assert re.search(
        r"head.bias is not finite at step 0 .*; train or truncate it anew", said["loss is NaN"]
    )
    done = finished(tmp_path)
    assert set(done) == {"fine", "dies once", "fine, too"} and done["dies once"]["resumed"]

    def count(name):
        return len((tmp_path / f"{name}.attempts").read_text().split())

    assert (
        count("dies once") == 2 and count("fine") == count("fine, too") == 1
    )  # a death costs only its own run
    assert not (tmp_path / "dies once.checkpoint").exists()


def test_a_run_that_died_after_it_was_done_is_not_repeated(tmp_path):
    run = runs(1)[0]
    first = execute(square, run, tmp_path / "run0")
    before = (tmp_path / "run0" / "log").stat().st_mtime_ns
    assert (
        execute(square, run, tmp_path / "run0") == first
        and (tmp_path / "run0" / "log").stat().st_mtime_ns == before
    )


def test_a_trial_may_fail_and_is_left_out(tmp_path):
    broken = runs(3)
    broken[1]["fail"] = True
    with Runner(tmp_path, "test", 3) as grid:
        assert [r["value"] for r in grid.run(square, broken, may_fail=UserError)] == [0, 4]
    with pytest.raises(Diverged, match="every learning rate of an arm diverged"):
        best_rate([])


def test_a_half_written_run_is_done_again_and_one_under_way_is_left_alone(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    half, alive, elsewhere = (
        tmp_path / f".run{i}.{host}+{pid}+0a1b.part"
        for i, (host, pid) in enumerate(
            [
                (socket.gethostname(), gone.pid),
                (socket.gethostname(), os.getpid()),
                ("another-machine", gone.pid),
            ]
        )
    )
    for folder in (half, alive, elsewhere):
        folder.mkdir(parents=True)
        (folder / "log").write_text("half")
    with Runner(tmp_path, "test", 1) as grid:
        assert grid.run(square, runs(1))[0]["value"] == 0
    assert not half.exists() and alive.exists() and elsewhere.exists()


def test_seconds_and_steps_of_a_run_count_what_it_did_before_it_was_interrupted(tmp_path, capfd):
    (tmp_path / "run0.checkpoint").write_text("")
    (tmp_path / "run0.progress").write_text(json.dumps([7, 0.5, 100.0]))
    with Runner(tmp_path, "test", 10) as grid:
        (result,) = grid.run(square, [{"name": "run0", "steps": 10, "x": 3}])
        assert result["seconds"] >= 100 and grid.repeated == 7


def test_an_external_scheduler_does_the_runs(tmp_path, monkeypatch):
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    )
    with LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", cluster.scheduler_address)
        with Runner(tmp_path, "test", 1000) as grid:
            assert [r["value"] for r in grid.run(square, runs(5))] == [0, 1, 4, 9, 16]
        with Client(cluster) as client:
            workers = set(client.run(os.getpid).values())
        assert {int((tmp_path / f"run{i}" / "log").read_text()) for i in range(5)} <= workers


def test_workers_with_several_threads_are_refused(tmp_path, monkeypatch):
    with LocalCluster(
        n_workers=1, threads_per_worker=2, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", cluster.scheduler_address)
        with (
            pytest.raises(UserError, match="have several threads.*--nthreads 1"),
            Runner(tmp_path, "test", 1000) as grid,
        ):
            grid.run(square, runs(1))


def test_a_scheduler_that_does_not_answer_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "nonsense://127.0.0.1:1")
    with (
        pytest.raises(
            UserError,
            match="no Dask scheduler with workers answers at DASK_SCHEDULER_ADDRESS=nonsense",
        ),
        Runner(tmp_path, "test", 1000) as grid,
    ):
        grid.run(square, runs(1))


# -- the arms


def test_every_baseline_trains_on_every_rank_it_should():
    config, grid = load_task("laptop", "listops")
    by_arm = {}
    for arm in arms(grid, config):
        by_arm.setdefault(arm["arm"], []).append(arm)
    assert {(a["method"], a["transfer"]) for a in by_arm["truncated"]} == {
        (m, t) for m in grid.methods for t in ("dss", "whole")
    }
    assert all(a["ranks"] == grid.ranks for a in by_arm["truncated"])
    assert {a["sharing"]: a["ranks"] for a in by_arm["skew-hippo"]} == {
        "tied": grid.ranks,
        "per-channel": grid.ranks,
    }
    assert {a["steps"] for a in by_arm["truncated"] + by_arm["skew-hippo"]} == {
        config.retrain.steps
    }
    assert by_arm["skew-hippo-long"][0]["steps"] == config.pretrain.steps + config.retrain.steps
    assert (
        by_arm["skew-hippo-rest"][0]["ranks"] == grid.ranks
        and by_arm["skew-hippo-rest"][0]["steps"] == config.retrain.steps
    )
    names = [
        r["name"]
        for a in arms(grid, config)
        for r in retrain_runs("laptop", "listops", a, a["ranks"], grid.seeds, [0.1, 0.2])
    ]
    assert len(names) == len(set(names))


def test_learning_rates_are_chosen_by_validation_accuracy():
    results = [
        {"lr": 0.1, "val_accuracy": 0.5, "accuracy": 0.1},
        {"lr": 0.2, "val_accuracy": 0.4, "accuracy": 0.9},
        {"lr": 0.3, "val_accuracy": 0.5, "accuracy": 0.9},
    ]
    assert best_rate(results) == 0.1


def test_seconds_change_only_with_results(tmp_path):
    first = [{"name": "a", "accuracy": 0.5, "seconds": 3.0}]
    record_seconds(first, tmp_path / "none", tmp_path / "one")
    record_seconds(
        [{"name": "a", "accuracy": 0.5, "seconds": 9.0}], tmp_path / "one", tmp_path / "two"
    )
    record_seconds(
        [{"name": "a", "accuracy": 0.6, "seconds": 9.0}], tmp_path / "one", tmp_path / "three"
    )

    def read(name):
        return json.loads((tmp_path / name).read_text())["a"]["seconds"]

    assert (read("one"), read("two"), read("three")) == (3.0, 3.0, 9.0)


def table(accuracies, arm="truncated", **extra):
    return pd.DataFrame(
        [
            {
                "task": t,
                "arm": arm,
                "method": "bt-shared",
                "transfer": "whole",
                "sharing": "tied",
                "rank": r,
                "seed": s,
                "accuracy": a,
                **extra,
            }
            for (t, r, s), a in accuracies.items()
        ]
    )


def test_intervals_pool_the_variance_over_ranks():
    rows = table({("x", 2, 0): 0.4, ("x", 2, 1): 0.6, ("x", 4, 0): 0.7, ("x", 4, 1): 0.7})
    cells = intervals(rows)
    s = np.sqrt(0.02 / 2)  # sums of squares 0.02 and 0, one degree of freedom each
    assert np.allclose(cells["mean"], [0.5, 0.7]) and np.allclose(
        cells.half, 4.302653 * s / np.sqrt(2)
    )


def test_pooled_intervals_cover_as_often_as_they_say():
    rng, hits = np.random.default_rng(0), []
    for _ in range(300):
        rows = table({("x", r, s): rng.normal(0.5, 0.1) for r in (2, 4, 8) for s in (0, 1)})
        hits += list((intervals(rows)["mean"] - 0.5).abs() < intervals(rows).half)
    assert 0.93 < np.mean(hits) < 0.97


@pytest.mark.parametrize("shared, least", [(0.5, 0.89), (0.9, 0.82)])
def test_a_seed_that_is_lucky_at_every_rank_makes_them_cover_less(shared, least):
    """What docs/decisions/0003 says: part of the variance is common to the ranks of a seed."""
    rng, hits = np.random.default_rng(1), []
    for _ in range(300):
        luck = rng.normal(size=2)
        rows = table(
            {
                ("x", r, s): 0.5
                + 0.1 * (shared**0.5 * luck[s] + (1 - shared) ** 0.5 * rng.normal())
                for r in (2, 4, 8)
                for s in (0, 1)
            }
        )
        cells = intervals(rows)
        hits += list((cells["mean"] - 0.5).abs() < cells.half)
    assert least < np.mean(hits) < 0.97


def test_gains_are_paired_by_rank_seed_and_kind_of_poles():
    ours = table({("x", 2, 0): 0.5, ("x", 2, 1): 0.7, ("y", 2, 0): 0.9, ("y", 2, 1): 0.9})
    base = table(
        {("x", 2, 1): 0.4, ("x", 2, 0): 0.4, ("y", 2, 0): 0.8, ("y", 2, 1): 1.0}, arm="skew-hippo"
    )
    other = table({("x", 2, 0): 0.0}, arm="skew-hippo").assign(sharing="per-channel")
    gain = gains(
        pd.concat(
            [
                ours,
                base.assign(method=None, transfer=None),
                other.assign(method=None, transfer=None),
            ]
        )
    )
    assert np.allclose(gain.sort_values(["task", "seed"]).gain, [0.1, 0.3, 0.1, -0.1])
    rest = base.assign(method=None, transfer=None, arm="skew-hippo-rest")
    inside = gains(
        pd.concat([ours, ours.assign(transfer="dss", accuracy=1.0), rest]), "skew-hippo-rest"
    )
    assert set(inside.transfer) == {"whole"} and np.allclose(
        inside.sort_values(["task", "seed"]).gain, [0.1, 0.3, 0.1, -0.1]
    )
    over = across_tasks(gain)
    assert (
        np.allclose(over["mean"], 0.1) and over.wins.tolist() == [1] and over.tasks.tolist() == [2]
    )


def test_the_correlation_inside_tasks_forgets_how_hard_tasks_are():
    rows = table({("x", 2, 0): 0.50, ("x", 2, 1): 0.52, ("y", 2, 0): 0.90, ("y", 2, 1): 0.92})
    found = correlations(rows.assign(pretrained_accuracy=[0.62, 0.60, 0.97, 0.95]))
    assert found["over_tasks"] > 0.99 and np.isclose(found["inside_tasks"], -1)

"""One run on several processes, started by torchrun, against the same run in one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed

from s4bt.files import ROOT, UserError
from s4bt.nn.s4 import S4Model
from s4bt.study.config import TrainConfig
from s4bt.study.devices import seed_everything
from s4bt.study.multi_device import candidates
from s4bt.study.train import train
from s4bt.tasks import load
from s4bt.tasks.options import ListOpsData
from s4bt.tasks.prepare import prepare

SETTINGS = TrainConfig(steps=12, batch=10, lr=[0.01], evaluations=3, bucket=3)


def twelve_steps(folder: Path, stop: int | None = None) -> None:
    """Twelve steps in double precision; with batch norm, and 10 rows for the processes to share;
    `stop` dies after that step.
    """
    steps = []

    def progress(step, _):
        steps.append(step)
        if step == stop:
            sys.exit(0)

    data = load("listops", folder / "arrays")
    seed_everything(0)
    model = S4Model(data.info.vocabulary, 10, layers=2, width=8, state=20, norm="batch").double()
    curve = train(
        model,
        data,
        SETTINGS,
        0.02,
        3,
        progress,
        folder / "checkpoint" if distributed.is_initialized() else None,
    )
    if not distributed.is_initialized() or not distributed.get_rank():
        tensors = {k: v.double() for k, v in model.state_dict().items()}
        first = (
            {"first": torch.tensor(steps[0] - 4 if steps[0] else 0)}
            if distributed.is_initialized()
            else {}
        )
        save_file(
            tensors | {"loss": torch.tensor([row["loss"] for row in curve[1:]])} | first,
            folder / "done.safetensors",
        )


def launched(folder: Path, *arguments: str, count: int = 2) -> dict:
    subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            str(count),
            "--master-port",
            "0",
            "--rdzv-backend",
            "c10d",
            "--rdzv-endpoint",
            "127.0.0.1:0",
            __file__,
            str(folder),
            *arguments,
        ],
        check=True,
        cwd=ROOT,
        timeout=200,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    return load_file(folder / "done.safetensors") if (folder / "done.safetensors").exists() else {}


def test_processes_together_do_what_one_does_with_the_same_batch(tmp_path):
    """Three, whose shares of 10 rows differ and of whom one has no validation data,
    after two were interrupted: three start afresh.
    """
    prepare(
        "listops",
        ListOpsData(
            train=64, val=30, test=30, min_length=4, max_length=16, max_depth=3, max_arguments=3
        ),
        tmp_path / "arrays",
    )
    twelve_steps(tmp_path)
    alone = load_file(tmp_path / "done.safetensors")
    (tmp_path / "done.safetensors").unlink()
    for count, begins in ((2, 4), (3, 0)):
        assert (
            launched(tmp_path, "4") == {} and (tmp_path / "checkpoint").exists()
        )  # two, interrupted after four steps
        together = launched(tmp_path, count=count)
        assert (
            int(together.pop("first")) == begins
            and alone.keys() == together.keys()
            and len(alone) > 20
        )
        for name in alone:
            assert torch.allclose(alone[name], together[name], rtol=1e-7, atol=1e-9), (name, count)
        for left in ("done.safetensors", "checkpoint"):
            (tmp_path / left).unlink()


def test_more_processes_than_rows_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 11)
    data = prepare(
        "listops",
        ListOpsData(
            train=64, val=30, test=30, min_length=4, max_length=16, max_depth=3, max_arguments=3
        ),
        tmp_path / "arrays",
    )
    with pytest.raises(UserError, match="11 processes cannot share a batch of 10; start fewer"):
        train(S4Model(data.info.vocabulary, 10, layers=1, width=4, state=2), data, SETTINGS, 0.1, 0)


def test_runs_are_found_by_the_name_that_the_study_gives_them():
    phase, task, runs = candidates("laptop", "retrain-text")
    assert (phase, task) == ("retrain", "text") and runs[
        "retrain-text-truncated-weighted-whole-r4-s1-lr0.01"
    ]["seed"] == 1
    assert list(candidates("paper", "pretrain-pathx-s0")[2])[0] == "pretrain-pathx-s0-lr0.0005"
    with pytest.raises(UserError, match="does not begin with pretrain or retrain"):
        candidates("laptop", "truncate-text")


if __name__ == "__main__":
    distributed.init_process_group("gloo")
    twelve_steps(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
    distributed.destroy_process_group()

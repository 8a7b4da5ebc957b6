"""`make test-faults`: the study at toy size, killed at twenty random moments, against the same
study undisturbed, to the bit.

One copy of the project runs it with one worker and in peace, another with two workers while at
random moments one of its processes, or all of them, are killed. The retrainings are made long
enough to go to Dask workers. S4BT_SEED chooses other moments.
"""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from s4bt.tasks import TASKS
from tests.copies import ENVIRONMENT, copy_project, good

KILLS = int(os.environ.get("S4BT_KILLS", 20))
SEED = int(os.environ.get("S4BT_SEED", 0))


def toy(folder: Path) -> Path:
    """A copy whose quick scale retrains in workers."""
    copy_project(folder)
    params = folder / "params.yaml"
    text, count = re.subn(r"retrain: \{steps: \d,", "retrain: {steps: 24,", params.read_text())
    assert count == 6
    params.write_text(text)
    good("dvc repro data/dvc.yaml && python -m tools.scales quick", folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """All results but the seconds they took; DVC's lock is there too."""
    found = {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted((folder / "results" / "quick").rglob("*"))
        if p.is_file()
        and "/.dvc/" not in str(p)
        and not p.name.startswith("seconds-")
        and p.name != ".gitignore"
    }
    for name, data in found.items():
        if name.endswith("dvc.lock"):  # it holds the digests of the seconds
            found[name] = re.sub(rb"    - path: \S*(seconds-|summary)\S*\n(      .*\n)*", b"", data)
        if name.endswith("summary.csv"):
            lines = [line.split(",") for line in data.decode().splitlines()]
            column = lines[0].index("seconds")
            found[name] = json.dumps(
                [line[:column] + line[column + 1 :] for line in lines]
            ).encode()
    return found


def family(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return []


def disturbed(folder: Path, dice: random.Random, log: list) -> None:
    """Start the study again and again; each time, after a while, kill one process of it, or all,
    until there were KILLS such moments.

    Where it is done before, a stage is forced to run again.
    """
    arguments = ["repro"]
    while len(log) < KILLS:
        study = subprocess.Popen(
            ["dvc", "--cd", "results/quick", *arguments],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**ENVIRONMENT, "PYTHONPATH": str(folder), "S4BT_WORKERS": "2"},
            start_new_session=True,
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            study.wait(dice.uniform(3, 20))
            assert study.returncode == 0
            arguments = [
                "repro",
                "--force",
                "--single-item",
                f"{dice.choice(['pretrain', 'truncate', 'retrain'])}@{dice.choice(TASKS)}",
            ]
            continue
        processes = family(psutil.Process(study.pid))
        chosen = dice.choice(["all", "dvc", "any"])
        victims = (
            processes
            if chosen == "all"
            else processes[:1]
            if chosen == "dvc"
            else [dice.choice(processes)]
        )
        killed = []
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                killed.append(" ".join(victim.cmdline()[-6:])[:70])
                victim.kill()
        if killed:
            log.append(f"{chosen}: {killed[0]}")
            print(f"killed {len(log)} of {KILLS}: {log[-1]}", flush=True)
        if chosen == "any":  # a worker that dies is replaced; anything else ends the stage
            with contextlib.suppress(subprocess.TimeoutExpired):
                study.wait(8)
            processes += family(psutil.Process(study.pid)) if study.poll() is None else []
            study.kill()
        study.wait()
        _, alive = psutil.wait_procs(processes, timeout=30)
        assert not alive, f"orphans after {log[-1]}: {[p.cmdline() for p in alive]}"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The undisturbed study and the disturbed one, made at the same time."""
    calm, stormy = (toy(tmp_path_factory.mktemp(name) / "s4bt") for name in ("calm", "stormy"))
    thread = threading.Thread(
        target=good, args=("dvc --cd results/quick repro", calm), kwargs={"S4BT_WORKERS": "1"}
    )
    thread.start()
    log: list = []
    disturbed(stormy, random.Random(SEED), log)
    good(
        "dvc --cd results/quick repro", stormy, S4BT_WORKERS="2"
    )  # forced stages left others stale, if their bits differed
    thread.join()
    return calm, stormy, log


def test_a_study_killed_at_random_moments_ends_with_the_same_bits(folders):
    calm, stormy, log = folders
    expected, found = contents(calm), contents(stormy)
    assert len(log) == KILLS and len(expected) > 300
    assert expected.keys() == found.keys()
    assert [name for name in expected if expected[name] != found[name]] == []


def test_nothing_is_left_behind(folders):
    for folder in folders[:2]:
        assert not [p for p in folder.rglob("*.part") if ".venv" not in p.parts]
        assert not list((folder / ".scratch" / "stages").iterdir()) and not list(
            (folder / ".scratch" / "quick").glob("*/*")
        )
        assert "up to date" in good("dvc --cd results/quick status", folder)
        assert not good(
            "git status --porcelain -- s4bt notebooks dvc.yaml dvc.lock", folder
        ).strip()


def test_an_external_scheduler_with_two_workers_gives_the_same_bits(folders):
    calm, _, _ = folders
    before = contents(calm)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def start(*command):
        return subprocess.Popen(
            [sys.executable, "-m", "distributed.cli." + command[0], *command[1:]],
            cwd=calm,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**ENVIRONMENT, "PYTHONPATH": str(calm)},
        )

    address = f"tcp://127.0.0.1:{port}"
    processes = [
        start("dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"),
        *(
            start(
                "dask_worker", address, "--nthreads", "1", "--host", "127.0.0.1", "--no-dashboard"
            )
            for _ in range(2)
        ),
    ]
    try:
        time.sleep(5)
        good(
            "dvc --cd results/quick repro --force --single-item retrain@text",
            calm,
            DASK_SCHEDULER_ADDRESS=address,
        )
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(30)
    good("dvc --cd results/quick repro", calm)
    assert contents(calm) == before

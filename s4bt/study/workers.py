"""Workers of a stage: where they come from, and what they do with a run.

A run is a dict with a unique "name" and its number of "steps"; a function turns it into a JSON-able
dict and may leave files. The function gets a folder of its own, which is renamed to its final name
only when the run is done: a folder that is there is whole, and its run is not repeated. It also
gets the name of a checkpoint, from which it may go on if it is there; that goes when the run is
done.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import dask
import torch
from distributed import Client, KilledWorker, LocalCluster, get_worker

from s4bt.files import ROOT, UserError, atomic_path
from s4bt.progress import cores
from s4bt.study.environment import FIXED

# glibc otherwise returns every large buffer to the system and pays for it again at the next step
# (1.4 times slower).
WORKER_ENVIRONMENT = FIXED | {
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
}


def client() -> Client:
    """A client of the scheduler at DASK_SCHEDULER_ADDRESS, or of workers on this machine.

    Workers here are processes of one thread.

    Listens on loopback only. As many workers as accelerators, or as cores where there is none
    (S4BT_WORKERS overrides). Raises UserError if the named scheduler does not answer, has no
    worker, or has one with several threads.
    """
    if address := os.environ.get("DASK_SCHEDULER_ADDRESS"):
        try:
            external = Client(address, timeout=20)
            external.wait_for_workers(1, timeout=20)
        except (OSError, ValueError) as error:
            raise UserError(
                f"no Dask scheduler with workers answers at DASK_SCHEDULER_ADDRESS={address} "
                f"({error}). Start them, or unset the variable to use this machine."
            ) from error
        if many := [name for name, n in external.nthreads().items() if n > 1]:
            external.close()
            raise UserError(
                f"the Dask workers {', '.join(many)} have several threads, whose runs would draw "
                "from one random generator. Start them with: dask worker --nthreads 1"
            )
        return external
    dask.config.set(
        {
            "distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT,
            "distributed.worker.daemon": True,
            "distributed.scheduler.worker-saturation": 1.0,
            "distributed.admin.tick.limit": "1h",
            "distributed.worker.memory.target": False,
            "distributed.worker.memory.spill": False,
            "distributed.worker.memory.pause": False,
            "distributed.worker.memory.terminate": False,
        }
    )
    accelerators = 0 if "S4BT_WORKERS" in os.environ else torch.cuda.device_count()
    local = LocalCluster(
        n_workers=max(1, accelerators or cores()),
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        silence_logs=50,
        local_directory=str(ROOT / ".scratch" / "dask"),
    )
    own = Client(local)
    own.own_cluster = local
    return own


def execute(function: Callable, run: dict, folder: Path) -> dict:
    """Do one run in a temporary folder and give the folder its name.

    Runs in a worker; a run that is done already is not repeated.
    """
    folder, start = Path(folder), time.perf_counter()
    if (folder / "result.json").exists():  # done by a worker that died before it could say so
        return json.loads((folder / "result.json").read_text())
    beat, checkpoint = (
        folder.with_name(f"{folder.name}.progress"),
        folder.with_name(f"{folder.name}.checkpoint"),
    )
    spent = heartbeat(folder)[2] if checkpoint.exists() else 0.0  # before it was interrupted

    def progress(step: int, accuracy: float) -> None:
        with atomic_path(beat) as temporary:
            temporary.write_text(json.dumps([step, accuracy, spent + time.perf_counter() - start]))

    _choose_device()
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        result = {"name": run["name"], **function(run, temporary, progress, checkpoint)}
        result["seconds"] = round(spent + time.perf_counter() - start, 1)
        (temporary / "result.json").write_text(json.dumps(result))
    checkpoint.unlink(missing_ok=True)
    beat.unlink(missing_ok=True)
    return result


def _choose_device() -> None:
    """Let the workers of this machine, which Dask numbers, take its accelerators in turn."""
    if torch.cuda.is_available():
        with contextlib.suppress(ValueError):  # not in a worker, or one with a name of its own
            torch.cuda.set_device(int(get_worker().name) % torch.cuda.device_count())


def finished(scratch: Path) -> dict[str, dict]:
    """Results of the runs in `scratch` that are done, by name."""
    found = (json.loads(path.read_text()) for path in Path(scratch).glob("*/result.json"))
    return {result["name"]: result for result in found}


def heartbeat(folder: Path) -> tuple[int, float | None, float]:
    """Step, accuracy and seconds that the run of this folder last reported."""
    try:
        step, accuracy, seconds = json.loads(
            folder.with_name(f"{folder.name}.progress").read_text()
        )
        return step, accuracy, seconds
    except (OSError, ValueError):
        return 0, None, 0.0


def explained(error: BaseException) -> str:
    """What went wrong, where, and what helps.

    Where, as file and line, unless the message is meant for the user.
    """
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, UserError):
        return text
    if isinstance(error, KilledWorker):
        return (
            f"its worker died {error.allowed_failures + 1} times. If memory ran out, lower "
            "S4BT_WORKERS, or the batch size in params.yaml; if a cluster ended the worker's time, "
            "start again: the run goes on from its last evaluation"
        )
    frames = traceback.extract_tb(error.__traceback__)
    text += f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    memory = isinstance(
        error, (MemoryError, torch.OutOfMemoryError)
    ) or "can't allocate memory" in str(error)
    return text + (
        ". Memory ran out: lower S4BT_WORKERS, or the batch size in params.yaml" if memory else ""
    )

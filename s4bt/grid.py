"""Fan a list of independent runs out over Dask, resumably, with live progress.

A run is a dict with a unique "name" and its number of "steps"; a function turns it into a JSON-able dict and may leave files. The
function gets a folder of its own, which is renamed to its final name only when the run is done: a folder that is there is
whole, and its run is not repeated.
"""
from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dask
from distributed import Client, LocalCluster, wait
from tqdm import tqdm

from s4bt.config import ROOT, UserError, atomic_path

# glibc otherwise returns every large buffer to the system and pays for it again at the next step (1.4 times slower).
WORKER_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
                      "MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "8000000000"}


def progress_stream():
    """Where progress goes: what the runner named in S4BT_PROGRESS (the terminal behind `dvc repro`), else stderr."""
    path = os.environ.get("S4BT_PROGRESS")
    return open(path, "w", buffering=1) if path else sys.stderr


def client(runs: int) -> Client:
    """A client of the scheduler at DASK_SCHEDULER_ADDRESS, or of one-thread worker processes on this machine.

    Listens on loopback only, without a dashboard. As many workers as cores (S4BT_WORKERS overrides), at most one per run.
    Raises UserError if the named scheduler does not answer.
    """
    if address := os.environ.get("DASK_SCHEDULER_ADDRESS"):
        try:
            return Client(address, timeout=20)
        except (OSError, ValueError) as error:
            raise UserError(f"no Dask scheduler answers at DASK_SCHEDULER_ADDRESS={address} ({error}). Start it, or unset the "
                            "variable to use this machine.") from error
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = max(1, min(int(os.environ.get("S4BT_WORKERS", cores)), runs))
    dask.config.set({"distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT, "distributed.worker.daemon": True,
                     "distributed.scheduler.worker-saturation": 1.0, "distributed.admin.tick.limit": "1h",
                     "distributed.worker.memory.target": False, "distributed.worker.memory.spill": False,
                     "distributed.worker.memory.pause": False, "distributed.worker.memory.terminate": False})
    local = LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None,
                         silence_logs=50, local_directory=str(ROOT / ".scratch" / "dask"))
    own = Client(local)
    own.own_cluster = local
    return own


def execute(function: Callable, run: dict, folder: Path) -> dict:
    """Do one run in a temporary folder and give the folder its name. Runs in a worker."""
    folder, start = Path(folder), time.perf_counter()
    beat = folder.with_name(f"{folder.name}.progress")

    def progress(step: int, accuracy: float) -> None:
        with atomic_path(beat) as temporary:
            temporary.write_text(json.dumps([step, accuracy]))

    with atomic_path(folder) as temporary:
        temporary.mkdir()
        result = {"name": run["name"], **function(run, temporary, progress)}
        result["seconds"] = round(time.perf_counter() - start, 1)
        (temporary / "result.json").write_text(json.dumps(result))
    beat.unlink(missing_ok=True)
    return result


def finished(scratch: Path) -> dict[str, dict]:
    """Results of the runs in `scratch` that are done, by name."""
    found = (json.loads(path.read_text()) for path in Path(scratch).glob("*/result.json"))
    return {result["name"]: result for result in found}


def _heartbeat(scratch: Path, run: dict) -> tuple[int, float | None]:
    try:
        step, accuracy = json.loads((scratch / f"{run['name']}.progress").read_text())
        return step, accuracy
    except (OSError, ValueError):
        return 0, None


def run_grid(function: Callable, runs: list[dict], scratch: Path, label: str) -> list[dict]:
    """Results of all runs, in their order; those found finished in `scratch` are not repeated.

    function(run, folder, progress) -> dict, importable by the workers; progress(step, accuracy) reports from inside.
    A worker that dies is replaced and its run done again, three times at most; a run that fails does not stop the others.
    Raises UserError, after the rest of the grid is done, naming the runs that failed.
    """
    scratch = Path(scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    for leftover in [*scratch.glob(".*.part"), *scratch.glob("*.progress")]:
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    done = finished(scratch)
    todo = [run for run in runs if run["name"] not in done]
    failures: dict[str, str] = {}
    stream = progress_stream()
    total = sum(run["steps"] for run in runs)
    bar = tqdm(total=total, desc=label, unit="step", unit_scale=True, file=stream, mininterval=1 if stream.isatty() else 15,
               initial=total - sum(run["steps"] for run in todo), dynamic_ncols=True, smoothing=0.05,
               bar_format="{desc} {percentage:3.0f}% |{bar:20}| {elapsed} < {remaining}{postfix}")
    if done and todo:
        bar.write(f"{label}: {len(runs) - len(todo)} of {len(runs)} runs were finished before", file=stream)
    if todo:
        own = client(len(todo))
        try:
            futures = {own.submit(execute, function, run, scratch / run["name"], key=run["name"], pure=False): run for run in todo}
            waiting = set(futures)
            while waiting:
                ready = wait(waiting, timeout=None, return_when="FIRST_COMPLETED").done if _poll(waiting, 1.0) else set()
                for future in ready:
                    waiting.discard(future)
                    name = futures[future]["name"]
                    if future.status == "finished":
                        done[name] = future.result()
                        bar.write(f"{label}: {len(runs) - len(todo) + sum(r['name'] in done for r in todo)} of {len(runs)}  {name}  "
                                  + "  ".join(f"{k} {v:.3f}" for k, v in done[name].items() if "accuracy" in k), file=stream)
                    else:
                        failures[name] = f"{type(future.exception()).__name__}: {future.exception()}"
                        bar.write(f"{label}: {name} FAILED, {failures[name]}", file=stream)
                beats = {run["name"]: _heartbeat(scratch, run) for run in todo if run["name"] not in done}
                seen = sum(run["steps"] for run in runs if run["name"] in done) + sum(step for step, _ in beats.values())
                active = [f"{name} {accuracy:.2f}" for name, (_, accuracy) in beats.items() if accuracy is not None]
                bar.set_postfix_str(f"run {len(done)} of {len(runs)}  " + ", ".join(active[:3]), refresh=False)
                bar.update(min(seen, total) - bar.n)
        finally:
            cluster = getattr(own, "own_cluster", None)
            own.close()
            if cluster:
                cluster.close()
    bar.close()
    if failures:
        raise UserError(f"{label}: {len(failures)} of {len(runs)} runs failed; the others are kept and will not be repeated.\n"
                        + "\n".join(f"  {name}: {why}" for name, why in failures.items()))
    return [done[run["name"]] for run in runs]


def _poll(futures: set, seconds: float) -> bool:
    """Wait up to `seconds`; whether at least one future is done."""
    deadline = time.monotonic() + seconds
    while not any(f.done() for f in futures):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True

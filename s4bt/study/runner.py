"""Fan a list of independent runs out over Dask, resumably, with live progress.

A run is a dict with a unique "name" and its number of "steps"; a function turns it into a JSON-able dict and may leave files. The
function gets a folder of its own, which is renamed to its final name only when the run is done: a folder that is there is
whole, and its run is not repeated. It also gets the name of a checkpoint, from which it may go on if it is there; that goes when
the run is done.
"""
from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import dask
import torch
from distributed import Client, KilledWorker, LocalCluster, get_worker, wait
from tqdm import tqdm

from s4bt.files import ROOT, UserError, atomic_path, cores, leftovers, progress_bar, progress_stream

# glibc otherwise returns every large buffer to the system and pays for it again at the next step (1.4 times slower).
WORKER_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
                      "MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "8000000000"}

INLINE = 200        # stages of at most so many training steps run in this process: starting workers costs about five seconds


def client() -> Client:
    """A client of the scheduler at DASK_SCHEDULER_ADDRESS, or of one-thread worker processes on this machine.

    Listens on loopback only. As many workers as accelerators, or as cores where there is none (S4BT_WORKERS overrides).
    Raises UserError if the named scheduler does not answer, has no worker, or has one with several threads.
    """
    if address := os.environ.get("DASK_SCHEDULER_ADDRESS"):
        try:
            external = Client(address, timeout=20)
            external.wait_for_workers(1, timeout=20)
        except (OSError, ValueError) as error:
            raise UserError(f"no Dask scheduler with workers answers at DASK_SCHEDULER_ADDRESS={address} ({error}). Start them, or "
                            "unset the variable to use this machine.") from error
        if many := [name for name, n in external.nthreads().items() if n > 1]:
            external.close()
            raise UserError(f"the Dask workers {', '.join(many)} have several threads, whose runs would draw from one random "
                            "generator. Start them with: dask worker --nthreads 1")
        return external
    dask.config.set({"distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT, "distributed.worker.daemon": True,
                     "distributed.scheduler.worker-saturation": 1.0, "distributed.admin.tick.limit": "1h",
                     "distributed.worker.memory.target": False, "distributed.worker.memory.spill": False,
                     "distributed.worker.memory.pause": False, "distributed.worker.memory.terminate": False})
    accelerators = 0 if "S4BT_WORKERS" in os.environ else torch.cuda.device_count()
    local = LocalCluster(n_workers=max(1, accelerators or cores()), threads_per_worker=1, processes=True, host="127.0.0.1",
                         dashboard_address="127.0.0.1:0", silence_logs=50, local_directory=str(ROOT / ".scratch" / "dask"))
    own = Client(local)
    own.own_cluster = local
    return own


def execute(function: Callable, run: dict, folder: Path) -> dict:
    """Do one run in a temporary folder and give the folder its name. Runs in a worker; a run that is done already is not repeated."""
    folder, start = Path(folder), time.perf_counter()
    if (folder / "result.json").exists():                            # done by a worker that died before it could say so
        return json.loads((folder / "result.json").read_text())
    beat, checkpoint = folder.with_name(f"{folder.name}.progress"), folder.with_name(f"{folder.name}.checkpoint")
    spent = _heartbeat(folder)[2] if checkpoint.exists() else 0.0    # before it was interrupted

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
        with contextlib.suppress(ValueError):                        # not in a worker, or one with a name of its own
            torch.cuda.set_device(int(get_worker().name) % torch.cuda.device_count())


def finished(scratch: Path) -> dict[str, dict]:
    """Results of the runs in `scratch` that are done, by name."""
    found = (json.loads(path.read_text()) for path in Path(scratch).glob("*/result.json"))
    return {result["name"]: result for result in found}


def _heartbeat(folder: Path) -> tuple[int, float | None, float]:
    """Step, accuracy and seconds that the run of this folder last reported."""
    try:
        step, accuracy, seconds = json.loads(folder.with_name(f"{folder.name}.progress").read_text())
        return step, accuracy, seconds
    except (OSError, ValueError):
        return 0, None, 0.0


def _explained(error: BaseException) -> str:
    """What went wrong, where (file and line) unless the message is meant for the user, and what helps."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, UserError):
        return text
    if isinstance(error, KilledWorker):
        return (f"its worker died {error.allowed_failures + 1} times. If memory ran out, lower S4BT_WORKERS, or the batch size in params.yaml; "
                "if a cluster ended the worker's time, start again: the run goes on from its last evaluation")
    frames = traceback.extract_tb(error.__traceback__)
    text += f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
    return text + (". Memory ran out: lower S4BT_WORKERS, or the batch size in params.yaml" if memory else "")


class Grid:
    """Runs of one stage over one Dask cluster, started when there is something to do.

    with Grid(scratch, "retrain listops", steps) as grid:
        results = grid.run(function, runs)

    function(run, folder, progress, checkpoint) -> dict must be importable by the workers; progress(step, accuracy) reports from inside.
    steps: all the steps that will be asked for, which the ETA counts with; up to INLINE of them are done in this process, because
    starting workers costs some five seconds. A worker that dies is replaced and its run done again, three times at most; a run
    that fails does not stop the others.
    """

    def __init__(self, scratch: Path, label: str, steps: int):
        self.scratch, self.label, self.client, self.inline = Path(scratch), label, None, steps <= INLINE
        self.scratch.mkdir(parents=True, exist_ok=True)
        stale = [beat for beat in self.scratch.glob("*.progress") if not beat.with_suffix(".checkpoint").exists()]
        for leftover in leftovers(self.scratch) + stale:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        self.stream = progress_stream()
        self.bar = progress_bar(steps, label, self.stream, smoothing=0.05,
                                bar_format="{desc} {percentage:3.0f}% |{bar:20}| {elapsed} < {remaining}{postfix}")
        self.live, self.before, self.repeated = self.bar.fp is self.stream, 0, 0

    def __enter__(self) -> Grid:
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()
        if self.client:
            cluster = getattr(self.client, "own_cluster", None)
            self.client.close()
            if cluster:
                cluster.close()

    def say(self, text: str) -> None:
        """One line for the terminal, with the ETA of the whole stage if no bar shows it."""
        done, took = self.bar.n - self.repeated, self.bar.format_dict["elapsed"]
        eta = tqdm.format_interval(took / done * (self.bar.total - self.bar.n)) if done > 0 else "?"
        line = f"{self.label}: {text}" + ("" if self.live else f"  ETA {eta}")
        self.bar.write(line, file=self.stream) if self.live else print(line, file=self.stream, flush=True)

    def run(self, function: Callable, runs: list[dict], may_fail: type[Exception] | tuple = ()) -> list[dict]:
        """Results of the runs, in their order; those found finished in the scratch folder are not repeated.

        A run that ends with an exception of the kind `may_fail` is left out. Raises UserError, after the rest of the runs is
        done, naming those that failed otherwise.
        """
        names = {run["name"] for run in runs}
        done = {name: result for name, result in finished(self.scratch).items() if name in names}
        todo = [run for run in runs if run["name"] not in done]
        failures: dict[str, str] = {}
        self.repeated += sum(run["steps"] if run["name"] in done else _heartbeat(self.scratch / run["name"])[0] for run in runs)
        self._report(runs, done)
        if done:
            self.say(f"{len(done)} of {len(runs)} runs were finished before")
        for run, outcome in (self._here if self.inline else self._workers)(function, todo, lambda: self._report(runs, done)):
            if isinstance(outcome, dict):
                done[run["name"]] = outcome
                self._report(runs, done)
                scores = "  ".join(f"{key} {value:.3f}" for key, value in outcome.items() if key in ("accuracy", "val_accuracy"))
                self.say(f"{len(done)} of {len(runs)}  {run['name']}  {scores}")
            else:
                why = _explained(outcome)
                if not isinstance(outcome, may_fail):
                    failures[run["name"]] = why
                self.say(f"{run['name']} {'FAILED' if run['name'] in failures else 'is left out'}, {why}")
        self.before += sum(run["steps"] for run in runs)
        if failures:
            raise UserError(f"{self.label}: {len(failures)} of {len(runs)} runs failed; the others are kept and will not be "
                            "repeated.\n" + "\n".join(f"  {name}: {why}" for name, why in failures.items()))
        return [done[run["name"]] for run in runs if run["name"] in done]

    def _here(self, function: Callable, todo: list[dict], _: Callable) -> Iterator[tuple[dict, dict | Exception]]:
        """Do the runs in this process, one after the other; yield each with its result or its exception."""
        for run in todo:
            try:
                yield run, execute(function, run, self.scratch / run["name"])
            except Exception as error:  # noqa: BLE001  reported with the run's name, as from a worker
                yield run, error

    def _workers(self, function: Callable, todo: list[dict], report: Callable) -> Iterator[tuple[dict, dict | Exception]]:
        """Do the runs on the cluster; yield each, as it ends, with its result or its exception."""
        if todo and not self.client:
            self.client = client()
        waiting = {self.client.submit(execute, function, run, self.scratch / run["name"],
                                       key=f"{self.scratch.name}-{run['name']}", pure=False): run for run in todo}
        while waiting:
            try:
                ready = wait(list(waiting), timeout=1 if self.live else 5, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                ready = ()
            report()
            for future in ready:
                yield waiting.pop(future), future.result() if future.status == "finished" else future.exception()

    def _report(self, runs: list[dict], done: dict) -> None:
        beats = {run["name"]: _heartbeat(self.scratch / run["name"]) for run in runs if run["name"] not in done}
        steps = sum(run["steps"] for run in runs if run["name"] in done) + sum(step for step, _, _ in beats.values())
        active = [f"{name} {accuracy:.2f}" for name, (_, accuracy, _) in beats.items() if accuracy is not None]
        self.bar.set_postfix_str(f"run {len(done)} of {len(runs)}  " + ", ".join(active[:3]), refresh=False)
        self.bar.update(self.before + steps - self.bar.n)

"""Fan a list of independent runs out over workers, resumably, with live progress and an ETA."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from distributed import wait
from tqdm import tqdm

from s4bt.files import UserError, leftovers
from s4bt.progress import progress_bar, progress_stream
from s4bt.study.workers import client, execute, explained, finished, heartbeat

# Stages of at most so many training steps run in this process: starting workers costs five seconds.
INLINE = 200
LOOK_AGAIN = 5  # seconds between looks at the workers; 1 if a person watches the bar
SHOWN = 3  # runs whose accuracy the bar shows


class Runner:
    """Runs of one stage over one Dask cluster, started when there is something to do.

    with Runner(scratch, "retrain listops", steps) as runner:
        results = runner.run(function, runs)

    function(run, folder, progress, checkpoint) -> dict must be importable by the workers;
    progress(step, accuracy) reports from inside. steps: all the steps that will be asked for, which
    the ETA counts with; up to INLINE of them are done in this process, because starting workers
    costs some five seconds. A worker that dies is replaced and its run done again, three times at
    most; a run that fails does not stop the others.
    """

    def __init__(self, scratch: Path, label: str, steps: int):
        self.scratch, self.label = Path(scratch), label
        self.client, self.inline = None, steps <= INLINE
        self.scratch.mkdir(parents=True, exist_ok=True)
        beats = self.scratch.glob("*.progress")
        stale = [beat for beat in beats if not beat.with_suffix(".checkpoint").exists()]
        for leftover in leftovers(self.scratch) + stale:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        self.stream = progress_stream()
        self.bar = progress_bar(
            steps,
            label,
            self.stream,
            smoothing=0.05,
            bar_format="{desc} {percentage:3.0f}% |{bar:20}| {elapsed} < {remaining}{postfix}",
        )
        self.live, self.before, self.repeated = self.bar.fp is self.stream, 0, 0

    def __enter__(self) -> Runner:
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
        if self.live:
            self.bar.write(line, file=self.stream)
        else:
            print(line, file=self.stream, flush=True)

    def run(
        self, function: Callable, runs: list[dict], may_fail: type[Exception] | tuple = ()
    ) -> list[dict]:
        """Results of the runs, in their order; those found finished are not repeated.

        A run that ends with an exception of the kind `may_fail` is left out. Raises UserError,
        after the rest of the runs is done, naming those that failed otherwise.
        """
        names = {run["name"] for run in runs}
        done = {name: result for name, result in finished(self.scratch).items() if name in names}
        todo = [run for run in runs if run["name"] not in done]
        failures: dict[str, str] = {}
        self.repeated += self._steps(runs, done)
        self._report(runs, done)
        if done:
            self.say(f"{len(done)} of {len(runs)} runs were finished before")
        outcomes = self._here(function, todo)
        if not self.inline:
            outcomes = self._workers(function, todo, lambda: self._report(runs, done))
        for run, outcome in outcomes:
            if isinstance(outcome, dict):
                done[run["name"]] = outcome
                self._report(runs, done)
                self.say(f"{len(done)} of {len(runs)}  {run['name']}  {self._scores(outcome)}")
                continue
            why = explained(outcome)
            if isinstance(outcome, may_fail):
                self.say(f"{run['name']} is left out, {why}")
            else:
                failures[run["name"]] = why
                self.say(f"{run['name']} FAILED, {why}")
        self.before += sum(run["steps"] for run in runs)
        if failures:
            listed = "\n".join(f"  {name}: {why}" for name, why in failures.items())
            raise UserError(
                f"{self.label}: {len(failures)} of {len(runs)} runs failed; the others are kept "
                f"and will not be repeated.\n{listed}"
            )
        return [done[run["name"]] for run in runs if run["name"] in done]

    @staticmethod
    def _scores(result: dict) -> str:
        known = {key: result[key] for key in ("accuracy", "val_accuracy") if key in result}
        return "  ".join(f"{key} {value:.3f}" for key, value in known.items())

    def _here(self, function: Callable, todo: list[dict]) -> Iterator[tuple[dict, object]]:
        """Do the runs in this process; yield each with its result or its exception."""
        for run in todo:
            try:
                yield run, execute(function, run, self.scratch / run["name"])
            except Exception as error:
                # reported with the run's name, as from a worker
                yield run, error

    def _workers(
        self, function: Callable, todo: list[dict], report: Callable
    ) -> Iterator[tuple[dict, object]]:
        """Do the runs on the cluster; yield each, as it ends, with its result or its exception."""
        if todo and not self.client:
            self.client = client()
        waiting = {}
        for run in todo:
            folder, key = self.scratch / run["name"], f"{self.scratch.name}-{run['name']}"
            future = self.client.submit(execute, function, run, folder, key=key, pure=False)
            waiting[future] = run
        while waiting:
            seconds = 1 if self.live else LOOK_AGAIN
            try:
                ready = wait(list(waiting), timeout=seconds, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                ready = ()
            report()
            for future in ready:
                good = future.status == "finished"
                yield waiting.pop(future), future.result() if good else future.exception()

    def _steps(self, runs: list[dict], done: dict) -> int:
        """Steps that are done, of finished runs and of those on their way."""
        return sum(
            run["steps"] if run["name"] in done else heartbeat(self.scratch / run["name"])[0]
            for run in runs
        )

    def _report(self, runs: list[dict], done: dict) -> None:
        """Move the bar."""
        waiting = [run["name"] for run in runs if run["name"] not in done]
        beats = {name: heartbeat(self.scratch / name) for name in waiting}
        active = [f"{name} {beat[1]:.2f}" for name, beat in beats.items() if beat[1] is not None]
        postfix = f"run {len(done)} of {len(runs)}  " + ", ".join(active[:SHOWN])
        self.bar.set_postfix_str(postfix, refresh=False)
        self.bar.update(self.before + self._steps(runs, done) - self.bar.n)

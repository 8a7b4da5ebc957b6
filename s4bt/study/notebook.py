"""Run one pipeline notebook through papermill, reproducibly.

Its results are put in place when all of it is done.

    python -m s4bt.study.notebook notebooks/pipeline/20_pretrain.ipynb --scale laptop --task listops

The notebook writes below a staging folder; figures, tables, arrays and the executed notebook, freed
of whatever differs from one execution to the next, move to results/<scale>/<task>/ at the end. One
writer per folder and phase; the kernel and its workers end with this process, and this process with
the one that started it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import threading
import time
from pathlib import Path

import psutil

# Parent and grandparent, taken at once: they may be killed in the seconds that the imports take.
PARENTS = psutil.Process().parents()[:2]
BY_SHELL = bool(PARENTS) and PARENTS[0].name() in ("sh", "bash", "dash", "zsh")
STARTED_BY = PARENTS if BY_SHELL else PARENTS[:1]  # whoever of these ends, ends this process

sys.modules["rfc3987_syntax"] = (
    None  # jsonschema's optional IRI checker takes 1.7 s to import; notebooks hold no IRIs
)

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from s4bt.files import MENDABLE, ROOT, UserError, atomic_path, leftovers
from s4bt.reduction.methods import METHODS
from s4bt.study import environment
from s4bt.study.config import check_methods, load_scale, load_task
from s4bt.study.locks import sole_writer
from s4bt.study.places import task_dir
from s4bt.tasks import TASKS

USER_ERRORS = ("UserError", "Diverged", "UnstableSystem")


def scrub(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Drop what differs between two executions of one notebook.

    Timings, random ids, versions, warnings on stderr, and where the kernel happened to cut what a
    cell printed into pieces.
    """
    notebook.metadata.pop("papermill", None)
    notebook.metadata.get("language_info", {}).pop("version", None)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"c{number}"
        for key in ("execution", "papermill"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            outputs, cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"], []
            for out in outputs:
                out.get("metadata", {}).pop("papermill", None)
                if cell.outputs and out.output_type == "stream" == cell.outputs[-1].output_type:
                    cell.outputs[-1].text += out.text
                else:
                    cell.outputs.append(out)
    return notebook


def end_with(processes: list[psutil.Process]) -> None:
    """Kill this process and all its children as soon as one of `processes` is gone.

    So a killed `dvc repro` leaves no writer.
    """

    def alive(process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return False

    def watch() -> None:
        while all(map(alive, processes)):
            time.sleep(0.5)
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        os._exit(130)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def progress_pipe(folder: Path):
    """A named pipe whose text appears on this process's stderr.

    The way from the kernel to the terminal.
    """
    path = folder / "progress"
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    keep = os.open(path, os.O_RDWR)  # a writer of our own, so that reading never ends early

    def copy() -> None:
        while chunk := os.read(keep, 4096):
            os.write(2, chunk.replace(b"\0", b""))
            if b"\0" in chunk:
                break

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    try:
        yield path
    finally:
        os.write(keep, b"\0")
        thread.join(2)
        os.close(keep)
        path.unlink(missing_ok=True)


def publish(stage: Path) -> None:
    """Move what stands below the staging folder to the same place below the project's root.

    That place is results/<scale>/<task>/<entry>.
    """
    for source in [*stage.glob("results/*/*.csv"), *stage.glob("results/*/*/*")]:
        target = ROOT / source.relative_to(stage)
        with atomic_path(target) as temporary:
            shutil.move(source, temporary)  # .scratch may lie on another disk


def run(path: Path, scale: str, task: str | None) -> None:
    """Execute one notebook.  Raises UserError for whatever the user can mend."""
    load_task(scale, task) if task else load_scale(scale)
    check_methods(scale, METHODS)
    if not path.is_file():
        raise UserError(f"{path}: no such notebook. The stages are in notebooks/pipeline/")
    name, folder = f"{scale}-{task or 'all'}-{path.stem}", task_dir(scale, task or "compare")
    with sole_writer(name), contextlib.ExitStack() as stack:
        work = ROOT / ".scratch" / "stages" / name
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        for leftover in leftovers(folder):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        os.environ["S4BT_STAGE"] = str(work)
        os.environ["S4BT_PROGRESS"] = str(stack.enter_context(progress_pipe(work)))
        os.environ["S4BT_TERMINAL"] = str(int(sys.stderr.isatty()))
        environment.fix(os.environ, ROOT)
        parameters = {"scale": scale} | ({"task": task} if task else {})
        executed = work / "executed.ipynb"
        try:
            # Every kernel is interrupted before it is shut down, and logs that as an error; what a
            # cell raises does not come by this log.
            papermill.execute_notebook(
                path,
                executed,
                parameters,
                cwd=ROOT,
                kernel_name="python3",
                progress_bar=False,
                record_timing=False,
                extra_arguments=["--IPKernelApp.log_level=50"],
                config=Config(
                    {
                        "KernelManager": {
                            "transport": "ipc",
                            "ip": str(work.relative_to(ROOT) / "kernel"),
                        }
                    }
                ),
            )
        except PapermillExecutionError as error:
            if error.ename in USER_ERRORS:
                raise UserError(error.evalue) from error
            if error.ename == "FileNotFoundError":
                raise UserError(
                    f"{path.name} needs a file that is not there: {error.evalue}\nRun the stage "
                    "that makes it: dvc repro"
                ) from error
            kept = ROOT / ".scratch" / "failed" / f"{name}.ipynb"
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(executed, kept)
            raise UserError(
                f"{path.name} failed in cell {error.cell_index}: {error.ename}: {error.evalue}\n"
                f"The notebook up to there, with the traceback: {kept}"
            ) from error
        except (DeadKernelError, RuntimeError) as error:
            raise UserError(
                f"{path.name}: the kernel died or did not start ({error}). If memory ran out, "
                "lower S4BT_WORKERS or the batch size; start again, and what was finished is not "
                "repeated."
            ) from error
        target = work / folder.relative_to(ROOT) / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        notebook = scrub(nbformat.read(executed, as_version=4))
        notebook.metadata["environment"] = environment.FIXED
        nbformat.write(notebook, target)
        publish(work)
        shutil.rmtree(work)
        if task:
            for stale in (ROOT / ".scratch" / scale / task).glob(f"{path.stem.split('_')[1]}-*"):
                shutil.rmtree(stale)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--scale", required=True, help="a section of params.yaml")
    parser.add_argument("--task", help=", ".join(TASKS))
    options = parser.parse_args()
    end_with(STARTED_BY)
    try:
        run(options.notebook, options.scale, options.task)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; finished runs are kept and will not be repeated", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        print(
            f"error: {error}. Free some space or make the folder writable, then start again; "
            "finished runs are kept.",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

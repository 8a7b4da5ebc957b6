"""The pipeline: what stages depend on, what is committed,
and the whole study at scale quick in a copy of the project.
"""

import ast
import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import pandas as pd
import psutil
import pytest
import yaml

from s4bt.files import ROOT
from s4bt.study.config import load_scale
from s4bt.study.notebook import scrub
from s4bt.study.statistics import COLUMNS
from s4bt.tasks import TASKS
from tests.copies import ENVIRONMENT, call, copy_project, good
from tests.test_environment import USERS

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
NOTEBOOKS = sorted((ROOT / "notebooks" / "pipeline").glob("*.ipynb"))


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return copy_project(tmp_path_factory.mktemp("clone") / "s4bt")


@pytest.fixture(scope="module")
def quick(clone):
    """That copy after `make quick`, whose recipe is taken from the Makefile.

    With settings that later runs do not have: results must not depend on them.
    """
    recipe = good(
        "make --no-print-directory --dry-run --always-make quick VENV=/nonexistent", clone
    )
    lines = recipe[recipe.index("dvc repro data/dvc.yaml") :].strip()
    return clone, good(f"set -e\n{lines}", clone, **USERS)


def imported(source, task=None):
    """Files of s4bt that the imports of a notebook load, and all reducers if `reduce` is one.

    Without those that hold names only: they compute nothing.
    """
    cells = [c for c in nbformat.read(source, as_version=4).cells if c.cell_type == "code"]
    nodes = [node for cell in cells for node in ast.parse(cell.source).body]
    lines = [ast.unparse(n) for n in nodes if isinstance(n, (ast.Import, ast.ImportFrom))]
    if task:
        lines.append(f"from s4bt.tasks.prepare import module; module({task!r})")
    lines.append("import sys")
    lines.append("if 's4bt.reduction.dispatch' in sys.modules:")
    lines.append("    from s4bt.reduction.methods import METHODS")
    lines.append("    reducers = [method.reducer for method in METHODS.values()]")
    lines.append("print([m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 's4bt'])")
    out = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"},
    ).stdout
    found = {os.path.relpath(path, ROOT) for path in eval(out.splitlines()[-1])}
    names = {"s4bt/lazy.py", "s4bt/version.py"}
    names |= {f for f in found if f.endswith("__init__.py") and f != "s4bt/tasks/__init__.py"}
    read = {
        "s4bt/study/styles.py": "s4bt/study/s4bt.mplstyle",
        "s4bt/deploy/c_source.py": "s4bt/deploy/stream.c",
    }
    return found - names | {read[file] for file in found & set(read)}


def test_files_that_hold_names_only_compute_nothing():
    for path in (ROOT / "s4bt").rglob("__init__.py"):
        if path.parent.name != "tasks":
            kinds = [type(n) for n in ast.parse(path.read_text()).body]
            assert set(kinds) <= {ast.Expr, ast.ImportFrom, ast.Assign}, path


def test_pretraining_does_not_import_a_reducer():
    rooms = imported(ROOT / "notebooks/pipeline/20_pretrain.ipynb")
    assert not rooms & {f"s4bt/reduction/{n}.py" for n in ("methods", "balanced", "weighted", "h2")}
    assert "s4bt/study/figures.py" not in rooms


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda p: p.stem)
def test_stage_deps_are_what_the_notebook_imports(source):
    (stage,) = [s for s in PIPELINE.values() if source.name in s.get("do", s)["cmd"]]
    listed = {d for d in stage.get("do", stage)["deps"] if d.startswith("s4bt/")}
    if source.stem == "10_prepare":
        assert set(stage["foreach"]) == set(TASKS)
        every = set()
        for task, item in stage["foreach"].items():
            found = imported(source, task)
            assert found <= listed | {item["code"]}
            every |= found - {item["code"]}
        assert listed == every
    else:
        assert listed == imported(source)


def test_every_stage_names_its_notebook_and_all_tasks():
    for name, stage in PIPELINE.items():
        body = stage.get("do", stage)
        (notebook,) = [d for d in body["deps"] if d.endswith(".ipynb")]
        assert notebook in body["cmd"] and (ROOT / notebook).exists()
        if name not in ("compare", "examples"):
            assert list(stage["foreach"]) == list(TASKS)


def stages():
    """Names of all stages, as dvc.lock has them."""
    return {
        f"{name}@{key}" if "foreach" in stage else name
        for name, stage in PIPELINE.items()
        for key in stage.get("foreach", [""])
    }


def locked():
    return yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]


def test_every_stage_was_run():
    assert set(locked()) == stages()


def test_committed_results_are_those_of_dvc_lock():
    checked = 0
    for name, stage in locked().items():
        for entry in stage.get("deps", []) + stage["outs"]:
            path = ROOT / entry["path"]
            fetched = entry["path"].startswith("data/raw") and not path.exists()
            if entry["md5"].endswith(".dir") or fetched:
                continue
            found = hashlib.md5(path.read_bytes()).hexdigest()
            assert found == entry["md5"], f"{name}: {entry['path']} is not what dvc.lock says"
            checked += 1
    assert checked > 15 * len(locked()) > 100


def test_nothing_would_run_again_in_a_bare_clone(clone):
    assert "Running stage" not in good("dvc repro --dry --allow-missing", clone)


def test_a_bare_clone_shows_the_graph(clone):
    assert "retrain@pathx" in good("dvc dag", clone)


def test_a_bare_clone_shows_metrics_and_plots(clone):
    assert "pathx" in good("dvc metrics show", clone)
    good(
        "dvc plots show --out plots_here && test -s plots_here/index.html && rm -r plots_here",
        clone,
    )


def test_the_summary_has_every_run_and_pretraining_beats_chance():
    rows, grid = pd.read_csv(ROOT / "results/laptop/summary.csv"), load_scale("laptop").grid
    assert list(rows.columns) == COLUMNS and set(rows.task) == set(TASKS)
    seeds, ranks, few = len(grid.seeds), len(grid.ranks), len(grid.baseline_ranks)
    runs = rows.groupby(["task", "arm"]).size()
    for task in TASKS:
        assert runs[task].to_dict() == {
            "pretrained": seeds,
            "one-shot": len(grid.one_shot.methods) * len(grid.one_shot.ranks) * seeds,
            "truncated": 2 * len(grid.methods) * ranks * seeds,
            "skew-hippo": 2 * (ranks + len(grid.more_ranks)) * seeds,
            "skew-hippo-rest": (ranks + few) * seeds,
            "skew-hippo-long": few * seeds,
            "skew-hippo-steps": few * seeds,
            "untruncated": seeds,
        }
        chance = json.loads((ROOT / "results/laptop" / task / "data.json").read_text())["chance"]
        assert (
            rows[(rows.task == task) & (rows.arm == "pretrained")].val_accuracy.mean()
            >= chance + 0.15
        ), task
    assert (
        rows[["accuracy", "parameters", "state_space_parameters", "steps", "seconds"]]
        .notna()
        .all()
        .all()
    )


def test_the_whole_study_runs_at_scale_quick(quick):
    folder, output = quick
    rows = pd.read_csv(folder / "results/quick/summary.csv")
    assert set(rows.task) == set(TASKS) and rows.accuracy.between(0, 1).all()
    for task in TASKS:
        names = {p.name for p in (folder / "results/quick" / task).iterdir()}
        assert {
            "accuracy-rank.png",
            "kernels-poles.png",
            "50_analyse.ipynb",
            "intervals.csv",
            "retrained",
        } <= names
    assert re.search(
        r"retrain pathx: \d+ of \d+  retrain-pathx-\S+  accuracy 0\.\d+  val_accuracy 0\.\d+  ETA",
        output,
    )
    assert not good("git status --porcelain", folder).strip()
    assert not list((folder / ".scratch" / "stages").iterdir())


def test_a_second_run_does_nothing(quick):
    folder, _ = quick
    assert "Running stage" not in good("dvc --cd results/quick repro", folder)


def test_the_same_stage_gives_the_same_bytes(quick):
    folder, _ = quick
    results = folder / "results/quick/image"
    before = {p.name: p.read_bytes() for p in results.glob("*") if p.is_file()}
    assert len(before) > 15
    good(
        "dvc --cd results/quick repro --force --single-item retrain@image", folder, S4BT_WORKERS="2"
    )
    good("dvc --cd results/quick repro --force --single-item analyse@image", folder)
    after = {p.name: p.read_bytes() for p in results.glob("*") if p.is_file()}
    assert {name for name in before if before[name] != after.get(name)} == set()


def test_printed_text_is_one_piece_however_the_kernel_cut_it():
    def cell(*outputs):
        def stream(name, text):
            return nbformat.v4.new_output("stream", name=name, text=text)

        return nbformat.v4.new_code_cell(
            "",
            outputs=[stream(*o) if o else nbformat.v4.new_output("display_data") for o in outputs],
        )

    cut = [
        cell(("stdout", "a\n"), ("stderr", "w"), ("stdout", "b\n"), None, ("stdout", "c")),
        cell(("stdout", "a\nb\n"), None, ("stdout", "c")),
    ]
    first, second = scrub(nbformat.v4.new_notebook(cells=cut)).cells
    assert first.outputs == second.outputs and len(first.outputs) == 3


def test_executed_notebooks_hold_nothing_that_changes(quick):
    folder, _ = quick
    for path in (folder / "results/quick").rglob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        assert (
            "papermill" not in notebook.metadata
            and "version" not in notebook.metadata.language_info
        )
        text = path.read_text()
        assert str(folder) not in text and "Traceback" not in text


def test_a_killed_run_leaves_no_writer_and_nothing_half_written(quick):
    folder, _ = quick
    command = [
        sys.executable,
        "-m",
        "s4bt.study.notebook",
        "notebooks/pipeline/40_retrain.ipynb",
        "--scale",
        "quick",
        "--task",
        "text",
    ]
    target = folder / "results/quick/text"
    before = {p.name: p.stat().st_mtime_ns for p in target.iterdir()}
    shell = subprocess.Popen(
        ["sh", "-c", '"$@"; true', "sh", *command],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        env={**ENVIRONMENT, "PYTHONPATH": str(folder)},
    )
    for line in shell.stderr:  # killed in the middle: some runs are done, most are not
        if "3 of" in line:
            break
    family = psutil.Process(shell.pid).children(recursive=True)
    kernel = [p for p in family if "ipykernel_launcher" in " ".join(p.cmdline())]
    assert kernel
    kernel[0].suspend()  # so that it cannot be done before the second writer comes
    second = call(" ".join(command), folder)
    kernel[0].resume()
    assert second.returncode == 1 and "is writing quick-text-40_retrain already" in second.stderr
    os.kill(shell.pid, signal.SIGKILL)
    shell.stderr.close()
    shell.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive, alive
    assert {p.name: p.stat().st_mtime_ns for p in target.iterdir()} == before
    assert "runs were finished before" in good(" ".join(command), folder)
    assert (
        not good("dvc --cd results/quick status", folder)
        .replace("Data and pipelines are up to date.", "")
        .strip()
    )


def knows_who_started_it(process):
    """It has begun to import what comes after it asked: nbformat, which loads rpds."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return any("rpds" in each.path for each in process.memory_maps())
    return False


def test_a_stage_whose_starter_is_killed_while_it_starts_ends_too(clone):
    """Seconds of imports pass before it watches anybody; it must know by then who started it."""
    command = f"{sys.executable} -m s4bt.study.notebook notebooks/pipeline/10_prepare.ipynb"
    target = clone / "results/quick/listops"  # there already, if the whole study ran in this clone
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    starter = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys; subprocess.run(sys.argv[1], shell=True, check=False)",
            f"{command} --scale quick --task listops; true",
        ],
        cwd=clone,
        stderr=subprocess.DEVNULL,
        env={**ENVIRONMENT, "PYTHONPATH": str(clone)},
    )
    while True:
        family = psutil.Process(starter.pid).children(recursive=True)
        if any(map(knows_who_started_it, family)):
            break
        assert starter.poll() is None
        time.sleep(0.01)
    starter.kill()
    starter.wait()
    _, alive = psutil.wait_procs(family, timeout=120)
    assert not alive
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == before


def test_a_run_on_two_processes_is_found_finished_by_its_stage(quick):
    folder, _ = quick
    names = good(
        "python -m s4bt.study.multi_device --scale quick --list retrain-text-untruncated", folder
    ).split()
    assert len(names) == 2
    launch = (
        "python -m torch.distributed.run --nproc-per-node 2 --rdzv-backend c10d "
        "--rdzv-endpoint 127.0.0.1:0 -m s4bt.study.multi_device --scale quick "
    )
    said = good(launch + names[0], folder, OMP_NUM_THREADS="1")
    assert (
        re.search(rf"{names[0]}: accuracy 0\.\d+, \d+\.\d s on 2 processes", said) and "ETA" in said
    )
    assert (
        said.count("is done already") == 0
        and good(launch + names[0], folder, OMP_NUM_THREADS="1").count("is done already") == 1
    )
    assert (
        "1 of"
        in (
            out := good(
                "python -m s4bt.study.notebook notebooks/pipeline/40_retrain.ipynb --scale quick "
                "--task text",
                folder,
            )
        )
        and "runs were finished before" in out
    )
    wrong = call(launch + "retrain-text-none", folder, OMP_NUM_THREADS="1")
    assert (
        wrong.returncode
        and "scale quick has no run retrain-text-none. Its names: python -m s4bt.study.multi_device"
        in wrong.stderr
    )
    alone = call(f"python -m s4bt.study.multi_device --scale quick {names[0]}", folder)
    assert (
        alone.returncode == 1
        and "start it with torchrun" in alone.stderr
        and "Traceback" not in alone.stderr
    )
    good(
        "dvc --cd results/quick repro --force --single-item retrain@text && dvc --cd results/quick "
        "repro",
        folder,
    )


def test_what_was_done_elsewhere_is_found_finished_by_its_stage(quick, tmp_path):
    folder, _ = quick
    stage = "python -m s4bt.study.notebook notebooks/pipeline/20_pretrain.ipynb --scale quick"
    away = f"python -m tools.gpu --scale quick --out {tmp_path / 'back'}"
    none = good(f"{away} --minutes 0.01 image text", folder)
    assert "image: the time is up" in none and "text" not in none
    said = good(f"{away} --minutes 10 image", folder, S4BT_WORKERS="1")
    assert said.count("pretrain-image-s") >= 2 and "accuracy 0." in said
    shutil.rmtree(folder / ".scratch" / "quick" / "image")
    back = tmp_path / "back"
    assert "2 runs and checkpoints" in good(f"python -m tools.gpu --put {back}", folder)
    assert "0 runs and checkpoints" in good(f"python -m tools.gpu --put {back}", folder)
    assert "pretrain-image-s1" in good(f"{away} image", folder)  # without --minutes
    assert "2 of 2 runs were finished before" in good(f"{stage} --task image", folder)
    empty = call(f"python -m tools.gpu --put {tmp_path / 'nothing'}", folder)
    assert empty.returncode == 1 and "name the folder that --out has filled" in empty.stderr
    wrong = call(f"python -m tools.gpu --minutes 1 --out {back} --scale quick xyz", folder)
    assert wrong.returncode == 1 and "unknown task 'xyz'" in wrong.stderr
    good("dvc --cd results/quick repro --force --single-item pretrain@image", folder)
    good("dvc --cd results/quick repro", folder)


def test_a_stage_killed_again_and_again_ends_with_the_same_bytes(quick):
    """The small version of tests/faults.py."""
    folder, _ = quick
    results, dice = folder / "results/quick/image", random.Random(2)
    before = {p.name: p.read_bytes() for p in results.glob("*") if p.is_file()}
    command, killed = "dvc --cd results/quick repro --force --single-item retrain@image", 0
    while killed < 3:
        study = subprocess.Popen(
            command.split(),
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**ENVIRONMENT, "PYTHONPATH": str(folder)},
        )
        try:
            study.wait(dice.uniform(2, 7))
            continue
        except subprocess.TimeoutExpired:
            killed += 1
        family = psutil.Process(study.pid).children(recursive=True)
        dice.choice([study, *family]).kill()
        study.kill()
        study.wait()
        _, alive = psutil.wait_procs(family, timeout=20)
        assert not alive, alive
    good(command, folder)
    assert {p.name: p.read_bytes() for p in results.glob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--scale huge", "has no scale 'huge'. Use one of: quick, laptop, study, paper"),
        ("--scale quick --task speech", "unknown task 'speech'. Use one of: listops, text"),
        (
            "--scale paper --task text",
            "results/paper/text/arrays is not there. Make it with: "
            "python -m tools.scales paper && dvc --cd results/paper repro prepare@text",
        ),
    ],
)
def test_user_errors_are_one_message_without_a_traceback(clone, arguments, message):
    done = call(
        f"python -m s4bt.study.notebook notebooks/pipeline/40_retrain.ipynb {arguments}", clone
    )
    assert (
        done.returncode == 1 and re.search(message, done.stderr) and "Traceback" not in done.stderr
    )
    assert not (clone / "results/paper").exists()


def test_a_mistake_in_params_names_its_line(clone):
    params = clone / "params.yaml"
    text = params.read_text()
    line = text[: text.index("norm: batch")].count("\n") + 1
    try:
        params.write_text(text.replace("norm: batch", "norm: btach", 1))
        done = call(
            "python -m s4bt.study.notebook notebooks/pipeline/20_pretrain.ipynb --scale quick "
            "--task listops",
            clone,
        )
    finally:
        params.write_text(text)
    assert (
        done.returncode == 1
        and f"params.yaml, line {line}: quick.tasks.listops.model.norm" in done.stderr
    )
    assert "'batch' or 'layer' (got 'btach')" in done.stderr and "Traceback" not in done.stderr


def test_a_failing_notebook_is_kept_for_reading(clone):
    broken = clone / "broken.ipynb"
    cells = [
        nbformat.v4.new_code_cell("scale = 'quick'", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("1 / 0"),
    ]
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=cells,
            metadata={"kernelspec": {"name": "python3", "display_name": "p", "language": "python"}},
        ),
        broken,
    )
    done = call("python -m s4bt.study.notebook broken.ipynb --scale quick", clone)
    broken.unlink()
    assert (
        done.returncode == 1
        and "broken.ipynb failed in cell" in done.stderr
        and "ZeroDivisionError" in done.stderr
    )
    missing = call("python -m s4bt.study.notebook broken.ipynb --scale quick", clone)
    assert missing.returncode == 1 and "broken.ipynb: no such notebook" in missing.stderr
    assert (clone / ".scratch/failed/quick-all-broken.ipynb").exists()

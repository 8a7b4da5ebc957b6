"""Other people's machines: settings, disks, and ways of arriving on them."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from s4bt.files import ROOT, UserError
from s4bt.study import environment, notebook
from s4bt.study.locks import sole_writer
from tests.copies import call, copy_project, good
from tools import scales

# What a user's machine may say, and no result may depend on.
USERS = {
    "MPLBACKEND": "Agg",
    "LC_ALL": "C",
    "TZ": "Asia/Tokyo",
    "COLUMNS": "40",
    "PYTHONHASHSEED": "7",
    "OMP_NUM_THREADS": "2",
    "MKL_CBWR": "AUTO",
    "NO_COLOR": "1",
}


def test_nothing_of_the_users_settings_reaches_a_kernel(tmp_path):
    start = tmp_path / "start.py"
    start.write_text("import pandas; pandas.set_option('display.precision', 1)\n")
    profile = tmp_path / "ipython" / "profile_default" / "startup"
    profile.mkdir(parents=True)
    shutil.copy(start, profile / "00.py")
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "matplotlibrc").write_text("figure.dpi: 17\n")
    users = {
        **os.environ,
        **USERS,
        "PYTHONSTARTUP": str(start),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "MPLCONFIGDIR": str(tmp_path / "matplotlib"),
        "MATPLOTLIBRC": str(tmp_path / "matplotlib"),
    }
    code = (
        "import matplotlib, pandas, IPython, time, torch, json\n"
        "from IPython.terminal.ipapp import TerminalIPythonApp\n"
        "app = TerminalIPythonApp(); app.initialize(['--quick', '--no-banner'])\n"
        "print(json.dumps([matplotlib.rcParams['figure.dpi'],"
        " pandas.get_option('display.precision'), time.tzname[0], torch.get_num_threads(),"
        " torch.backends.cpu.get_cpu_capability()]))\n"
    )
    seen = []
    for given in (dict(os.environ), users):
        environment.fix(given, tmp_path / "root")
        given["PYTHONPATH"] = str(ROOT)
        out = subprocess.run(
            [sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True
        )
        seen.append(out.stdout.splitlines()[-1])
    assert seen[0] == seen[1] and '"UTC", 1, ' in seen[0]
    assert "AVX512" not in seen[0]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
def test_results_move_to_another_disk(tmp_path, monkeypatch):
    """As with .scratch on a disk of its own."""
    monkeypatch.setattr(notebook, "ROOT", tmp_path)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        stage = Path(folder)
        if os.stat(stage).st_dev == os.stat(tmp_path).st_dev:
            pytest.skip("/dev/shm is on the same file system")
        place = stage / "results" / "quick" / "text"
        (place / "arrays").mkdir(parents=True)
        (place / "arrays" / "x.npy").write_bytes(b"new")
        (place / "data.json").write_text("{}")
        (stage / "results" / "quick" / "summary.csv").write_text("a\n")
        old = tmp_path / "results" / "quick" / "text" / "arrays"
        old.mkdir(parents=True)
        (old / "gone.npy").touch()
        notebook.publish(stage)
    there = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert there == {
        "results/quick/summary.csv",
        "results/quick/text/data.json",
        "results/quick/text/arrays/x.npy",
    }


def test_only_what_the_user_can_mend_is_said_to_be_mendable(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["notebook", "x.ipynb", "--scale", "quick"])
    monkeypatch.setattr(notebook, "end_with", lambda processes: None)

    def fail(number):
        def run(*_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(notebook, "run", run)
        return notebook.main()

    assert fail(28) == 1 and "Free some space" in capsys.readouterr().err
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        fail(40)


@pytest.mark.parametrize("number", [37, 95])  # no locks available, operation not supported
def test_a_file_system_without_locks_has_one_writer_too(number, monkeypatch, tmp_path):
    monkeypatch.setattr("s4bt.study.locks.ROOT", tmp_path)

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("filelock._unix.fcntl.flock", refuse)
    said = pytest.raises(UserError, match=f"process {os.getpid()} is writing")
    with sole_writer("text"), said, sole_writer("text"):
        pass
    with sole_writer("text"):
        pass


def test_another_failure_of_a_lock_is_what_it_is(monkeypatch, tmp_path):
    monkeypatch.setattr("s4bt.study.locks.ROOT", tmp_path)

    def refuse(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("filelock._unix.fcntl.flock", refuse)
    with pytest.raises(OSError, match="Input/output error"), sole_writer("text"):
        pass


def test_sources_without_git_reproduce_after_setup(tmp_path):
    """As from an archive that a site makes of a repository."""
    folder = copy_project(tmp_path / "s4bt")
    shutil.rmtree(folder / ".git")
    recipe = good(
        "make --no-print-directory --dry-run --always-make setup VENV=/nonexistent", folder
    )
    (line,) = [x for x in recipe.splitlines() if "no_scm" in x]
    good(line, folder)
    done = call("dvc status pretrain@text", folder)
    assert done.returncode == 0 and "git" not in done.stderr, done.stderr
    refused = call("make --no-print-directory --old-file=.venv/.ready test", folder)
    assert refused.returncode and "git init && git add --all" in refused.stderr


def test_a_clone_has_the_same_bytes_whatever_git_does_with_line_ends(tmp_path):
    first = copy_project(tmp_path / "first")
    good(f"git clone -q -c core.autocrlf=true {first} {tmp_path / 'second'}", tmp_path)
    names = good("git ls-files", first).splitlines()
    assert len(names) > 100
    for name in names:
        assert (first / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name


def test_a_scale_behind_a_link_is_refused_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(scales, "ROOT", tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "results" / "quick").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="symbolic link.*cache dir --local"):
        scales.write_scale("quick")


def test_the_lessons_show_their_figures_whatever_the_backend(tmp_path):
    code = (
        "import nbformat\nfrom nbclient import NotebookClient\n"
        "cell = nbformat.v4.new_code_cell('from s4bt.course import use_style\\nuse_style()\\n'\n"
        "    'import matplotlib.pyplot as plt\\nplt.plot([1, 2])\\nplt.show()')\n"
        "book = nbformat.v4.new_notebook(cells=[cell])\n"
        "NotebookClient(book, kernel_name='python3').execute()\n"
        "print(any('image/png' in out.get('data', {}) for out in cell.outputs))\n"
    )
    good_environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    out = subprocess.run(
        [sys.executable, "-c", code], env=good_environment, capture_output=True, text=True
    )
    assert out.stdout.strip().endswith("True"), out.stderr[-2000:]

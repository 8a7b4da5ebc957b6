"""Generated files, clean notebooks, the README, and the staircase of modules."""

import ast
import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from rattler import MatchSpec

from s4bt import project
from s4bt.files import ROOT, UserError
from s4bt.study.config import SCALES

LOCKED = {
    canonicalize_name((r := Requirement(line)).name): str(r.specifier).removeprefix("==")
    for line in (ROOT / "requirements.lock").read_text().splitlines()
    if line and not line.startswith("#")
}
STAIRS = [
    "files",
    "config",
    "powers",
    "lti",
    "gramian",
    "balance",
    "fit",
    "reducers",
    "errors",
    "ranks",
    "convolution",
    "dss",
    "model",
    "tasks",
    "train",
    "grid",
    "arms",
    "summary",
    "figures",
    "course",
    "notebook",
    "parallel",
    "project",
]


def test_the_lock_was_resolved_from_this_list():
    assert (ROOT / "requirements.lock").read_text().startswith(project.lock_header()), (
        "run: make lock"
    )
    for requirement in map(Requirement, project.dependencies()[1]):
        assert requirement.specifier.contains(LOCKED[canonicalize_name(requirement.name)])


def test_what_is_locked_installs_on_every_python_of_the_range():
    refused = {
        name: wanted
        for name in LOCKED
        for wanted in [importlib.metadata.metadata(name).get("Requires-Python")]
        if wanted and not SpecifierSet(wanted).contains("3.11.0")
    }
    assert not refused, f"pin an older version in pyproject.toml: {refused}"


def test_the_lock_is_complete_and_is_what_is_installed():
    """Every package that a direct dependency needs, transitively,
    is locked at the installed version.
    """
    todo, seen = [Requirement(d) for d in project.dependencies()[1]], set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if (
            name.startswith(("nvidia-", "cuda-", "triton"))
            or name == "pip"
            or (name, requirement.extras.__str__()) in seen
        ):
            continue  # torch for CUDA brings exact pins of its own, venv its pip
        seen.add((name, str(requirement.extras)))
        installed = importlib.metadata.version(name).split("+")[0]
        assert LOCKED.get(name) == installed, (
            f"{name} is installed as {installed} and locked as {LOCKED.get(name)}: make lock, make "
            "setup"
        )
        for text in importlib.metadata.requires(name) or []:
            inner = Requirement(text)
            if inner.marker is None or any(
                inner.marker.evaluate({"extra": e}) for e in {"", *requirement.extras}
            ):
                todo.append(inner)
    assert len(seen) > 100


def test_the_conda_environment_is_generated_and_every_spec_parses():
    text = (ROOT / "environment.yml").read_text()
    assert text == project.environment(), "run: make lock"
    *conda, pip = yaml.safe_load(text)["dependencies"]
    names = {MatchSpec(spec).name.normalized for spec in conda}
    assert {"python", "pip"} <= names
    constraint, editable, *direct = pip["pip"]
    assert (constraint, editable) == ("--constraint requirements.lock", "--editable .")
    assert {Requirement(spec).name for spec in direct} == {
        Requirement(d).name for d in project.dependencies()[1]
    }


def test_notebooks_are_stripped_readable_and_short():
    paths = sorted((ROOT / "notebooks").rglob("*.ipynb"))
    assert len(paths) >= 29
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        code = [c for c in notebook.cells if c.cell_type == "code"]
        assert not any(c.outputs or c.execution_count for c in code), f"{path.name}: make strip"
        assert max(len(c.source.splitlines()) for c in code) <= 25, path.name
        assert notebook.cells[0].cell_type == "markdown" and "Time:" in notebook.cells[0].source
        assert len(notebook.cells) - len(code) >= 0.8 * len(code), f"{path.name}: more story"
        parameters = [c.source for c in code if "parameters" in c.metadata.get("tags", [])]
        assert (
            (len(parameters) == 1 and 'scale = "quick"' in parameters[0])
            if path.parent.stem == "pipeline"
            else not parameters
        )


def test_stripping_is_idempotent_and_only_drops(tmp_path):
    path = tmp_path / "10_x.ipynb"
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(
                "1 + 1",
                execution_count=3,
                outputs=[nbformat.v4.new_output("stream", text="2")],
                metadata={"tags": ["parameters"], "scrolled": True},
            )
        ]
    )
    nbformat.write(notebook, path)
    assert project.strip(path) and not project.strip(path)
    cell = json.loads(path.read_text())["cells"][0]
    assert (cell["outputs"], cell["execution_count"], cell["metadata"]) == (
        [],
        None,
        {"tags": ["parameters"]},
    )
    assert "".join(cell["source"]) == "1 + 1" and cell["id"] == "10-00"


def test_the_modules_form_a_staircase():
    for step, name in enumerate(STAIRS):
        files = (
            sorted((ROOT / "s4bt" / "tasks").glob("*.py"))
            if name == "tasks"
            else [ROOT / "s4bt" / f"{name}.py"]
        )
        for file in files:
            nodes = [
                node
                for node in ast.walk(ast.parse(file.read_text()))
                if isinstance(node, ast.ImportFrom)
            ]
            used = {
                node.module.split(".")[1]
                for node in nodes
                if (node.module or "").startswith("s4bt.")
            }
            used |= {alias.name for node in nodes if node.module == "s4bt" for alias in node.names}
            assert used <= set(STAIRS[: step + (name == "tasks")]), f"{file.name} imports {used}"
    assert {p.stem for p in (ROOT / "s4bt").glob("*.py")} == {*STAIRS, "__init__"} - {"tasks"}


def test_files_stay_small():
    sizes = {p.name: len(p.read_text().splitlines()) for p in (ROOT / "s4bt").rglob("*.py")}
    assert all(n <= 360 for n in sizes.values()), sizes


@pytest.mark.parametrize("scale", [s for s in SCALES if s != "laptop"])
def test_other_scales_run_the_same_stages_elsewhere(scale):
    here, there = yaml.safe_load((ROOT / "dvc.yaml").read_text()), project.scale_pipeline(scale)
    assert list(here["stages"]) == list(there["stages"]) and there["vars"] == [{"scale": scale}]
    for name, stage in here["stages"].items():
        a, b = stage.get("do", stage), there["stages"][name].get("do", there["stages"][name])
        assert b["cmd"] == f"cd ../.. && {a['cmd']}"
        for x, y in zip(a["deps"], b["deps"], strict=True):
            assert y == (
                x.removeprefix("results/${scale}/") if x.startswith("results/") else f"../../{x}"
            )
        for kind in ("outs", "metrics", "plots"):
            text = json.dumps(b.get(kind, []))
            assert (
                "results/" not in text
                and ".." not in text
                and len(a.get(kind, [])) == len(b.get(kind, []))
            )


def test_laptop_is_not_another_scale():
    with pytest.raises(UserError, match="For laptop run: dvc repro"):
        project.write_scale("laptop")


def test_the_readme_shows_the_committed_tables():
    project.table(check=True)


def test_a_readme_without_its_table_is_named(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("nothing here")
    monkeypatch.setattr(project, "ROOT", tmp_path)
    with pytest.raises(UserError, match="has no lines '<!-- bench: make table -->'"):
        project.table(check=False)


def test_the_readme_shows_every_target_and_file_that_exist():
    text = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"make ([a-z-]+)", text)) <= targets
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_make_help_lists_every_target():
    text = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    phony = re.search(r"\.PHONY: (.*)", (ROOT / "Makefile").read_text())[1].split()
    assert all(f"make {target}" in text for target in phony)


def test_pins_of_data_packages_carry_their_checksum():
    for path in (ROOT / "data" / "packages").glob("*.txt"):
        assert re.fullmatch(r"\S+==\S+ --hash=sha256:[0-9a-f]{64}\n", path.read_text())
        assert (
            path.stem in (ROOT / "data" / "dvc.yaml").read_text()
            and path.stem in (ROOT / "data" / "README.md").read_text()
        )


def test_the_lock_command_refuses_what_it_cannot_resolve(monkeypatch):
    fail = subprocess.CompletedProcess([], 1, "", "no such version")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: fail)
    before = hashlib.sha256((ROOT / "requirements.lock").read_bytes()).hexdigest()
    with pytest.raises(UserError, match="could not resolve.*\n.*no such version"):
        project.lock()
    assert hashlib.sha256((ROOT / "requirements.lock").read_bytes()).hexdigest() == before


def test_importing_the_package_is_free():
    code = "import sys, s4bt; print('torch' in sys.modules or 'numpy' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        == "False"
    )

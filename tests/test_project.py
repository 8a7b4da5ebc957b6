"""Generated files, clean notebooks, the texts, and the house of rooms."""

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

from s4bt.files import ROOT, UserError
from s4bt.reduction.methods import METHODS
from s4bt.study.config import SCALES
from s4bt.version import __version__
from tests.copies import ENVIRONMENT
from tools import lock, scales, tables

LOCKED = {canonicalize_name(name): version for name, version in lock.pins().items()}
# Top to bottom; a room is a list of its files, top to bottom.
ALONE = ("", "compression")  # rooms of one file
HOUSE = {
    "": ["version", "lazy", "files", "progress"],
    "reduction": [
        "methods",
        "checks",
        "powers",
        "peaks",
        "diagonal",
        "systems",
        "state_space",
        "gramians",
        "projection",
        "diagonalisation",
        "multi",
        "balanced",
        "residualisation",
        "hankel",
        "modal",
        "inner_products",
        "expected_error",
        "variable_projection",
        "h2",
        "weighted",
        "multi_weighted",
        "unstable",
        "dispatch",
        "layers",
        "quality",
        "ranks",
    ],
    "nn": ["convolution", "dss", "norms", "s4", "storage"],
    "adapters": ["kinds", "models"],
    "compression": ["compression"],
    "deploy": [
        "header",
        "cell",
        "bits",
        "sequences",
        "models",
        "onnx_files",
        "c_source",
        "executorch_file",
        "stream",
        "__main__",
    ],
    "tasks": [
        "__init__",
        "options",
        "archives",
        "downloads",
        "releases",
        "tokens",
        "stores",
        "prepare",
        "pathfinder_release",
        "listops",
        "text",
        "retrieval",
        "image",
        "pathfinder",
    ],
    "study": [
        "environment",
        "places",
        "locks",
        "grid",
        "config",
        "devices",
        "batches",
        "checkpoints",
        "train",
        "workers",
        "runner",
        "experiments",
        "pretraining",
        "robustness",
        "care",
        "truncation",
        "choosing",
        "retraining",
        "qualities",
        "channel",
        "statistics",
        "claims",
        "inheritance",
        "smallest",
        "answers",
        "styles",
        "figures",
        "care_figures",
        "claim_figures",
        "edge",
        "edge_figures",
        "notebook",
        "multi_device",
    ],
    "course": [
        "pictures",
        "physics",
        "models",
        "exercise",
        *(f"exercises/lesson_{number:02d}" for number in range(13)),
        "checks",
    ],
}
HEAVY = (
    "dask distributed dvc papermill pandas matplotlib seaborn pydantic psutil tqdm "
    "torch numpy scipy"
)


def python(code, **extra):
    """What a fresh interpreter prints."""
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT), **extra}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    ).stdout


# -- generated files


def test_the_lock_was_resolved_from_this_list():
    assert (ROOT / "requirements.lock").read_text().startswith(lock.lock_header()), "run: make lock"
    for requirement in map(Requirement, lock.dependencies()[1:]):
        assert requirement.specifier.contains(LOCKED[canonicalize_name(requirement.name)])


def test_what_is_locked_installs_on_every_patch_of_its_python():
    refused = {
        name: wanted
        for name in LOCKED
        for wanted in [importlib.metadata.metadata(name).get("Requires-Python")]
        if wanted and not SpecifierSet(wanted).contains(f"{lock.PYTHON}.0")
    }
    assert not refused, f"limit these in pyproject.toml: {refused}"


def test_the_lock_is_complete_and_is_what_is_installed():
    """Every package that a direct dependency needs, transitively, is locked at its version."""
    todo, seen = [Requirement(d) for d in lock.dependencies()[1:]], set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        # torch for CUDA brings exact pins of its own, venv its pip
        apart = name.startswith(("nvidia-", "cuda-", "triton")) or name == "pip"
        if apart or (name, str(requirement.extras)) in seen:
            continue
        seen.add((name, str(requirement.extras)))
        installed = importlib.metadata.version(name).split("+")[0]
        said = f"{name} is installed as {installed} and locked as {LOCKED.get(name)}"
        assert LOCKED.get(name) == installed, f"{said}: make lock, make setup"
        for text in importlib.metadata.requires(name) or []:
            inner = Requirement(text)
            extras = {"", *requirement.extras}
            if inner.marker is None or any(inner.marker.evaluate({"extra": e}) for e in extras):
                todo.append(inner)
    assert len(seen) > 100


def test_both_environments_are_generated_and_every_spec_parses():
    for path, text in (
        (ROOT / "environment.yml", lock.environment()),
        (ROOT / ".binder" / "environment.yml", lock.binder()),
    ):
        assert path.read_text() == text, "run: make lock"
        listed = yaml.safe_load(text)["dependencies"]
        names = {MatchSpec(spec).name.normalized for spec in listed if isinstance(spec, str)}
        assert {"python", "pip"} <= names
    *_, pip = yaml.safe_load(lock.environment())["dependencies"]
    constraint, editable, *direct = pip["pip"]
    assert (constraint, editable) == ("--constraint requirements.lock", "--editable .")
    wanted = {canonicalize_name(Requirement(d).name) for d in lock.dependencies()[1:]}
    assert {canonicalize_name(Requirement(spec).name) for spec in direct} == wanted


def test_the_lock_command_refuses_what_it_cannot_resolve(monkeypatch):
    fail = subprocess.CompletedProcess([], 1, "", "no such version")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: fail)
    before = hashlib.sha256((ROOT / "requirements.lock").read_bytes()).hexdigest()
    with pytest.raises(UserError, match="could not resolve.*\n.*no such version"):
        lock.main(upgrade=False)
    assert hashlib.sha256((ROOT / "requirements.lock").read_bytes()).hexdigest() == before


def test_the_version_is_one():
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {__version__}\n" in (ROOT / "CHANGELOG.md").read_text()
    assert python("import s4bt; print(s4bt.__version__)").strip() == __version__


@pytest.mark.parametrize("scale", [s for s in SCALES if s != "laptop"])
def test_other_scales_run_the_same_stages_elsewhere(scale):
    here = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    there = scales.scale_pipeline(scale)
    assert list(here["stages"]) == list(there["stages"]) and there["vars"] == [{"scale": scale}]
    for name, stage in here["stages"].items():
        other = there["stages"][name]
        a, b = stage.get("do", stage), other.get("do", other)
        assert b["cmd"] == f"cd ../.. && {a['cmd']}"
        for x, y in zip(a["deps"], b["deps"], strict=True):
            own = x.startswith("results/${scale}/")
            assert y == (x.removeprefix("results/${scale}/") if own else f"../../{x}")
        for kind in ("outs", "metrics", "plots"):
            text = json.dumps(b.get(kind, []))
            assert "results/" not in text and ".." not in text
            assert len(a.get(kind, [])) == len(b.get(kind, []))


def test_laptop_is_not_another_scale():
    with pytest.raises(UserError, match="For laptop run: dvc repro"):
        scales.write_scale("laptop")


# -- notebooks


def test_notebooks_are_readable_and_short():
    paths = sorted((ROOT / "notebooks").rglob("*.ipynb"))
    assert len(paths) >= 29
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        code = [c for c in notebook.cells if c.cell_type == "code"]
        assert not any(c.outputs or c.execution_count for c in code), f"{path.name}: make strip"
        assert max(len(c.source.splitlines()) for c in code) <= 25, path.name
        first = notebook.cells[0]
        assert first.cell_type == "markdown" and "Time:" in first.source
        assert len(notebook.cells) - len(code) >= 0.8 * len(code), f"{path.name}: more story"
        given = [c.source for c in code if "parameters" in c.metadata.get("tags", [])]
        if path.parent.stem == "pipeline":
            assert len(given) == 1 and 'scale = "laptop"' in given[0]
        else:
            assert not given


# -- the house


def test_rooms_and_files_import_only_what_stands_above_them():
    above = {"s4bt"}
    for room, files in HOUSE.items():
        inside = {f"s4bt.{room}"} if room not in ALONE else set()
        for file in files:
            parts = [ROOT, "s4bt", "" if room in ALONE else room, f"{file}.py"]
            path = ROOT.joinpath(*(part for part in parts[1:] if part))
            used = set()
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("s4bt"):
                    used.add(node.module)
            allowed = above | inside
            assert used <= allowed, f"{path.relative_to(ROOT)} imports {used - allowed}"
            name = room if file in ("__init__", room) else f"{room}.{file}" if room else file
            name = name.replace("/", ".")
            inside.add(f"s4bt.{name}")
        above |= inside


def test_every_file_has_its_place_in_the_house():
    known = {
        "/".join(part for part in ("" if room in ALONE else room, f"{file}.py") if part)
        for room, files in HOUSE.items()
        for file in files
    }
    found = {str(p.relative_to(ROOT / "s4bt")) for p in (ROOT / "s4bt").rglob("*.py")}
    assert {name for name in found - known if not name.endswith("__init__.py")} == set()
    assert known <= found


def test_nothing_of_s4bt_imports_the_tools():
    for path in (ROOT / "s4bt").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) tools", path.read_text(), re.M), path


def test_files_stay_small():
    paths = [*(ROOT / "s4bt").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]
    sizes = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in paths}
    assert not {name: n for name, n in sizes.items() if n > 320}


def compared_names(text, but=""):
    """Methods that a piece of Python compares something with, by ==, !=, in, or a case.

    `but` is an expression that may be compared with one.
    """
    nodes = [n for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.Compare, ast.MatchValue))]
    nodes = [n for n in nodes if ast.unparse(n).split(" ")[0] != but]
    inside = [c.value for n in nodes for c in ast.walk(n) if isinstance(c, ast.Constant)]
    return [value for value in inside if value in METHODS]


def test_nobody_tests_for_the_name_of_a_method():
    """Outside the registry a method is named where it is called, or to say which one is meant.

    A figure picks rows of a table by name (`cells.method`); that is no test of what a method is.
    """
    assert compared_names("x = 1 if name in ('h2', 'hankel') else 2") == ["h2", "hankel"]
    for path in (ROOT / "s4bt").rglob("*.py"):
        assert not compared_names(path.read_text()), path
    for path in (ROOT / "notebooks" / "pipeline").glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                assert not compared_names(cell.source, but="cells.method"), path


def test_importing_the_package_is_free_and_its_names_are_there():
    loaded = f"[n for n in {HEAVY.split()!r} if n in sys.modules]"
    assert python(f"import sys, s4bt; print({loaded})").strip() == "[]"
    names = (
        "DiagonalLTI DSS S4Model load_model hankel_singular_values balanced_truncation error_bound "
        "reduce METHODS compress"
    )
    code = (
        "import s4bt.compression, s4bt; "
        f"assert all(callable(getattr(s4bt, n)) or n == 'METHODS' for n in {names.split()!r}); "
        "assert set(s4bt.__all__) <= set(dir(s4bt)); print(type(s4bt.compress).__name__)"
    )
    assert python(code).strip() == "function"


def test_the_reduction_needs_torch_numpy_and_scipy_only():
    apart = [name for name in HEAVY.split() if name not in ("torch", "numpy", "scipy")]
    apart += ["safetensors", "yaml", "PIL", "requests"]
    code = (
        "import sys\n"
        f"for name in {apart!r}: sys.modules[name] = None\n"
        "from s4bt.reduction import methods, quality, ranks\n"
        "from s4bt import reduce, METHODS, hankel_singular_values\n"
        "print(len(METHODS))"
    )
    assert int(python(code)) >= 9


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 's4bt' has no attribute 'truncate'"):
        import s4bt

        _ = s4bt.truncate


# -- texts


def test_texts_show_the_committed_numbers():
    tables.main(check=True)


def test_a_text_without_its_block_is_named():
    with pytest.raises(UserError, match="README.md has no lines '<!-- results: make table -->'"):
        tables.written("nothing here", "results", "", "README.md")


def test_the_readme_is_one_screen():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 1400 and len(text.splitlines()) <= 150


def test_no_prose_is_wider_than_a_hundred_columns():
    paths = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    for path in paths:
        if "_build" in path.parts:
            continue
        fenced = False
        for number, line in enumerate(path.read_text().splitlines(), 1):
            fenced ^= line.startswith("```")
            prose = re.sub(r"\]\([^)]*\)", "]", line)  # an address cannot be broken
            if not fenced and not prose.startswith(("|", "![", "<")):
                assert len(prose) <= 100, f"{path.relative_to(ROOT)}, line {number}"


def broken_formulas(text):
    """Lines that begin within a formula with what Markdown takes for a list or a quotation."""
    found, inside = [], False
    for line in re.sub(r"```.*?```|\$\$.*?\$\$", "", text, flags=re.S).splitlines():
        if inside and re.match(r"\s*([+*>-]|\d+[.)]) ", line):
            found.append(line)
        inside = bool(line.strip()) and inside != bool(line.count("$") % 2)
    return found


def test_no_formula_is_broken_where_markdown_sees_a_list():
    assert broken_formulas("Here $a\n+ b$ is.") and not broken_formulas("$$ a\n+ b $$\n\n- $c$")
    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                assert not broken_formulas(cell.source), path.name
    for path in (*(ROOT / "docs").rglob("*.md"), ROOT / "data" / "README.md"):
        if "_build" not in path.parts:
            assert not broken_formulas(path.read_text()), path.name


def test_the_readme_shows_targets_and_files_that_exist():
    text = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"make ([a-z-]+)", text)) <= targets | {"table"}
    for link in re.findall(r"\]\(([^)#]+)[)#]", text):
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_the_code_of_the_readme_runs_with_the_core_alone_and_prints_what_it_says():
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) == 2
    core = ("torch", "numpy", "scipy")
    study = [name for name in HEAVY.split() if name not in core]
    without = f"import sys\nfor name in {study!r}: sys.modules[name] = None\n"
    first = [python(without + block).splitlines()[0] for block in blocks][0]
    assert f"`{first}`" in text and re.fullmatch(r"\d\.\d+ <= \d\.\d+ <= \d\.\d+", first)


def test_docstring_examples_run():
    code = (
        "import doctest, importlib, torch\n"
        "from s4bt.reduction import balanced, dispatch, gramians, systems\n"
        "from s4bt import compression\nfrom s4bt.nn import dss, s4\n"
        "given = {'torch': torch, 'DiagonalLTI': systems.DiagonalLTI}\n"
        "for m in (balanced, gramians, dispatch, systems, compression, dss, s4):\n"
        "    done = doctest.testmod(m, extraglobs=given)\n"
        "    assert done.attempted > 0 and done.failed == 0, (m, done)\n"
        "print('ran')"
    )
    assert python(code).splitlines()[-1] == "ran"


def test_make_help_lists_every_target():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    phony = re.search(r"\.PHONY: (.*)", (ROOT / "Makefile").read_text())[1].split()
    assert all(f"make {target}" in done.stdout for target in phony)


def test_pins_of_data_packages_carry_their_checksum():
    for path in (ROOT / "data" / "packages").glob("*.txt"):
        assert re.fullmatch(r"\S+==\S+ --hash=sha256:[0-9a-f]{64}\n", path.read_text())
        assert path.stem in (ROOT / "data" / "dvc.yaml").read_text()
        assert path.stem in (ROOT / "data" / "README.md").read_text()

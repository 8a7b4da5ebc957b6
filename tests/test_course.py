"""The course: lessons, their solutions, the site that is built from them,
and what a browser makes of it.
"""

import json
import os
import re
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urljoin, urlsplit

import nbformat
import numpy as np
import pytest
import yaml
from bs4 import BeautifulSoup
from rattler import MatchSpec

from s4bt import course
from s4bt.files import ROOT, UserError
from tests.copies import copy_project, good
from tools import lock, slides

LESSONS = sorted((ROOT / "notebooks" / "lessons").glob("*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks" / "lessons" / "solutions").glob("*.ipynb"))


def sources(path, kind="code"):
    return [
        cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind
    ]


# -- what is written


def test_there_are_thirteen_lessons_and_as_many_solutions():
    assert [p.stem[:2] for p in LESSONS] == [f"{k:02d}" for k in range(13)]
    assert [p.name for p in SOLUTIONS] == [p.name for p in LESSONS]


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_a_lesson_opens_and_ends_as_all_do(path):
    text = sources(path, "markdown")
    for part in (
        r"\*For ",
        "You need:",
        r"Time: \d+ minutes\.\*",
        r"\*\*At the end of this lesson you can\*\*\n\n(- .*\n?(?:  .*\n?)*){3,}",
    ):
        assert re.search(part, text[0]), f"{path.stem} does not open with {part}"
    assert len(re.findall(r"^\d\. ", text[-1], re.M)) == 5 and "## Summary" in text[-1]
    exercises = re.findall(r"^\*\*(\d+\.\d)\*\*", "\n".join(text), re.M)
    assert (
        exercises == [f"{int(path.stem[:2])}.{k}" for k in range(1, len(exercises) + 1)]
        and 3 <= len(exercises) <= 5
    )
    assert "nan" in "".join(sources(path)) and "## Exercises" in "\n".join(text)
    assert "\n| symbol | in this lesson |\n" in "\n" + "\n".join(text) or path.stem < "01"
    assert "**Read on.**" in text[-1] and f'hint("{exercises[0]}")' in "\n".join(text)


@pytest.mark.parametrize(
    "path",
    [p for p in LESSONS + SOLUTIONS if p.stem < "07"],
    ids=lambda p: f"{p.parent.stem}-{p.stem}",
)
def test_no_torch_before_lesson_seven(path):
    assert not [cell for cell in sources(path) if "torch" in cell]


def test_the_tools_of_the_lessons_do_not_import_torch():
    code = (
        "import sys; from s4bt import course; course.layer('text', 1); course.chain(); "
        "print('torch' in sys.modules)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        == "False"
    )


def test_the_models_in_git_are_small_and_those_of_the_study():
    paths = list((ROOT / "results/laptop").glob("*/pretrained/*.safetensors"))
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout
    assert len(paths) == 18 and sum(path.stat().st_size for path in paths) < 1.5e6
    assert all(str(path.relative_to(ROOT)) in tracked.splitlines() for path in paths)


def test_the_api_reference_has_every_module():
    listed = re.findall(r"automodule:: s4bt\.([\w.]+)", (ROOT / "docs" / "api.md").read_text())
    shared = {
        p.relative_to(ROOT / "s4bt")
        .with_suffix("")
        .as_posix()
        .replace("/", ".")
        .removesuffix(".__init__")
        for p in (ROOT / "s4bt").rglob("*.py")
    }
    apart = {"__init__", "version", "lazy", "reduction", "nn", "adapters", "study", "course"}
    apart |= {f"tasks.{t}" for t in ("listops", "text", "retrieval", "image", "pathfinder")}
    apart |= {"deploy", "deploy.__main__", "course.exercises"}
    apart |= {f"course.exercises.lesson_{k:02d}" for k in range(13)}
    assert set(listed) == shared - apart


def test_binder_gets_what_the_lessons_import():
    listed = yaml.safe_load((ROOT / ".binder" / "environment.yml").read_text())["dependencies"]
    names = {MatchSpec(spec).name.normalized for spec in listed}
    code = (
        "import sys, importlib.metadata as m\n"
        "from s4bt.course import checks, models, physics, pictures\n"
        "from s4bt import compression\n"
        "from s4bt.reduction import methods, ranks\n"
        "from s4bt.study import statistics, train\n"
        "import scipy.linalg, ipywidgets, mpmath, seaborn\n"
        "found = m.packages_distributions()\n"
        "print({d for n in list(sys.modules) for d in found.get(n.split('.')[0], [])})"
    )
    used = eval(
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
    )
    renamed = {"torch": "pytorch-cpu", "matplotlib": "matplotlib-base"}
    direct = {re.split(r"[=<>]", d)[0] for d in lock.dependencies()[1:]} | {"mpmath"}
    assert {renamed.get(n, n) for n in (u.lower() for u in used) if n in direct} - {
        "ipykernel"
    } <= names


# -- the tools -------------------------------------------------------------


def test_a_slider_needs_nothing_but_itself():
    import matplotlib.pyplot as plt

    html = course.slider(lambda r: plt.plot([0, r]), [1, 2, 5], "r").data
    page = BeautifulSoup(html, "html.parser")
    images = page.find_all("img")
    assert [i["alt"] for i in images] == ["r = 1", "r = 2", "r = 5"] and sum(
        "hidden" not in i.attrs for i in images
    ) == 1
    assert (
        all(i["src"].startswith("data:image/png;base64,") for i in images)
        and len({i["src"] for i in images}) == 3
    )
    assert "http" not in html and not page.find_all("script") and not plt.get_fignums()


def test_solutions_begin_where_the_lesson_ends_whatever_was_tried_in_it(tmp_path, monkeypatch):
    folder = tmp_path / "notebooks" / "lessons"
    folder.mkdir(parents=True)
    cell, text = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=[
                cell("a = 1"),
                text("## Exercises"),
                cell("b = undefined_name"),
                cell("this is no code"),
                cell("%time c = a + 1"),
            ]
        ),
        folder / "x.ipynb",
    )
    nbformat.write(nbformat.v4.new_notebook(cells=[cell("a = undefined_name")]), folder / "y.ipynb")
    monkeypatch.setattr("s4bt.course.checks.ROOT", tmp_path)
    scope = {"get_ipython": lambda: None}
    course.run_lesson("x", scope)
    assert scope["a"] == 1 and "b" not in scope
    with pytest.raises(NameError):
        course.run_lesson("y", {})
    good(
        "git init -q && git add -A && git -c user.name=a -c user.email=a@b.c commit -qm x", tmp_path
    )
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=[cell("a = 2"), text("## Exercises"), cell("b = return ((")]
        ),
        folder / "x.ipynb",
    )
    scope = {"get_ipython": lambda: None}
    course.run_lesson("x", scope)
    assert scope["a"] == 1  # as it was committed


def test_the_live_slider_draws_anew(monkeypatch):
    """The cell of lesson 4 that needs a kernel is run here, and its handle moved."""
    import ipywidgets

    lesson = LESSONS[4]
    (live,) = [
        c.source
        for c in nbformat.read(lesson, as_version=4).cells
        if "live" in c.metadata.get("tags", [])
    ]
    scope, drawn, made = {}, [], []
    course.run_lesson(lesson.stem, scope)
    draw, make = scope["draw"], ipywidgets.interactive.__init__
    scope["draw"] = lambda r: (drawn.append(r), draw(r))[0]
    monkeypatch.setattr(
        ipywidgets.interactive,
        "__init__",
        lambda self, *a, **k: (make(self, *a, **k), made.append(self))[0],
    )
    exec(live, scope)
    made[0].children[0].value = 3
    assert (
        drawn[-1] == 3
        and len(drawn) == 2
        and (made[0].children[0].min, made[0].children[0].max) == (1, 15)
    )


def test_the_chain_and_the_rod_are_what_physics_says():
    A, b, c = course.chain(5, stiffness=2.0, force=-1, sensor=-1)
    assert -c @ np.linalg.solve(A, b) == pytest.approx(5 / 2)  # five springs of 2 N/m in a row
    poles, residues = course.modes(A, b, c)
    assert (poles.real < 0).all() and len(poles) == 5
    assert (residues / -poles).sum().real == pytest.approx(5 / 2)
    A, b, c = course.rod(40)
    assert -c @ np.linalg.solve(A, b) == pytest.approx(
        1, rel=0.03
    )  # a rod of length 1 conducts with resistance 1


def test_a_trained_layer_is_the_one_that_torch_reads():
    dss = course.network("pathx").dss_layers()[2]
    poles, W, dt = course.layer("pathx", 2)
    system = dss.to_lti()
    assert (
        np.allclose(poles, system.poles[0].numpy())
        and np.allclose(W, system.residues.numpy())
        and np.allclose(dt, dss.dt().numpy())
    )
    with pytest.raises(UserError, match="layers 0 to 2, not 3"):
        course.layer("pathx", 3)
    with pytest.raises(UserError, match="not a task"):
        course.layer("cats")
    with pytest.raises(UserError, match="image and pathx have examples"):
        course.examples("text")


# -- where it is published -------------------------------------------------


def test_the_address_of_a_public_clone_is_written_everywhere(tmp_path, monkeypatch):
    clone = copy_project(tmp_path / "s4bt")
    address = "https://github.com/somebody/their-s4bt"
    good(f"python -m tools.address {address}.git", clone)
    assert f'repository = "{address}" or' in "".join(
        sources(clone / "notebooks/lessons/04_balance_and_truncate.ipynb")
    )
    for name in ("pyproject.toml", "CITATION.cff"):
        assert (clone / name).read_text().count(f'"{address}"') == 1, name
    readme, first = (clone / "README.md").read_text(), "notebooks/lessons/00_start_here.ipynb"
    assert f"https://mybinder.org/v2/gh/somebody/their-s4bt/main?urlpath=lab/tree/{first}" in readme
    assert (
        f"https://colab.research.google.com/github/somebody/their-s4bt/blob/main/{first}" in readme
    )
    few = ",".join(
        [
            "docs/index.md",
            "notebooks/lessons/00_start_here.ipynb",
            "notebooks/lessons/04_balance_and_truncate.ipynb",
            "notebooks/lessons/solutions/04_balance_and_truncate.ipynb",
            "results/laptop/image/20_pretrain.ipynb",
        ]
    )
    good(
        f"sphinx-build -q -c docs -D nb_execution_mode=off -D include_patterns={few} . "
        f"{tmp_path}/html 2> /dev/null",
        clone,
    )
    for page in (
        "notebooks/lessons/04_balance_and_truncate",
        "notebooks/lessons/solutions/04_balance_and_truncate",
    ):
        links = [
            a.get("href")
            for a in BeautifulSoup(
                (tmp_path / f"html/{page}.html").read_text(), "html.parser"
            ).find_all("a")
        ]
        assert (
            f"https://mybinder.org/v2/gh/somebody/their-s4bt/main?urlpath=lab/tree/{page}.ipynb"
            in links
        )
        assert (
            f"https://colab.research.google.com/github/somebody/their-s4bt/blob/main/{page}.ipynb"
            in links
        )
        assert f'repository = "{address}" or' in "".join(sources(clone / f"{page}.ipynb"))
    assert (
        "colab.research"
        not in (tmp_path / "html/results/laptop/image/20_pretrain.html").read_text()
    )  # needs what only the study makes
    assert (
        "is not the address"
        in subprocess.run(
            [sys.executable, "-m", "tools.address", "https://example.org/x"],
            cwd=clone,
            capture_output=True,
            text=True,
            check=False,
        ).stderr
    )


def test_a_lesson_on_colab_fetches_the_project(tmp_path):
    """The first code cell of a lesson, with a module google.colab and a local clone's address."""
    cell = (
        sources(LESSONS[0])[0].replace('"" or', f'"{ROOT}" or').replace("/content", str(tmp_path))
    )
    code = f"""
import sys, types
sys.modules["google.colab"] = types.ModuleType("google.colab")
from IPython.testing.globalipapp import start_ipython
shell = start_ipython()
shell.run_cell({cell!r}).raise_error()
import s4bt.course, os
print("\\n", s4bt.course.__file__, os.getcwd())
"""
    out = subprocess.run(
        [sys.executable, "-I", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={
            **os.environ,
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
        },
    ).stdout.split()
    assert out[-2:] == [
        str(tmp_path / "s4bt/s4bt/course/__init__.py"),
        str(tmp_path / "s4bt/notebooks/lessons"),
    ]


# -- the site --------------------------------------------------------------


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """The folder of the site, built as by `make book`, and what was printed."""
    folder = tmp_path_factory.mktemp("book")
    recipe = good("make --no-print-directory --dry-run --always-make book VENV=/nonexistent", ROOT)
    line = next(x for x in recipe.splitlines() if x.startswith("sphinx-build"))
    done = subprocess.run(
        line.replace("--quiet", "").replace("docs/_build/html", str(folder / "html")),
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, f"make book failed:\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    return folder / "html", done.stdout


def said(book, path):
    """Exercises of an executed notebook and what their checks printed."""
    executed = nbformat.read(
        book[0].parent / "jupyter_execute" / path.relative_to(ROOT), as_version=4
    )
    text = "\n".join(
        out.text
        for cell in executed.cells
        for out in cell.get("outputs", [])
        if out.output_type == "stream" and out.name == "stdout"
    )
    return dict(re.findall(r"^(\d+\.\d): (solved|not yet)\.", text, re.M))


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_exercises_run_before_they_are_solved_and_solutions_solve_them(book, path):
    open_, solved = said(book, path), said(book, SOLUTIONS[LESSONS.index(path)])
    asked = set(re.findall(r"^\*\*(\d+\.\d)\*\*", "\n".join(sources(path, "markdown")), re.M))
    assert set(open_) == set(solved) == asked
    assert set(open_.values()) == {"not yet"} and set(solved.values()) == {"solved"}


def test_every_lesson_is_run_for_the_site(book):
    text = re.sub(r"\x1b\[[\d;]*m", "", book[1])
    found = re.findall(r"notebooks/lessons/(\d\d)_\w+\.ipynb\S* Executed notebook in ", text)
    assert len(set(found)) == len(LESSONS)


def pages(folder):
    return sorted(
        p for p in folder.rglob("*.html") if "_modules" not in p.parts and "_static" not in p.parts
    )


def test_links_lead_somewhere_and_nothing_is_loaded_from_elsewhere(book):
    found, external, count = (
        {
            p: BeautifulSoup(p.read_text(), "html.parser")
            for p in book[0].rglob("*.html")
            if "_static" not in p.parts
        },
        set(),
        0,
    )
    anchors = {
        p: {e.get("id") for e in page.find_all(id=True)}
        | {e.get("name") for e in page.find_all("a", attrs={"name": True})}
        for p, page in found.items()
    }
    for path, page in found.items():
        for element, key in (
            (e, k) for k in ("href", "src") for e in page.find_all(attrs={k: True})
        ):
            link = urlsplit(element[key])
            if link.scheme in ("data", "mailto", "javascript"):
                continue
            if link.scheme or link.netloc:
                assert element.name == "a", f"{path.name} loads {element[key]}"
                external.add(element[key])
                continue
            target = (path.parent / unquote(link.path)).resolve() if link.path else path
            assert target.exists(), f"{path.relative_to(book[0])} links to {element[key]}"
            if link.fragment and target in anchors:
                assert unquote(link.fragment) in anchors[target], (
                    f"{path.relative_to(book[0])}: no {link.fragment} in {target.name}"
                )
            count += 1
    assert count > 5000 and all(x.startswith("https://") for x in external), external


@pytest.fixture(scope="module")
def browser():
    if not slides.has_browser():
        pytest.skip("there is no browser: install chromium and chromium-driver (Debian's names)")
    driver = slides.browser(browser="ALL", performance="ALL")
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def site(book):
    """Address of a server of the site on this machine only."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(book[0])))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


SETTLED = """const done = arguments[0], math = document.querySelectorAll('.math').length;
const ready = math ? MathJax.startup.promise : Promise.resolve();
ready.then(() => done({math: math, rendered: document.querySelectorAll('mjx-container').length,
  broken: [...document.querySelectorAll('mjx-merror')].map(e => e.textContent),
  images: [...document.images].filter(i => !i.complete || !i.naturalWidth)
    .map(i => i.alt || i.src)}))"""


def test_every_page_loads_without_network_and_without_a_word_in_the_console(book, site, browser):
    shots = os.environ.get("S4BT_SCREENSHOTS")
    equations = 0
    own = "[PST]: "  # what the theme says to itself, at level info
    for path in pages(book[0]):
        name = str(path.relative_to(book[0]))
        browser.get(urljoin(site, name))
        state = browser.execute_async_script(SETTLED)
        assert not state["broken"] and not state["images"] and state["rendered"] >= state["math"], (
            f"{name}: {state}"
        )
        assert not [e["message"] for e in browser.get_log("browser") if own not in e["message"]], (
            name
        )
        asked = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
        urls = {
            m["params"]["request"]["url"]
            for m in asked
            if m["method"] == "Network.requestWillBeSent"
        }
        assert all(u.startswith((site, "data:", "blob:")) for u in urls), (
            f"{name} asks for {[u for u in urls if not u.startswith(site)]}"
        )
        equations += state["rendered"]
        if shots:
            os.makedirs(shots, exist_ok=True)
            browser.save_screenshot(
                os.path.join(shots, name.replace("/", "-").replace(".html", ".png"))
            )
    assert equations > 200
    browser.get(
        (book[0] / "notebooks/lessons/04_balance_and_truncate.html").as_uri()
    )  # from a stick, without any server
    state = browser.execute_async_script(SETTLED)
    assert (
        state["math"] > 20
        and state["rendered"] >= state["math"]
        and not state["broken"]
        and not state["images"]
    )
    assert not [e["message"] for e in browser.get_log("browser") if own not in e["message"]]


def test_sliders_move(site, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    seen = 0
    for lesson in ("04_balance_and_truncate", "05_the_error_bound", "08_truncate_a_trained_layer"):
        browser.get(urljoin(site, f"notebooks/lessons/{lesson}.html"))
        for slider in browser.find_elements(By.CLASS_NAME, "s4bt-slider"):

            def shown():
                return [
                    i.get_attribute("alt")
                    for i in slider.find_elements(By.TAG_NAME, "img")
                    if i.is_displayed()
                ]

            def said_():
                return slider.find_element(By.TAG_NAME, "output").text

            handle, before = slider.find_element(By.TAG_NAME, "input"), shown()
            handle.send_keys(Keys.ARROW_RIGHT)
            after = shown()
            assert len(before) == len(after) == 1 and before != after and after == [said_()]
            button = slider.find_element(By.TAG_NAME, "button")
            browser.execute_script(
                "arguments[0].scrollIntoView({block: 'center'}); arguments[0].click()", button
            )
            assert button.text == "stop"
            browser.execute_async_script("setTimeout(arguments[0], 800)")
            assert shown() != after
            browser.execute_script("arguments[0].click()", button)
            assert button.text == "play"
            seen += 1
    assert seen == 5


# -- the decks


@pytest.fixture(scope="module")
def decks(book, tmp_path_factory):
    """The decks, with the figures of the lessons that the site has run."""
    folder = tmp_path_factory.mktemp("decks")
    executed = book[0].parent / "jupyter_execute"
    good(f"{sys.executable} -m tools.slides --executed {executed} --out {folder}", ROOT)
    return folder


DECKS = [*(f"{number:02d}" for number in range(13)), "long"]
FITS = """const wrong = [];
Reveal.getSlides().forEach(slide => {
  const place = Reveal.getIndices(slide);
  Reveal.slide(place.h, place.v);
  const wide = [...slide.querySelectorAll('mjx-container, img, pre, table')]
    .some(e => e.offsetWidth > slide.offsetWidth + 1);
  if (slide.scrollHeight > 700 || wide) wrong.push(slide.innerText.split('\\n')[0]);
});
return [Reveal.getSlides().length, wrong];"""


@pytest.mark.parametrize("deck", DECKS)
def test_a_deck_opens_without_network_and_every_slide_fits(decks, browser, deck):
    browser.get("about:blank")
    for log in ("browser", "performance"):  # what other pages have left there
        browser.get_log(log)
    browser.get((decks / f"{deck}.html").as_uri())
    for _ in range(20):  # a busy machine draws and lays out late
        state = browser.execute_async_script(SETTLED)
        if not state["images"]:
            break
        browser.execute_async_script("setTimeout(arguments[0], 500)")
    assert not state["broken"] and not state["images"] and state["rendered"] >= state["math"]
    for _ in range(20):
        count, wrong = browser.execute_script(FITS)
        if not wrong:
            break
        browser.execute_async_script("setTimeout(arguments[0], 500)")
    assert not wrong, f"{deck}: these slides do not fit: {wrong}"
    assert 30 <= count <= 55 if deck == "long" else 8 <= count <= 12
    assert not [e["message"] for e in browser.get_log("browser")]
    asked = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    urls = {
        m["params"]["request"]["url"] for m in asked if m["method"].endswith("requestWillBeSent")
    }
    assert urls and all(u.startswith(("file:", "data:", "blob:")) for u in urls)


def test_decks_link_to_each_other_and_to_the_pdfs(decks):
    page = BeautifulSoup((decks / "index.html").read_text(), "html.parser")
    links = {a["href"] for a in page.find_all("a", href=True) if not a["href"].startswith("#")}
    assert {f"{deck}.html" for deck in DECKS} <= links
    printed = {"long.pdf", "cheatsheet.pdf"} if slides.has_browser() else set()
    for link in links - ({"long.pdf", "cheatsheet.pdf"} - printed):
        assert (decks / urlsplit(link).path).exists(), link
    for name in printed:
        pages = (decks / name).read_bytes().count(b"/Type /Page\n")
        assert pages == 1 if name == "cheatsheet.pdf" else pages >= 30, (name, pages)


def test_a_figure_that_is_not_made_is_named(tmp_path):
    cell = nbformat.v4.new_code_cell("1", metadata={"figure": "gone"})
    with pytest.raises(
        UserError, match="the cell 'gone' of 04_balance_and_truncate.ipynb shows no"
    ):
        slides.write_figures(LESSONS[4], nbformat.v4.new_notebook(cells=[cell]), tmp_path)

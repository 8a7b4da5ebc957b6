"""Build the decks, their long version and the cheat sheet: python -m tools.slides [--executed DIR].

A lesson's cell with `figure` in its metadata makes a figure; a deck shows it as figures/02-name.png
(02-name.html for a slider). --executed takes lessons that were run already, with small figures, as
`make book` leaves them in docs/_build/jupyter_execute; a lesson that is not there is run.

The long deck consists of the slides with the line `% long` below their heading. PDFs are printed by
Chromium, where it and its driver are installed.
"""

from __future__ import annotations

import argparse
import base64
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

from s4bt.files import ROOT, UserError
from s4bt.progress import progress_bar

SOURCE = ROOT / "docs" / "slides"
LESSONS = ROOT / "notebooks" / "lessons"
DPI = 200  # of figures on a screen in a lecture hall
FLAGS = "headless no-sandbox disable-gpu no-first-run disable-background-networking "
FLAGS += "disable-component-update disable-sync disable-dev-shm-usage window-size=1400,1000"
# calls back when formulas and, where slides become pages, those are there
DRAWN = """const done = arguments[0], deck = location.search.includes('print-pdf');
function look() {
  if (deck && !document.querySelector('.pdf-page')) return setTimeout(look, 100);
  const math = window.MathJax ? MathJax.startup.promise : Promise.resolve();
  math.then(() => setTimeout(done, 500));
}
look();"""


def executed(lesson: Path, folder: Path | None) -> nbformat.NotebookNode:
    """A lesson with its outputs; from the folder if what was run there is what it says now."""
    notebook = nbformat.read(lesson, as_version=4)
    if folder and (path := folder / lesson.relative_to(ROOT)).exists():
        ready = nbformat.read(path, as_version=4)
        if [cell.source for cell in ready.cells] == [cell.source for cell in notebook.cells]:
            return ready
    from nbclient import NotebookClient

    sharp = f"%config InlineBackend.print_figure_kwargs = {{'dpi': {DPI}}}"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(sharp))
    client = NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(LESSONS)}})
    return client.execute()


def write_figures(lesson: Path, notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Write what the cells with a figure in their metadata show."""
    for cell in notebook.cells:
        if (name := cell.metadata.get("figure")) is None:
            continue
        shown = [out.data for out in cell.outputs if "data" in out]
        path = folder / f"{lesson.stem[:2]}-{name}"
        pages = [data["text/html"] for data in shown if "s4bt-slider" in data.get("text/html", "")]
        pictures = [data["image/png"] for data in shown if "image/png" in data]
        if pages:
            path.with_suffix(".html").write_text("".join(pages[0]), encoding="utf-8")
        elif pictures:
            path.with_suffix(".png").write_bytes(base64.b64decode(pictures[0]))
        else:
            raise UserError(f"the cell {name!r} of {lesson.name} shows no figure")


def long_deck(decks: list[Path]) -> str:
    """The slides of all decks that are marked, one part for each deck that has some."""
    parts = ["# Balanced truncation of S4 models\n\nIn ninety minutes\n"]
    for deck in decks:
        title, *slides = re.split(r"^## ", deck.read_text(encoding="utf-8"), flags=re.M)
        chosen = [slide for slide in slides if re.match(r".*\n% long\n", slide)]
        if chosen:
            heading = title.split("\n")[0].removeprefix("# ")
            parts += [f"## {heading}\n{title.partition(chr(10))[2]}"]
            parts += [f"## {slide}" for slide in chosen]
    return "\n".join(parts)


def sphinx(builder: str, source: Path, out: Path) -> None:
    """Run sphinx-build.  Raises UserError with what it said if it fails or warns."""
    command = [sys.executable, "-m", "sphinx", "-b", builder, "--quiet", "--fail-on-warning"]
    done = subprocess.run(
        [*command, "--keep-going", str(source), str(out)], capture_output=True, text=True
    )
    if done.returncode:
        raise UserError(f"the slides could not be built:\n{done.stderr or done.stdout}")


def has_browser() -> bool:
    """Whether Chromium and its driver are installed."""
    return bool(shutil.which("chromium") and shutil.which("chromedriver"))


def browser(**logs: str):
    """A selenium driver of Chromium that reaches this machine only. logs: name and level of each
    log that it keeps.
    """
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in FLAGS.split():
        options.add_argument(f"--{flag}")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    options.set_capability("goog:loggingPrefs", logs)
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


def print_pdfs(pages: dict[Path, str]) -> bool:
    """Print pages into PDFs, without network; whether there is a browser for it.

    pages: where a PDF goes, and the address of its page.
    """
    if not has_browser():
        return False
    driver = browser()
    try:
        driver.set_script_timeout(120)
        for pdf, address in pages.items():
            driver.get(address)
            driver.execute_async_script(DRAWN)
            settings = {"preferCSSPageSize": True, "printBackground": True}
            printed = driver.execute_cdp_cmd("Page.printToPDF", settings)
            pdf.write_bytes(base64.b64decode(printed["data"]))
    finally:
        driver.quit()
    return True


def build(out: Path, ready: Path | None) -> None:
    """Everything, from the lessons to the PDFs, into `out`."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "slides"
        shutil.copytree(SOURCE, source)
        (source / "figures").mkdir()
        lessons = sorted(LESSONS.glob("*.ipynb"))
        with progress_bar(len(lessons), "running the lessons") as bar:
            for lesson in lessons:
                write_figures(lesson, executed(lesson, ready), source / "figures")
                bar.update()
        decks = sorted(source.glob("[0-9][0-9].md"))
        (source / "long.md").write_text(long_deck(decks), encoding="utf-8")
        out.mkdir(parents=True, exist_ok=True)
        sphinx("revealjs", source, out)
        sheet = Path(scratch) / "sheet"
        sheet.mkdir()
        shutil.copy(ROOT / "docs" / "cheatsheet.md", sheet / "index.md")
        shutil.copytree(source / "static", sheet / "static")
        shutil.copy(source / "conf.py", sheet)
        sphinx("html", sheet, Path(scratch) / "page")
        printed = print_pdfs(
            {
                out / "long.pdf": f"{(out / 'long.html').resolve().as_uri()}?print-pdf",
                out / "cheatsheet.pdf": (Path(scratch) / "page" / "index.html").as_uri(),
            }
        )
        if not printed:
            print("no PDFs: there is no chromium with chromedriver here", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--executed", type=Path, help="folder of lessons that were run already")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "_build" / "slides")
    arguments = parser.parse_args()
    try:
        build(arguments.out, arguments.executed)
    except UserError as error:
        sys.exit(f"error: {error}")

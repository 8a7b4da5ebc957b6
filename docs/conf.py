"""The book: `make book` builds it offline, and every warning is an error.

Its source folder is the project's root, so that links are those of the repository.
"""

import importlib.util
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# for the kernels that run the lessons, two at a time
os.environ |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

from s4bt.version import __version__  # noqa: E402
from tools.address import repository  # noqa: E402

project, author, copyright = "s4bt", "the s4bt authors", "the s4bt authors, MIT licence"
version = release = __version__
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "data/README.md",
    "docs/*.md",
    "docs/decisions/*.md",
    "notebooks/lessons/*.ipynb",
    "notebooks/lessons/solutions/*.ipynb",
    "results/laptop/*/*.ipynb",
]
exclude_patterns = ["**/.ipynb_checkpoints"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx.ext.mathjax"]

# Lessons have no outputs and are executed here; the study's notebooks have been.
nb_execution_mode = "auto"
nb_execution_excludepatterns = ["results/laptop/*/*.ipynb"]
nb_execution_timeout = 1800  # what only a hang reaches
nb_execution_raise_on_error = True
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"exclude-members": "model_config"}

# MathJax from a package whose static files are all that is used of it
mathjax = importlib.util.find_spec("sphinx-mathjax-offline")
html_static_path = [str(Path(mathjax.origin).parent / "static"), "static"]
html_css_files = ["style.css"]
mathjax_path = "mathjax/tex-chtml.js"
html_extra_path = ["site"]  # index.html at the top

html_theme = "sphinx_book_theme"
html_title = "Balanced truncation of S4 models"
html_favicon = "static/icon.svg"
html_context = {"default_mode": "light"}  # as the figures are
html_copy_source = html_show_sourcelink = False
html_theme_options = {
    "path_to_docs": "",
    "show_toc_level": 2,
    "use_download_button": False,
    "home_page_in_toc": True,
}
launch = {
    "binderhub_url": "https://mybinder.org",
    "colab_url": "https://colab.research.google.com",
    "notebook_interface": "jupyterlab",
}
if address := repository():
    html_theme_options |= {
        "repository_url": address,
        "repository_branch": "main",
        "use_repository_button": True,
    }


def _escaped(text):
    """Text as reStructuredText that shows it as it is; `code` becomes code."""
    text = re.sub(r"([\\*|_<>])", r"\\\1", text.replace("`", "\0")).replace("\0", "``")

    def plain(match):
        return "``" + re.sub(r"\\(.)", r"\1", match[1]) + "``"

    return re.sub(r"``(.*?)``", plain, text, flags=re.S)


def as_plain_text(app, what, name, obj, options, lines):
    """Docstrings are plain text with aligned tables and formulas: keep their shape."""
    text = "\n".join(lines).strip()
    if not text:
        return
    first, _, rest = text.partition("\n\n")
    lines[:] = [*_escaped(first).splitlines(), ""]
    if rest:
        lines += [".. code-block:: text", "", *("   " + line for line in rest.splitlines()), ""]


def as_executed(app, docname, source):
    """Texts link to the sources of the study's notebooks; the book has the executed ones."""
    if docname.startswith(("notebooks/", "results/")):
        return
    text = re.sub(r"notebooks/pipeline/(60|70)_", r"results/laptop/compare/\1_", source[0])
    source[0] = text.replace("notebooks/pipeline/", "results/laptop/image/")


def launch_lessons_only(app, pagename, templatename, context, doctree):
    """Buttons that open a page on Binder or Colab, for lessons and solutions.

    The study's notebooks need what only the study makes.
    """
    lesson = bool(address) and pagename.startswith("notebooks/lessons/")
    app.config.html_theme_options["launch_buttons"] = launch if lesson else {}


def setup(app):
    app.connect("html-page-context", launch_lessons_only, priority=100)
    app.connect("autodoc-process-docstring", as_plain_text)
    app.connect("source-read", as_executed)

"""The decks: `make slides` builds them offline, and every warning is an error.

tools/slides.py copies this folder beside the figures that it takes from the lessons.
"""

import importlib.util
from pathlib import Path

project, author = "Balanced truncation of S4 models", "the s4bt authors"
extensions = ["myst_parser", "sphinx.ext.mathjax", "sphinx_revealjs"]
myst_enable_extensions = ["dollarmath", "amsmath"]

# MathJax from a package whose static files are all that is used of it
mathjax = importlib.util.find_spec("sphinx-mathjax-offline")
html_static_path = [str(Path(mathjax.origin).parent / "static"), "static"]
mathjax_path = "mathjax/tex-chtml.js"

revealjs_static_path = html_static_path
revealjs_style_theme = "white"
revealjs_css_files = ["slides.css"]
revealjs_script_conf = {
    "width": 1280,
    "height": 720,
    "margin": 0.05,
    "hash": True,
    "slideNumber": True,
    "transition": "none",
}

# the cheat sheet, one page that is printed
html_theme = "basic"
html_css_files = ["sheet.css"]
html_sidebars = {"**": []}
html_copy_source = html_show_sourcelink = html_show_sphinx = html_show_copyright = False

"""The style of the lessons, and a slider that needs neither kernel nor network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
from IPython import get_ipython
from PIL import Image


def use_style() -> None:
    """The study's style sheet and nothing else; in a notebook, figures below their cells.

    Whatever MPLBACKEND or a matplotlibrc of the user's say.
    """
    shell = get_ipython()
    if shell is not None and hasattr(shell, "kernel"):
        shell.run_line_magic("matplotlib", "inline")
    plt.rcdefaults()
    plt.style.use("s4bt.study.s4bt")


# Handlers stand in the elements themselves: no script, no identifier, so any number of sliders can
# share a page, live or exported.
ROUND = 6000  # milliseconds of a film that has more pictures than two a second
_SHOW = (
    "const s=this.closest('.s4bt-slider'),i=+s.querySelector('input').value;"
    "s.querySelectorAll('img').forEach((p,k)=>p.hidden=k!==i);"
    "s.querySelector('output').textContent=s.querySelectorAll('img')[i].alt"
)
_PLAY = (
    "const s=this.closest('.s4bt-slider'),r=s.querySelector('input');"
    "if(s.timer){clearInterval(s.timer);s.timer=0;this.textContent='play'}"
    "else{this.textContent='stop';"
    "s.timer=setInterval(()=>{r.value=+r.value>=+r.max?0:+r.value+1;r.oninput()},PAUSE)}"
)


def slider(draw: Callable[[object], object], values: Sequence, name: str = "r"):
    """A slider over pictures that are drawn now and travel inside the page.

    It works in JupyterLab, in an exported page, without network. draw(value): makes one pyplot
    figure; values: what the slider steps through, shown as `name = value`. Returns an IPython HTML
    object. The button plays it as an animation; on a page arrow keys move it (inside JupyterLab
    they do not arrive). Open figures are closed.  Raises ValueError if there is no value.
    """
    from IPython.display import HTML

    if not len(values):
        raise ValueError("a slider needs at least one value")
    pictures = []
    for value in values:
        plt.close("all")
        draw(value)
        file = io.BytesIO()
        plt.gcf().savefig(file, dpi=80, facecolor="white")
        plt.close("all")
        with Image.open(file) as picture:
            small = io.BytesIO()
            picture.convert("RGB").quantize(64).save(small, "png", optimize=True)
        text = f"{name} = {value}"
        pictures.append((text, base64.b64encode(small.getvalue()).decode()))
    first = len(pictures) // 3
    play = _PLAY.replace("PAUSE", str(min(500, ROUND // len(pictures))))
    images = "".join(
        f'<img alt="{html.escape(text)}" src="data:image/png;base64,{data}" style="max-width:100%"'
        f"{'' if k == first else ' hidden'}>"
        for k, (text, data) in enumerate(pictures)
    )
    return HTML(
        f'<div class="s4bt-slider"><div><button type="button" onclick="{play}">play</button> '
        f'<input type="range" aria-label="{html.escape(name)}" min="0" '
        f'max="{len(pictures) - 1}" value="{first}" style="width:50%;vertical-align:middle" '
        f'oninput="{_SHOW}"> <output>{html.escape(pictures[first][0])}</output></div>{images}</div>'
    )

"""Tables of what `make bench` measured, from results/bench."""

from __future__ import annotations

import re
import textwrap

import pandas as pd

from s4bt.files import ROOT
from tools.results import markdown

FOLDER = ROOT / "results" / "bench"
RATIOS = (
    r"over the one with 64|one batched model|over that with one|killed worker cost"
    r"|against [LNHB], s4bt.*exponent|of the input"
)


def bench_table() -> str:
    """The reduction beside the rivals: seconds, and values right over all systems."""
    rows, found = pd.read_csv(FOLDER / "reduction.csv"), pd.read_csv(FOLDER / "accuracy.csv")
    took = rows[rows.unit == "s"].set_index("what").value
    columns = ["values", "right_to_1e-3", "right_to_1e-8"]
    share = found.groupby("tool", sort=False)[columns].sum()
    own = next(value for what, value in took.items() if what.endswith(": s4bt"))
    lines = []
    for what, value in took.items():
        if "diagonalised" not in what:
            continue
        name, right = what.split(": ")[1], ["", ""]
        if name in share.index:
            known = share.loc[name]
            right = [f"{100 * known[column] / known['values']:.0f} %" for column in columns[1:]]
        lines.append([name, f"{value:.3g}", f"{own / value:.2g}", *right])
    head = [
        "1,536 systems, N = 64 to 16, diagonalised, one thread",
        "seconds",
        "s4bt's time over it",
        "values right to 1e-3",
        "to 1e-8",
    ]
    fits = pd.read_csv(FOLDER / "fits.csv")
    other = pd.concat([rows[rows.unit.isin(["MB", "power"])], fits])
    listed = [
        f"- {row.what}: {row.value:.3g}{' ' + row.unit if row.unit in ('MB', 's') else ''}"
        for row in other.itertuples()
    ]
    return "\n".join([markdown(head, lines), "", *listed])


def mimo_table() -> str:
    """Layers with several inputs and outputs beside the rivals: seconds, errors, values right."""
    rows = pd.read_csv(FOLDER / "mimo.csv")
    value, lines = rows.set_index("what").value, []
    wrong = rows[rows.unit == "share"]
    name = wrong.what.str.extract(r"8 or more, (.*)$")[0]
    right = 1 - wrong.value.groupby(name).mean()
    timed = rows[rows.unit == "s"].what.str.extract(r"^(.*), m = .*: (.*)$")
    sizes = timed[0].unique()
    for tool in timed[1].unique():
        cells = [tool]
        for size in sizes:
            (what,) = timed.index[(timed[0] == size) & (timed[1] == tool)].tolist() or [None]
            if what is None:
                cells += ["", ""]
                continue
            full = rows.what[what]
            cells += [f"{value[full]:.2g}", f"{value[f'{full}: error over the bound']:.2f}"]
        lines.append([*cells, f"{100 * right[tool]:.0f} %"])
    heads = [f"{size}, {word}" for size in sizes for word in ("seconds", "error over bound")]
    return markdown(["one thread", *heads, "values right to 1e-8"], lines)


def pruned_table() -> str:
    """What 25 of 64 modes a layer cost, beside a published claim: points lost, mean over tasks."""
    rows = pd.read_csv(FOLDER / "pruned.csv")
    by_task = rows.groupby(["method", "rule", "task"], sort=False).lost.mean()
    lines = [
        [f"`{method}`, {rule}", f"{part.mean():.1f}", f"{part.max():.1f} ({part.idxmax()[-1]})"]
        for (method, rule), part in by_task.groupby(["method", "rule"], sort=False)
    ]
    return markdown(["61 % of the states pruned", "points lost", "most of a task"], lines)


def _item(text: str) -> str:
    """A line of a list, not wider than the texts."""
    return textwrap.fill(f"- {text}", 100, subsequent_indent="  ")


def speed_table() -> str:
    """The layer beside the published formula and the floor, and what other benchmarks found."""
    names = ("layer", "loop", "scaling", "grid")
    rows = pd.concat([pd.read_csv(FOLDER / f"{name}.csv") for name in names])
    value = rows.set_index("what").value
    lines = []
    for what in value.index[value.index.str.contains(r"threads?: s4bt$")]:
        name = what.removesuffix(": s4bt")
        shape, threads = re.search(r"= \(([\d, ]+)\), (\d)", name).groups()
        times = [f"{value[f'{name}: {kind}']:.3g}" for kind in ("s4bt", "formula", "floor")]
        over = f"{value[f'{name}: time over that of the floor']:.2f}"
        lines.append([shape, threads, *times, over])
    share = value[value.index.str.endswith("rest, share of the whole")].max()
    kept = rows[rows.what.str.contains(RATIOS) & rows.unit.isin(["ratio", "power"])]
    head = ["B, L, H, N", "threads", "s4bt, ms", "formula, ms", "floor, ms", "s4bt over floor"]
    return "\n".join(
        [
            markdown(head, lines),
            "",
            "Shares, ratios, and exponents of growth fitted to the upper half of the sizes:",
            "",
            *map(
                _item,
                [
                    "batches, checkpoints, learning curve and Python, share of a laptop-scale run, "
                    f"worst of six tasks: {share:.2g}",
                    *(f"{row.what}: {row.value:.2g}" for row in kept.itertuples()),
                ],
            ),
        ]
    )

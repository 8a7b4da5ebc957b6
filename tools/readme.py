"""The README's numbers, from the scale named here, rounded once, here."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from textwrap import fill

import pandas as pd

from s4bt.files import ROOT
from s4bt.study.answers import PAPER, points
from s4bt.study.config import load_scale
from s4bt.tasks import TASKS
from tools import results
from tools.results import gain, listed, lost, markdown

SCALE = "laptop"
FOLDER = ROOT / "results" / SCALE
read = functools.partial(results.read, folder=FOLDER)
# The comparisons of the first claim that the README shows: what is said, start, transfer, baseline.
CLAIMED = [
    ("the paper's truncation is a better start than Skew-HiPPO (a)", PAPER, "dss", "skew-hippo"),
    ("`weighted-shared` is a better start than (a)", "weighted-shared", "dss", "skew-hippo"),
    (
        "the paper's network beats a small one trained as long (b)",
        PAPER,
        "whole",
        "skew-hippo-long",
    ),
    ("the network of `weighted-shared` beats (b)", "weighted-shared", "whole", "skew-hippo-long"),
]


def lengths() -> tuple[int, int]:
    """The shortest and the longest sequences of the six tasks, in steps."""
    known = [json.loads((FOLDER / task / "data.json").read_text())["length"] for task in TASKS]
    return min(known), max(known)


def modes() -> int:
    """N, the modes of the pretrained layers."""
    return int(read("summary.csv").query("arm == 'pretrained'")["rank"].max())


def headline() -> str:
    """The one sentence of the README's first screen."""
    every_loss = read("oneshot.csv")
    losses, own = every_loss[every_loss.task == "all"], every_loss[every_loss.method == "weighted"]
    shortest, longest = lengths()
    seeds, (few, more) = len(load_scale(SCALE).grid.seeds), sorted(losses["rank"].unique())[-2:]
    worst = own[(own.task != "all") & (own["rank"] == few)].sort_values("loss").iloc[-1]
    rows = read("summary.csv").query("arm == 'one-shot' and rank == @few")
    sizes = rows.groupby("method").state_space_parameters.mean()
    said = (
        f"**Cut from {modes()} modes to {more}, without any retraining, a model loses "
        f"{lost(losses, 'weighted', more)} points of test accuracy; cut to {few}, "
        f"{lost(losses, 'weighted', few)}** (mean over six tasks ± 95 %; {points(worst.loss)} on "
        f"{worst.task}, the worst). The paper's truncation, made as a start of training, loses "
        f"{lost(losses, PAPER, more)} and {lost(losses, PAPER, few)}, and stores "
        f"{100 * sizes[PAPER] / sizes['weighted']:.0f} % of the numbers at {few} modes. "
        f"Sequences of {shortest} to {longest} steps, {seeds} seeds ([limits](#limits))."
    )
    return fill(said, 100, break_on_hyphens=False)


def four_rows() -> str:
    """The README's results."""
    losses, answer = read("oneshot.csv").query("task == 'all'"), read("compare/answer.csv")
    ranks = sorted(losses["rank"].unique())
    words = {
        "weighted": "lost by `weighted`, fitted to a layer's inputs",
        "bt-discrete": "lost by balanced truncation of the discrete kernel",
        PAPER: "lost by balanced truncation as in the paper",
    }
    rows = [[text, *(lost(losses, name, rank) for rank in ranks)] for name, text in words.items()]
    gained = [gain(answer, PAPER, "skew-hippo", "dss", rank) for rank in ranks]
    rows.append(
        ["gained, trained on, over the usual untrained start, Skew-HiPPO (tasks won)", *gained]
    )
    head = ["points of test accuracy", *(f"{rank} of {modes()} modes" for rank in ranks)]
    return markdown(head, rows)


def _between(values: pd.Series, words: Callable[[float], str]) -> str:
    low, high = words(values.min()), words(values.max())
    return low if low == high else f"{low} to {high}"


def _verdict(table: pd.DataFrame, column: str) -> str:
    """The verdict, or how many of the rows have which."""
    counts = table[column].value_counts(sort=False)
    if len(counts) == 1:
        return str(counts.index[0])
    return ", ".join(f"{said} in {count} of {len(table)}" for said, count in counts.items())


def verdicts() -> str:
    """Claim, evidence, verdict, over all tasks."""
    first, smaller = read("claim1.csv"), read("fewer.csv").query("sharing == 'tied'")
    lines = []
    for words, method, transfer, against in CLAIMED:
        own = first[(first.task == "all") & (first.against == against)]
        own = own[(own.method == method) & (own["transfer"] == transfer)].sort_values("rank")
        gained = _between(own["mean"], lambda value: points(value, sign=True))
        evidence = f"{gained} points, r = {listed(own['rank'].astype(str).tolist())}"
        lines.append([words, evidence, _verdict(own, "verdict_here"), _verdict(own, "verdict")])
    own = smaller[(smaller.task == "all") & (smaller["transfer"] == "dss") & (smaller.compared > 0)]
    beaten = own.method.notna().sum()
    said = "holds" if beaten == len(own) else "undecided"
    words = "even with fewer parameters than (a)"
    if len(own):
        lines.append([words, f"{beaten} of {len(own)} larger ones beaten", said, "not tested"])
    if load_scale(SCALE).grid.originals:
        own = read("claim2.csv").query("task == 'all'")
        found = _between(own.pearson, "{:.2f}".format).replace("-", "−")
        evidence = f"correlation {found} within tasks"
        words = "a better original gives a better small model"
        lines.append([words, evidence, _verdict(own, "verdict"), "not tested"])
    return markdown(["claim", "evidence", "on these tasks", "on tasks like them"], lines)

"""The README's numbers, from the scale named here, rounded once, here."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from textwrap import fill

import pandas as pd

from s4bt.files import ROOT
from s4bt.study.answers import PAPER, points
from s4bt.study.claims import AT_ANY_SIZE, LETTERS
from s4bt.study.config import load_scale
from s4bt.tasks import TASKS
from tools import results
from tools.results import WORDS, gain, listed, lost, markdown

SCALE = "laptop"
FOLDER = ROOT / "results" / SCALE
read = functools.partial(results.read, folder=FOLDER)
# The comparisons of the first claim that the README shows: what is said, start, transfer, baseline.
CLAIMED = [
    ("the paper's start beats Skew-HiPPO with as many modes", PAPER, "dss", "skew-hippo"),
    ("so does `weighted-shared`", "weighted-shared", "dss", "skew-hippo"),
    ("the paper's truncated network beats as much training", PAPER, "whole", "skew-hippo-long"),
    ("so does `weighted-shared`", "weighted-shared", "whole", "skew-hippo-long"),
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


def _range(values: pd.Series, digits: Callable[[float], str]) -> str:
    low, high = digits(values.min()), digits(values.max())
    return low if low == high else f"{low} to {high}"


def _verdict(table: pd.DataFrame, column: str) -> str:
    """The verdict, or which verdict at which r."""
    if table[column].nunique() == 1:
        return str(table[column].iloc[0])
    parts = table.groupby(column, sort=False)["rank"]
    return "; ".join(f"{said} at r = {listed(list(map(str, r)))}" for said, r in parts)


def verdicts() -> str:
    """Claim, evidence, verdict: both claims over all tasks."""
    first, smaller = read("claim1.csv"), read("fewer.csv")
    first, smaller = first[first.task == "all"], smaller[smaller.task == "all"]
    lines = []
    for words, method, transfer, against in CLAIMED:
        own = first[(first.method == method) & (first["transfer"] == transfer)]
        own = own[own.against == against].sort_values("rank")
        gained = _range(own["mean"], lambda value: points(value, sign=True))
        evidence = f"{gained} points, *{WORDS[transfer]}* − ({LETTERS[against]})"
        lines.append([words, evidence, _verdict(own, "verdict_here"), _verdict(own, "verdict")])
    for transfer, part in smaller[smaller.compared > 0].groupby("transfer", sort=False):
        beaten = f"{part.method.notna().sum()} of {len(part)} Skew-HiPPO models beaten"
        evidence = f"{beaten}, *{WORDS[str(transfer)]}* − ({LETTERS[AT_ANY_SIZE[str(transfer)]]})"
        lines.append(["fewer parameters are enough", evidence, "", ""])
    if load_scale(SCALE).grid.originals:
        own = read("claim2.csv").query("task == 'all'")
        evidence = f"Pearson {_range(own.pearson, '{:.2f}'.format)} within tasks"
        words = "a better original gives a better small model"
        lines.append([words, evidence, _verdict(own, "verdict"), ""])
    return markdown(["claim", "evidence", "on these tasks", "on tasks like them"], lines)

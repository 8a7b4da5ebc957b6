"""The numbers of the README's first screen, from results/laptop, rounded once, here."""

from __future__ import annotations

import json
from textwrap import fill

from s4bt.study.answers import PAPER, points
from s4bt.study.config import load_scale
from s4bt.tasks import TASKS
from tools.results import FOLDER, SCALE, gain, lost, markdown, read


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

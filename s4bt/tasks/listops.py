"""ListOps: evaluate a nested prefix expression of single digits, ten classes.  (Nangia & Bowman 2018; Tay et al. 2021)

Tokens: 0 padding, 1-10 the digits, 11-14 [MIN [MAX [MED [SM, 15 the closing bracket. MED is the integer part of the
median, SM the sum modulo ten. Length counts tokens.
"""
from __future__ import annotations

import random
import statistics
from pathlib import Path

import numpy as np

from s4bt.config import ListOpsData, UserError, progress_bar
from s4bt.tasks import Dataset, Info, cut

OPERATORS = {"[MIN": min, "[MAX": max, "[MED": lambda v: int(statistics.median(v)), "[SM": lambda v: sum(v) % 10}
TOKENS = ["", *"0123456789", *OPERATORS, "]"]
CODE = {token: i for i, token in enumerate(TOKENS)}


def expression(rng: random.Random, data: ListOpsData, depth: int = 1) -> tuple[list[str], int]:
    """A random expression and its value. The root, at depth 1, is an operator; no node at max_depth is.

    Stops early, with a value that means nothing, once it is longer than max_length.
    """
    if depth > 1 and (depth >= data.max_depth or rng.random() >= data.operator_probability):
        digit = rng.randrange(10)
        return [str(digit)], digit
    operator = rng.choice(list(OPERATORS))
    tokens, values = [operator], []
    for _ in range(rng.randint(2, data.max_arguments)):
        inner, value = expression(rng, data, depth + 1)
        tokens += inner
        values.append(value)
        if len(tokens) > data.max_length:
            break
    return [*tokens, "]"], OPERATORS[operator](values)


def build(data: ListOpsData, raw: Path | None = None) -> Dataset:
    """Draw distinct expressions of min_length < length < max_length until there are enough."""
    rng, need = random.Random(data.seed), sum(data.sizes().values())
    found: dict[tuple[str, ...], int] = {}
    with progress_bar(need, "listops expressions") as bar:
        fruitless = 0
        while len(found) < need:
            if (fruitless := fruitless + 1) > 100_000:
                raise UserError(f"listops: 100,000 expressions in a row were too short, too long or known already; {len(found)} of {need} "
                                "were found. Widen min_length and max_length, or ask for fewer examples")
            tokens, value = expression(rng, data)
            if data.min_length < len(tokens) < data.max_length and tuple(tokens) not in found:
                found[tuple(tokens)], fruitless = value, 0
                bar.update()
    x = np.zeros((need, data.max_length), np.uint8)
    for row, tokens in zip(x, found):
        row[:len(tokens)] = [CODE[t] for t in tokens]
    lengths = np.array([len(t) for t in found], np.int32)
    return cut(data, Info(len(TOKENS), 10), x, lengths, np.array(list(found.values()), np.int64))


def show(x: np.ndarray) -> str:
    """The expression as text."""
    return " ".join(TOKENS[t] for t in x if t)

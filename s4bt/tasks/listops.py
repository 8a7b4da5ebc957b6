"""ListOps: evaluate a nested prefix expression of single digits, ten classes.

(Nangia & Bowman 2018; Tay et al. 2021)

Tokens: 0 padding, 1-10 the digits, 11-14 [MIN [MAX [MED [SM, 15 the closing bracket and, if asked
for, 16 the end. MED is the integer part of the median, SM the sum modulo ten. Length counts tokens.

Generated here, or read from basic_{train,val,test}.tsv of the official release.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from s4bt.files import UserError
from s4bt.tasks import Info
from s4bt.tasks.options import ListOpsData
from s4bt.tasks.prepare import Card
from s4bt.tasks.releases import find, lines, open_release
from s4bt.tasks.stores import Store, chunks
from s4bt.tasks.tokens import pad

CARD = Card(
    ("generator in this file, the public one's distribution", "MIT (this project)"),
    ("Long Range Arena, listops-1000", "Apache-2.0 (Long Range Arena)"),
    (96_000, 2_000, 2_000),
    "lengths are those of params.yaml; officially 500 to 2000 tokens, 96,000 / 2,000 / 2,000 "
    "expressions",
    "the official task; longer expressions are cut at max_length",
)
OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
TOKENS = ["", *"0123456789", *OPERATORS, "]", "<end>"]
CODE = {token: i for i, token in enumerate(TOKENS)}
CLOSE, END = CODE["]"], CODE["<end>"]
TREES = 2000  # trees drawn together


def reduce_children(operator: np.ndarray, arity: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values of nodes whose children's values stand one after the other, `arity` of them each."""
    start = np.cumsum(arity) - arity
    owner = np.repeat(np.arange(len(arity)), arity)
    ordered = np.sort(owner * 10 + values) % 10  # ascending inside each node
    middle = (ordered[start + (arity - 1) // 2] + ordered[start + arity // 2]) // 2
    return np.choose(
        operator,
        [ordered[start], ordered[start + arity - 1], middle, np.add.reduceat(values, start) % 10],
    )


def trees(data: ListOpsData, chunk: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """TREES random trees, level by level.

    Those of min_length < length < max_length as (tokens, lengths, values).

    The root, at depth 1, is an operator; a node above max_depth is one with probability
    operator_probability; an operator has 2 to max_arguments arguments. A tree that has grown too
    long is dropped at once.
    """
    rng = np.random.default_rng([data.seed, chunk])
    tree, length, levels = np.arange(TREES), np.zeros(TREES, np.int64), []
    for depth in range(1, data.max_depth + 1):
        is_operator = rng.random(len(tree)) < (
            1 if depth == 1 else data.operator_probability if depth < data.max_depth else 0
        )
        arity = np.where(is_operator, rng.integers(2, data.max_arguments + 1, len(tree)), 0)
        symbol = np.where(
            is_operator, rng.integers(4, size=len(tree)), rng.integers(10, size=len(tree))
        )
        levels.append((tree, arity, symbol))
        length += np.bincount(tree, 1 + is_operator, TREES).astype(np.int64)
        arity[length[tree] >= data.max_length] = 0
        tree = np.repeat(tree, arity)
    kept = (length > data.min_length) & (length < data.max_length)
    row = np.cumsum(kept) - 1
    levels = [
        (row[tree[keep]], arity[keep], symbol[keep])
        for tree, arity, symbol in levels
        for keep in [kept[tree]]
    ]

    size, value, below = [], [], (np.empty(0, np.int64), np.empty(0, np.int64))
    for _, arity, symbol in reversed(levels):  # from the leaves up
        inner = arity > 0
        s, v = np.ones(len(arity), np.int64), symbol.astype(np.int64)
        if inner.any():
            s[inner] = 2 + np.add.reduceat(below[0], np.cumsum(arity[inner]) - arity[inner])
            v[inner] = reduce_children(symbol[inner], arity[inner], below[1])
        below = s, v
        size.insert(0, s)
        value.insert(0, v)

    x, place = (
        np.zeros((int(kept.sum()), data.max_length), np.uint8),
        np.zeros(int(kept.sum()), np.int64),
    )
    for (tree, arity, symbol), s, inner_size in zip(
        levels, size, [*size[1:], np.empty(0, np.int64)]
    ):  # from the root down
        inner = arity > 0
        x[tree, place] = np.where(inner, CODE["[MIN"], CODE["0"]) + symbol
        x[tree[inner], (place + s - 1)[inner]] = CLOSE
        before = np.cumsum(inner_size) - inner_size
        first = np.repeat(
            before[(np.cumsum(arity) - arity)[inner]] if len(before) else before, arity[inner]
        )
        place = np.repeat(place[inner] + 1, arity[inner]) + before - first
    return x, length[kept].astype(np.int32), value[0] if len(value) else np.empty(0, np.int64)


def parse(text: str, data: ListOpsData) -> np.ndarray:
    """Codes of an expression of the official release: brackets ( and ) dropped, cut at max_length.

    Raises ValueError.
    """
    tokens = text.replace("(", " ").replace(")", " ").split()
    if unknown := set(tokens) - set(TOKENS[1:-1]):
        raise ValueError(f"unknown token {sorted(unknown)[0]!r}")
    depth = 0
    for number, token in enumerate(tokens, 1):
        depth += token in OPERATORS
        depth -= token == "]"
        if depth < 0 or (depth == 0 and number < len(tokens)):
            raise ValueError(f"brackets are unbalanced at token {number}, {token!r}")
    if depth or not tokens:
        raise ValueError(
            f"{depth} brackets are not closed at the end of the line, which may have been cut"
        )
    return np.array([CODE[t] for t in tokens[: data.max_length]], np.uint8)


def read(path: Path, data: ListOpsData) -> Iterator[tuple[np.ndarray, int]]:
    """(codes, label) of the rows of one TSV file of the release."""
    columns: list[str] = []
    for number, text in lines(path):
        fields = [field.strip('"') for field in text.split("\t")]
        if not columns:
            columns = fields
            if sorted(columns) != ["Source", "Target"]:
                raise UserError(
                    f"{path}, line {number}: expected the header 'Source<TAB>Target', found "
                    f"{text[:60]!r}. Is it the ListOps TSV?"
                )
            continue
        try:
            if len(fields) != 2:
                raise ValueError(
                    f"expected an expression, a tab and a digit, found {len(fields)} columns "
                    f"ending in {fields[-1][-20:]!r}"
                )
            row = dict(zip(columns, fields))
            if row["Target"] not in tuple("0123456789"):
                raise ValueError(f"expected a digit as Target, found {row['Target'][-20:]!r}")
            yield parse(row["Source"], data), int(row["Target"])
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}. Get the file again") from error


def build(data: ListOpsData, raw: Path, store: Store) -> Info:
    """Draw distinct expressions until there are enough, or read the release with its own splits."""
    width = data.max_length + data.end_token
    store.create((width,))
    info = Info(len(TOKENS) - 1 + data.end_token, 10)
    if data.source:
        root = open_release(data, raw)
        paths = find(
            root,
            {name: f"basic_{name}.tsv" for name in data.sizes()},
            "ListOps of the Long Range Arena",
            instead={name: f"{name}.tsv" for name in data.sizes()},
        )
        notes = store.read_official(
            {name: read(path, data) for name, path in paths.paths.items()},
            lambda rows: pad(rows, width, END * data.end_token),
        )
        return dataclasses.replace(info, notes=notes + paths.notes())
    fruitless = 0
    for x, lengths, y in chunks(trees, data, store):
        rows = [row[:n] for row, n in zip(x, lengths)]
        x, lengths = (
            pad(rows, width, END * data.end_token)
            if rows
            else (np.empty((0, width), np.uint8), lengths)
        )
        fruitless = 0 if store.deal(x, lengths, y) else fruitless + 1
        if fruitless == 50:
            raise UserError(
                f"listops: {50 * TREES:,} expressions in a row were too short, too long or known "
                f"already; {store.missing} of {sum(data.sizes().values())} are missing. Widen "
                "min_length and max_length, or ask for fewer examples"
            )
    return info


def show(x: np.ndarray) -> str:
    """The expression as text."""
    return " ".join(TOKENS[t] for t in x if t)

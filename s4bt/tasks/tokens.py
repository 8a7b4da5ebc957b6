"""Texts as tokens.

bytes        those of the UTF-8 text, 0 for padding and 255, which UTF-8 never uses, for the end
characters   0 padding, 1 any rare one, then those that the training split holds min_count times or
             more, then the end
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from s4bt.tasks.options import Tokens

END = 255  # token behind the last byte


def pad(rows: list[np.ndarray], width: int, end: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of codes, cut and padded to `width`: (n, width), lengths (n,).

    `end` stands behind each, if it is not 0; padding is 0.
    """
    x, lengths = np.zeros((len(rows), width), rows[0].dtype), np.empty(len(rows), np.int32)
    for i, row in enumerate(rows):
        row = row[: width - bool(end)]
        x[i, : len(row)] = row
        x[i, len(row) : len(row) + bool(end)] = end
        lengths[i] = len(row) + bool(end)
    return x, lengths


class Coder:
    """Texts to token numbers, as `data` says; `texts` are those whose characters are counted."""

    def __init__(self, data: Tokens, texts: Iterable[str]):
        self.data, self.width = data, data.length
        self.code, self.symbols, self.vocabulary, self.end, self.dtype = (
            {},
            "",
            256,
            END * data.end_token,
            np.uint8,
        )
        if data.tokens == "characters":
            counts = Counter()
            for text in texts:
                counts.update(self.cut(text))
            frequent = sorted(c for c, n in counts.items() if n >= data.min_count)
            self.code = {c: i for i, c in enumerate(frequent, 2)}
            self.symbols = "".join(
                ["\0\N{WHITE SQUARE}", *frequent, "\N{END OF PROOF}" * data.end_token]
            )
            self.vocabulary = 2 + len(frequent) + data.end_token
            self.end = (self.vocabulary - 1) * data.end_token
            self.dtype = np.uint8 if self.vocabulary <= 256 else np.uint16

    def cut(self, text: str):
        """The part of a text that is kept, as characters or bytes."""
        units, most = (
            (text if self.data.tokens == "characters" else text.encode()),
            self.width - self.data.end_token,
        )
        return units[:most] if self.data.keep == "first" else units[-most:]

    def __call__(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Padded codes (n, length) and the lengths (n,)."""
        rows = [
            np.frombuffer(part, np.uint8)
            if isinstance(part, bytes)
            else np.array([self.code.get(c, 1) for c in part], self.dtype)
            for part in map(self.cut, texts)
        ]
        return pad(rows, self.width, self.end)

"""What a deployed file says of itself, in words: task, ranks, how samples are read, provenance."""

from __future__ import annotations

import json
import math
import subprocess
from dataclasses import asdict, dataclass, field
from typing import Any

from s4bt.files import ROOT
from s4bt.version import __version__

FORMAT = "stream 1"


@dataclass(frozen=True)
class Header:
    """See the fields.

    task, method: names; ranks: modes of each layer; vocabulary: 0 for real samples, which are
    normalised as (x - mean) / std; symbols: characters behind the tokens, empty for bytes; words:
    the tokens' names, where they are words; classes: names of the answers; length: of the sequences
    that it was trained on; revision: of git; results: the file that it was made from. An end token
    is a sample like others: whoever trained with one feeds it.
    """

    task: str = ""
    method: str = ""
    ranks: list[int] = field(default_factory=list)
    vocabulary: int = 0
    mean: float = 0.0
    std: float = 1.0
    symbols: str = ""
    words: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    length: int = 0
    norm: str = ""
    pooling: str = "mean"
    documents: int = 1
    revision: str = ""
    results: str = ""
    format: str = FORMAT
    version: str = __version__

    def as_strings(self) -> dict[str, str]:
        """Every field as JSON, for ONNX."""
        return {name: json.dumps(value, ensure_ascii=False) for name, value in asdict(self).items()}

    def as_json(self) -> str:
        """All fields as one JSON object, in the order of their names."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)

    @classmethod
    def of(cls, found: dict) -> Header:
        """From a dictionary with those fields.

        Raises ValueError if it is none, of another format, or holds something else in a field.
        """
        if not isinstance(found, dict):
            raise ValueError(f"its header is {found!r}")
        if found.get("format") != FORMAT:
            raise ValueError(
                f"its format is {found.get('format', 'none')!r}, and this version of s4bt reads "
                f"{FORMAT!r}"
            )
        known = {name: value for name, value in found.items() if name in cls.__dataclass_fields__}
        for name, value in known.items():
            if not _fits(getattr(EMPTY, name), value, name):
                raise ValueError(f"{name} in its header is {value!r}")
        return cls(**known)

    def check(self, vocabulary: int, documents: int, classes: int) -> None:
        """Raise ValueError unless it is that of a model with these numbers of tokens and so on."""
        said = (self.vocabulary, self.documents, len(self.classes) or classes)
        if said != (vocabulary, documents, classes):
            raise ValueError(
                f"its header speaks of vocabulary {said[0]}, {said[1]} documents and {said[2]} "
                f"classes, and the model has {vocabulary}, {documents} and {classes}"
            )
        if max(len(self.words), len(self.symbols)) > vocabulary:
            raise ValueError(f"its header has more words than the vocabulary of {vocabulary}")


EMPTY = Header()


def _fits(like: Any, value: Any, name: str) -> bool:
    """Whether a value of a header is of the kind of the default, and usable."""
    if isinstance(like, list):
        kind = int if name == "ranks" else str
        return isinstance(value, list) and all(type(x) is kind for x in value)
    if isinstance(like, float):
        number = type(value) in (int, float) and math.isfinite(value)
        return number and (name != "std" or value > 0)
    return type(value) is type(like) and (not isinstance(like, int) or value >= 0)


def revision() -> str:
    """The commit of the sources, with a + if they were changed; empty where there is no git."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    try:
        known = git("rev-parse", "--short=12", "HEAD")
    except OSError:
        return ""
    return known and known + "+" * bool(git("status", "--porcelain", "--untracked-files=no"))

"""Write the tables of README.md and docs/ from the results: python -m tools.tables [--check].

A text holds pairs of lines <!-- name: make table --> and <!-- end of name -->; what stands between
them is written here, from files that hold full precision, and rounded once. --check only compares.
"""

from __future__ import annotations

import sys

import pandas as pd

from s4bt.files import ROOT, UserError, atomic_path
from tools import report
from tools.address import launch_text
from tools.benchmarks import bench_table, mimo_table, pruned_table, speed_table
from tools.course import exercises_table
from tools.edge import bits_table
from tools.readme import four_rows, headline, verdicts
from tools.results import (
    accuracy_table,
    claims,
    decided_words,
    gains_table,
    one_shot_table,
    retrained_words,
    robust_table,
)
from tools.study import beaten_words, laptop_shortcuts, study_shortcuts

BLOCKS = {
    "README.md": {
        "headline": headline,
        "results": four_rows,
        "verdicts": verdicts,
        "launch": launch_text,
    },
    "docs/results.md": {
        "oneshot": one_shot_table,
        "robust": robust_table,
        "gains": gains_table,
        "rules": beaten_words,
        "decided": decided_words,
        "retrained": retrained_words,
        "accuracy": accuracy_table,
        "claims": claims,
        "pruned": pruned_table,
        "bits": bits_table,
    },
    "docs/report.md": {
        "report-state": report.state,
        "report-originals": report.originals_table,
        "report-oneshot": report.oneshot_table,
        "report-claim1": report.claim1_table,
        "report-picture": report.picture,
        "report-fewer": report.fewer_words,
        "report-parts": report.parts_table,
        "report-claim2": report.claim2_table,
        "report-smallest": report.smallest_table,
    },
    "data/README.md": {"shortcuts": study_shortcuts, "shortcuts-laptop": laptop_shortcuts},
    "docs/lecturer.md": {"exercises": exercises_table},
    "docs/benchmarks.md": {"bench": bench_table, "mimo": mimo_table, "speed": speed_table},
}


def written(text: str, name: str, content: str, where: str) -> str:
    """The text with the block of that name filled.  Raises UserError if it has no such lines."""
    begin, end = f"<!-- {name}: make table -->", f"<!-- end of {name} -->"
    if begin not in text or end not in text:
        raise UserError(
            f"{where} has no lines {begin!r} and {end!r} around its table. Restore them with: git "
            f"checkout {where}"
        )
    head, rest = text.split(begin)
    return f"{head}{begin}\n{content}\n{end}{rest.split(end)[1]}"


def main(check: bool) -> None:
    """Raises UserError if a block is not there or, with check, not the same."""
    for file, blocks in BLOCKS.items():
        path = ROOT / file
        old = new = path.read_text(encoding="utf-8")
        for name, make in blocks.items():
            new = written(new, name, make(), file)
        if check and new != old:
            raise UserError(
                f"the tables in {file} are not those of results/. Write them: make table"
            )
        if new != old:
            with atomic_path(path) as temporary:
                temporary.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    try:
        main("--check" in sys.argv[1:])
    except (UserError, FileNotFoundError, pd.errors.ParserError) as error:
        sys.exit(f"error: {error}")

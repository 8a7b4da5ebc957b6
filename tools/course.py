"""The table of exercises on the lecturer's page, from the exercises themselves."""

from __future__ import annotations

from s4bt.course.checks import find
from s4bt.course.exercise import EXERCISES
from s4bt.files import ROOT

LESSONS = len(list((ROOT / "s4bt/course/exercises").glob("lesson_*.py")))


def exercises_table() -> str:
    """A row for each lesson: its exercises with minutes and level, and their sum."""
    rows = ["| lesson | exercises | minutes |", "| --- | --- | --- |"]
    for lesson in range(LESSONS):
        find(f"{lesson}.1")
        own = [x for n, x in EXERCISES.items() if n.partition(".")[0] == str(lesson)]
        shown = ", ".join(f"{x.number} {'·' * x.level} {x.minutes}" for x in own)
        rows.append(f"| {lesson} | {shown} | {sum(x.minutes for x in own)} |")
    return "\n".join(rows)

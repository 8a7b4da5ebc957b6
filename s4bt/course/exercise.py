"""An exercise: what is right on inputs that the lesson does not show, and what people get wrong.

cases      inputs, a list of tuples of arguments, or a function that makes the list
mistake    a function that makes a mistake that people make, and what to say to them
up_to      applied to both results before they are compared, such as a sort where order is free
of         what that makes of a result, in words
keeps      an array of the arguments that the answer must leave as it is
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

EXERCISES: dict[str, Exercise] = {}
CLOSE = 0.05  # a mistake is named if it explains all but this share of the deviation
NEARLY = 1e-3
FLOOR = 1e-3  # entries below this share of the largest need agree to that share of the tolerance


class NotNumbers(Exception):
    """What was returned is no number and no array of numbers; the message says what it is."""


@dataclass
class Exercise:
    """One exercise, its hidden inputs and its common mistakes."""

    number: str
    reference: Callable
    cases: list[tuple] | Callable[[], list[tuple]]
    hints: tuple[str, ...]
    minutes: int
    level: int
    tolerance: float
    up_to: Callable
    of: str
    keeps: Callable | None
    mistakes: list[tuple[str, Callable]] = field(default_factory=list)

    def inputs(self) -> list[tuple]:
        """The hidden inputs; they are made once."""
        if callable(self.cases):
            self.cases = self.cases()
        return self.cases

    def mistake(self, says: str) -> Callable:
        """A decorator for a function that makes a mistake, with what to say to who made it."""

        def register(wrong: Callable) -> Callable:
            self.mistakes.append((says, wrong))
            return wrong

        return register


def exercise(
    number: str,
    cases: list[tuple] | Callable[[], list[tuple]],
    *hints: str,
    minutes: int,
    level: int = 1,
    tolerance: float = 1e-6,
    up_to: Callable = lambda result: result,
    of: str = "",
    keeps: Callable | None = None,
) -> Callable[[Callable], Exercise]:
    """A decorator: the function below is right. Level 1 is a line, 2 some thought, 3 hard."""

    def register(reference: Callable) -> Exercise:
        EXERCISES[number] = Exercise(
            number, reference, cases, hints, minutes, level, tolerance, up_to, of, keeps
        )
        return EXERCISES[number]

    return register


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, and what to say about it."""

    solved: bool
    says: str


def shown(result: Any) -> str:
    """A result in 60 characters; whatever stands in an exercise, nothing is raised."""
    try:
        return f"{result!r:.60}"
    except Exception:
        return f"an object of type {type(result).__name__}"


def numbers(result: Any) -> np.ndarray:
    """A result as an array, float64 or complex128.  Raises NotNumbers."""
    try:
        array = np.asarray(result.detach() if hasattr(result, "detach") else result)
    except Exception as error:  # anything can stand in an exercise
        raise NotNumbers(f"{shown(result)} is not an array: {error}") from error
    if array.dtype.kind not in "biufc":
        raise NotNumbers(f"{shown(result)} is not a number or an array of numbers")
    return array.astype(complex if np.iscomplexobj(array) else float)


def deviation(yours: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Relative, entry by entry, with the floor above; nan counts as infinite."""
    scale = np.maximum(np.abs(right), FLOOR * np.abs(right).max(initial=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        off = np.abs(yours - right) / np.where(scale > 0, scale, 1)
    return np.where(np.isnan(off), np.inf, off)


def distance(these: Iterable, those: Iterable) -> float:
    """The largest deviation of two lists of arrays; infinite if a shape differs."""
    return max(
        float(deviation(a, b).max(initial=0)) if a.shape == b.shape else np.inf
        for a, b in zip(these, those)
    )


# Of every answer, whatever the exercise: what was done to the right one.
GENERAL = (
    ("The sign is the opposite.", lambda x: -x),
    (
        "It is the complex conjugate of what is right: a bar too much, or one too few, or a "
        "frequency with the other sign.",
        np.conj,
    ),
    ("It is twice as large as it should be: a factor of 2.", lambda x: 2 * x),
    ("It is half as large as it should be: a factor of 2.", lambda x: x / 2),
    ("It is the square of what is right.", np.square),
    ("It is the square root of what is right.", lambda x: np.sqrt(np.abs(x))),
    ("It is one too large: where does counting begin?", lambda x: x + 1),
    ("It is one too small: where does counting begin?", lambda x: x - 1),
    ("It is in degrees, and should be in radians.", lambda x: x * 180 / np.pi),
    ("It is in radians, and should be in degrees.", lambda x: x * np.pi / 180),
    ("The array is transposed.", lambda x: np.swapaxes(x, -1, -2) if x.ndim > 1 else x),
    ("The order is reversed.", lambda x: x[::-1] if x.ndim else x),
)


def named(exercise: Exercise, yours: list[np.ndarray], right: list[np.ndarray]) -> str:
    """The mistake that explains these wrong results best, in words, or nothing."""
    found = []

    def try_it(says: str, wrong: list[np.ndarray]) -> None:
        away, left = distance(wrong, right), distance(yours, wrong)
        if away > exercise.tolerance and left <= CLOSE * min(away, 1):
            found.append((left, says))

    for says, mistake in exercise.mistakes:
        try:
            with np.errstate(all="ignore"):
                results = [mistake(*copy.deepcopy(args)) for args in exercise.inputs()]
                wrong = [numbers(exercise.up_to(result)) for result in results]
        except Exception:  # a mistake that cannot be made with these inputs
            continue
        try_it(says, wrong)
    for says, change in () if found else GENERAL:
        with np.errstate(all="ignore"):
            try_it(says, [numbers(change(x)) for x in right])
    if found:
        return min(found, key=lambda one: one[0])[1]
    imaginary = any(np.abs(a.imag).max(initial=0) > 0 for a in yours)
    if imaginary and distance([a.real for a in yours], right) <= exercise.tolerance:
        return "The real part is right, and the imaginary part should not be there."
    if distance(yours, right) < NEARLY:
        return "Nearly: the formula is right, or almost; digits were lost on the way."
    return ""


def where_it_stopped(error: BaseException) -> str:
    """An exception in one line, with the line of the exercise that raised it."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.line]
    line = f", at: {frames[1].line}" if len(frames) > 1 else ""
    return f"Your code stops with {type(error).__name__}: {error}{line}"


def judge(exercise: Exercise, answer: Any) -> Verdict:
    """Run an answer on the hidden inputs and compare.

    Whatever `answer` is or does, nothing is raised, so that a notebook with open exercises runs to
    its end.
    """
    if not callable(answer):
        return Verdict(False, "Give check the function itself, without brackets and arguments.")
    yours, right, help_ = [], [], f' hint("{exercise.number}") helps.'
    for args in exercise.inputs():
        given = copy.deepcopy(args)
        try:
            result = answer(*given)
        except (Exception, SystemExit) as error:  # anything can stand in an exercise
            return Verdict(False, where_it_stopped(error))
        if exercise.keeps and not np.array_equal(exercise.keeps(given), exercise.keeps(args)):
            return Verdict(False, "You changed what you were given. Work on a copy.")
        if result is None:
            return Verdict(False, "Your function returns None: is there a line with return?")
        if isinstance(result, float) and np.isnan(result):
            return Verdict(
                False, "It returns nan: is it still the line that you got, or 0/0?" + help_
            )
        try:
            yours.append(numbers(exercise.up_to(result)))
        except Exception as error:
            what = error if isinstance(error, NotNumbers) else f"{shown(result)} does not fit here"
            return Verdict(False, f"{what}.")
        right.append(numbers(exercise.up_to(exercise.reference(*copy.deepcopy(args)))))
    for k, (mine, theirs) in enumerate(zip(yours, right), 1):
        if mine.shape != theirs.shape:
            return Verdict(
                False,
                f"With input {k} of {len(right)} the shape of {exercise.of or 'your result'} is "
                f"{mine.shape}, and {theirs.shape or 'a single number'} is right. "
                f"{named(exercise, yours, right) or help_.strip()}",
            )
        if np.isnan(mine).any():
            return Verdict(False, "There is nan in your result." + help_)
    off = [deviation(mine, theirs) for mine, theirs in zip(yours, right)]
    worst = int(np.argmax([x.max(initial=0) for x in off]))
    largest, allowed = off[worst].max(initial=0), f"{100 * exercise.tolerance:.2g} % is allowed"
    if largest <= exercise.tolerance:
        return Verdict(
            True,
            f"{len(right)} inputs, largest relative deviation {100 * largest:.0e} %, {allowed}.",
        )
    first = next(k for k, x in enumerate(off) if x.max(initial=0) > exercise.tolerance)
    place = np.unravel_index(np.argmax(off[first]), off[first].shape)
    entry = f", entry {', '.join(map(str, place))}" if place else ""
    entry += f" of {exercise.of}" if exercise.of else ""
    value, by = yours[first][place], off[first][place]
    digits = f"{complex(value):.5g}" if np.iscomplexobj(value) else f"{float(value):.6g}"
    size = f"{100 * by:.3g} %" if by < 100 else f"a factor of {by:.3g}"
    return Verdict(
        False,
        f"With input {first + 1} of {len(right)} you have {digits}{entry}: off by {size}, and "
        f"{allowed}. {named(exercise, yours, right) or help_.strip()}",
    )

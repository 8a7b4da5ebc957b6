"""What arguments must be, of whatever type they come, and warnings that point at the caller."""

from __future__ import annotations

import math
import operator
import sys
import warnings
from typing import Any


class UnstableSystem(ValueError):
    """A pole is not strictly stable, and what was asked for needs it to be."""


def whole_number(
    value: Any, name: str, least: int, most: int | None = None, symbol: str = ""
) -> int:
    """The value as an int.

    Whole numbers of Python, NumPy and PyTorch count; truth values and 2.0 do not. symbol: of the
    largest one, in the message.
    Raises ValueError, with the name and what was given, unless it is one in least..most.
    """
    truth = isinstance(value, bool) or "bool" in str(getattr(value, "dtype", ""))
    try:
        number = None if truth else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        wanted = f"of {least} or more" if most is None else f"from {least} to {symbol}{most}"
        raise ValueError(f"{name} must be a whole number {wanted}; got {value!r}")
    return number


def not_negative(value: Any, name: str) -> float:
    """The value as a float.  Raises ValueError unless it is finite and 0 or more."""
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be a number of 0 or more; got {value!r}")
    return number


def warn(message: str, category: type[Warning]) -> None:
    """A warning at the line outside this package that led to it."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == "s4bt":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)

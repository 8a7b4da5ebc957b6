"""`reduce_layer`: one diagonal layer of anybody's, from its matrices to smaller ones."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from s4bt.reduction.multi import (
    multi_balanced_truncation,
    multi_energy,
    multi_hankel_singular_values,
    multi_modal,
    multi_singular_perturbation,
)
from s4bt.reduction.multi_weighted import multi_weighted
from s4bt.reduction.state_space import StateSpace

_OFFERED: dict[str, Callable[..., StateSpace]] = {
    "balanced": lambda system, rank: multi_balanced_truncation(system, rank)[0],
    "singular-perturbation": multi_singular_perturbation,
    "modal": multi_modal,
    "energy": multi_energy,
    "weighted": multi_weighted,
}
_REASONS = {
    "bt-shared": "it is `balanced` of a continuous layer with one input",
    "bt-channel": "it gives every channel poles of its own",
    "bt-discrete": "it is `balanced` of a discrete layer with one input and output",
    "bt-limited": "its projection is made for one input and output",
    "h2": "it fits one input and output",
    "hankel": "Glover's construction is written here for one input and output",
    "weighted-shared": "it is `weighted` of a layer whose channels have steps of their own",
}


class Layer(NamedTuple):
    """A diagonal layer, and the Hankel singular values of the one it was reduced from."""

    poles: Any
    B: Any
    C: Any
    D: Any
    sigma: Any


def reduce_system(
    system: StateSpace, rank: int, method: str = "balanced", **options: Any
) -> StateSpace:
    """A system with several inputs and outputs reduced to `rank` modes, by the name of a method.

    Raises ValueError for a method that is not offered, with the reason, and as the method.
    """
    if method not in _OFFERED:
        why = f": {_REASONS[method]}" if method in _REASONS else ""
        raise ValueError(
            f"method {method!r} is not offered for several inputs and outputs{why}; use one of "
            f"{', '.join(_OFFERED)}"
        )
    reducer = _OFFERED[method]
    known = list(inspect.signature(reducer).parameters)[2:]
    if wrong := [name for name in options if name not in known]:
        offered = f"its options are {', '.join(known)}" if known else "it has none"
        raise ValueError(f"method {method!r} has no option {', '.join(wrong)}: {offered}")
    return reducer(system, rank, **options)


def reduce_layer(
    poles: Any,
    B: Any,
    C: Any,
    D: Any = None,
    *,
    domain: str,
    rank: int,
    dt: float | None = None,
    method: str = "balanced",
    real: bool = False,
    **options: Any,
) -> Layer:
    """Reduce one diagonal layer with m inputs and p outputs to `rank` modes.

    continuous  x' = Lambda x + B u,                  y = C x + D u
    discrete    x[k] = Lambda x[k-1] + B u[k],        y[k] = C x[k] + D u[k]

    The latter is what S5, LRU and DSS layers compute. The textbook's x[k+1] = Lambda x[k] + B u[k]
    answers one step later; it has the same Hankel singular values and the same reduction.

    Parameters
    ----------
    poles, B, C, D : arrays or tensors (N,), (N, m), (p, N), (p, m)
        Complex as they stand; D is zero unless given.
    domain : "continuous" or "discrete"
        No default: guessing it is wrong silently.
    rank : int
        Modes to keep.
    dt : number, optional
        Step of a discrete layer, 1 unless given; it changes no number of the result.
    method : str
        "balanced" (truncation of exactly that system), "singular-perturbation", "modal", "energy",
        "weighted" (least expected output error, with the option `spectrum`).
    real : bool
        Whether the layer puts out Re(y): its system has the conjugate poles, too.
    **options
        The method's own.

    Returns
    -------
    Layer
        (poles, B, C, D, sigma), NumPy arrays if poles were one, else tensors; in double precision.
        It has fewer modes than rank where the Hankel singular values end, or where real poles
        cannot be paired.

    Raises
    ------
    ValueError, UnstableSystem
        For shapes that do not fit, another domain or method, a rank out of range, and poles that
        are not strictly stable.

    References
    ----------
    Moore 1981; Glover 1984.

    Examples
    --------
    >>> import numpy as np
    >>> poles = np.array([-0.1 + 2j, -0.2 + 5j, -3.0 + 1j])
    >>> small = reduce_layer(poles, np.ones((3, 2)), np.ones((2, 3)), domain="continuous", rank=1)
    >>> small.poles.shape, small.B.shape, small.C.shape, small.sigma.shape
    ((1,), (1, 2), (2, 1), (3,))
    """
    if domain not in ("continuous", "discrete"):
        raise ValueError(f"domain is 'continuous' or 'discrete', not {domain!r}")
    if domain == "continuous" and dt is not None:
        raise ValueError("a continuous layer has no step: leave out dt, or say domain='discrete'")
    step = None if domain == "continuous" else 1.0 if dt is None else dt
    system = StateSpace(poles, B, C, D, step, real)
    with torch.no_grad():
        if method == "balanced" and not options:
            small, sigma = multi_balanced_truncation(system, rank)
        else:
            small = reduce_system(system, rank, method, **options)
            sigma = multi_hankel_singular_values(system)
    D_out = small.D.real if real else small.D
    found = [x.clone() for x in (small.poles, small.B, small.C, D_out, sigma)]  # nobody else's
    if isinstance(poles, Tensor):
        return Layer(*found)
    return Layer(*(x.cpu().numpy() for x in found))

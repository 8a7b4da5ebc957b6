"""`reduce`: any method of the registry, for continuous and discrete systems."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from s4bt.reduction.gramians import promoted
from s4bt.reduction.methods import method_named
from s4bt.reduction.projection import check_rank
from s4bt.reduction.systems import DiagonalLTI
from s4bt.reduction.unstable import keep_unstable


def reduce(
    system: DiagonalLTI,
    rank: int,
    method: str = "bt-discrete",
    dt: Any = None,
    unstable: str = "refuse",
    **options: Any,
) -> DiagonalLTI:
    """Reduce every system of the batch to `rank` modes.

    Parameters
    ----------
    system : DiagonalLTI
        Continuous or discrete, (..., N).
    rank : int
        Modes to keep, a complex one counts once.
    method : str
        A key of METHODS.
    dt : number or tensor (H,), optional
        Steps of a continuous system: methods that work on the discrete kernel discretise it with
        them (zero-order hold) and give a continuous system back; the others do not need them.
    unstable : "refuse" or "keep"
        keep: reduce the stable part and keep the other modes, which count.
    **options
        The method's own, such as `spectrum` of weighted.

    Returns
    -------
    DiagonalLTI with `rank` modes, complex128.

    Raises
    ------
    ValueError
        For an unknown method, a rank out of range, and whatever the method refuses.
    TypeError
        For an option that the method does not have.

    Examples
    --------
    >>> import torch
    >>> poles = torch.tensor([-0.1 + 2j, -0.2 + 5j, -3.0 + 1j], dtype=torch.complex128)
    >>> reduce(DiagonalLTI(poles, torch.tensor([1.0, 0.5, 0.1])), 1, "modal").poles
    tensor([-0.1000+2.j], dtype=torch.complex128)
    """
    entry = method_named(method)
    if unstable not in ("refuse", "keep"):
        raise ValueError(f"unstable is 'refuse' or 'keep', not {unstable!r}")
    rank = check_rank(rank, system.modes)
    if dt is not None and system.dt is not None:
        raise ValueError(
            f"the system is discrete, with step {system.dt}; dt is for continuous ones"
        )
    if dt is not None and not entry.continuous:
        kernel = promoted(system).discretize(dt)
        small = reduce(kernel, rank, method, None, unstable, **options).to_continuous()
        # equal again: the division by the steps rounds
        return replace(small, poles=small.poles[:1].expand_as(small.poles)) if entry.tied else small
    if unstable == "keep" and not bool(system.stable().all()):
        return keep_unstable(promoted(system), rank, entry.reducer, options)
    return entry.reducer(system, rank, **options)

"""Ways to choose a small system, behind one signature: reducer(system, rank, **options) -> DiagonalLTI.

system: the layer as a batch of H channels, poles and residues (H, N), as `DSS.to_lti` gives it. REDUCERS maps names to
reducers; `reduce` looks one up.
"""
from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from s4bt.balance import balanced_truncation, check_rank, error_bound, hankel_singular_values, shared_balanced_truncation
from s4bt.lti import DiagonalLTI


def bt_shared(system: DiagonalLTI, rank: int) -> DiagonalLTI:
    """Balanced truncation of (Lambda, 1, W), all rows of W as outputs of one system; the channels keep sharing Lambda.

    First reading of Ezoe & Sato 2024.  Raises as `shared_balanced_truncation`.
    """
    reduced, _ = shared_balanced_truncation(replace(system, real=False), rank)
    return replace(reduced, real=system.real)


def bt_channel(system: DiagonalLTI, rank: int) -> DiagonalLTI:
    """Balanced truncation of every channel's (Lambda, 1, W_h) by itself; each channel gets its own poles.

    Second reading of Ezoe & Sato 2024.  Raises as `balanced_truncation`.
    """
    reduced, _ = balanced_truncation(replace(system, real=False), rank)
    return replace(reduced, real=system.real)


REDUCERS = {"bt-shared": bt_shared, "bt-channel": bt_channel}


def reduce(system: DiagonalLTI, rank: int, method: str = "bt-channel", **options) -> DiagonalLTI:
    """Reduce every system of the batch to `rank` modes.  method: a key of REDUCERS; options: that reducer's own.

    Raises ValueError for an unknown method, and whatever the reducer raises.
    """
    if method not in REDUCERS:
        raise ValueError(f"unknown reducer {method!r}; known: {', '.join(REDUCERS)}")
    return REDUCERS[method](system, rank, **options)


def singular_values(system: DiagonalLTI, method: str) -> Tensor:
    """Hankel singular values of what the method balances: (N,) of the whole layer for bt-shared, else (H, N)."""
    system = replace(system, real=False)
    return shared_balanced_truncation(system, system.order)[1] if method == "bt-shared" else hankel_singular_values(system)


def bound_row(system: DiagonalLTI, reduced: DiagonalLTI, method: str) -> dict[str, float]:
    """How good the reduction of one layer is, in units of its gain, each as the largest over what is balanced separately.

    sigma_max, bound = 2 sum sigma[r:], limit = sigma[r] (no system of that order does better), hinf (measured), gain.
    """
    sigma, shared = singular_values(system, method), method == "bt-shared"
    system, reduced = replace(system, real=False), replace(reduced, real=False)
    check_rank(rank := reduced.order, system.order)
    limit = sigma[..., rank] if rank < system.order else sigma[..., -1] * 0
    return {"sigma_max": float(sigma.max()), "limit": float(limit.max()), "bound": float(error_bound(sigma, rank).max()),
            "hinf": float((system - reduced).hinf_norm(joint=shared).max()), "gain": float(system.hinf_norm(joint=shared).max())}

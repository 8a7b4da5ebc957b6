"""Modal truncation: keep the modes that contribute most, each by itself.

The H-infinity norm of a complex mode alone is |w_n| / -Re lambda_n, or |w_n| / (1 - |lambda_n|) if
discrete. A mode of a real system is a pair of conjugate poles with w_n / 2 each, about half of that
where it oscillates, or a real pole.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from s4bt.reduction.projection import check_kind, check_rank
from s4bt.reduction.systems import DiagonalLTI


def modal_scores(system: DiagonalLTI) -> Tensor:
    """H-infinity norm of every mode alone, (..., N)."""
    if system.real:
        one = replace(system, dt=None if system.dt is None else 1.0, feedthrough=None)
        return one.map(lambda x: x[..., None], lambda x: x[..., None]).hinf_norm()
    damping = -system.poles.real if system.dt is None else -torch.expm1(system.logs.real)
    return system.residues.abs() / damping


def mode_norms(system: DiagonalLTI) -> Tensor:
    """H2 norm of every complex mode alone, (..., N): |w| / sqrt(1 - |lambda|^2).

    Of a real pole of a real system only Re w is heard.
    """
    damping = -2 * system.poles.real if system.dt is None else -torch.expm1(2 * system.logs.real)
    w = system.residues
    heard = torch.where(system.poles.imag == 0, w.real, w) if system.real else w
    return heard.abs() / damping.sqrt()


def modal(system: DiagonalLTI, rank: int) -> DiagonalLTI:
    """The r modes of each channel that contribute most by `modal_scores`.

    For state space layers: Gwak et al. 2024, whose choice of a rank for every layer is
    `s4bt.reduction.ranks.layer_adaptive`.
    Raises ValueError if rank is not in 1..N, UnstableSystem if a pole is not strictly stable.
    """
    rank = check_rank(rank, system.modes)
    check_kind(system)
    system.require_stable("modal truncation")
    return system.take(modal_scores(system).topk(rank, -1).indices)


def energy(system: DiagonalLTI, rank: int) -> DiagonalLTI:
    """The r modes of each channel with the most energy, by `mode_norms`.

    For state space layers: Padhy et al. 2026, AIRE-Prune.
    Raises as `modal`.
    """
    rank = check_rank(rank, system.modes)
    check_kind(system)
    system.require_stable("modal truncation")
    return system.take(mode_norms(system).topk(rank, -1).indices)

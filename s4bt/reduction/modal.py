"""Modal truncation: keep the modes that contribute most, each by itself.

The H-infinity norm of a mode alone is |w_n| / -Re lambda_n, or |w_n| / (1 - |lambda_n|) if
discrete.
"""

from __future__ import annotations

import torch
from torch import Tensor

from s4bt.reduction.projection import check_rank
from s4bt.reduction.systems import DiagonalLTI


def modal_scores(system: DiagonalLTI) -> Tensor:
    """H-infinity norm of every mode alone, (..., N)."""
    if system.dt is None:
        damping = -system.poles.real
    elif system.log_poles is None:
        damping = 1 - system.poles.abs()
    else:
        damping = -torch.expm1(system.log_poles.real)
    heard = system.residues
    if system.real:
        # of a real pole, only the real part of the residue
        heard = torch.where(system.poles.imag == 0, heard.real.to(heard.dtype), heard)
    return heard.abs() / damping


def modal(system: DiagonalLTI, rank: int) -> DiagonalLTI:
    """The r modes of each channel that contribute most by `modal_scores`.

    For state space layers: Gwak et al. 2024, whose choice of a rank for every layer is
    `s4bt.reduction.ranks.layer_adaptive`.
    Raises ValueError if rank is not in 1..N, UnstableSystem if a pole is not strictly stable.
    """
    check_rank(rank, system.modes)
    system.require_stable("modal truncation")
    return system.take(modal_scores(system).topk(rank, -1).indices)

"""Balanced residualisation, also called singular perturbation: the discarded states follow at once.

A, b, c    a balanced realisation, cut at the order m into blocks A11, A12, A21, A22;
           A - I in place of A if discrete
d          feedthrough of the reduced system

Setting x2' = 0 in x' = A x + b u, y = c x gives x2 = -A22^-1 (A21 x1 + b2 u), so

    A_r = A11 - A12 A22^-1 A21,  b_r = b1 - A12 A22^-1 b2,
    c_r = c1 - c2 A22^-1 A21,    d_r = -c2 A22^-1 b2,

and the gain at zero frequency is exact.  (Liu & Anderson 1989)
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from s4bt.reduction.diagonalisation import reduce_batch
from s4bt.reduction.projection import Balanced, Realisation, balanced_coordinates
from s4bt.reduction.systems import DiagonalLTI


class Residualised(Balanced):
    """A batch in balanced coordinates that is reduced by the equations above."""

    @property
    def splits(self) -> bool:
        """Never: A22 is singular, up to rounding, between equal singular values."""
        return False

    def reduced(self, index: Tensor, order: int) -> Realisation:
        """The members `index` with `order` states.

        Discarded directions that are rounding stand still.
        """
        n, m = self.A.shape[-1], order
        dead = torch.arange(n, device=self.A.device) >= self.live[index, None]
        A = self.A[index] - torch.diag_embed(dead.to(self.A.dtype))
        b, c = self.b[index], self.c[index]
        # contiguous blocks, on which matrix products round as on copies
        A12, A21, A22 = (x.contiguous() for x in (A[:, :m, m:], A[:, m:, :m], A[:, m:, m:]))
        b2, c2 = self.b[index, m:, None], self.c[index, None, m:]
        # A22^-1 (A21, b2)
        solved = A22.new_zeros(len(index), 0, m + 1)
        allowed = torch.ones(len(index), dtype=torch.bool, device=index.device)
        if n > m:
            solved, info = torch.linalg.solve_ex(A22, torch.cat([A21, b2], -1))
            allowed = info == 0
            solved = torch.where(allowed[:, None, None], solved, 0)
        of_state, of_input = solved[..., :m], solved[..., m:]
        return Realisation(
            A[:, :m, :m] - A12 @ of_state,
            b[:, :m] - (A12 @ of_input)[..., 0],
            c[:, :m] - (c2 @ of_state)[:, 0],
            -(c2 @ of_input)[:, 0, 0],
            allowed,
        )


def _balance(part: DiagonalLTI, k: int) -> Residualised:
    return Residualised(**vars(balanced_coordinates(part, k)))


def singular_perturbation(system: DiagonalLTI, rank: int) -> DiagonalLTI:
    """Balanced residualisation: exact gain at zero frequency; the bound of the truncation holds.

    A discrete system is balanced as h[0] + (h[1], h[2], …), so that the
    feedthrough is causal.  (Liu & Anderson 1989)  Raises as `balanced_truncation`.
    """
    later = system if system.dt is None else delayed(system)
    reduced, _ = reduce_batch(later, rank, "balanced residualisation", _balance)
    if system.dt is None:
        return reduced
    residues = torch.where(reduced.residues == 0, 0, reduced.residues / reduced.poles)
    first = system.residues.sum(-1) - residues.sum(-1)
    first = first.real if system.real else first
    direct = first + (system.feedthrough + reduced.feedthrough)
    return replace(reduced, residues=residues, feedthrough=direct)


def delayed(system: DiagonalLTI) -> DiagonalLTI:
    """The discrete system of h[1], h[2], …, which is what a free feedthrough leaves to fit."""
    return replace(system, residues=system.residues * system.poles, feedthrough=None)

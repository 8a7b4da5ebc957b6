"""Optimal approximation in the Hankel norm.  (Glover 1984, theorem 6.3)

A, b, c    a balanced realisation, P = Q = S = diag(sigma)
m          order that is kept; s0 = sigma[m], from 0, is the first discarded value
S1         the other values; A1, b1, c1 the realisation without state m
u          the sign with b = -u conj(c) in every state that has the value s0
Gamma      S1^2 - s0^2

The error of the system

    A_hat = Gamma^-1 (s0^2 A1^H + S1 A1 S1 - s0 conj(c1) u conj(b1)),
    b_hat = Gamma^-1 (S1 b1 + s0 conj(c1) u),   c_hat = c1 S1 + s0 u conj(b1),   d_hat = -s0 u

is all-pass of size s0; its m stable poles are the approximation. States that share s0 are left out
of all of it. A discrete system goes through s = (z - 1) / (z + 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from s4bt.reduction.diagonalisation import APART, reduce_batch
from s4bt.reduction.projection import Balanced, Realisation, balanced_coordinates
from s4bt.reduction.systems import DiagonalLTI

SAME = 1e-8  # singular values that differ by less than this share are one value: a root of eps
ASIDE = 1 / 3  # an unstable pole for states that are left out: anything the selection drops
STABLE = -0.5  # a stable pole for directions that are rounding


def to_continuous(A: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The continuous realisation of a discrete one, given as A - I, by s = (z - 1) / (z + 1).

    (A + I)^-1 (A - I), sqrt(2) (A + I)^-1 b, sqrt(2) c (A + I)^-1; P and Q stay as they are.
    """
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    turn = torch.linalg.inv(A + 2 * eye)
    return (
        turn @ A,
        2**0.5 * (turn @ b[..., None])[..., 0],
        2**0.5 * (c[..., None, :] @ turn)[..., 0, :],
    )


def to_discrete(A: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The inverse of `to_continuous`: a discrete realisation as A - I."""
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    back = torch.linalg.inv(eye - A)
    return 2 * A @ back, 2**0.5 * (back @ b[..., None])[..., 0], 2**0.5 * (c[:, None] @ back)[:, 0]


def matching_sign(b: Tensor, c: Tensor, group: Tensor) -> Tensor:
    """u (B) with b = -u conj(c) and |u| = 1, of the states that are matched: b, c, group (B, n).

    From the sum of b c = -u |c|^2 over the group, since one of its states may not be heard at all.
    """
    total = -(b * c).masked_fill(~group, 0).sum(-1)
    u = torch.where(total == 0, 1, total)
    return u / u.abs()


def all_pass(
    A1: Tensor, b1: Tensor, c1: Tensor, S1: Tensor, s0: Tensor, u: Tensor, gamma: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A_hat, b_hat and c_hat of the module's glossary; S1, gamma (B, n - 1), s0, u (B)."""
    left = (c1.conj() * (s0 * u)[:, None])[..., None]
    A_hat = (
        s0[:, None, None] ** 2 * A1.mH
        + S1[..., None] * A1 * S1[:, None]
        - left * b1.conj()[:, None]
    )
    b_hat = (S1 * b1 + left[..., 0]) / gamma
    c_hat = c1 * S1 + s0[:, None] * u[:, None] * b1.conj()
    return A_hat / gamma[..., None], b_hat, c_hat


def set_aside(A: Tensor, b: Tensor, c: Tensor, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The realisation with some states (B, n - 1) cut off and unstable: they drop out."""
    A = A.masked_fill(states[..., None] | states[:, None], 0)
    A = A + torch.diag_embed(states * ASIDE).to(A.dtype)
    return A, b.masked_fill(states, 0), c.masked_fill(states, 0)


@dataclass(frozen=True)
class HankelOptimal(Balanced):
    """A batch in balanced coordinates; continuous: the same realisation in continuous time."""

    continuous: tuple[Tensor, Tensor, Tensor]
    values: Tensor  # sigma of the states, 0 of directions that are rounding

    @property
    def splits(self) -> bool:
        """`reduced` says itself where an order is allowed."""
        return True

    def reduced(self, index: Tensor, order: int) -> Realisation:
        """The optimal approximations of an order; not allowed where sigma[m - 1] = sigma[m]."""
        n, m = self.A.shape[-1], order
        exact = self.live[index] <= m
        if m >= n or bool(exact.all()):
            return super().reduced(index, order)
        A, b, c = (x[index] for x in self.continuous)
        sigma = self.values[index]
        s0 = torch.where(exact, 0, sigma[:, m])
        u = matching_sign(b, c, (sigma - s0[:, None]).abs() <= SAME * s0[:, None])
        keep = torch.arange(n, device=A.device) != m
        A1, b1, c1 = A[:, keep][:, :, keep], b[:, keep], c[:, keep]
        S1 = sigma[:, keep].to(A.dtype)
        twins = (S1.real - s0[:, None]).abs() <= SAME * s0[:, None]
        singular = twins | (S1 == 0) & exact[:, None]
        gamma = (S1**2 - s0[:, None] ** 2).masked_fill(singular, 1)
        A_hat, b_hat, c_hat = set_aside(*all_pass(A1, b1, c1, S1, s0, u, gamma), twins)
        direct = -s0 * u
        if self.discrete:
            A_hat, b_hat, c_hat = to_discrete(A_hat, b_hat, c_hat)
            direct = torch.zeros_like(u)
        allowed = (sigma[:, m - 1] > s0 * (1 + APART)) | exact
        return Realisation(A_hat, b_hat, c_hat, direct, allowed)


def _balance(part: DiagonalLTI, k: int) -> HankelOptimal:
    balanced = balanced_coordinates(part, k)
    n = balanced.A.shape[-1]
    dead = torch.arange(n, device=balanced.A.device) >= balanced.live[:, None]
    A = balanced.A + torch.diag_embed(STABLE * dead.to(balanced.A.dtype))
    continuous = A, balanced.b, balanced.c
    if balanced.discrete:
        continuous = to_continuous(*continuous)
    values = balanced.sigma[:, :n].masked_fill(dead, 0)
    return HankelOptimal(**vars(balanced), continuous=continuous, values=values)


def hankel(system: DiagonalLTI, rank: int) -> DiagonalLTI:
    """Optimal approximation in the Hankel norm.

    The largest Hankel singular value of the error is the first discarded one. (Glover 1984, theorem
    6.3)  Raises as `balanced_truncation`, and ValueError if sigma_{k+1} = sigma_k for every order k
    that fits.
    """
    return reduce_batch(system, rank, "Hankel-norm approximation", _balance)[0]

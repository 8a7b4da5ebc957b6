"""Powers of complex numbers, given by their logarithms, and sums of them.

H, N   channels, modes
a      (H, N)  logarithms of discrete poles
w      (H, N)  residues

Where training passes, the adjoint is written out: autograd would keep every intermediate array.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Powers smaller than this multiple of the smallest normal number count as zero: subnormal numbers
# slow a CPU down several times. 2^20 leaves room for the products that follow.
FLUSHED = 2.0**20
NEAR_ONE = 0.5  # | |p|^2 - 1 | below which the logarithm is taken from it


def powers(a: Tensor, k: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """exp(a k): (H, N) and real (M,) -> (H, M, N); 0 where it is near the smallest number.

    dtype: of the result, that of a unless given. Exponents in double precision keep the phase of
    single powers right however large k is.
    """
    real = (a if dtype is None else torch.empty((), dtype=dtype)).real.dtype
    angle = a.imag[:, None] * k[:, None]
    if angle.dtype != real:
        angle = torch.remainder(angle, 2 * math.pi)
    size, angle = torch.exp((a.real[:, None] * k[:, None]).to(real)), angle.to(real)
    least = torch.finfo(size.dtype).tiny * FLUSHED
    torch.nn.functional.threshold(size, least, 0.0, inplace=True)
    # five times as fast as torch.polar
    return torch.complex(size * torch.cos(angle), size * torch.sin(angle))


def _square(x: Tensor) -> tuple[Tensor, Tensor]:
    """x^2 of doubles as a sum of two, exactly.  (Dekker 1971)"""
    big = x * (2.0**27 + 1)
    high = big - (big - x)
    low, square = x - high, x * x
    return square, ((high * high - square) + 2 * high * low) + low * low


def log_modulus(p: Tensor) -> Tensor:
    """log |p| of complex128 numbers other than 0, to full relative accuracy also near |p| = 1.

    log |p| = log1p(|p|^2 - 1) / 2, with |p|^2 - 1 free of cancellation.
    """
    parts = torch.view_as_real(p.resolve_conj()).abs()
    (large, rest), (small, more) = _square(parts.amax(-1)), _square(parts.amin(-1))
    excess = ((large - 1) + small) + (rest + more)
    near = excess.abs() < NEAR_ONE
    return torch.where(near, torch.log1p(torch.where(near, excess, 0)) / 2, torch.log(p.abs()))


def logarithms(p: Tensor) -> Tensor:
    """log p of discrete poles, where 0 counts as the smallest positive number; differentiable."""
    a = torch.log(torch.where(p == 0, torch.finfo(p.dtype).tiny, p))
    exact = torch.where(p == 0, a.real, log_modulus(p.detach().to(torch.complex128)).to(a.real))
    return torch.complex(a.real + (exact - a.real).detach(), a.imag)


def planes(z: Tensor) -> Tensor:
    """(..., N) complex as (..., 2N) real, real and imaginary parts side by side."""
    return torch.view_as_real(z.resolve_conj()).flatten(-2)


class PowerSum(torch.autograd.Function):
    """`power_sum` with its adjoint.

    Forward: with l = i T + j and T ~ sqrt(length), exp(a l) = exp(a T i) exp(a j), so

        h[i T + j] = Re sum_n (w_n exp(a_n T i)) exp(a_n j)

    is one real product of (H, I, 2N) and (H, 2N, T) matrices.

    Backward, with g_l the gradient of h_l and the convention of PyTorch for complex numbers:

        grad w_n = conj(sum_l g_l exp(a_n l)),    grad a_n = conj(w_n sum_l g_l l exp(a_n l)),

    two products and a few passes over (H, I, N).
    """

    @staticmethod
    def forward(ctx, a: Tensor, w: Tensor, length: int) -> Tensor:
        T = 2 ** math.ceil(math.log2(length) / 2)
        I = -(-length // T)
        k = torch.arange(max(I, T), device=a.device, dtype=a.real.dtype)
        k = torch.cat([T * k[:I], k[:T]])
        p = powers(a, k, w.dtype)
        outer = p[:, :I]  # (H, I, N)
        inner = planes(p[:, I:])  # (H, T, 2N)
        ctx.length, ctx.dtype, k = length, a.dtype, k.to(w.real.dtype)
        ctx.save_for_backward(w, outer, inner, k)
        return (planes((w[:, None] * outer).conj()) @ inner.mT).flatten(1)[:, :length]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        w, outer, inner, k = ctx.saved_tensors
        (H, I, N), T = outer.shape, inner.shape[1]
        g = torch.nn.functional.pad(grad, (0, I * T - ctx.length)).view(H, I, T)
        # over j, plain and times j
        sums = torch.cat([g, g * k[I:]], 1) @ inner
        sums = torch.view_as_complex(sums.view(H, 2 * I, N, 2))
        # over i: l exp(a l) = (i T + j) exp(a l)
        plain = outer * sums[:, :I]
        times = torch.addcmul(outer * sums[:, I:], plain, k[:I, None].to(plain.dtype)).sum(1)
        grad_a = torch.conj_physical(w * times).to(ctx.dtype)
        return grad_a, torch.conj_physical(plain.sum(1)), None


def power_sum(a: Tensor, w: Tensor, length: int) -> Tensor:
    """Re sum_n w_n exp(a_n l) for l = 0 .. length - 1 and Re a_n <= 0.

    a, w: (H, N).  Returns (H, length) in the precision of w; a may have a higher one.  No
    (H, N, length) array is made.
    """
    return PowerSum.apply(a, w, length)

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


def powers(a: Tensor, k: Tensor) -> Tensor:
    """exp(a k): (H, N) and real (M,) -> (H, M, N); 0 where it is near the smallest number."""
    size = torch.exp(a.real[:, None] * k[:, None])
    angle = a.imag[:, None] * k[:, None]
    least = torch.finfo(size.dtype).tiny * FLUSHED
    torch.nn.functional.threshold(size, least, 0.0, inplace=True)
    # five times as fast as torch.polar
    return torch.complex(size * torch.cos(angle), size * torch.sin(angle))


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
        p = powers(a, k)
        outer = p[:, :I]  # (H, I, N)
        inner = planes(p[:, I:])  # (H, T, 2N)
        ctx.length = length
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
        return torch.conj_physical(w * times), torch.conj_physical(plain.sum(1)), None


def power_sum(a: Tensor, w: Tensor, length: int) -> Tensor:
    """Re sum_n w_n exp(a_n l) for l = 0 .. length - 1 and Re a_n <= 0.

    a, w: (H, N).  Returns (H, length).  No (H, N, length) array is made.
    """
    return PowerSum.apply(a, w, length)

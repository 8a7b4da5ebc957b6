"""Powers of complex numbers, given by their logarithms, and sums of them; where training passes, the adjoint is written out.

H, N   channels, modes;  a (H, N) logarithms of discrete poles, w (H, N) residues
"""
from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def powers(a: Tensor, k: Tensor) -> Tensor:
    """exp(a k): (H, N) and real (M,) -> (H, M, N).

    0 where it is near the smallest number of the format: subnormal numbers slow a CPU down several times.
    """
    size, angle = torch.exp(a.real[:, None] * k[:, None]), a.imag[:, None] * k[:, None]
    size = torch.nn.functional.threshold_(size, torch.finfo(size.dtype).tiny * 2.0**20, 0.0)
    return torch.complex(size * torch.cos(angle), size * torch.sin(angle))                   # five times as fast as torch.polar


def planes(z: Tensor) -> Tensor:
    """(..., N) complex as (..., 2N) real, real and imaginary parts side by side."""
    return torch.view_as_real(z.resolve_conj()).flatten(-2)


class PowerSum(torch.autograd.Function):
    """`power_sum` with its adjoint written out: two matrix products and a few passes over (H, I, N), and no (H, N, length) array."""

    @staticmethod
    def forward(ctx, a: Tensor, w: Tensor, length: int) -> Tensor:
        T = 2 ** math.ceil(math.log2(length) / 2)
        I = -(-length // T)
        k = torch.arange(max(I, T), device=a.device, dtype=a.real.dtype)
        k = torch.cat([T * k[:I], k[:T]])
        p = powers(a, k)
        outer, inner = p[:, :I], planes(p[:, I:])                                            # (H, I, N), (H, T, 2N)
        ctx.length = length
        ctx.save_for_backward(w, outer, inner, k)
        return (planes((w[:, None] * outer).conj()) @ inner.mT).flatten(1)[:, :length]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        """grad w = conj(sum_l grad_l exp(a l)), grad a = conj(w sum_l grad_l l exp(a l))."""
        w, outer, inner, k = ctx.saved_tensors
        (H, I, N), T = outer.shape, inner.shape[1]
        g = torch.nn.functional.pad(grad, (0, I * T - ctx.length)).view(H, I, T)             # l = k_i + j
        sums = torch.view_as_complex((torch.cat([g, g * k[I:]], 1) @ inner).view(H, 2 * I, N, 2))   # over j, plain and times j
        plain = outer * sums[:, :I]
        times = torch.addcmul(outer * sums[:, I:], plain, k[:I, None].to(plain.dtype)).sum(1)
        return torch.conj_physical(w * times), torch.conj_physical(plain.sum(1)), None


def power_sum(a: Tensor, w: Tensor, length: int) -> Tensor:
    """Re sum_n w_n exp(a_n l), l = 0 .. length - 1, for Re a_n <= 0: (H, N) -> (H, length), without an (H, N, length) array.

    l = i T + j with T ~ sqrt(length): one real product of (H, I, 2N) and (H, 2N, T) matrices.
    """
    return PowerSum.apply(a, w, length)


class Expm1(torch.autograd.Function):
    """`expm1` with its derivative exp(z): autograd's would take three times as many operations."""

    @staticmethod
    def forward(ctx, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        re = torch.expm1(z.real) * torch.cos(z.imag) - 2 * torch.sin(z.imag / 2) ** 2
        return torch.complex(re, torch.exp(z.real) * torch.sin(z.imag))

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        size, angle = torch.exp(ctx.saved_tensors[0].real), ctx.saved_tensors[0].imag
        return grad * torch.complex(size * torch.cos(angle), -size * torch.sin(angle))


def expm1(z: Tensor) -> Tensor:
    """exp(z) - 1 of a complex z without cancellation near 0."""
    return Expm1.apply(z)

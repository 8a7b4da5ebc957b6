"""Causal convolution of many sequences with kernels that are sums of powers, and its adjoints.

H, B, L   channels, sequences, length; channels lead, so that a channel's data lie together and
          mixing channels is one matrix product
N         modes
a, w      (H, N)  logarithms of the discrete poles, residues;  D (H,) feedthrough
K         (H, L)  kernel, K[l] = Re sum_n w_n exp(a_n l) + D delta(l);  y = K * u
T, C      length and number of chunks, L <= C T

fft       y = irfft(rfft(u) rfft(K)), padded to n >= 2 L - 1; costs about the same for every N
chunks    the recurrence of `ChunkedConvolution`: matrix products with T + 4 N multiplications a
          sample, the faster way where N is small or L large

Autograd would keep spectra of every layer and pass over them many times. Here the FFT keeps the
input and takes its spectrum again, on a CPU a few channels at a time, that stay in its cache;
chunks keep the input and the states between them.
"""

from __future__ import annotations

import math

import scipy.fft
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from s4bt.reduction.powers import planes, power_sum, powers

BLOCK = 2**18  # samples, padding and all, that a CPU transforms at once
# On a CPU, from this length on, at most so many modes go in chunks (tests/benchmarks/layer.py).
CHUNKED = {8192: 64, 2048: 32, 256: 16, 0: 8}
# Chunks are about SHORT steps, or LONG ones for long sequences and many modes.
SHORT, LONG, LONG_SEQUENCE, MANY_MODES = 32, 64, 512, 8


def _blocks(u: Tensor, n: int) -> list[slice]:
    """Channels of u (H, B, L) to transform at once."""
    H, B = u.shape[:2]
    size = max(1, min(H, BLOCK // (B * n))) if u.device.type == "cpu" else H
    return [slice(i, min(i + size, H)) for i in range(0, H, size)]


def _padded(u: Tensor, n: int, channels: int) -> Tensor:
    """Room (channels, B, n) for some of the channels of u, zero behind them."""
    room = u.new_empty(channels, u.shape[1], n)
    room[..., u.shape[-1] :] = 0
    return room


class FFTConvolution(torch.autograd.Function):
    """y[h, b] = (K[h] * u[h, b])[:L] + D[h] u[h, b] for u (H, B, L), K (H, L) and D (H,).

    grad u is the correlation of grad y with K, grad K that of grad y with u, summed over b:
    products with conjugate spectra.
    """

    @staticmethod
    def forward(ctx, u: Tensor, K: Tensor, D: Tensor) -> Tensor:
        L = u.shape[-1]
        ctx.n = n = scipy.fft.next_fast_len(2 * L - 1, real=True)
        K_f = torch.fft.rfft(K, n).add_(D[:, None])[:, None]
        y, blocks = torch.empty_like(u), _blocks(u, n)
        padded = _padded(u, n, blocks[0].stop)
        for h in blocks:
            part = padded[: h.stop - h.start]
            part[..., :L] = u[h]
            y[h] = torch.fft.irfft(torch.fft.rfft(part).mul_(K_f[h]), n)[..., :L]
        ctx.save_for_backward(u, K_f)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (u, K_f), n, L = ctx.saved_tensors, ctx.n, grad.shape[-1]
        grad_u, blocks, K_conj = torch.empty_like(u), _blocks(u, n), torch.conj_physical(K_f)
        grad_K = torch.empty_like(K_f[:, 0])
        padded = _padded(u, n, blocks[0].stop)
        for h in blocks:
            part = padded[: h.stop - h.start]
            part[..., :L] = u[h]
            u_f = torch.fft.rfft(part).conj_physical_()
            part[..., :L] = grad[h]
            g_f = torch.fft.rfft(part)
            grad_K[h] = u_f.mul_(g_f).sum(1)
            grad_u[h] = torch.fft.irfft(g_f.mul_(K_conj[h]), n)[..., :L]
        grad_K = torch.fft.irfft(grad_K, n)[..., :L]
        return grad_u, grad_K, grad_K[:, 0]


def chunk_length(L: int, N: int) -> int:
    """T such that the last chunk is nearly full."""
    about = LONG if L > LONG_SEQUENCE and N > MANY_MODES else SHORT
    return math.ceil(L / math.ceil(L / about))


def _complex(x: Tensor, *shape: int) -> Tensor:
    """The inverse of `planes`, with other leading dimensions."""
    return torch.view_as_complex(x.view(*shape, -1, 2))


class ChunkedConvolution(torch.autograd.Function):
    """y (H, B, L) of u (H, B, L), a, w (H, N) and D (H,) by a recurrence over chunks.

    Forward.  Let p_j = e^{a j}, v = w e^a, q_j = v p_j, K_0 = Re w + D and K_{j+1} = Re q_j, both
    summed over modes, and let x_c (N modes) be the state before chunk c. Inside a chunk, with
    i, j = 0 .. T - 1,

        V_c     = sum_j p_{T-1-j} u_{c,j}                  what the chunk adds to the state
        x_{c+1} = e^{a T} x_c + V_c,   x_0 = 0
        y_{c,j} = Re sum_n q_j x_c + sum_{i<=j} K_{j-i} u_{c,i}

    In matrices, with u_c and y_c as rows of length T and complex numbers as two real planes,
    V = u enter, y = x leave^T + u toeplitz, where toeplitz[i, j] = K_{j-i} for i <= j.

    Backward.  g is the gradient of y. For complex z the gradient is PyTorch's: the loss changes by
    Re sum conj(grad z) dz. From the last chunk on,

        grad x_c     = sum_j conj(q_j) g_{c,j} + conj(e^{aT}) grad x_{c+1},  grad V_c = grad x_{c+1}
        grad u_{c,i} = sum_{j>=i} K_{j-i} g_{c,j} + Re sum_n conj(p_{T-1-i}) grad V_c

    the second in rows: grad u = g toeplitz^T + grad V enter^T. What multiplies each parameter,
    summed over all chunks and sequences:

        grad K_j = sum_i u_i g_{i+j}                       sums along the diagonals of u^T g
        grad q_j = conj(sum x g_j) + grad K_{j+1}          no K_T: the last has the first term only
        grad p_j = sum u_{T-1-j} grad V + conj(v) grad q_j
        grad v   = sum_j conj(p_j) grad q_j
        grad w   = conj(e^a) grad v + grad K_0,   grad D = grad K_0
        grad a   = sum_j j conj(p_j) grad p_j + conj(v) grad v
                   + T conj(e^{aT}) sum conj(x) grad V

    tests/test_convolution.py has the same recurrence in plain tensors.
    """

    @staticmethod
    def forward(ctx, u: Tensor, a: Tensor, w: Tensor, D: Tensor) -> Tensor:
        H, B, L = u.shape
        ctx.L, ctx.T = L, (T := chunk_length(L, a.shape[1]))
        C = math.ceil(L / T)
        u = (u if C * T == L else F.pad(u, (0, C * T - L))).reshape(H, B * C, T)
        j = torch.arange(T + 1, device=u.device, dtype=a.real.dtype)
        p = powers(a, j, w.dtype)  # (H, T + 1, N)
        p, j, a_T = p[:, :T], j[:T].to(D.dtype), p[:, T:]
        q = (w * torch.exp(a).to(w.dtype))[:, None] * p
        K = torch.cat([(w.real.sum(1) + D)[:, None], q.real.sum(2)[:, :-1]], 1)  # (H, T)
        # (H, T, T), [i, j] = K[j - i]
        toeplitz = F.pad(K, (T - 1, 0)).unfold(1, T, 1).flip(1)
        enter, leave = planes(p.flip(1)), planes(q.conj())  # (H, T, 2N)
        V = _complex(torch.bmm(u, enter), H, B, C)
        x = torch.zeros_like(V)
        for c in range(C - 1):
            torch.addcmul(V[:, :, c], a_T, x[:, :, c], out=x[:, :, c + 1])
        y = torch.bmm(u, toeplitz)
        if C > 1:
            y.baddbmm_(planes(x).view(H, B * C, -1), leave.mT)
        ctx.save_for_backward(u, a, w, j, p, a_T[:, 0], toeplitz, enter, leave, x)
        return y.view(H, B, C * T)[..., :L]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        u, a, w, j, p, a_T, toeplitz, enter, leave, x = ctx.saved_tensors
        (H, B, C, _), T, L = x.shape, ctx.T, ctx.L
        g = (grad if C * T == L else F.pad(grad, (0, C * T - L))).reshape(H, B * C, T)

        # the states, from the last chunk on
        grad_x = _complex(torch.bmm(g, leave), H, B, C)
        grad_V, back = torch.zeros_like(grad_x), a_T.conj().resolve_conj()[:, None]
        for c in reversed(range(C - 1)):
            torch.addcmul(grad_x[:, :, c + 1], back, grad_V[:, :, c + 1], out=grad_V[:, :, c])
        V_planes = planes(grad_V).view(H, B * C, -1)
        grad_u = torch.bmm(g, toeplitz.mT).baddbmm_(V_planes, enter.mT)
        grad_u = grad_u.view(H, B, C * T)[..., :L]

        # the kernel: padded rows of 2 T + 1 turn the diagonals of u^T g into columns
        products = F.pad(torch.bmm(u.mT, g), (0, T)).flatten(1)
        grad_K = F.pad(products, (0, T)).view(H, T, 2 * T + 1)[..., :T].sum(1)

        # q, then p, then what they are made of
        grad_q = _complex(torch.bmm(g.mT, planes(x).view(H, B * C, -1)), H, T).conj().resolve_conj()
        torch.view_as_real(grad_q)[:, :-1, :, 0].add_(grad_K[:, 1:, None])
        e_a = torch.exp(a).to(w.dtype)
        v, p_conj = w * e_a, p.conj().resolve_conj()
        grad_p = _complex(torch.bmm(u.mT, V_planes), H, T).flip(1)
        grad_p = grad_p.addcmul_(v.conj().resolve_conj()[:, None], grad_q)
        grad_v = (p_conj * grad_q).sum(1)
        grad_a = (p_conj * grad_p * j[:, None]).sum(1) + v.conj() * grad_v
        grad_a = grad_a + T * a_T.conj() * (x.conj() * grad_V).sum((1, 2))
        return grad_u, grad_a.to(a.dtype), e_a.conj() * grad_v + grad_K[:, :1], grad_K[:, 0]


def in_chunks(L: int, N: int) -> bool:
    """Whether a CPU convolves N modes faster in chunks than by FFT.

    By the table CHUNKED, which is fixed so that results do not vary.
    """
    return next(most for start, most in CHUNKED.items() if start <= L) >= N


def convolve(u: Tensor, a: Tensor, w: Tensor, D: Tensor) -> Tensor:
    """y (H, B, L) = K * u with the kernel of the module's glossary, in chunks or by FFT.

    An accelerator always takes the FFT.
    """
    if u.device.type == "cpu" and in_chunks(u.shape[-1], a.shape[1]):
        return ChunkedConvolution.apply(u, a, w, D)
    return FFTConvolution.apply(u, power_sum(a, w, u.shape[-1]), D)

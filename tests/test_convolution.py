"""Both convolutions and the kernel against sums written plainly, their gradients against finite differences, and their cost."""
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s4bt import convolution
from s4bt.convolution import ChunkedConvolution, FFTConvolution, chunk_length, convolve
from s4bt.dss import DSS
from s4bt.powers import power_sum


def system(H, N, seed=0, dtype=torch.complex128):
    torch.manual_seed(seed)
    a = torch.complex(-0.3 * torch.rand(H, N), 3 * torch.randn(H, N)).to(dtype)
    return a, torch.randn(H, N, dtype=dtype), torch.randn(H, dtype=a.real.dtype)


def by_fft(u, a, w, D):
    return FFTConvolution.apply(u, power_sum(a, w, u.shape[-1]), D)


def plainly(u, a, w, D):
    """Sample by sample, from the definition."""
    L = u.shape[-1]
    K = (w[..., None] * torch.exp(a[..., None] * torch.arange(L))).sum(1).real
    K = torch.cat([K[:, :1] + D[:, None], K[:, 1:]], 1)
    return torch.stack([(K[:, :k + 1].flip(-1)[:, None] * u[..., :k + 1]).sum(-1) for k in range(L)], -1)


@pytest.mark.parametrize("method", [by_fft, ChunkedConvolution.apply], ids=["fft", "chunks"])
@settings(max_examples=15, deadline=None)
@given(H=st.integers(1, 3), B=st.integers(1, 3), L=st.integers(1, 150), N=st.integers(1, 12), block=st.sampled_from([1, 700, 2**18]))
def test_convolutions_and_their_gradients_are_the_definition(method, H, B, L, N, block):
    convolution.BLOCK, before = block, convolution.BLOCK
    try:
        inputs = [torch.randn(H, B, L, dtype=torch.float64).transpose(0, 1).contiguous().transpose(0, 1), *system(H, N)]
        inputs = [x.requires_grad_() for x in inputs]
        y, expected, g = method(*inputs), plainly(*inputs), torch.randn(H, B, L, dtype=torch.float64)
        assert torch.allclose(y, expected, rtol=1e-10, atol=1e-10)
        for got, right in zip(torch.autograd.grad(y, inputs, g), torch.autograd.grad(expected, inputs, g)):
            assert torch.allclose(got, right, rtol=1e-8, atol=1e-8 * (1 + float(right.detach().abs().max())))
    finally:
        convolution.BLOCK = before


@pytest.mark.parametrize("L", [5, 70])
def test_gradients_agree_with_finite_differences(L):
    u = torch.randn(2, 2, L, dtype=torch.float64, requires_grad=True)
    inputs = (u, *(x.requires_grad_() for x in system(2, 3)))
    assert torch.autograd.gradcheck(ChunkedConvolution.apply, inputs) and torch.autograd.gradcheck(by_fft, inputs)


def test_gradients_of_a_shifted_kernel_are_right():
    a, w, _ = system(2, 3)
    assert torch.autograd.gradcheck(lambda a, w: power_sum(-a, w, 11, 10), (a.requires_grad_(), w.requires_grad_()))


@pytest.mark.parametrize("N", [4, 16, 64])
def test_the_layer_is_the_same_by_either_way_in_single_precision(N, monkeypatch):
    """The small ones go in chunks, the large one by FFT; both against the other way in double precision."""
    dss, u = DSS(8, N), torch.randn(3, 8, 300)
    y = dss(u)
    monkeypatch.setattr(convolution, "CHUNKED", 0 if N <= convolution.CHUNKED else 99)
    assert torch.allclose(y.double(), dss.double()(u.double()), atol=2e-4 * float(y.detach().abs().max()))


def test_chunks_are_nearly_full():
    for L in range(1, 3000):
        for N in (4, 16):
            T = chunk_length(L, N)
            chunks = -(-L // T)
            assert T <= 64 and 0 <= chunks * T - L < chunks


def test_poles_that_die_out_at_once_cost_no_more_than_others():
    """Their powers would be subnormal numbers, which take a CPU ten times as long."""
    a, w, _ = system(64, 32, dtype=torch.complex64)

    def took(a):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            power_sum(a, w, 1024)
            times.append(time.perf_counter() - start)
        return min(times)

    assert took(a - 0.3) < 3 * took(a * 1e-4)


def test_neither_way_keeps_anything_of_size_modes_times_length():
    """What autograd keeps for the backward pass: nothing as large as N x L numbers a channel, nor a spectrum of the input."""
    for N, B, L in ((64, 1, 4096), (16, 1, 4096)):
        kept = []
        a, w, D = (x.requires_grad_() for x in system(2, N, dtype=torch.complex64))
        u = torch.randn(2, B, L, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel() * x.element_size()) or x, lambda x: x):
            convolve(u, a, w, D)
        assert sum(kept) < 0.5 * 8 * 2 * N * L

"""Both convolutions and the kernel against sums written plainly,
their gradients against finite differences, and their cost.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s4bt.nn import convolution
from s4bt.nn.convolution import ChunkedConvolution, FFTConvolution, chunk_length, in_chunks
from s4bt.nn.dss import DSS
from s4bt.reduction.powers import power_sum, powers


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
    return torch.stack(
        [(K[:, : k + 1].flip(-1)[:, None] * u[..., : k + 1]).sum(-1) for k in range(L)], -1
    )


def chunk_by_chunk(u, a, w, D):
    """The recurrence of `ChunkedConvolution`, in plain tensors, one chunk after the other."""
    (H, B, L), T = u.shape, chunk_length(u.shape[-1], a.shape[1])
    u = torch.nn.functional.pad(u, (0, -L % T))
    j = torch.arange(T)
    p = torch.exp(a[:, None] * j[:, None])  # (H, T, N)
    q = (w * torch.exp(a))[:, None] * p
    K = torch.cat([(w.real.sum(1) + D)[:, None], q.real.sum(2)[:, :-1]], 1)
    toeplitz = torch.stack([torch.cat([K.new_zeros(H, i), K[:, : T - i]], 1) for i in range(T)], 1)
    x, y = torch.zeros(H, B, a.shape[1], dtype=a.dtype), []
    for part in u.split(T, -1):  # (H, B, T)
        y.append((x[:, :, None] * q[:, None]).sum(-1).real + part @ toeplitz)
        V = (part[..., None] * p.flip(1)[:, None]).sum(2)
        x = torch.exp(a * T)[:, None] * x + V
    return torch.cat(y, -1)[..., :L]


@pytest.mark.parametrize("L, N", [(5, 3), (32, 2), (70, 3), (600, 12)])
def test_chunks_are_their_plain_twin_forward_and_backward(L, N):
    inputs = [torch.randn(2, 3, L, dtype=torch.float64), *system(2, N)]
    inputs = [x.requires_grad_() for x in inputs]
    y, plain = ChunkedConvolution.apply(*inputs), chunk_by_chunk(*inputs)
    assert torch.allclose(y, plain, rtol=1e-11, atol=1e-11)
    g = torch.randn_like(plain)
    for got, right in zip(torch.autograd.grad(y, inputs, g), torch.autograd.grad(plain, inputs, g)):
        assert torch.allclose(got, right, rtol=1e-9, atol=1e-9 * float(right.abs().max()))


@pytest.mark.parametrize("method", [by_fft, ChunkedConvolution.apply], ids=["fft", "chunks"])
@settings(max_examples=15, deadline=None)
@given(
    H=st.integers(1, 3),
    B=st.integers(1, 3),
    L=st.integers(1, 150),
    N=st.integers(1, 12),
    block=st.sampled_from([1, 700, 2**18]),
)
def test_convolutions_and_their_gradients_are_the_definition(method, H, B, L, N, block):
    convolution.BLOCK, before = block, convolution.BLOCK
    try:
        inputs = [torch.randn(H, B, L, dtype=torch.float64), *system(H, N)]
        inputs = [x.requires_grad_() for x in inputs]
        y, expected, g = (
            method(*inputs),
            plainly(*inputs),
            torch.randn(H, B, L, dtype=torch.float64),
        )
        assert torch.allclose(y, expected, rtol=1e-10, atol=1e-10)
        for got, right in zip(
            torch.autograd.grad(y, inputs, g), torch.autograd.grad(expected, inputs, g)
        ):
            assert torch.allclose(
                got, right, rtol=1e-8, atol=1e-8 * (1 + float(right.detach().abs().max()))
            )
    finally:
        convolution.BLOCK = before


@pytest.mark.parametrize("L", [5, 70])
def test_gradients_agree_with_finite_differences(L):
    u = torch.randn(2, 2, L, dtype=torch.float64, requires_grad=True)
    inputs = (u, *(x.requires_grad_() for x in system(2, 3)))
    assert torch.autograd.gradcheck(ChunkedConvolution.apply, inputs) and torch.autograd.gradcheck(
        by_fft, inputs
    )


def test_second_derivatives_are_right_or_refused():
    a, w, D = (x.requires_grad_() for x in system(2, 3))
    u = torch.randn(2, 2, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(torch.expm1, a)
    for function in (
        lambda: power_sum(a, w, 9),
        lambda: by_fft(u, a, w, D),
        lambda: ChunkedConvolution.apply(u, a, w, D),
    ):
        (g,) = torch.autograd.grad(function().square().sum(), w, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            g.abs().sum().backward()


@pytest.mark.parametrize("N", [4, 16, 64])
def test_the_layer_is_the_same_by_either_way_in_single_precision(N, monkeypatch):
    """The small ones go in chunks, the large one by FFT;
    both against the other way in double precision.
    """
    dss, u = DSS(8, N), torch.randn(3, 8, 300)
    y = dss(u)
    monkeypatch.setattr(convolution, "CHUNKED", {0: 0 if in_chunks(300, N) else 99})
    assert torch.allclose(
        y.double(), dss.double()(u.double()), atol=2e-4 * float(y.detach().abs().max())
    )


def test_chunks_are_nearly_full():
    for L in range(1, 3000):
        for N in (4, 16):
            T = chunk_length(L, N)
            chunks = -(-L // T)
            assert T <= 64 and 0 <= chunks * T - L < chunks


def test_no_power_is_subnormal():
    """Subnormal numbers would slow a CPU down several times."""
    a, _, _ = system(8, 32, dtype=torch.complex64)
    sizes = powers(100 * a, torch.arange(1000.0)).abs()
    assert (sizes == 0).any() and not (
        (sizes > 0) & (sizes < torch.finfo(torch.float32).tiny)
    ).any()


@pytest.mark.parametrize(
    "L, N, chunks",
    [
        (64, 8, True),
        (64, 16, False),
        (256, 16, True),
        (2048, 32, True),
        (2047, 32, False),
        (10**6, 64, True),
    ],
)
def test_the_choice_depends_on_length_and_modes_alone(L, N, chunks):
    assert in_chunks(L, N) is chunks


@pytest.mark.parametrize("N", [64, 16])
def test_neither_way_keeps_a_spectrum_or_anything_of_size_modes_times_length(N):
    """What is kept for the backward pass: the input, in chunks also the states between them,
    and little else.
    """
    H, B, L, kept = 2, 64, 4096, []
    a, w, D = (x.requires_grad_() for x in system(H, N, dtype=torch.complex64))
    u = torch.randn(H, B, L, requires_grad=True)
    method = by_fft if N == 64 else ChunkedConvolution.apply
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.append(x.numel() * x.element_size()) or x, lambda x: x
    ):
        method(u, a, w, D)
    states = 0 if N == 64 else 8 * H * B * N * -(-L // chunk_length(L, N))
    assert 4 * u.numel() <= sum(kept) - states < 1.3 * 4 * u.numel()

"""The fits `weighted`, `weighted-shared` and `h2`: what they minimise is what is said."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from s4bt.reduction.dispatch import reduce
from s4bt.reduction.expected_error import MEMORY, Problem, damping_range, discounted, evaluate
from s4bt.reduction.gramians import PrecisionWarning
from s4bt.reduction.inner_products import Target, output_energy
from s4bt.reduction.systems import DiagonalLTI
from s4bt.reduction.variable_projection import system_at
from s4bt.reduction.weighted import autocorrelation

L, H, N = 24, 3, 6
LONG = 1024  # by then everything has decayed


def layer(seed: int, channels: int = H, modes: int = N) -> DiagonalLTI:
    """A random kernel with modes that outlast L, and steps of its channels."""
    rng = np.random.default_rng(seed)
    lam = -rng.uniform(0.05, 2, modes) + 1j * rng.uniform(0, 6, modes)
    w = rng.normal(size=(channels, modes)) + 1j * rng.normal(size=(channels, modes))
    return DiagonalLTI(np.tile(lam, (channels, 1)), w).discretize(
        torch.tensor(np.geomspace(0.2, 0.5, channels))
    )


def inputs(seed: int, channels: int = H, count: int = 5) -> np.ndarray:
    """Sequences (B, H, L), coloured."""
    return np.random.default_rng(seed).normal(size=(count, channels, L)).cumsum(-1)


def correlation(u: np.ndarray) -> torch.Tensor:
    """Mean autocorrelation (H, L), lag by lag."""
    return torch.tensor(
        [
            [np.mean([x[h, : L - k] @ x[h, k:] for x in u]) for k in range(L)]
            for h in range(u.shape[1])
        ]
    )


def test_inner_products_are_those_of_outputs_over_all_time():
    kernel, u = layer(0), inputs(1)
    target, t = Target.of(kernel, correlation(u)), np.arange(2000)
    a = torch.complex(-torch.rand(H, 2).double() * 0.3 - 0.02, torch.randn(H, 2).double())
    a[0, 0] = -0.1
    G = target.products(a).gram.numpy()
    for h in range(H):
        E = np.exp(a[h].numpy()[:, None] * t)
        impulse = (t == 0) * 1.0
        response = kernel.select([h]).impulse_response(len(t))[0].numpy()
        basis = [*E.real, *E.imag, impulse, *(t * E).real, *(t * E).imag, response]
        outputs = np.array([[np.convolve(b, x[h]) for b in basis] for x in u])
        wanted = np.einsum("bit,bjt->ij", outputs, outputs) / len(u)
        size = np.sqrt(wanted.diagonal().clip(1e-3))
        assert np.abs((G[h] - wanted) / np.outer(size, size)).max() < 1e-9


def _small(kernel: DiagonalLTI, problem: Problem, a: torch.Tensor) -> tuple:
    point = evaluate(problem, torch.log(-a.real), a.imag)
    return point, system_at(kernel, a, point.x)


def test_the_expected_error_is_that_of_perturbed_copies():
    """Monte Carlo over 2,000 perturbations of every number: residues, exponents, D and the step."""
    eps, kernel, u = 2.0**-6, layer(2), inputs(3)
    r = correlation(u)
    problem = Problem(Target.of(kernel, r), eps, damping_range(kernel))
    a = kernel.logs[:, :3]
    point, small = _small(kernel, problem, a)
    S = torch.fft.fft(torch.tensor(u), 2 * LONG).abs().square().mean(0)[:, : LONG + 1]
    S = S * torch.where(torch.arange(LONG + 1) % LONG == 0, 0.5, 1.0) * (LONG + 1) / LONG
    generator, found = torch.Generator().manual_seed(0), []

    def noise(*shape: int) -> torch.Tensor:
        return eps * torch.randn(*shape, generator=generator, dtype=torch.float64)

    def complex_noise(*shape: int) -> torch.Tensor:
        return torch.complex(noise(*shape), noise(*shape)) / 2**0.5

    for _ in range(2000):
        moved = small.logs + small.logs.abs() * complex_noise(H, 3)
        moved = moved * (1 + noise(H, 1))
        other = DiagonalLTI(
            torch.exp(moved),
            small.residues * (1 + complex_noise(H, 3)),
            dt=kernel.dt,
            log_poles=moved,
            feedthrough=small.feedthrough * (1 + noise(H)),
        )
        response = (kernel - other).impulse_response(LONG)
        found.append((torch.fft.rfft(response, 2 * LONG).abs().square() * S).mean(-1))
    found = torch.stack(found).mean(0)
    assert torch.allclose(found, point.f, rtol=0.05)


def test_the_shared_fit_is_never_worse_than_bt_shared_in_its_own_criterion():
    for seed in range(4):
        kernel = layer(seed, channels=4, modes=8)
        continuous, dt = kernel.to_continuous(), kernel.dt
        poles = continuous.poles[:1].expand_as(continuous.poles)  # equal again: division rounds
        continuous = replace(continuous, poles=poles)
        S = torch.fft.rfft(torch.tensor(inputs(seed, 4)), 2 * L).abs().square().mean(0)
        r, loudness = autocorrelation(S)
        pure = {"spectrum": S, "perturbation": 0.0, "white": 0.0}
        best = reduce(continuous, 3, "weighted-shared", dt, **pure)
        assert torch.equal(best.poles, best.poles[:1].expand_as(best.poles))
        start = reduce(continuous, 3, "bt-shared")

        def error(small: DiagonalLTI) -> float:
            forget = 1 / (MEMORY * L)
            parts = (discounted(x, forget) for x in (kernel, small.discretize(dt)))
            energy = output_energy(next(parts) - next(parts), r)
            return float((energy * loudness.square()).sum())

        assert error(best) <= error(start) * (1 + 1e-9)


@pytest.mark.parametrize("method", ["weighted", "weighted-shared", "h2"])
@pytest.mark.parametrize("option", ["perturbation", "white", "iterations"])
def test_options_that_are_no_such_numbers_are_refused(method, option):
    if method == "h2" and option == "white":
        return
    given = {} if method == "h2" else {"spectrum": torch.ones(H, L + 1)}
    for wrong in (-1, float("nan"), "much"):
        with pytest.raises(ValueError, match=f"{option} must be a .*number"):
            reduce(layer(0), 2, method, **given, **{option: wrong})


def test_one_sequence_and_a_spectrum_that_is_zero_in_a_band_will_do():
    kernel, S = layer(1), torch.ones(H, L + 1, dtype=torch.float64)
    S[:, 5:15] = 0
    one = torch.fft.rfft(torch.tensor(inputs(0, count=1)), 2 * L).abs().square().mean(0)
    for method in ("weighted", "weighted-shared"):
        for spectrum in (S, one):
            small = reduce(kernel, 2, method, spectrum=spectrum)
            assert bool(small.stable().all()) and bool(torch.isfinite(small.residues).all())
        with pytest.raises(ValueError, match="1 of 3 channels is zero, negative or not finite"):
            reduce(kernel, 2, method, spectrum=S * torch.tensor([[1.0], [0.0], [1.0]]))


def test_channels_that_share_no_poles_are_refused_by_the_shared_fit():
    kernel = layer(0)
    other = kernel.take(torch.tensor([[0, 1, 2], [0, 1, 3], [0, 1, 2]]))
    with pytest.raises(ValueError, match="the channels share no poles"):
        reduce(other, 2, "weighted-shared", spectrum=torch.ones(H, L + 1))


KINDS = [(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1)]


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("eps, discount", [(0.0, 0.0), (0.1, 0.0), (0.0, 0.02), (0.1, 0.02)])
@pytest.mark.parametrize("real, discrete, coloured", KINDS)
def test_the_descent_is_half_of_minus_the_gradient(real, discrete, coloured, eps, discount, shared):
    rng = np.random.default_rng(5)
    system = layer(4) if discrete else layer(4).to_continuous()
    system = replace(system, real=bool(real), feedthrough=None)
    r = correlation(inputs(6)) if coloured else None
    steps = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64) if shared else None
    target = Target.of(discounted(system, discount), r)
    problem = Problem(target, eps, (1e-6, 100.0), steps, discount)
    sets, size = (1 if shared else H), 1e-6
    alpha = torch.tensor(0.3 * rng.normal(size=(sets, 2)) - 1)
    omega = torch.tensor(2 * rng.normal(size=(sets, 2)))
    found, unit = evaluate(problem, alpha, omega).descent, torch.hypot(alpha.exp(), omega)
    for j in range(2):
        e = torch.zeros_like(alpha)
        e[:, j] = size
        moves = (
            ((alpha + e, omega), (alpha - e, omega)),
            (
                (alpha, omega + e * unit),
                (alpha, omega - e * unit),
            ),
        )
        for k, (up, down) in enumerate(moves):
            slope = (evaluate(problem, *up).f - evaluate(problem, *down).f) / (2 * size)
            assert torch.allclose(-slope / 2, found[:, 2 * k + j], atol=1e-6 * found.abs().max())


def test_shared_poles_so_fast_that_they_underflow_are_the_same_in_all_channels():
    poles = torch.tensor([-0.3 + 1j, -0.1 - 2j, -1500, -2500 + 3j], dtype=torch.complex128)
    residues = torch.randn(H, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    residues = torch.view_as_complex(residues) * torch.tensor([0.1, 0.1, 3000, 4000])
    system, dt = DiagonalLTI(poles.expand(H, 4), residues), torch.tensor([1.0, 0.1, 0.02])
    S = torch.rand(H, L + 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    small = reduce(system, 2, "weighted-shared", dt, spectrum=S)
    kernel = reduce(system.discretize(dt), 2, "weighted-shared", spectrum=S)
    h, wanted = (x.impulse_response(30) for x in (small.discretize(dt), kernel))
    assert torch.allclose(h, wanted, atol=1e-9 * float(wanted.abs().max()))


def test_single_precision_kernels_share_their_poles_too():
    kernel, S = layer(7), torch.ones(H, L + 1)
    single = replace(
        kernel.to(torch.complex64), dt=kernel.dt.float(), log_poles=kernel.logs.to(torch.complex64)
    )
    with pytest.warns(PrecisionWarning):
        small = reduce(single, 2, "weighted-shared", spectrum=S)
    wanted = reduce(kernel, 2, "weighted-shared", spectrum=S)
    assert torch.allclose(small.impulse_response(L), wanted.impulse_response(L), atol=1e-4)

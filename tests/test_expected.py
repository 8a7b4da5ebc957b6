"""The fits `weighted`, `weighted-shared` and `h2`: what they minimise is what is said."""

import numpy as np
import torch

from s4bt.reduction.expected_error import Problem, damping_range, evaluate
from s4bt.reduction.inner_products import Target
from s4bt.reduction.systems import DiagonalLTI
from s4bt.reduction.variable_projection import system_at

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

"""The reducers: what each promises, on complex and real, continuous and discrete systems;
bad input.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import random_system
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import lfilter

from s4bt.reduction.balanced import balanced_truncation, bt_discrete, bt_limited, order_kept
from s4bt.reduction.dispatch import reduce
from s4bt.reduction.expected_error import MEMORY, discounted
from s4bt.reduction.gramians import hankel_singular_values
from s4bt.reduction.inner_products import output_energy
from s4bt.reduction.methods import METHODS
from s4bt.reduction.modal import modal
from s4bt.reduction.quality import error_row, reference
from s4bt.reduction.systems import DiagonalLTI, UnstableSystem
from s4bt.reduction.weighted import autocorrelation
from s4bt.study.grid import OneShot

seeds = st.integers(0, 10**6)
ANY = ["singular-perturbation", "modal", "h2", "hankel"]  # these take any system as it is
L = 64
DT = torch.tensor([0.05, 0.1, 0.2], dtype=torch.float64)


def kernel(seed, batch=(3,), order=8, clustered=False):
    """A discrete real system."""
    return random_system(seed, order=order, batch=batch, real=True, clustered=clustered).discretize(
        0.1
    )


def shared(seed, H=3, order=8):
    """A continuous layer whose channels share their poles."""
    system = random_system(seed, order=order, batch=(H,), real=True)
    return replace(system, poles=system.poles[:1].expand(H, order))


def options(method, H=3):
    spectrum = torch.tensor(np.random.default_rng(0).random((H, L + 1)))
    if METHODS[method].needs_data:
        return {"spectrum": spectrum}
    return {"length": L} if METHODS[method].measures else {}


def exact(method):
    """Options of a fit that minimises the error itself."""
    return {"perturbation": 0.0} if METHODS[method].local else {}


def after(sigma, order):
    """sigma[order] and 2 sum(sigma[order:]) of every member."""
    padded = torch.nn.functional.pad(sigma, (0, 1))
    tail = 2 * padded.flip(-1).cumsum(-1).flip(-1)
    return [x.gather(-1, order[..., None])[..., 0] for x in (padded, tail)]


def test_the_configuration_knows_every_reducer():
    assert OneShot(ranks=[1], methods=list(METHODS)).methods == list(METHODS)
    assert all("Raises" in m.reducer.__doc__ for m in METHODS.values())


@pytest.mark.parametrize("method", [m.name for m in METHODS.values() if m.bounded and not m.tied])
@given(
    seed=seeds,
    rank=st.integers(1, 7),
    clustered=st.booleans(),
    gain=st.sampled_from([1e-8, 1.0, 1e8]),
    dt=st.sampled_from([1e-3, 0.1, 2.0]),
)
def test_the_error_is_below_the_bound_and_no_order_beats_the_limit(
    method, seed, rank, clustered, gain, dt
):
    system = random_system(seed, batch=(2,), real=True, clustered=clustered)
    system = replace(system, residues=gain * system.residues)
    full = replace(system, real=False) if method == "bt-channel" else system.discretize(dt)
    reduced = reduce(full, rank, method)
    sigma = hankel_singular_values(full)
    limit, bound = after(sigma, order_kept(reduced))
    if method == "singular-perturbation":  # its feedthrough is free, so h[0] does not count
        limit = after(
            hankel_singular_values(replace(full, residues=full.residues * full.poles)),
            order_kept(reduced),
        )[0]
    error, floor = (full - reduced).hinf_norm(), 1e-9 * sigma[..., 0]
    assert (limit * (1 - 1e-6) - floor <= error).all() and (
        error <= bound * (1 + 1e-6) + floor
    ).all()


@given(seeds, st.integers(1, 7), st.booleans(), st.booleans())
def test_the_hankel_norm_of_the_error_is_the_first_discarded_value(seed, rank, real, discrete):
    system = random_system(seed, batch=(2,), real=real)
    system = system.discretize(0.1) if discrete else system
    reduced = reduce(system, rank, "hankel")
    limit, bound = after(hankel_singular_values(system), order_kept(reduced))
    error = system - reduced
    assert torch.allclose(
        hankel_singular_values(replace(error, feedthrough=None))[:, 0], limit, rtol=1e-6
    )
    assert discrete or (error.hinf_norm() <= bound * (1 + 1e-6)).all()


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_a_discarded_value_may_come_several_times(seed, discrete):
    """A system with P = Q = diag(3, 1, 1, 0.2), made from the Lyapunov equations,
    entry by entry.
    """
    rng, sigma = np.random.default_rng(seed), np.array([3.0, 1.0, 1.0, 0.2])
    b, phase = rng.normal(size=4) + 1j * rng.normal(size=4), np.exp(2j * np.pi * rng.random(4))
    phase[2] = phase[1]
    c = phase * b.conj()
    A = np.empty((4, 4), complex)
    for i in range(4):
        for j in range(4):
            if sigma[i] == sigma[j]:
                A[i, j] = -b[i] * b[j].conj() / (2 * sigma[i]) + 1j * (i == j) * rng.normal() * 3
            else:
                A[i, j] = (sigma[i] * c[i].conj() * c[j] - sigma[j] * b[i] * b[j].conj()) / (
                    sigma[j] ** 2 - sigma[i] ** 2
                )
    poles, X = np.linalg.eig(A)
    system = DiagonalLTI(
        torch.tensor(poles), torch.tensor((c @ X) * np.linalg.solve(X, b)), real=False
    )
    assert torch.allclose(hankel_singular_values(system), torch.tensor(sigma), rtol=1e-8)
    if discrete:  # s = (z - 1) / (z + 1) keeps the values
        p = system.poles
        system = DiagonalLTI(
            (1 + p) / (1 - p), 2 * system.residues / (1 - p) ** 2, dt=1.0, real=False
        )
    for rank in (1, 3):
        error = replace(system - reduce(system, rank, "hankel"), feedthrough=None)
        assert abs(hankel_singular_values(error)[0] - sigma[rank]) < 1e-6


def test_an_order_that_the_hankel_norm_does_not_tell_apart_is_refused():
    """(s - 1 - i)(s - 1 + i) / ((s + 1 + i)(s + 1 - i)) is all-pass:
    its Hankel singular values are all 1.
    """
    p = torch.tensor([-1 + 1j, -1 - 1j], dtype=torch.complex128)
    system = DiagonalLTI(p, (p - 1 - 1j) * (p - 1 + 1j) / (p - p.flip(0)), real=False)
    assert torch.allclose(hankel_singular_values(system), torch.ones(2, dtype=torch.float64))
    with pytest.raises(ValueError, match="Hankel singular values are equal there"):
        reduce(system, 1, "hankel")


@given(seeds, st.integers(1, 8), st.booleans(), st.booleans())
def test_residualisation_keeps_the_gain_at_frequency_zero(seed, rank, real, discrete):
    system = random_system(seed, batch=(2,), real=real)
    system = system.discretize(0.3) if discrete else system
    error = system - reduce(system, rank, "singular-perturbation")
    assert (error.frequency_response([0.0])[:, 0].abs() <= 1e-10 * system.hinf_norm()).all()


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_h2_interpolates_at_the_mirror_images_of_its_poles(seed, real):
    """G(s) = G_r(s) and G'(s) = G_r'(s) at s = -conj(mu); by finite differences,
    independent of the fit's own derivatives.
    """
    system = random_system(seed, order=10, real=real)
    reduced = reduce(system, 3, "h2", iterations=10**7, perturbation=0)
    error = (system - reduced).with_conjugates()

    def value(s):
        return (error.residues / (s - error.poles)).sum()

    step, scale = 1e-5, system.hinf_norm()
    for mu in reduced.poles[reduced.residues != 0]:
        s = -mu.conj()
        slope = (value(s + step) - value(s - step)) / (2 * step)
        assert value(s).abs() < 1e-5 * scale and slope.abs() * mu.real.abs() < 1e-4 * scale
    assert (system - reduced).h2_norm() <= (
        system - balanced_truncation(system, 3)[0]
    ).h2_norm() * (1 + 1e-9)


@given(seeds, st.integers(1, 6))
def test_h2_is_never_further_than_balanced_truncation(seed, rank):
    full = kernel(seed)
    best = (full - reduce(full, rank, "h2", perturbation=0)).h2_norm()
    start = (full - reduce(full, rank, "bt-discrete")).h2_norm()
    assert (best <= start * (1 + 1e-7) + 1e-7 * full.h2_norm()).all()


def test_limited_gramians_over_a_long_time_are_the_infinite_ones():
    full = kernel(0)
    near, far = bt_discrete(full, 3), bt_limited(full, 3, length=100_001)
    assert torch.allclose(
        near.impulse_response(50),
        far.impulse_response(50),
        atol=1e-8 * float(full.hinf_norm().max()),
    )


@given(seeds, st.integers(1, 7), st.integers(2, 40))
def test_limited_truncation_is_always_stable(seed, rank, length):
    full = kernel(seed)
    reduced = bt_limited(full, rank, length=length)
    assert (
        reduced.stable()[reduced.residues != 0].all()
        and torch.isfinite(reduced.impulse_response(5)).all()
    )


def test_limited_truncation_is_better_over_the_steps_it_knows():
    full = random_system(3, order=24, batch=(40,), real=True).discretize(0.02)
    error = {
        m: (full - reduce(full, 4, m, **o)).impulse_response(32).norm()
        for m, o in {"bt-discrete": {}, "bt-limited": {"length": 32}}.items()
    }
    assert error["bt-limited"] < 0.9 * error["bt-discrete"]


def test_modal_truncation_keeps_the_modes_with_the_largest_peak():
    full = kernel(1, batch=(2,))
    peaks = torch.stack(
        [
            replace(
                full,
                poles=full.poles[:, n : n + 1],
                residues=full.residues[:, n : n + 1],
                real=False,
                log_poles=full.log_poles[:, n : n + 1],
            ).hinf_norm()
            for n in range(8)
        ],
        -1,
    )
    best = peaks.topk(3, -1).indices.sort(-1).values
    kept = modal(full, 3).poles
    assert all(
        {complex(z) for z in kept[h]} == {complex(z) for z in full.poles[h, best[h]]}
        for h in range(2)
    )


def error_energy(full, small, spectrum, discount=0.0):
    r, loudness = autocorrelation(spectrum)
    error = discounted(full, discount) - discounted(small, discount)
    return output_energy(error, r) * loudness.square()


def test_the_weighted_error_is_the_energy_of_real_outputs():
    rng, full = np.random.default_rng(0), kernel(4)
    u = torch.tensor(rng.normal(size=(7, 3, L)).cumsum(-1))
    spectrum = torch.fft.rfft(u, 2 * L).abs().square().mean(0)
    small = reduce(full, 3, "weighted", spectrum=spectrum)
    e = (full - small).impulse_response(4096)
    outputs = [[np.convolve(e[h], u[b, h]) for h in range(3)] for b in range(7)]
    wanted = np.square(outputs).sum(-1).mean(0)
    assert np.allclose(error_energy(full, small, spectrum), wanted, rtol=1e-9)


PURE = {"perturbation": 0.0, "white": 0.0}  # the error itself


@given(seeds, st.integers(1, 6))
def test_weighted_is_never_worse_than_balanced_truncation(seed, rank):
    full, given_ = kernel(seed), options("weighted") | PURE
    small, start = reduce(full, rank, "weighted", **given_), reduce(full, rank, "bt-discrete")
    best, old, whole = (
        error_energy(full, x, given_["spectrum"], 1 / (MEMORY * L))
        for x in (small, start, full.times(torch.zeros(3)))
    )
    assert (best <= old * (1 + 1e-6) + 1e-12 * whole).all()


def test_weighted_follows_the_inputs():
    """What it fits well is where the inputs are: low frequencies for one spectrum,
    high ones for the other.
    """
    full, noise = kernel(0, batch=(1,), order=16), np.random.default_rng(0).normal(size=(64, L))
    low, high = (
        torch.tensor(np.square(abs(np.fft.rfft(u, 2 * L))).mean(0))[None]
        for u in (lfilter([1], [1, -2 * 0.98 * np.cos(f), 0.98**2], noise) for f in (0.2, 0.6))
    )
    to_low, to_high = (reduce(full, 4, "weighted", spectrum=s, **PURE) for s in (low, high))
    for spectrum, near, far in ((low, to_low, to_high), (high, to_high, to_low)):
        at = spectrum, 1 / (MEMORY * L)
        assert error_energy(full, near, *at) < 0.5 * error_energy(full, far, *at)


@pytest.mark.parametrize("method", ["weighted", "h2"])
def test_perturbation_keeps_large_terms_that_cancel_out_of_the_fit(method):
    full, given_ = kernel(6, batch=(8,), order=24), options(method, 8)
    size = [
        float(reduce(full, 8, method, **given_, perturbation=eps).residues.abs().max())
        for eps in (0.0, 1e-3, 1e-2)
    ]
    assert size[2] < size[1] < size[0]


@pytest.mark.parametrize("method", METHODS)
@given(seed=seeds, gain=st.sampled_from([1e-8, 1e8]), time=st.sampled_from([1e-3, 1e3]))
def test_units_and_order_of_channels_do_not_matter(method, seed, gain, time):
    system, dt = shared(seed), DT
    order = torch.tensor([2, 0, 1])
    other = replace(
        system.select(order),
        poles=system.poles * time,
        residues=gain * time * system.residues[order],
    )
    extra = {k: v[order] if isinstance(v, torch.Tensor) else v for k, v in options(method).items()}
    one = reduce(system, 3, method, dt, **options(method)).discretize(dt)
    two = reduce(other, 3, method, dt[order] / time, **extra).discretize(dt[order] / time)
    h, k = one.impulse_response(L), two.impulse_response(L) / gain
    full = system.discretize(dt)
    if METHODS[method].local:  # rounding decides which of two equal local minima is found
        r = torch.ones(3, 1, dtype=torch.float64)
        if METHODS[method].needs_data:
            r = autocorrelation(options(method)["spectrum"])[0]

        def energy(x):
            return output_energy(x, r)

        again = replace(
            two,
            residues=two.residues / gain,
            feedthrough=None if two.feedthrough is None else two.feedthrough / gain,
        )
        a, b = (
            energy(full - x).sqrt() for x in (one, replace(again.select(order.argsort()), dt=dt))
        )
        assert ((a - b).abs() <= 0.05 * a + 0.01 * energy(full).sqrt()).all()
    else:
        assert (
            (h[order] - k).norm(dim=-1) <= 1e-7 * full.impulse_response(L)[order].norm(dim=-1)
        ).all()


@pytest.mark.parametrize("method", METHODS)
@given(seed=seeds)
def test_full_rank_changes_nothing(method, seed):
    system, dt = shared(seed), DT
    full = system.discretize(dt).impulse_response(L)
    reduced = reduce(system, 8, method, dt, **options(method)).discretize(dt).impulse_response(L)
    assert ((reduced - full).norm(dim=-1) <= 1e-10 * full.norm(dim=-1)).all()


@pytest.mark.parametrize(
    "method",
    [
        m.name
        for m in METHODS.values()
        if not m.local and m.name not in ("modal", "energy", "bt-limited")
    ],
)
@given(seed=seeds)
def test_a_rank_that_leaves_only_silent_modes_out_changes_nothing(method, seed):
    """Like full rank, but the states are really balanced and projected."""
    system, silent = shared(seed), torch.zeros(3, 1, dtype=torch.complex128)
    padded = replace(
        system,
        poles=torch.cat([system.poles, silent - 1], -1),
        residues=torch.cat([system.residues, silent], -1),
    )
    full = system.discretize(DT).impulse_response(L)
    reduced = reduce(padded, 8, method, DT).discretize(DT).impulse_response(L)
    assert ((reduced - full).norm(dim=-1) <= 1e-10 * full.norm(dim=-1)).all()


def test_h2_does_not_depend_on_the_unit_of_time():
    system = random_system(12, batch=(4,), real=True)
    found = []
    for time in (1.0, 1e3, 1e6):
        fast = replace(system, poles=system.poles * time)
        found.append((fast - reduce(fast, 3, "h2", iterations=100)).h2_norm() / fast.h2_norm())
    assert torch.allclose(found[0], found[1], rtol=0.02) and torch.allclose(
        found[0], found[2], rtol=0.02
    )


def test_real_poles_are_heard_with_the_real_part_of_their_residue():
    system = DiagonalLTI(torch.tensor([-1.0, -1.0 + 2j]), torch.tensor([100j, 1.0]), real=True).to(
        torch.complex128
    )
    assert modal(system, 1).poles[0] == -1 + 2j
    assert (system - reduce(system, 1, "bt-discrete", dt=0.1)).discretize(0.1).hinf_norm() < 1e-9


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
@pytest.mark.parametrize(
    "method", ["bt-channel", "bt-discrete", "singular-perturbation", "modal", "h2", "hankel"]
)
@pytest.mark.parametrize("unstable", [False, True])
def test_any_batch_shape_is_reduced_member_by_member(method, shape, unstable):
    system = random_system(9, batch=shape, real=True)
    if unstable:
        poles = system.poles.clone()
        poles[..., 1] = 0.05 + 1j
        system = replace(system, poles=poles)
    dt = torch.full(shape, 0.1, dtype=torch.float64)
    reduced = reduce(system, 3, method, dt, unstable="keep")
    assert reduced.poles.shape == (*shape, 3)
    alone = (
        reduce(system.flatten().select(-1), 3, method, 0.1, unstable="keep")
        .discretize(0.1)
        .impulse_response(20)
    )
    assert torch.allclose(
        reduced.discretize(dt).impulse_response(20).reshape(-1, 20)[-1],
        alone,
        atol=1e-7 * float(alone.abs().max()),
    )


def test_weighted_keeps_poles_that_are_slower_than_the_inputs_are_long():
    slow = (
        DiagonalLTI(
            torch.tensor([[-1e-7 + 0.3j, -0.5 + 1j, -0.6 + 2j]]), torch.tensor([[1.0, 0.1, 0.1j]])
        )
        .to(torch.complex128)
        .discretize(0.7)
    )
    reduced = reduce(slow, 2, "weighted", spectrum=torch.ones(1, 33, dtype=torch.float64))
    white = torch.ones(1, 33, dtype=torch.float64)
    error, whole = (
        float(error_energy(slow, x, white, 1 / (MEMORY * 32)))
        for x in (reduced, slow.times(torch.zeros(1)))
    )
    assert error <= 1e-4 * whole and reduced.log_poles.real.max() > -1e-4


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("method", ANY)
def test_repeated_poles_and_silent_modes_are_the_lower_order_system(method, real):
    poles = torch.tensor([-1.0 + 2j, -1.0 + 2j, -2.0, -3.0 + 1j], dtype=torch.complex128).expand(
        2, 4
    )
    residues = torch.tensor([[1.0, 2.0, 0.0, 1.0], [0.0] * 4], dtype=torch.complex128)
    for system in (
        DiagonalLTI(poles, residues, real=real),
        DiagonalLTI(poles, residues, real=real).discretize(0.1),
    ):
        reduced = reduce(system, 3, method, **exact(method))
        scale = float(system.hinf_norm().max())
        assert ((system - reduced).impulse_response(20).abs() < 1e-7 * scale).all()
        assert reduced.residues[1].abs().max() < 1e-12 * scale


@pytest.mark.parametrize("method", METHODS)
def test_kept_unstable_modes_stay_and_the_rest_is_reduced(method):
    system = shared(7)
    poles = system.poles.clone()
    poles[:, 2] = 0.1 + 3j
    system = replace(system, poles=poles)
    dt = DT
    reduced = reduce(system, 4, method, dt, unstable="keep", **options(method))
    assert reduced.modes == 4 and (~reduced.stable()).sum() == 3
    stable = [0, 1, 3, 4, 5, 6, 7]
    part = replace(system, poles=poles[:, stable], residues=system.residues[:, stable])
    alone = reduce(part, 3, method, dt, **options(method)).discretize(dt).impulse_response(20)
    growing = (
        replace(system, poles=poles[:, 2:3], residues=system.residues[:, 2:3])
        .discretize(dt)
        .impulse_response(20)
    )
    assert torch.allclose(reduced.discretize(dt).impulse_response(20), alone + growing, atol=1e-9)


def test_channels_may_have_different_numbers_of_unstable_modes():
    system = random_system(8, batch=(3,), real=True)
    poles = system.poles.clone()
    poles[0, :2], poles[2, 5] = 0.2 + 1j, 1j
    reduced = reduce(replace(system, poles=poles), 3, "bt-discrete", 0.1, unstable="keep")
    assert (~reduced.stable()).sum(-1).tolist() == [2, 0, 1]
    with pytest.raises(
        ValueError,
        match="2 of 8 poles of channel 0 are not stable .* which leaves no mode of rank 2",
    ):
        reduce(replace(system, poles=poles), 2, "bt-discrete", 0.1, unstable="keep")


@pytest.mark.parametrize("method", METHODS)
def test_unstable_and_marginal_poles_are_refused_with_numbers(method):
    system = shared(0, H=2)
    poles = system.poles.clone()
    poles[:, 3] = 1j
    with pytest.raises(
        UnstableSystem,
        match=r"2 of 16 are not \(largest .* first at channel 0, mode 3; channel 1, mode 3\)",
    ):
        reduce(replace(system, poles=poles), 2, method, 0.1, **options(method, 2))


@pytest.mark.parametrize("rank", [0, -1, 9, 2.0, True])
@pytest.mark.parametrize("method", METHODS)
def test_a_rank_outside_the_order_is_refused(method, rank):
    with pytest.raises(ValueError, match="rank must be a whole number from 1 to N = 8"):
        reduce(shared(0), rank, method, 0.1, **options(method))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"method": "best"}, "unknown method 'best'; known: bt-shared, bt-channel, bt-discrete"),
        (
            {"method": "bt-discrete"},
            "the system is continuous: discretize it, or give its steps as the option dt",
        ),
        (
            {"method": "bt-limited", "dt": 0.1},
            "the length that bt-limited needs must be a whole number of 2 or more; got None",
        ),
        ({"method": "weighted", "dt": 0.1}, "needs the spectrum of the layer's inputs"),
        (
            {"method": "weighted", "dt": 0.1, "spectrum": torch.ones(2, L + 1)},
            r"a spectrum \(H, L \+ 1\), L >= 2; got \(3, 8\) and \(2, 65\)",
        ),
        (
            {
                "method": "weighted",
                "dt": 0.1,
                "spectrum": torch.tensor([1.0, 0, -1])[:, None].expand(3, L + 1),
            },
            "the spectrum of 2 of 3 channels is zero, negative or not finite; the first is channel "
            "1",
        ),
        ({"method": "modal", "unstable": "drop"}, "unstable is 'refuse' or 'keep', not 'drop'"),
        ({"method": "modal", "dt": 0.0}, "steps must be positive"),
    ],
)
def test_bad_options_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        reduce(shared(0), 2, **arguments)


def test_separate_poles_are_not_shared():
    with pytest.raises(ValueError, match="do not share their poles"):
        reduce(random_system(0, batch=(2,)), 2, "bt-shared")


@pytest.mark.parametrize(
    "poles, message",
    [
        ([[float("nan"), -1.0]], "1 of 2 poles are not finite; first at channel 0, mode 0"),
        (torch.empty(0, 3), "the batch is empty"),
        (torch.empty(2, 0), "at least one mode"),
    ],
)
def test_systems_that_are_none_are_refused(poles, message):
    poles = torch.as_tensor(poles)
    with pytest.raises(ValueError, match=message):
        DiagonalLTI(poles, torch.ones_like(poles))


@pytest.mark.parametrize("method", METHODS)
def test_the_report_keeps_limit_and_bound(method):
    system, dt = shared(5), DT
    reduced = reduce(system, 3, method, dt, **options(method))
    row = error_row(
        reference(system, METHODS[method], dt),
        reduced,
        reduced,
        dt,
        (torch.randn(5, 3, L), None),
    )
    assert (
        0 < row["limit"] <= row["hinf"] * 1.000001
        and np.isfinite([row["h2_error"], row["output_error"]]).all()
    )
    assert (
        (row["hinf"] <= row["bound"] * 1.000001)
        if METHODS[method].bounded
        else np.isnan(row["bound"])
    )


@pytest.mark.parametrize("method", METHODS)
def test_the_registry_says_which_methods_keep_poles_tied(method):
    small = reduce(shared(1), 3, method, DT, **options(method))
    same = torch.equal(small.poles, small.poles[:1].expand_as(small.poles))
    assert same == METHODS[method].tied


def test_energy_keeps_what_is_heard():
    """|w|^2 / (1 - |lambda|^2), and of a real pole of a real system only Re w."""
    poles = torch.tensor([0.9 + 0j, 0.5 + 0.2j, 0.2 + 0.1j], dtype=torch.complex128)
    loud = torch.tensor([10j, 1.0, 1.05], dtype=torch.complex128)
    assert reduce(DiagonalLTI(poles, loud, dt=1.0), 1, "energy").poles == poles[1]
    assert reduce(DiagonalLTI(poles, loud, dt=1.0, real=False), 1, "energy").poles == poles[0]
    # the modes' H2 norms, 1.05 / sqrt(0.95) < 1 / sqrt(0.71), where their gains are the other way
    alone = [DiagonalLTI(poles[i : i + 1], loud[i : i + 1], dt=1.0, real=False) for i in (1, 2)]
    assert alone[0].h2_norm() > alone[1].h2_norm()

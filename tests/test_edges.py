"""Reduction at its edges: equal values, slow modes, extreme units, and arguments of all types."""

import warnings

import mpmath
import numpy as np
import pytest
import torch

from s4bt import (
    METHODS,
    DiagonalLTI,
    S4Model,
    balanced_truncation,
    compress,
    error_bound,
    reduce,
)
from s4bt.nn.dss import DSS
from s4bt.nn.storage import save_model
from s4bt.reduction.balanced import (
    bt_channel,
    bt_discrete,
    order_kept,
    shared_balanced_truncation,
)
from s4bt.reduction.gramians import PrecisionWarning, hankel_singular_values
from s4bt.reduction.hankel import hankel
from s4bt.reduction.modal import modal_scores
from s4bt.reduction.powers import log_modulus
from s4bt.reduction.projection import DomainWarning
from s4bt.reduction.ranks import budget, by_energy, layer_adaptive
from s4bt.reduction.residualisation import singular_perturbation

L = 32


def comb(lam, g, real=True):
    """h[2 k + 1] = sum g lam^k and h[2 k] = 0: every Hankel singular value comes twice."""
    root = torch.tensor(lam, dtype=torch.complex128).sqrt()
    weight = torch.tensor(g, dtype=torch.complex128) / (2 * root)
    return DiagonalLTI(torch.cat([root, -root]), torch.cat([weight, -weight]), 1.0, real)


def continuous(system):
    """The same Hankel singular values in continuous time, by p -> (p - 1) / (p + 1)."""
    p, w = system.poles, system.residues
    # h[k], k >= 1, is what has the values of the comb with one delay
    return DiagonalLTI((p - 1) / (p + 1), 2 * w / (1 + p) ** 2, None, system.real)


def distinct(sigma):
    """Orders at which the values really fall."""
    return [k for k in range(1, len(sigma)) if sigma[k - 1] > sigma[k] * (1 + 1e-6) > 0]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("kind", [lambda s: s, continuous])
def test_the_hankel_norm_of_the_error_is_the_first_discarded_value(seed, real, kind):
    """Also where singular values are repeated, whichever state of a group comes first."""
    rng = np.random.default_rng(seed)
    lam = rng.uniform(0.05, 0.8, 3).tolist() if seed else [0.5, 0.2, 0.1]
    g = rng.normal(size=3).tolist() if seed else [1.0, 2.0, -1.0]
    system = kind(comb(lam, g, real))
    sigma = hankel_singular_values(system)
    for rank in range(1, system.modes):
        try:
            small = hankel(system, rank)
        except ValueError as error:
            assert "singular values are equal there" in str(error)
            assert rank < min(distinct(sigma))
            continue
        order = int(order_kept(small))
        assert order in distinct(sigma)
        error = hankel_singular_values(system - small).max()
        assert error <= sigma[order] * (1 + 1e-6), (rank, order)


def orders_that_keep_the_bound(system, reducer):
    """Reduce to every rank; the errors must keep the bound of the order that was kept."""
    sigma = hankel_singular_values(system)
    for rank in range(1, system.modes):
        try:
            small = reducer(system, rank)
        except ValueError as error:
            assert "singular values are equal there" in str(error)
            continue
        bound = error_bound(sigma, int(order_kept(small)))
        assert (system - small).hinf_norm() <= bound + 1e-4 * sigma[0], (rank, order_kept(small))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("apart", [0.0, 1e-12, 1e-9, 6e-8, 1e-6, 1e-4])
@pytest.mark.parametrize("reducer", [lambda s, r: bt_channel(s, r), singular_perturbation])
def test_the_bound_holds_where_values_are_equal_or_nearly(seed, apart, reducer):
    """A truncated continuous system is then as near to the axis as rounding makes it."""
    rng = np.random.default_rng(seed)
    system = comb(rng.uniform(0.05, 0.8, 3).tolist(), rng.normal(size=3).tolist(), False)
    if seed == 0:
        system = comb([0.6, 0.3], [1.0, 2.0], False)
    if seed == 1:
        system = comb([0.7, 0.4, 0.1], [1.0, 1.0, 0.5], False)
    poles = system.poles.clone()
    poles[0] *= 1 + apart
    orders_that_keep_the_bound(continuous(DiagonalLTI(poles, system.residues, 1.0, False)), reducer)


@pytest.mark.parametrize("apart", [0.0, 6e-8])
def test_a_layer_is_not_cut_between_equal_values_either(apart):
    system = continuous(comb([0.6, 0.3], [1.0, 2.0], False))
    poles = system.poles.clone()
    poles[0] *= 1 + apart
    layer = DiagonalLTI(poles.expand(2, 4), torch.stack([system.residues] * 2), real=False)
    small, sigma = shared_balanced_truncation(layer, 3)
    order = int(order_kept(small).max())
    assert order == 2 and (layer - small).hinf_norm(joint=False).max() <= 2 * sigma[order:].sum()
    with pytest.raises(ValueError, match="singular values are equal there"):
        shared_balanced_truncation(layer, 1)


def test_an_order_between_equal_values_gives_a_lower_one():
    system = continuous(comb([0.5, 0.2, 0.1], [1.0, 2.0, -1.0]))
    sigma = hankel_singular_values(system)
    for method in METHODS:
        if METHODS[method].continuous and not METHODS[method].tied:
            for rank in range(1, system.modes):
                try:
                    small = reduce(system, rank, method)
                except ValueError as error:
                    assert "singular values are equal there" in str(error) and rank == 1
                    continue
                assert bool(small.stable().all()) and 1 <= int(order_kept(small)) <= 2 * rank
                if method == "singular-perturbation":
                    assert int(order_kept(small)) in distinct(sigma)
    small = singular_perturbation(system, 3)
    order = int(order_kept(small))
    assert (system - small).hinf_norm() <= error_bound(sigma, order) * (1 + 1e-9)


def test_modal_scores_of_real_systems_are_the_norms_of_the_modes():
    system = DiagonalLTI(
        torch.tensor([-1.0, -1.0 + 100j, -0.5 + 0.2j, -1e-3 - 3j], dtype=torch.complex128),
        torch.tensor([1.0 + 5j, 1.5, 1j, 2 - 1j], dtype=torch.complex128),
    )
    omega = torch.linspace(-120, 120, 2_400_001, dtype=torch.float64)
    for kernel, at in ((system, omega), (system.discretize(0.01), omega / 0.01 / 40)):
        scores = modal_scores(kernel)
        for n in range(4):
            alone = kernel.map(lambda x, n=n: x[..., n : n + 1])
            scanned = float(alone.frequency_response(at).abs().max())
            assert scanned * (1 - 1e-12) <= scores[n] <= scanned * 1.01
    assert modal_scores(system)[:2].tolist() == pytest.approx([1.0, 0.75], rel=1e-3)
    assert reduce(system.map(lambda x: x[:2]), 1, "modal").poles.item() == -1


def test_the_modulus_of_a_pole_keeps_its_digits_near_one():
    rng = np.random.default_rng(0)
    damping = torch.tensor(10.0 ** rng.uniform(-14, 0.5, 400))
    angle = torch.tensor(rng.uniform(-np.pi, np.pi, 400)) * torch.tensor([0, 1] * 200)
    p = torch.exp(torch.complex(-damping, angle))
    with mpmath.workprec(300):
        exact = [float(mpmath.log(abs(mpmath.mpc(v)))) for v in p.tolist()]
    assert log_modulus(p).tolist() == pytest.approx(exact, rel=1e-14)


@pytest.mark.parametrize("damping", [1e-3, 1e-5, 1e-7, 1e-9, 1e-11])
def test_the_bound_holds_near_the_boundary_of_stability(damping):
    """As far as a frequency in float64 has digits: 10 eps / damping of the largest value."""
    poles = torch.tensor([-damping / 0.1 + 3j, -1 + 1j, -2 + 2j], dtype=torch.complex128)
    kernel = DiagonalLTI(poles, torch.tensor([1, 0.5, 1j])).discretize(0.1)
    small, sigma = balanced_truncation(kernel, 2)
    floor = 10 * 2.0**-52 / damping * sigma[0]
    error = (kernel - small).hinf_norm()
    assert error <= error_bound(sigma, int(order_kept(small))) + floor
    assert error >= sigma[int(order_kept(small))] - floor


@pytest.mark.parametrize("gap", [1e-3, 1e-9, 1e-13])
def test_a_slow_real_pole_that_can_be_represented_is_exact(gap):
    """p = 1 - gap: gain 1 / gap, and sigma = 1 / (1 - p^2)."""
    p = 1 - gap
    system = DiagonalLTI(np.array([p]), np.array([1.0]), 1.0, real=False)
    assert float(system.hinf_norm()) == pytest.approx(1 / (1 - p), rel=1e-12)
    with mpmath.workprec(200):
        exact = float(1 / (1 - mpmath.mpf(p) ** 2))
    assert hankel_singular_values(system).item() == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("gain", [1e-160, 1e-300, 1e200, 1e300])
@pytest.mark.parametrize("method", METHODS)
def test_the_size_of_residues_does_not_matter(method, gain):
    g = torch.Generator().manual_seed(0)
    poles = torch.complex(-torch.rand(6, generator=g) - 0.1, 8 * torch.rand(6, generator=g))
    residues = torch.randn(2, 6, generator=g).to(torch.complex128)
    kernel = DiagonalLTI(poles.to(torch.complex128).expand(2, 6), residues)
    kernel = kernel if METHODS[method].continuous else kernel.discretize(0.1)
    given = {"spectrum": torch.ones(2, L + 1, dtype=torch.float64), "length": L}
    options = {name: given[name] for name in METHODS[method].measures if name in given}
    plain = reduce(kernel, 2, method, **options)
    unit = 4.0 ** round(np.log2(gain) / 2)
    loud = reduce(kernel.times(torch.full((2,), unit, dtype=torch.float64)), 2, method, **options)
    assert torch.equal(loud.poles, plain.poles)
    assert torch.equal(loud.residues, plain.residues * unit)
    norms = kernel.hinf_norm(), hankel_singular_values(kernel), kernel.h2_norm()
    kernel = kernel.times(torch.full((2,), unit, dtype=torch.float64))
    louder = kernel.hinf_norm(), hankel_singular_values(kernel), kernel.h2_norm()
    for a, b in zip(norms, louder):
        assert torch.equal(a * unit, b)
    if kernel.dt is not None:
        for rule in (by_energy(0.9), budget(5), layer_adaptive(5)):
            small = DiagonalLTI(kernel.poles, kernel.residues / unit, 0.1, True, kernel.log_poles)
            assert rule([kernel, kernel]) == rule([small, small])


@pytest.mark.parametrize("size", [1e-300, 1e300])
def test_the_size_of_a_spectrum_does_not_matter(size):
    g = torch.Generator().manual_seed(1)
    poles = torch.complex(-torch.rand(2, 6, generator=g) - 0.1, 8 * torch.rand(2, 6, generator=g))
    kernel = DiagonalLTI(poles.to(torch.complex128), torch.ones(2, 6))
    kernel = kernel.discretize(0.1)
    spectrum = torch.rand(2, L + 1, generator=g, dtype=torch.float64) + 0.1
    unit = 4.0 ** round(np.log2(size) / 2)
    plain = reduce(kernel, 2, "weighted", spectrum=spectrum)
    assert torch.equal(reduce(kernel, 2, "weighted", spectrum=spectrum * unit).poles, plain.poles)


WHOLE = [2, np.int64(2), np.int8(2), np.array(2), torch.tensor(2), torch.tensor(2).to(torch.uint8)]


@pytest.mark.parametrize("two", WHOLE, ids=lambda x: type(x).__name__)
def test_whole_numbers_of_every_library_are_whole_numbers(two):
    kernel = DSS(2, 6).to_lti().discretize(0.1)
    for method in METHODS:
        given = {"spectrum": torch.ones(2, L + 1), "length": two}
        options = {name: given[name] for name in METHODS[method].measures}
        assert reduce(kernel, two, method, **options).modes == 2
    assert kernel.impulse_response(two).shape[-1] == 2
    assert error_bound(torch.ones(3), two) == 2
    assert sum(budget(two)([kernel, kernel])) == 2
    assert DSS(two, two).W.shape == (2, 2, 2)


@pytest.mark.parametrize(
    "other", [2.0, True, np.float64(2), np.True_, torch.tensor(True), "2", None]
)
def test_what_is_no_whole_number_is_refused(other):
    kernel = DSS(2, 6).to_lti().discretize(0.1)
    for call in (
        lambda: bt_discrete(kernel, other),
        lambda: reduce(kernel, 2, "bt-limited", length=other),
        lambda: kernel.impulse_response(other),
        lambda: budget(other)([kernel]),
        lambda: DSS(other, 4),
    ):
        with pytest.raises(ValueError, match="must be a whole number"):
            call()


SYSTEM = DSS(3, 4).to_lti()
KERNEL = SYSTEM.discretize(0.1)
P, W = SYSTEM.poles, SYSTEM.residues
SPECTRUM = torch.ones(3, L + 1)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: SYSTEM.discretize(torch.ones(3, 1)), r"steps of shape \(3, 1\) do not fit"),
        (lambda: SYSTEM.discretize(torch.ones(2)), r"steps of shape \(2,\) do not fit"),
        (lambda: SYSTEM.discretize(float("nan")), "steps must be positive numbers; got nan"),
        (lambda: DiagonalLTI(P, W, dt=-1), "steps must be positive numbers; got -1"),
        (lambda: DiagonalLTI(P, W, dt=0), "steps must be positive"),
        (lambda: DiagonalLTI(P, W, dt=1j), "steps must be positive"),
        (lambda: DiagonalLTI(P, W, dt=torch.ones(2)), r"steps of shape \(2,\) do not fit"),
        (lambda: DiagonalLTI(P, W, 1.0, log_poles=torch.ones(5)), "log_poles of shape"),
        (lambda: DiagonalLTI(P, W, feedthrough=torch.ones(5)), "feedthroughs of shape"),
        (lambda: DiagonalLTI(P, W, feedthrough=1 + 1j), "feedthrough of a real system"),
        (lambda: DiagonalLTI(P, W) - DiagonalLTI(P[:2], W[:2]), "have no difference"),
        (lambda: KERNEL.impulse_response(0), "length must be a whole number of 1 or more; got 0"),
        (lambda: DiagonalLTI(P * torch.rand(3, 1), W).hinf_norm(joint=True), "share their poles"),
        (lambda: KERNEL.hinf_norm(points=0), "points must be a whole number"),
        (
            lambda: reduce(KERNEL, 2, "h2", perturbation=-1),
            "perturbation must be a number of 0 or more",
        ),
        (
            lambda: reduce(KERNEL, 2, "h2", perturbation=float("nan")),
            "perturbation must be a number",
        ),
        (
            lambda: reduce(KERNEL, 4, "h2", perturbation=-1),
            "perturbation must be a number of 0 or more",
        ),
        (lambda: reduce(KERNEL, 2, "h2", perturbation="0.1"), "perturbation must be a number"),
        (
            lambda: DiagonalLTI(P, W, 1.0, log_poles=P * float("nan")),
            "12 of 12 log_poles are not finite",
        ),
        (lambda: reduce(KERNEL, 2, "h2", iterations=-1), "iterations must be a whole number"),
        (
            lambda: reduce(KERNEL, 2, "weighted", spectrum=SPECTRUM, iterations=1.5),
            "iterations must be a whole number",
        ),
        (lambda: reduce(KERNEL, 2, "weighted", spectrum=SPECTRUM * 1j), "this one is complex"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_in_words(call, message):
    if message is None:
        call()
    else:
        with pytest.raises(ValueError, match=message):
            call()


def test_arrays_of_numpy_and_lists_are_taken_in_double_precision():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        system = DiagonalLTI(
            np.array([-1 + 2j, -3 + 0.1j])[::-1], [1.0, 0.5], np.array(0.1), True, None, 0.1
        )
        small = reduce(
            DiagonalLTI([-1 + 2j, -3.0], np.ones(2), feedthrough=np.float64(0.1)), 1, "h2"
        )
    assert system.poles.dtype == torch.complex128 and float(system.feedthrough) == 0.1
    assert small.modes == 1
    logs = DiagonalLTI(np.exp([-0.1 + 1j]), [1.0], 1, True, np.array([-0.1 + 1j]))
    assert logs.logs.item() == -0.1 + 1j


def test_steps_and_numbers_come_as_lists_and_in_any_format():
    steps = [0.1, 0.2, 0.3]
    as_list, as_tensor = (
        SYSTEM.discretize(steps),
        SYSTEM.discretize(torch.tensor(steps, dtype=torch.float64)),
    )
    assert torch.equal(as_list.poles, as_tensor.poles)
    assert torch.equal(hankel_singular_values(as_list), hankel_singular_values(as_tensor))
    assert torch.equal(as_list.hinf_norm(), as_tensor.hinf_norm())
    small = reduce(SYSTEM, 2, "bt-discrete", steps)
    assert torch.equal(small.poles, reduce(SYSTEM, 2, "bt-discrete", np.array(steps)).poles)
    assert DiagonalLTI([-16777217, -1], [1, 1], real=False).poles[0] == -16777217
    for kind in (">f8", np.longdouble, "<f8", np.int32):
        assert DiagonalLTI(np.array([-3, -2], kind), [1, 1]).poles.tolist() == [-3, -2]


@pytest.mark.parametrize("two", WHOLE, ids=lambda x: type(x).__name__)
def test_whole_numbers_are_taken_by_models_too(two, tmp_path):
    model = S4Model(10, two, documents=np.int64(1), layers=two, width=4, state=8)
    small, _ = compress(model, two)
    assert [layer.state for layer in small.dss_layers()] == [2, 2]
    small, _ = compress(model, [two, np.int64(3)])
    assert [layer.state for layer in small.dss_layers()] == [2, 3]
    save_model(small, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="layer 1: rank must be a whole number"):
        compress(model, [two, 2.0])


def test_conjugated_residues_make_a_layer():
    layer = DSS(2, 3)
    system = layer.to_lti()
    turned = DiagonalLTI(system.poles.conj(), system.residues.conj())
    same = DSS.from_lti(turned, layer)
    assert torch.allclose(same.kernel(20), layer.kernel(20), atol=1e-6)


def test_warnings_point_at_the_line_that_called():
    single = SYSTEM.to(torch.complex64)
    for call in (
        lambda: hankel_singular_values(single),
        lambda: bt_discrete(KERNEL.to(torch.complex64), 2),
        lambda: reduce(single, 2, "h2"),
    ):
        with pytest.warns(PrecisionWarning) as seen:
            call()
        assert {w.filename for w in seen} == {__file__}


def test_poles_of_a_discrete_system_without_a_step_are_noticed():
    poles = torch.tensor([-0.9 + 0.1j, -0.2 + 0.3j], dtype=torch.complex128)
    for method in ("bt-channel", "singular-perturbation", "hankel", "h2", "modal"):
        with pytest.warns(DomainWarning, match="say so with dt=1"):
            reduce(DiagonalLTI(poles, torch.ones(2)), 1, method)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            reduce(DiagonalLTI(poles, torch.ones(2), 1.0), 1, method)

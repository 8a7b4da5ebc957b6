"""Rank rules: they keep what they promise, for layers that differ."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import random_system

from s4bt.reduction.balanced import bt_discrete, order_kept
from s4bt.reduction.gramians import hankel_singular_values
from s4bt.reduction.ranks import budget, by_bound, by_energy, energy_adaptive, layer_adaptive
from s4bt.reduction.systems import DiagonalLTI


def layers():
    """Three layers: ordinary, one whose channels need a single mode,
    and one with many modes that matter.
    """
    one, two, three = (
        random_system(s, batch=(3,), real=True, order=12).discretize(0.1) for s in range(3)
    )
    faint = torch.ones(12, dtype=torch.complex128) * 1e-9
    faint[0] = 1
    return [
        one,
        replace(two, residues=two.residues * faint),
        replace(three, residues=three.residues / three.residues.abs()),
    ]


@pytest.mark.parametrize("share", [0.9, 0.1, 1e-6])
def test_the_bound_rule_finds_the_smallest_rank_with_its_bound(share):
    for kernel, rank in zip(layers(), by_bound(share)(layers())):
        sigma, gain = hankel_singular_values(kernel), kernel.hinf_norm()

        def holds(r):
            return bool((2 * sigma[:, 2 * r :].sum(-1) <= share * gain).all())

        assert holds(rank) and (rank == 1 or not holds(rank - 1))
        assert ((kernel - bt_discrete(kernel, rank)).hinf_norm() <= share * gain * (1 + 1e-9)).all()


@pytest.mark.parametrize("share", [0.3, 0.03])
def test_the_bound_rule_counts_real_poles(share):
    kernel = random_system(4, batch=(3,), real=True, order=12)
    poles = torch.where(torch.arange(12) < 8, kernel.poles.real.to(torch.complex128), kernel.poles)
    kernel = replace(kernel, poles=poles).discretize(0.1)
    (rank,) = by_bound(share)([kernel])
    reduced = bt_discrete(kernel, rank)
    sigma = torch.nn.functional.pad(hankel_singular_values(kernel), (0, 1))
    bound = 2 * sigma.flip(-1).cumsum(-1).flip(-1).gather(-1, order_kept(reduced)[:, None])[:, 0]
    assert (bound <= share * kernel.hinf_norm()).all() and (
        (kernel - reduced).hinf_norm() <= bound * (1 + 1e-9)
    ).all()


@pytest.mark.parametrize("rule", [budget(9), layer_adaptive(9), by_energy(0.9), by_bound(0.1)])
def test_a_silent_layer_needs_one_state(rule):
    kernels = layers()
    kernels[1] = replace(kernels[1], residues=0 * kernels[1].residues)
    assert rule(kernels)[1] == 1


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_the_energy_rule_finds_the_smallest_rank_with_its_share(share):
    for kernel, rank in zip(layers(), by_energy(share)(layers())):
        energy = hankel_singular_values(kernel).square().sum(0)
        assert energy[: 2 * rank].sum() >= share * energy.sum() > energy[: 2 * rank - 2].sum()


@pytest.mark.parametrize("rule", [budget, layer_adaptive, energy_adaptive])
@pytest.mark.parametrize("total", [3, 9, 17, 36])
def test_a_budget_is_kept_and_the_simple_layer_gets_least(rule, total):
    ranks = rule(total)(layers())
    assert min(ranks) >= 1 and max(ranks) <= 12 and sum(ranks) <= total and ranks[1] == min(ranks)
    assert sum(ranks) == total or (
        rule is budget and ranks[0] == ranks[2] == 12
    )  # what is left brings a layer nothing


def test_a_budget_beats_the_even_spread():
    kernels, L = layers(), 40
    spectra = [torch.ones(3, L + 1, dtype=torch.float64)] * 3

    def error(ranks):
        return sum(
            float(
                (k - bt_discrete(k, r)).impulse_response(L).square().sum()
                / k.impulse_response(L).square().sum()
            )
            for k, r in zip(kernels, ranks)
        )

    assert error(budget(12)(kernels, spectra)) < 0.7 * error([4, 4, 4])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: by_bound(1.5), "between 0 and 1, got 1.5"),
        (lambda: by_energy(0), "between 0 and 1, got 0"),
        (lambda: budget(2)(layers()), "a whole number from 3 to 36; got 2"),
        (lambda: layer_adaptive(37)(layers()), "from 3 to 36; got 37"),
    ],
)
def test_rules_that_cannot_be_kept_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_channel_that_receives_nothing_counts_nothing():
    rng = np.random.default_rng(0)
    poles = np.tile(-rng.uniform(0.05, 1.5, 6) + 1j * rng.normal(size=6), (3, 1))
    residues = rng.normal(size=(3, 6)) + 1j * rng.normal(size=(3, 6))
    kernel = DiagonalLTI(poles, residues).discretize(torch.tensor([0.05, 0.1, 0.3]))
    S = torch.tensor(rng.uniform(size=(3, 25)))
    silent = S.clone()
    silent[1] = 0
    for total in (4, 6, 8):
        found = budget(total)([kernel, kernel], [silent, S])
        assert found == budget(total)([kernel.select(torch.tensor([0, 2])), kernel], [S[[0, 2]], S])

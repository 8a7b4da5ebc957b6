"""Exercises of lesson 8."""

from functools import cache

import numpy as np

from s4bt.course.exercise import exercise
from s4bt.course.exercises.lesson_07 import digits
from s4bt.course.models import examples


@exercise(
    "8.1",
    [(8,), (16,), (1,)],
    "Exercise 7.2 has the count, with H = 32 and shared poles.",
    minutes=4,
)
def shrinks_by(r):
    return (2 * 33 * 64 + 64) / (2 * 33 * r + 64)


@shrinks_by.mistake("Steps and feedthroughs do not shrink: count them.")
def _(r):
    return 64 / r


@shrinks_by.mistake("That is how much smaller the layer is, turned round: large by small.")
def _(r):
    return 1 / shrinks_by.reference(r)


@shrinks_by.mistake("The paper's method keeps one set of poles for all channels.")
def _(r):
    return (4 * 32 * 64 + 64) / (4 * 32 * r + 64)


@cache
def _accuracy(first, second):
    from s4bt.compression import compress
    from s4bt.study.train import evaluate

    small, _ = compress(digits()[0], [first, second], "bt-discrete")
    return 100 * evaluate(small, examples("image"), "test")["accuracy"]


@exercise(
    "8.2",
    [(2,), (4,)],
    "compress takes a list of ranks, one for each layer.",
    '64 leaves a layer as it is: compress(model, [r, 64], "bt-discrete").',
    minutes=6,
    tolerance=1e-4,
)
def one_layer_each(r):
    return _accuracy(r, 64), _accuracy(64, r)


@one_layer_each.mistake("First the accuracy with the first layer cut, then with the second.")
def _(r):
    return _accuracy(64, r), _accuracy(r, 64)


@one_layer_each.mistake("Both layers are cut. One at a time, please.")
def _(r):
    return _accuracy(r, r), _accuracy(r, r)


@one_layer_each.mistake("As a percentage: accuracy(net) of this lesson counts to 100.")
def _(r):
    return _accuracy(r, 64) / 100, _accuracy(64, r) / 100


def _random_cases():
    model, _ = digits()
    rng = np.random.default_rng(5)
    return [(model, np.sort(rng.choice(64, size, replace=False))) for size in (8, 20, 8)]


def _logits(net):
    import torch

    with torch.no_grad():
        return net(digits()[1])


def _silenced(model, kept, keep=True):
    import copy

    small = copy.deepcopy(model)
    for dss in small.dss_layers():
        dss.W.data[:, np.setdiff1d(np.arange(64), kept) if keep else kept] = 0
    return small


@exercise(
    "8.3",
    _random_cases,
    "layer.to_lti() has poles and residues of shape (channels, 64): index their last axis.",
    "DSS.from_lti(DiagonalLTI(…), like=layer) is the small layer; with_layers(model, […]) the"
    " network.",
    minutes=12,
    level=2,
    tolerance=1e-3,
    up_to=_logits,
    of="the logits of your network",
    keeps=lambda args: np.concatenate([x.W.detach().numpy().ravel() for x in args[0].dss_layers()]),
)
def random_modes(model, kept):
    return _silenced(model, kept)


@random_modes.mistake("All modes are silent: the residues that belong to `kept` are not there.")
def _(model, kept):
    return _silenced(model, [])


@random_modes.mistake("That is the network as it was. Keep only the modes `kept`.")
def _(model, kept):
    return model


@random_modes.mistake("You dropped the modes that should be kept, and kept the others.")
def _(model, kept):
    return _silenced(model, kept, keep=False)


@random_modes.mistake("That is balanced truncation. Keep the modes `kept`, as they are.")
def _(model, kept):
    from s4bt.compression import compress

    return compress(model, len(kept), "bt-discrete")[0]


@exercise(
    "8.4",
    [(0.956, 0.946), (0.8, 0.7), (0.6, 0.55)],
    "Square both sides of 2 sqrt(p(1-p)/n + q(1-q)/n) = |p - q| and solve for n.",
    minutes=5,
)
def digits_needed(p, q):
    return (p * (1 - p) + q * (1 - q)) * (2 / (p - q)) ** 2


@digits_needed.mistake("Both accuracies are uncertain: p(1 - p) and q(1 - q) add up.")
def _(p, q):
    return 4 * p * (1 - p) / (p - q) ** 2


@digits_needed.mistake("Errors add in squares: p(1 - p) + q(1 - q), not the roots of them.")
def _(p, q):
    return 4 * (np.sqrt(p * (1 - p)) + np.sqrt(q * (1 - q))) ** 2 / (p - q) ** 2


@digits_needed.mistake("Right, and rounded. A real number is asked.")
def _(p, q):
    return np.ceil(digits_needed.reference(p, q))


@digits_needed.mistake("The factor 2 is under the square, too: 4.")
def _(p, q):
    return (p * (1 - p) + q * (1 - q)) / (p - q) ** 2


@digits_needed.mistake("The difference is squared when you solve for n.")
def _(p, q):
    return 4 * (p * (1 - p) + q * (1 - q)) / abs(p - q)

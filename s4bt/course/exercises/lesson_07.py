"""Exercises of lesson 7."""

from functools import cache

import numpy as np

from s4bt.course.exercise import exercise
from s4bt.course.models import examples, layer, network


@cache
def digits():
    import torch

    from s4bt.study.batches import batch

    data = examples("image")
    return network("image").eval(), batch(
        data.info, data["test"], np.arange(8), torch.device("cpu")
    )[0]


def _channels():
    Lambda, W, _ = layer("image", 0)
    D = network("image").dss_layers()[0].D.detach().numpy().astype(float)
    return [(Lambda, W[h], D[h]) for h in (12, 3, 20)]


@exercise(
    "7.1",
    _channels,
    "Exercise 1.4: a continuous system rests at the real part of Σ w/(-λ).",
    "What goes straight through, D, is added.",
    minutes=4,
)
def gain_at_rest(Lambda, W_h, D_h):
    return np.sum(W_h / -Lambda).real + D_h


@gain_at_rest.mistake("The feedthrough D is missing.")
def _(Lambda, W_h, D_h):
    return np.sum(W_h / -Lambda).real


@gain_at_rest.mistake("∫ exp(λt) dt = -1/λ: the sign of the sum.")
def _(Lambda, W_h, D_h):
    return np.sum(W_h / Lambda).real + D_h


@gain_at_rest.mistake("The layer's output is the real part; the modes stand for themselves here.")
def _(Lambda, W_h, D_h):
    return 2 * np.sum(W_h / -Lambda).real + D_h


@exercise(
    "7.2",
    [(32, 64, True), (32, 8, False), (4, 2, True)],
    "Which arrays does the layer store? Lesson 7 prints their shapes.",
    "Residues 2HN, steps H, feedthroughs H, and the poles.",
    minutes=5,
)
def stored(H, N, shared):
    poles = N if shared else H * N
    return 2 * (poles + H * N) + H + H


@stored.mistake("A complex number counts as two.")
def _(H, N, shared):
    return (N if shared else H * N) + H * N + 2 * H


@stored.mistake("Every channel also has a step and a feedthrough.")
def _(H, N, shared):
    return 2 * ((N if shared else H * N) + H * N)


@stored.mistake("The feedthrough of every channel is missing, or the step.")
def _(H, N, shared):
    return 2 * ((N if shared else H * N) + H * N) + H


@stored.mistake("Only poles are shared; look at the argument shared once more.")
def _(H, N, shared):
    return 2 * ((H * N if shared else N) + H * N) + 2 * H


def _memories():
    Lambda, _, dt = layer("image", 0)
    return [(Lambda, dt.min()), (Lambda, dt.max()), (np.array([-0.1 + 2j, -1.0]), 0.5)]


@exercise(
    "7.3",
    _memories,
    "A mode's size after l steps is exp(Re λ · step · l). Set it to 0.01.",
    "The slowest-dying mode has the largest real part.",
    minutes=6,
)
def memory(Lambda, step):
    return np.log(0.01) / (step * np.max(np.real(Lambda)))


@memory.mistake("That is the mode that dies fastest. The slowest has the largest real part.")
def _(Lambda, step):
    return np.log(0.01) / (step * np.min(np.real(Lambda)))


@memory.mistake("np.log10 is not the logarithm that goes with exp.")
def _(Lambda, step):
    return np.log10(0.01) / (step * np.max(np.real(Lambda)))


@memory.mistake("That is the time to 1/e. To one percent it takes ln 100 times as long.")
def _(Lambda, step):
    return -1 / (step * np.max(np.real(Lambda)))


@memory.mistake("Right, and rounded. A real number is asked.")
def _(Lambda, step):
    return np.ceil(memory.reference(Lambda, step))


@memory.mistake("That is a time. How many pixels is it? Divide by the step.")
def _(Lambda, step):
    return np.log(0.01) / np.max(np.real(Lambda))


@exercise(
    "7.4",
    [(10,), (3,), (90,)],
    "torch.cat([background, x[:, :-delay]], 1), with background of shape (8, delay).",
    "x.min() is the background. Difference and size are largest absolute values.",
    minutes=10,
    level=2,
    tolerance=1e-4,
)
def difference_of_logits(delay):
    return _difference(delay, float(digits()[1].min()))


def _difference(delay, filled, relative=True, of_delayed=False):
    import torch

    model, x = digits()
    late = torch.roll(x, delay, 1)
    if filled is not None:
        late[:, :delay] = filled
    with torch.no_grad():
        before, after = model(x), model(late)
    size = (after if of_delayed else before).abs().max() if relative else 1
    return float((after - before).abs().max() / size)


@difference_of_logits.mistake("Zero is a grey level in the middle here. Background is x.min().")
def _(delay):
    return _difference(delay, 0.0)


@difference_of_logits.mistake("The end of the digit came round to the front: fill with x.min().")
def _(delay):
    return _difference(delay, None)


@difference_of_logits.mistake(
    "Relative to the logits of `x` itself, not to those of the delayed one."
)
def _(delay):
    return _difference(delay, float(digits()[1].min()), of_delayed=True)


@difference_of_logits.mistake("Divide by the largest logit.")
def _(delay):
    return _difference(delay, float(digits()[1].min()), relative=False)

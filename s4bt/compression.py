"""Truncating every DSS layer of a whole model.

    small, report = compress(model, 8, "weighted", calibration=sequences)

Layers are reduced from the input on, and what a layer receives is measured behind the truncated
ones before it.

u   (B, H, L)    what passes between the blocks, of the calibration sequences
S   (H, L + 1)   spectrum of a layer's inputs, the mean over sequences of |rfft(u, 2L)|^2
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s4bt.nn.dss import DSS
from s4bt.nn.s4 import Block, S4Model, with_layers
from s4bt.reduction.dispatch import reduce
from s4bt.reduction.methods import Method, method_named
from s4bt.reduction.projection import check_rank
from s4bt.reduction.quality import AT_ONCE, Received, Reference, error_row, reference
from s4bt.reduction.ranks import Rule
from s4bt.reduction.systems import UnstableSystem

Sequences = tuple[Tensor, Tensor | None]
CANCELS = 100.0  # a layer whose terms exceed their sum so far is fragile
LOUDER = 10.0  # a |D| so many times the largest before is, too


class FragileLayer(UserWarning):
    """A reduced layer answers well only as long as none of its numbers moves."""


def checked_calibration(model: S4Model, calibration: Any) -> Sequences:
    """Sequences (B, L) and lengths (B,) or None, on the model's device, documents one by one.

    calibration: x, or (x, lengths), as `S4Model.forward` takes them.
    Raises ValueError if they do not fit the model.
    """
    pair = isinstance(calibration, tuple | list)
    x, lengths = calibration if pair else (calibration, None)
    fits = x.dim() == model.documents + 1 and x.shape[-1] >= 2
    if not fits or (model.documents == 2 and x.shape[1] != 2):
        wanted = "(B, L)" if model.documents == 1 else "(B, 2, L)"
        raise ValueError(
            f"a calibration batch for this model has shape {wanted} with L >= 2, not "
            f"{tuple(x.shape)}"
        )
    if not len(x):
        raise ValueError(f"the calibration batch is empty: shape {tuple(x.shape)}")
    if lengths is not None:
        within = lengths.shape == x.shape[:-1] and int(lengths.min()) >= 1
        if not within or int(lengths.max()) > x.shape[-1]:
            raise ValueError(
                f"lengths of the calibration batch must have shape {tuple(x.shape[:-1])} and lie "
                f"in 1..{x.shape[-1]}"
            )
    if model.vocabulary and (
        x.is_floating_point() or int(x.min()) < 0 or int(x.max()) >= model.vocabulary
    ):
        raise ValueError(
            f"this model reads token numbers 0..{model.vocabulary - 1}; the calibration batch "
            f"holds {x.dtype} from {float(x.min()):g} to {float(x.max()):g}"
        )
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).sum())
        raise ValueError(f"{bad} of {x.numel()} samples of the calibration batch are not finite")
    device = next(model.parameters()).device
    x, lengths = x.to(device), None if lengths is None else lengths.to(device)
    if model.documents == 2:
        x, lengths = x.flatten(0, 1), None if lengths is None else lengths.flatten()
    return x, lengths


def spectrum(u: Tensor, lengths: Tensor | None = None) -> Tensor:
    """S (H, L + 1), float64: mean over the batch of |rfft(u, 2L)|^2, without padding."""
    L = u.shape[-1]
    total = torch.zeros(u.shape[1], L + 1, dtype=torch.float64, device=u.device)
    for start in range(0, len(u), AT_ONCE):
        part = u[start : start + AT_ONCE]
        if lengths is not None:
            inside = torch.arange(L, device=u.device) < lengths[start : start + AT_ONCE, None]
            part = part * inside[:, None]
        total = total + torch.fft.rfft(part, 2 * L).abs().double().square().sum(0)
    return total / len(u)


def through(block: Block, u: Tensor) -> Tensor:
    """block(u), a few sequences at a time.

    Calibration batches are larger than those of training.
    """
    return torch.cat([block(part) for part in u.split(AT_ONCE)])


@torch.no_grad()
def input_spectra(model: S4Model, sequences: Sequences) -> list[Tensor]:
    """`spectrum` of what every DSS layer receives, documents one by one, in evaluation mode."""
    quiet = copy.deepcopy(model).eval()
    x, lengths = sequences
    u, found = quiet.encode(x), []
    for block in quiet.layers():
        found.append(spectrum(block.dss_input(u), lengths))
        u = through(block, u)
    return found


@contextmanager
def of_layer(number: int) -> Iterator[None]:
    """Put the layer's number in front of what is raised inside."""
    try:
        yield
    except UnstableSystem as error:
        raise UnstableSystem(f"layer {number}: {error}") from error
    except ValueError as error:
        raise ValueError(f"layer {number}: {error}") from error


def ranks_of(
    model: S4Model, rank: int | Sequence[int] | Rule, sequences: Sequences | None
) -> list[int]:
    """One rank for every layer, by a number, one for each, or a rule of `s4bt.reduction.ranks`."""
    layers = model.dss_layers()
    if callable(rank):
        for number, dss in enumerate(layers):
            if not bool(dss.to_lti().stable().all()):
                raise UnstableSystem(
                    f"layer {number}: rank rules need strictly stable poles; give the ranks as "
                    "numbers"
                )
        spectra = None if sequences is None else input_spectra(model, sequences)
        rank = rank([dss.to_lti().discretize(dss.dt()) for dss in layers], spectra)
    # one number, of whatever library, or one for each layer
    several = np.ndim(rank) == 1 if not isinstance(rank, Tensor) else rank.dim() == 1
    ranks: list[Any] = list(rank) if several else [rank] * len(layers)  # type: ignore[arg-type]
    if len(ranks) != len(layers):
        raise ValueError(f"{len(ranks)} ranks for {len(layers)} layers")
    kept = []
    for number, (dss, r) in enumerate(zip(layers, ranks, strict=True)):
        with of_layer(number):
            kept.append(check_rank(r, dss.state))
    return kept


def measured_options(method: Method, received: Tensor | None) -> dict[str, Any]:
    """What a method wants to know of a layer's inputs, as far as there is a calibration."""
    known: dict[str, Any] = {}
    if received is not None:
        known = {"spectrum": received, "length": received.shape[-1] - 1}
    return {name: known[name] for name in method.measures if name in known}


def _compressed_layer(
    dss: DSS,
    rank: int,
    method: Method,
    received: Received | None,
    options: dict,
    known: dict[str, Reference],
) -> tuple[DSS, dict[str, float]]:
    """A layer reduced to `rank` modes, and `error_row` of it; known: the method's `reference`."""
    full, dt = dss.to_lti(), dss.dt()
    given = measured_options(method, None if received is None else spectrum(*received)) | options
    reduced = reduce(full, rank, method.name, dt, **given)
    layer = DSS.from_lti(reduced, dss)
    stored = replace(layer.to_lti(), feedthrough=(layer.D - dss.D).double())
    if method.name not in known:
        known[method.name] = reference(full, method, dt)
    row = error_row(known[method.name], reduced, stored, dt, received)
    sizes = {"feedthrough": float(layer.D.abs().max()), "before": float(dss.D.abs().max())}
    return layer, row | sizes


def _warn_of_fragile(report: list[dict], method: Method) -> None:
    """One warning for the layers whose numbers must not move."""
    said = []
    for row in report:
        found = []
        if row["cancellation"] > CANCELS:
            found.append(f"terms up to {row['cancellation']:,.0f} times what they sum to")
        if row["feedthrough"] > LOUDER * max(row["before"], 1.0):
            found.append(f"|D| up to {row['feedthrough']:,.3g}, before {row['before']:.3g}")
        if found:
            said.append(f"layer {row['layer']}: {' and '.join(found)}")
    if said:
        remedy = "a larger `perturbation` or a smaller rank" if method.local else "a smaller rank"
        warnings.warn(
            f"fragile after {method.name}: {'; '.join(said)}. Training, rounding or longer "
            f"sequences may ruin it. Remedy: {remedy}",
            FragileLayer,
            stacklevel=3,
        )


@torch.no_grad()
def compress(
    model: S4Model,
    rank: int | Sequence[int] | Rule,
    method: str = "bt-discrete",
    calibration: Any = None,
    references: dict | None = None,
    **options: Any,
) -> tuple[S4Model, list[dict]]:
    """Truncate every DSS layer of a model.

    Parameters
    ----------
    model : S4Model
        Stays as it is.
    rank : int, one int per layer, or a rule of `s4bt.reduction.ranks`
        Modes to keep.
    method : str
        A key of `s4bt.METHODS`.
    calibration : x or (x, lengths), optional
        Sequences, as `S4Model.forward` takes them; never test data. Methods that look at a layer's
        inputs need them.
    references : dict, optional
        Keeps, for the next rank with the same model and method, what does not depend on the rank.
    **options
        Those of `s4bt.reduce`, but for the steps dt, which are the layers'; of fits `perturbation`
        (eps, the relative error of every number that they allow for) and `white` (mu, the share of
        white input beside what a layer receives).

    Returns
    -------
    model : S4Model
        A new one.
    report : list of dict
        One row per layer: layer, rank, and what `s4bt.reduction.quality.error_row` says of the new
        layer as it is stored, in float32: bound, lower limit (first discarded value), measured
        H-infinity, H2 and output errors, cancellation; feedthrough, its largest |D|, and before,
        that of the old layer.

    Warns
    -----
    FragileLayer
        If terms of a reduced layer exceed their sum a hundredfold, or if its |D| exceeds tenfold
        both 1 and the old ones.

    Raises
    ------
    ValueError, UnstableSystem
        If a rank is not in 1..N, the calibration does not fit or the method refuses the layer; with
        the layer's number.

    Examples
    --------
    >>> from s4bt import S4Model, compress
    >>> small, report = compress(S4Model(vocabulary=10, classes=2, width=4, state=8), 2)
    >>> [layer.state for layer in small.dss_layers()]
    [2, 2]
    """
    entry = method_named(method)
    if "dt" in options:
        raise ValueError("the steps are those of the layers; compress takes no dt")
    sequences = None if calibration is None else checked_calibration(model, calibration)
    ranks, old = ranks_of(model, rank, sequences), model.dss_layers()
    known = {} if references is None else references
    new, report = with_layers(model, copy.deepcopy(old)).eval(), []
    u, lengths = (None, None) if sequences is None else (new.encode(sequences[0]), sequences[1])
    for number, (dss, r) in enumerate(zip(old, ranks, strict=True)):
        block = new.layers()[number]
        with of_layer(number):
            received = None if u is None else (block.dss_input(u), lengths)
            of_this = known.setdefault(number, {})
            layer, row = _compressed_layer(dss, r, entry, received, options, of_this)
        block.dss = layer
        report.append({"layer": number, "rank": r, **row})
        u = None if u is None else through(block, u)
    cut = [row for row, dss in zip(report, old, strict=True) if row["rank"] < dss.state]
    _warn_of_fragile(cut, entry)
    for before, after in zip(model.modules(), new.modules(), strict=True):
        after.training = before.training
    return new, report

"""Whole models of other people's layers: what each of them receives, and the smaller model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from s4bt.adapters.kinds import Adapter, State, adapter_of, reduce_any
from s4bt.reduction.systems import DiagonalLTI


def cross_spectrum(u: Tensor) -> Tensor:
    """S (L + 1, m, m) of sequences u (B, L, m): the mean of U U^H, U = rfft(u, 2 L)."""
    U = torch.fft.rfft(u.double(), 2 * u.shape[1], dim=1)
    return torch.einsum("bfi,bfj->fij", U, U.conj()) / len(u)


def _first_tensor(args: tuple, named: dict) -> Tensor:
    """What a layer was called with.  Raises ValueError if that is no tensor."""
    for value in (*args, *named.values()):
        if isinstance(value, Tensor):
            return value.detach()
    raise ValueError("the layer was called without a tensor")


@torch.no_grad()
def received(model: nn.Module, layer: nn.Module, *batch: Any) -> Tensor:
    """What a layer of a model receives when the model is called with the batch, (B, L, m).

    In evaluation mode; the model is left as it was.
    Raises ValueError if the layer is not called, or with sequences of several lengths.
    """
    seen: list[Tensor] = []
    modes = {module: module.training for module in model.modules()}
    hook = layer.register_forward_pre_hook(
        lambda _, args, named: seen.append(_first_tensor(args, named)), with_kwargs=True
    )
    try:
        model.eval()(*batch)
    finally:
        hook.remove()
        for module, training in modes.items():
            module.training = training
    if not seen:
        raise ValueError("the layer was not called when the model was")
    if len(shapes := {tuple(u.shape[1:]) for u in seen}) > 1:
        raise ValueError(
            f"the layer was called with inputs of several shapes, {', '.join(map(str, shapes))}; "
            "one spectrum needs one length"
        )
    return torch.cat(seen)


def checked_inputs(u: Tensor, inputs: int, transposed: bool) -> Tensor:
    """u as (B, L, m).  Raises ValueError if it does not fit a layer with m inputs."""
    wanted = "(B, m, L)" if transposed else "(B, L, m)"
    if u.dim() != 3 or u.shape[1 if transposed else 2] != inputs:
        raise ValueError(
            f"it receives inputs of shape {tuple(u.shape)}, and the shape should be {wanted} with "
            f"m = {inputs}; say transposed={not transposed} if the axes are the other way round"
        )
    return u.mT if transposed else u


def parameters_of(layer: nn.Module) -> State:
    """A layer's own parameters and buffers, and those of its kernel, by their names."""
    found = dict(layer.named_parameters()) | dict(layer.named_buffers())
    return {k: p.detach() for k, p in found.items() if "." not in k or k.startswith("kernel.")}


def in_place(layer: nn.Module, state: State) -> nn.Module:
    """The layer with other parameters and buffers, of whatever shape."""
    for name, value in state.items():
        owner, _, own = name.rpartition(".")
        module = layer.get_submodule(owner)
        if own in module._buffers:
            module._buffers[own] = value
        else:
            tracked = getattr(module, own).requires_grad
            module.register_parameter(own, nn.Parameter(value, requires_grad=tracked))
    return layer


def compress_layers(
    model: nn.Module,
    rank: int,
    *batch: Any,
    method: str = "balanced",
    rebuild: Callable[[nn.Module, State], nn.Module] = in_place,
    adapt: Callable[[State], Adapter] | None = None,
    rule: str = "zoh",
    conjugate_symmetry: bool = True,
    transposed: bool = False,
    **options: Any,
) -> tuple[nn.Module, list[str]]:
    """Reduce every LRU, S5 and S4D layer of a model, from the input on, as its modules are listed.

    Parameters
    ----------
    model : nn.Module
        Left as it is.
    rank : int
        Modes to keep.
    *batch
        What the model is called with, for methods that look at a layer's inputs (B, L, m), or
        (B, m, L) if transposed. They are measured behind the layers that are reduced already, in
        evaluation mode.
    method, **options
        As of `reduce_state`.
    rebuild : callable
        rebuild(layer, state) gives the smaller layer, for classes that keep shapes elsewhere than
        in their parameters.
    adapt : callable, optional
        adapt(state) gives a layer's adapter, for a further kind; ValueError if it is none.
        If not given, `adapter_of` with rule and conjugate_symmetry.

    Returns
    -------
    (a new model, the names of its reduced layers); a layer in two places has the first one's.

    Raises
    ------
    ValueError, UnstableSystem
        If the model has no such layer, and as `reduce_state`, with the layer's name.
    """
    if rule not in ("zoh", "bilinear"):
        raise ValueError(f"the rule is 'zoh' or 'bilinear', not {rule!r}")
    adapt = adapt or (lambda state: adapter_of(state, rule, conjugate_symmetry))
    model = copy.deepcopy(model)
    found: list[str] = []
    places: list[str] = []  # of what is done
    done: dict[int, nn.Module] = {}
    replaced: list[nn.Module] = []  # keeps their identities from being given again
    for name, layer in list(model.named_modules(remove_duplicate=False)):
        if any(name.startswith(f"{place}." if place else "") for place in places):
            continue  # the kernel of a layer that is done
        if id(layer) in done:
            _put(model, name, done[id(layer)])
            places.append(name)
            continue
        own = parameters_of(layer)
        short = {key.removeprefix("kernel."): x for key, x in own.items()}
        long = {key.removeprefix("kernel."): key for key in own}
        try:
            adapter = adapt(short)
        except ValueError:
            continue
        try:
            system, extra = adapter.to_system(), dict(options)
            if method.startswith("weighted"):
                one = isinstance(system, DiagonalLTI)
                inputs = len(system.poles) if one else system.inputs
                S = cross_spectrum(
                    checked_inputs(received(model, layer, *batch), inputs, transposed)
                )
                extra["spectrum"] = S.diagonal(dim1=-2, dim2=-1).real.mT if one else S
            small = adapter.from_system(reduce_any(system, rank, method, **extra))
        except ValueError as error:
            raise type(error)(f"layer {name or 'of the model'}: {error}") from error
        new = rebuild(layer, {long.get(key, key): x for key, x in small.items()})
        model = _put(model, name, new)
        done[id(layer)], done[id(new)] = new, new
        replaced += [layer, new]
        found.append(name)
        places.append(name)
    if not found:
        raise ValueError("the model has no layer with the parameters of LRU, S5 or S4D")
    return model, found


def _put(model: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """The model with that layer in that place; the layer itself, if it is the whole model."""
    if not name:
        return layer
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)
    return model

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


@torch.no_grad()
def received(model: nn.Module, layer: nn.Module, *batch: Any) -> Tensor:
    """What a layer of a model receives when the model is called with the batch, (B, L, m)."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    try:
        model(*batch)
    finally:
        hook.remove()
    if not seen:
        raise ValueError("the layer was not called when the model was")
    return torch.cat(seen)


def parameters_of(layer: nn.Module) -> State:
    """A layer's own parameters, and those of its kernel, by the names of the state dict."""
    found = dict(layer.named_parameters())
    return {k: p.detach() for k, p in found.items() if "." not in k or k.startswith("kernel.")}


def in_place(layer: nn.Module, state: State) -> nn.Module:
    """The layer with other parameters, of whatever shape."""
    for name, value in state.items():
        owner, _, own = name.rpartition(".")
        layer.get_submodule(owner).register_parameter(own, nn.Parameter(value))
    return layer


def compress_layers(
    model: nn.Module,
    rank: int,
    *batch: Any,
    method: str = "balanced",
    rebuild: Callable[[nn.Module, State], nn.Module] = in_place,
    adapt: Callable[[State], Adapter] = adapter_of,
    transposed: bool = False,
    **options: Any,
) -> tuple[nn.Module, list[str]]:
    """Reduce every LRU, S5 and S4D layer of a model, from the input on, as its modules are listed.

    batch: what the model is called with, for methods that look at a layer's inputs (B, L, m), or
    (B, m, L) if transposed; they are measured behind the layers that are reduced already.
    rebuild(layer, state): the smaller layer, for classes that keep shapes elsewhere than in their
    parameters. adapt(state): its adapter, for a further kind; ValueError if it is none.
    Returns (a new model, the names of its reduced layers).
    Raises ValueError if the model has no such layer, and as `reduce_layer`, with the layer's name.
    """
    model = copy.deepcopy(model)
    found: list[str] = []
    for name, layer in list(model.named_modules()):
        own = parameters_of(layer)
        short = {key.removeprefix("kernel."): x for key, x in own.items()}
        long = {key.removeprefix("kernel."): key for key in own}
        try:
            adapter = adapt(short)
        except ValueError:
            continue
        if any(name.startswith(f"{done}.") for done in found):
            continue  # the kernel of a layer that is done
        try:
            system, extra = adapter.to_system(), dict(options)
            if method.startswith("weighted"):
                u = received(model, layer, *batch)
                S = cross_spectrum(u.mT if transposed else u)
                one = isinstance(system, DiagonalLTI)
                extra["spectrum"] = S.diagonal(dim1=-2, dim2=-1).real.mT if one else S
            small = adapter.from_system(reduce_any(system, rank, method, **extra))
        except ValueError as error:
            raise type(error)(f"layer {name or 'of the model'}: {error}") from error
        new = rebuild(layer, {long.get(key, key): x for key, x in small.items()})
        parent, _, child = name.rpartition(".")
        if name:
            setattr(model.get_submodule(parent), child, new)
        else:
            model = new
        found.append(name)
    if not found:
        raise ValueError("the model has no layer with the parameters of LRU, S5 or S4D")
    return model, found

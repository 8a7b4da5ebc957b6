"""One channel of one layer, followed from its kernel to its output, before and after truncation.

K      (L,)   kernel;  u, y (L,) input and output of the channel on one training example
sigma  (2N,)  Hankel singular values of the kernel
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from s4bt.nn.dss import DSS
from s4bt.nn.s4 import S4Model
from s4bt.nn.storage import load_model
from s4bt.reduction.gramians import hankel_singular_values
from s4bt.study.batches import batch
from s4bt.study.devices import device
from s4bt.study.experiments import pretrained_path, truncated_path
from s4bt.study.places import existing, task_dir
from s4bt.tasks import load

EXAMPLE = 0  # number of the training example that is looked at


@dataclass(frozen=True)
class Followed:
    """What happens to a channel; dicts are by method, `method` the one whose modes are shown."""

    kernel: np.ndarray
    kernels: dict[str, np.ndarray]
    poles: np.ndarray
    poles_after: dict[str, np.ndarray]
    sigma: np.ndarray
    method: str
    modes: np.ndarray
    output: np.ndarray
    outputs: dict[str, np.ndarray]
    said: str


def _example(scale: str, task: str) -> Tensor:
    """One training example (1, L), the first document of a pair, without padding."""
    folder = existing(task_dir(scale, task) / "arrays", scale, f"prepare@{task}")
    data = load(task, folder)
    x, lengths, _ = batch(data.info, data["train"], slice(EXAMPLE, EXAMPLE + 1), device())
    if data.info.documents == 2:
        x, lengths = x[:, 0], None if lengths is None else lengths[:, 0]
    return x if lengths is None else x[:, : int(lengths[0])]


def _input(model: S4Model, x: Tensor, layer: int) -> Tensor:
    """What a layer receives, (1, H, L)."""
    u = model.eval().encode(x)
    for block in model.blocks[:layer]:
        u = block(u)
    return model.blocks[layer].dss_input(u)


def _arrays(layer: DSS, channel: int, u: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kernel, poles and output of a channel."""
    kernel = layer.kernel(u.shape[-1])[channel]
    poles = layer.to_lti().poles[channel]
    y = layer(u)[0, channel]
    return kernel.cpu().numpy(), poles.cpu().numpy(), y.cpu().numpy()


def _single_modes(layer: DSS, channel: int, length: int) -> np.ndarray:
    """Kernels of the single modes of a channel, (r, length)."""
    one = layer.to_lti().discretize(layer.dt()).select(channel)
    k = torch.arange(length, device=one.poles.device)
    assert one.log_poles is not None
    return (one.residues[:, None] * torch.exp(one.log_poles[:, None] * k)).real.cpu().numpy()


@torch.no_grad()
def loudest_channel(scale: str, task: str, seed: int) -> int:
    """The channel of the first layer whose kernel puts out most energy on the example."""
    model = load_model(pretrained_path(scale, task, seed)).to(device())
    y = model.blocks[0].dss(_input(model, _example(scale, task), 0))[0]
    return int(y.square().sum(-1).argmax())


@torch.no_grad()
def follow_channel(
    scale: str, task: str, seed: int, channel: int, rank: int, methods: list[str], layer: int = 0
) -> Followed:
    """Follow a channel of a pretrained model and of its truncations to `rank` modes."""
    existing(task_dir(scale, task) / "truncated", scale, f"truncate@{task}")
    model = load_model(pretrained_path(scale, task, seed)).to(device())
    u, before = _input(model, _example(scale, task), layer), model.dss_layers()[layer]
    kernel, poles, y = _arrays(before, channel, u)
    kernels, poles_after, outputs, errors = {}, {}, {}, []
    for method in methods:
        run = {"scale": scale, "task": task, "method": method, "rank": rank, "seed": seed}
        small = load_model(truncated_path(run)).to(device()).dss_layers()[layer]
        kernels[method], poles_after[method], outputs[method] = _arrays(small, channel, u)
        error = np.linalg.norm(outputs[method] - y) / np.linalg.norm(y)
        errors.append(f"{method} {100 * error:.2g} %")
    modes = _single_modes(small, channel, u.shape[-1])
    system = before.to_lti().discretize(before.dt()).select(slice(channel, channel + 1))
    sigma = hankel_singular_values(system)[0].cpu().numpy()
    share = sigma[: 2 * rank].sum() / sigma.sum()
    said = (
        f"{2 * rank} of {len(sigma)} Hankel singular values hold {100 * share:.1f} % of their sum. "
        f"Error of the output on this example: {', '.join(errors)}."
    )
    return Followed(kernel, kernels, poles, poles_after, sigma, method, modes, y, outputs, said)

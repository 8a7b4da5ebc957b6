"""The S4 classifier with DSS layers.

B, L      batch, sequence length;  H  width;  N  complex modes per channel
x         (B, L) token numbers or real samples, (B, 2, L) for two documents
lengths   (B,) or (B, 2): samples before the padding, None when nothing is padded

A block is  u + dropout(Linear(GELU(DSS(u)))),  with a norm before the DSS layer or after the sum.
(Gupta et al. 2022)
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s4bt.nn.dss import DSS, STATE_SPACE
from s4bt.nn.norms import as_rows, as_sequences, norm_over_channels
from s4bt.reduction.checks import whole_number


class Block(nn.Module):
    """One S4 block, (B, H, L) -> (B, H, L); see the module's glossary."""

    def __init__(self, dss: DSS, norm: str, prenorm: bool, dropout: float):
        super().__init__()
        H = dss.channels
        self.dss, self.prenorm = dss, prenorm
        self.mix = nn.Linear(H, H)
        self.norm = norm_over_channels(norm, H)
        self.dropout = nn.Dropout(dropout)

    def dss_input(self, u: Tensor) -> Tensor:
        """What the DSS layer receives."""
        return self.norm(u) if self.prenorm else u

    def forward(self, u: Tensor) -> Tensor:
        v = F.gelu(self.dss(self.dss_input(u)))
        mixed = torch.addmm(self.mix.bias[:, None], self.mix.weight, as_rows(v))
        v = u + self.dropout(as_sequences(mixed, u))
        return v if self.prenorm else self.norm(v)


class S4Model(nn.Module):
    """Encoder, blocks, pooling and a linear head: x -> logits (B, classes).

    Parameters
    ----------
    vocabulary : int
        Number of tokens, or 0 for real samples.
    classes : int
        Of the output.
    documents : 1 or 2
        2 for pairs, whose features a, b enter the head as [a, b, a - b, a * b].
    layers, width : int
        Depth, 1 or more, and H.
    state : int or list of int
        N, one for all layers or one for each.
    version, dt_min, dt_max, length, separate_dt
        Arguments of `DSS`.
    sharing : str or list of str
        Of `DSS`, one for all layers or one for each.
    norm : "batch" or "layer"
        Before the DSS layer if `prenorm`, else after the sum.
    pooling : "mean" or "last"
        Over the sequence.
    dropout : float
        Share of a block's output that is dropped in training.

    Raises
    ------
    ValueError
        For anything else.

    Examples
    --------
    >>> model = S4Model(vocabulary=10, classes=2, layers=1, width=4, state=8)
    >>> model(torch.zeros(3, 20, dtype=torch.int64)).shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        vocabulary: int,
        classes: int,
        documents: int = 1,
        layers: int = 2,
        width: int = 32,
        state: int | Sequence[int] = 64,
        version: str = "exp",
        sharing: str | list[str] = "tied",
        norm: str = "layer",
        prenorm: bool = True,
        pooling: str = "mean",
        dropout: float = 0.0,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        length: int | None = None,
        separate_dt: bool = False,
    ):
        super().__init__()
        if norm not in ("batch", "layer") or pooling not in ("mean", "last"):
            raise ValueError(
                f"norm is 'batch' or 'layer', pooling 'mean' or 'last'; got {norm!r}, {pooling!r}"
            )
        documents = whole_number(documents, "documents", 1, 2)
        layers, width = whole_number(layers, "layers", 1), whole_number(width, "width", 1)
        vocabulary = whole_number(vocabulary, "vocabulary", 0)
        classes = whole_number(classes, "classes", 1)
        states = list(state) if isinstance(state, Sequence) else [state] * layers
        kinds = [sharing] * layers if isinstance(sharing, str) else list(sharing)
        self.documents, self.pooling, self.dt_range = documents, pooling, (dt_min, dt_max)
        self.vocabulary, self.classes, self.width = vocabulary, classes, width
        self.norm_kind, self.prenorm, self.dropout = norm, prenorm, dropout
        self.encoder = nn.Embedding(vocabulary, width) if vocabulary else nn.Linear(1, width)
        self.blocks = nn.ModuleList(
            Block(
                DSS(width, N, version, kind, dt_min, dt_max, length, separate_dt),
                norm,
                prenorm,
                dropout,
            )
            for N, kind in zip(states, kinds, strict=True)
        )
        self.norm = norm_over_channels(norm, width) if prenorm else nn.Identity()
        self.head: nn.Module
        if documents == 1:
            self.head = nn.Linear(width, classes)
        else:
            self.head = nn.Sequential(
                nn.Linear(4 * width, width), nn.GELU(), nn.Linear(width, classes)
            )

    def options(self) -> dict[str, Any]:
        """The arguments that make a model of this shape, layers as they are now.

        They are what a stored model's header says (`s4bt.nn.storage`): a change here is a new
        version of the format.
        """
        layers = self.dss_layers()
        return {
            "vocabulary": self.vocabulary,
            "classes": self.classes,
            "documents": self.documents,
            "layers": len(layers),
            "width": self.width,
            "state": [layer.state for layer in layers],
            "version": layers[0].version,
            "sharing": [layer.sharing for layer in layers],
            "norm": self.norm_kind,
            "prenorm": self.prenorm,
            "pooling": self.pooling,
            "dropout": self.dropout,
            "dt_min": self.dt_range[0],
            "dt_max": self.dt_range[1],
            "length": layers[0].length,
            "separate_dt": layers[0].separate_dt,
        }

    def encode(self, x: Tensor) -> Tensor:
        """Encoded sequences (B, H, L) of one document each, in memory (H, B, L)."""
        u = self.encoder(x if self.vocabulary else x[..., None])
        return u.permute(2, 0, 1).contiguous().transpose(0, 1)

    def features(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Pooled features (B, H) of one document each."""
        u = self.encode(x)
        for block in self.layers():
            u = block(u)
        u = self.norm(u)
        if lengths is None:
            return u.mean(-1) if self.pooling == "mean" else u[..., -1]
        if self.pooling == "last":
            last = (lengths - 1)[:, None, None].expand(-1, u.shape[1], 1)
            return u.gather(-1, last)[..., 0]
        mask = torch.arange(u.shape[-1], device=u.device) < lengths[:, None]
        return (u * mask[:, None]).sum(-1) / lengths[:, None]

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits (B, classes)."""
        if self.documents == 1:
            return self.head(self.features(x, lengths))
        f = self.features(x.flatten(0, 1), None if lengths is None else lengths.flatten())
        a, b = f.unflatten(0, (-1, 2)).unbind(1)
        return self.head(torch.cat([a, b, a - b, a * b], -1))

    def layers(self) -> list[Block]:
        """The blocks, input first."""
        return cast(list[Block], list(self.blocks))

    def dss_layers(self) -> list[DSS]:
        """The DSS layers, input first."""
        return [block.dss for block in self.layers()]


def is_state_space(name: str) -> bool:
    """Whether a parameter name of S4Model belongs to a DSS layer."""
    return name.rsplit(".", 1)[-1] in STATE_SPACE and ".dss." in name


def count_parameters(model: S4Model) -> dict[str, int]:
    """Real numbers stored: {"total", "state_space"}; a complex one counts as two."""
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    inside = sum(n for name, n in sizes.items() if is_state_space(name))
    return {"total": sum(sizes.values()), "state_space": inside}


def with_layers(model: S4Model, layers: list[DSS]) -> S4Model:
    """A copy of the model with other DSS layers."""
    new = copy.deepcopy(model)
    for block, dss in zip(new.blocks, layers, strict=True):
        block.dss = dss
    return new


def with_dss_of(model: S4Model, source: S4Model) -> S4Model:
    """A copy of `model` whose DSS layers are those of `source`; everything else stays as it is."""
    return with_layers(model, copy.deepcopy(source.dss_layers()))


def with_skew_hippo(model: S4Model, rank: int, sharing: str = "tied") -> S4Model:
    """A copy of the model whose DSS layers start again from Skew-HiPPO with `rank` modes.

    Poles and output weights are new. The steps dt, the feedthroughs D and everything outside the
    DSS layers stay as they are in `model`.
    """
    return with_layers(model, [dss.restart(rank, sharing) for dss in model.dss_layers()])

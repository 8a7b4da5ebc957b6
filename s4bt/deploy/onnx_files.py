"""ONNX files of a stream: one step, and whole sequences, with a readable header.

step       x (B,), state (B, S), pooled (B, H), count (B, 1) -> logits (B, classes), next_state,
           next_pooled, next_count; a model of two documents puts out features (B, H), not logits
sequence   samples (B, L), first_state, first_pooled, first_count -> all_logits (B, L, classes), or
           all_features, after every sample, and last_state, ...: the step, by the operator Scan
answer     first (B, H), second (B, H), the features of two documents -> logits (B, classes)

What the letters say stands in `s4bt.deploy.cell`. No tensor is complex, B and L are free, and the
header is in the file's metadata.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from s4bt.deploy.cell import Affine, Cell, Normalised, StepLayer
from s4bt.deploy.header import Header
from s4bt.files import UserError, atomic_path

OPSET, IR = 20, 10  # the first with Gelu, and its file format
KINDS = ("step", "sequence", "answer")
STATES = ("state", "pooled", "count")


class Graph:
    """Nodes and constants of a graph, in the order in which they are computed."""

    def __init__(self, prefix: str = ""):
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.prefix, self.count = prefix, 0

    def _name(self) -> str:
        self.count += 1
        return f"{self.prefix}{self.count}"

    def constant(self, value: Tensor | np.ndarray | list[int]) -> str:
        """A constant tensor."""
        from onnx import numpy_helper

        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        name = self._name()
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def op(self, kind: str, *inputs: str, outputs: int = 1, to: str = "", **attributes: Any) -> Any:
        """A node; the name of its output, or of all of them."""
        from onnx import helper

        names = [to] if to else [self._name() for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def affine(self, u: str, scale: Tensor, shift: Tensor) -> str:
        """u * scale + shift."""
        return self.op("Add", self.op("Mul", u, self.constant(scale)), self.constant(shift))

    def linear(self, u: str, layer: nn.Linear, to: str = "") -> str:
        """A linear layer of (B, in)."""
        product = self.op("MatMul", u, self.constant(layer.weight.mT))
        return self.op("Add", product, self.constant(layer.bias), to=to)

    def norm(self, u: str, norm: nn.Module) -> str:
        """A norm of the cell."""
        if isinstance(norm, Affine):
            return self.affine(u, norm.scale, norm.shift)
        if isinstance(norm, Normalised):
            scale, shift = self.constant(norm.scale), self.constant(norm.shift)
            return self.op("LayerNormalization", u, scale, shift, axis=-1, epsilon=norm.eps)
        return u

    def layer(self, u: str, re: str, im: str, layer: StepLayer) -> tuple[str, str, str]:
        """A layer's output, and the real and imaginary parts of its next state (B, H N)."""
        H, N = layer.w_re.shape
        full, flat = self.constant(np.array([-1, H, N])), self.constant(np.array([-1, H * N]))
        re, im = (self.op("Reshape", part, full) for part in (re, im))
        v = self.norm(u, layer.norm) if layer.prenorm else u
        last = self.constant(np.array([-1]))
        rows = self.op("Unsqueeze", v, last)

        def product(a: Tensor, b: str) -> str:
            return self.op("Mul", self.constant(a), b)

        turned = self.op("Sub", product(layer.decay_re, re), product(layer.decay_im, im))
        new_re = self.op("Add", turned, rows)
        new_im = self.op("Add", product(layer.decay_re, im), product(layer.decay_im, re))
        seen = self.op("Sub", product(layer.w_re, new_re), product(layer.w_im, new_im))
        y = self.op("ReduceSum", seen, last, keepdims=0)
        y = self.op("Gelu", self.op("Add", y, product(layer.D, v)))
        mixed = self.op("MatMul", y, self.constant(layer.mix.mT))
        out = self.op("Add", u, self.op("Add", mixed, self.constant(layer.bias)))
        out = out if layer.prenorm else self.norm(out, layer.norm)
        return out, self.op("Reshape", new_re, flat), self.op("Reshape", new_im, flat)

    def step(self, cell: Cell, out: str) -> None:
        """All of a step, to outputs named `out`, next_state, next_pooled and next_count."""
        if hasattr(cell, "table"):
            u = self.op("Gather", self.constant(cell.table), "x")
        else:
            column = self.op("Unsqueeze", "x", self.constant(np.array([-1])))
            u = self.affine(column, cell.gain, cell.offset)
        sizes = [layer.w_re.numel() for layer in cell.layers for _ in range(2)]
        parts = self.op(
            "Split", "state", self.constant(np.array(sizes)), outputs=len(sizes), axis=1
        )
        new = []
        for number, layer in enumerate(cell.layers):
            u, *next_parts = self.layer(u, *parts[2 * number : 2 * number + 2], layer)
            new += next_parts
        self.op("Concat", *new, to="next_state", axis=1)
        one = self.constant(np.ones(1, np.float32))
        self.op("Add", "count", one, to="next_count")
        u = self.norm(u, cell.norm)
        if cell.mean:
            change = self.op("Div", self.op("Sub", u, "pooled"), "next_count")
            features = self.op("Add", "pooled", change, to="next_pooled")
        else:
            # an output has a name of its own, and a model keeps what it is given
            zero = self.op("Mul", "pooled", self.constant(np.zeros(1, np.float32)))
            features = self.op("Add", u, zero, to="next_pooled")
        if cell.documents == 1:
            assert isinstance(cell.head, nn.Linear)
            self.linear(features, cell.head, to=out)
        else:
            self.op("Identity", features, to=out)

    def answer(self, cell: Cell) -> None:
        """Logits of the features `first` and `second`."""
        assert isinstance(cell.head, nn.Sequential)
        difference, product = (self.op(kind, "first", "second") for kind in ("Sub", "Mul"))
        u = self.op("Concat", "first", "second", difference, product, axis=1)
        inner, _, outer = cell.head
        assert isinstance(inner, nn.Linear) and isinstance(outer, nn.Linear)
        self.linear(self.op("Gelu", self.linear(u, inner)), outer, to="logits")


def _value(name: str, *shape: Any, integer: bool = False) -> Any:
    from onnx import TensorProto, helper

    kind = TensorProto.INT64 if integer else TensorProto.FLOAT
    return helper.make_tensor_value_info(name, kind, list(shape))


def _model(cell: Cell, kind: str) -> Any:
    from onnx import helper

    H, classes = cell.width, int(cell.options["classes"])
    graph = Graph()
    if kind == "answer":
        graph.answer(cell)
        inputs = [_value(name, "B", H) for name in ("first", "second")]
        return _finished(graph, kind, inputs, [_value("logits", "B", classes)])
    out, width = ("logits", classes) if cell.documents == 1 else ("features", H)
    sizes = dict(zip(STATES, (cell.numbers, H, 1), strict=True))
    states = [_value(name, "B", size) for name, size in sizes.items()]
    after = [_value(f"next_{name}", "B", size) for name, size in sizes.items()]
    x, integer = [_value("x", "B", integer=hasattr(cell, "table"))], hasattr(cell, "table")
    step = Graph("step_")
    step.step(cell, out)
    if kind == "step":
        return _finished(step, kind, [*x, *states], [_value(out, "B", width), *after])
    # a body has its states first; its constants are those of the graph around it
    body = helper.make_graph(
        step.nodes, "step", [*states, *x], [*after, _value(out, "B", width)], []
    )
    graph.constants = step.constants
    by_time = graph.op("Transpose", "samples", perm=[1, 0])
    last = [f"last_{name}" for name in STATES]
    graph.nodes.append(
        helper.make_node(
            "Scan",
            [*(f"first_{name}" for name in STATES), by_time],
            [*last, "by_time"],
            body=body,
            num_scan_inputs=1,
        )
    )
    graph.op("Transpose", "by_time", to=f"all_{out}", perm=[1, 0, 2])
    given = [_value("samples", "B", "L", integer=integer)]
    given += [_value(f"first_{name}", "B", size) for name, size in sizes.items()]
    found = [_value(f"all_{out}", "B", "L", width)]
    found += [_value(f"last_{name}", "B", size) for name, size in sizes.items()]
    return _finished(graph, kind, given, found)


def _finished(graph: Graph, name: str, inputs: list, outputs: list) -> Any:
    from onnx import helper

    made = helper.make_graph(graph.nodes, name, inputs, outputs, graph.constants)
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(made, opset_imports=opset, ir_version=IR, producer_name="s4bt")


@torch.no_grad()
def save_onnx(cell: Cell, header: Header, path: Path | str, kind: str = "step") -> None:
    """Write a stream as ONNX, whole or not at all.

    kind: "step", "sequence", or "answer", which only a model of two documents has.
    Raises ValueError for another one, UserError if onnx is not installed.
    """
    if kind not in KINDS or (kind == "answer" and cell.documents != 2):
        raise ValueError(
            f"kind is one of {', '.join(KINDS)}, the last for models of two documents; got {kind!r}"
        )
    try:
        import onnx
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install onnx") from error
    model = _model(cell, kind)
    onnx.helper.set_model_props(model, header.as_strings() | {"kind": kind})
    onnx.checker.check_model(model, full_check=True)
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(model.SerializeToString())

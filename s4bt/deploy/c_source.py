"""A stream as one file of C99 that needs nothing but libm.

Weights are constant arrays, of floats or of 8-bit numbers with a scale for each row. Nothing is
allocated; `s4_init`, `s4_step` and `s4_answer` are what another program calls (-DS4_NO_MAIN leaves
the rest out), and `main` reads samples from standard input. Arrays of modes are laid out (N, H), so
that inner loops go over channels and hold no sum.

In 8 bits a pole is kept as log(-log |lambda|) and its angle (`s4bt.deploy.bits`), from which the
program computes it once, into memory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from s4bt.deploy.bits import rounded, turn
from s4bt.deploy.cell import Affine, Cell, Normalised, StepLayer, multiply_adds
from s4bt.deploy.header import Header
from s4bt.files import UserError, atomic_path

TEMPLATE = Path(__file__).with_name("stream.c")
PER_LINE = 12
MATRICES = ("w_re", "w_im", "mix")


def _listed(values: np.ndarray, form: Callable[[Any], str]) -> str:
    flat = [form(v) for v in values.ravel()]
    lines = [", ".join(flat[i : i + PER_LINE]) for i in range(0, len(flat), PER_LINE)]
    return "{\n  " + ",\n  ".join(lines) + "}"


def _float(value: Any) -> str:
    shown = np.format_float_scientific(np.float32(value), unique=True)
    return f"{shown}f"


def text(value: str) -> str:
    """A C string: UTF-8, what is no plain letter as octal numbers."""
    plain = set(range(32, 127)) - set(b'"\\?')
    return '"' + "".join(chr(b) if b in plain else f"\\{b:03o}" for b in value.encode()) + '"'


def remark(value: Any) -> str:
    """What may stand in a C comment: printable ASCII that does not end it, or begin another."""
    shown = "".join(c if 32 <= ord(c) < 127 and c not in "\\?" else "_" for c in str(value))
    return shown.replace("*/", "* /").replace("/*", "/ *")


class Arrays:
    """Constant arrays as they are declared, and how many bytes they take."""

    def __init__(self, small: bool):
        self.small, self.bytes = small, 0
        self.lines: list[str] = []

    def floats(self, name: str, values: Tensor | np.ndarray) -> None:
        """A constant array of floats."""
        array = np.asarray(values, np.float32)
        self.bytes += array.nbytes
        listed = _listed(array, _float)
        self.lines.append(f"static const float {name}[{array.size}] = {listed};")

    def codes(self, name: str, values: Tensor, centred: bool = False) -> None:
        """Rows of 8-bit numbers, their scales and, if centred, middles."""
        q, scale, middle = rounded(values, 8, centred)
        self.bytes += q.numel()
        listed = _listed(q.numpy().astype(int), str)
        self.lines.append(f"static const signed char {name}[{q.numel()}] = {listed};")
        self.floats(f"{name}_scale", scale[:, 0])
        if centred:
            self.floats(f"{name}_middle", middle[:, 0])

    def weights(self, name: str, values: Tensor) -> None:
        """A matrix whose rows are what is multiplied, as floats or in 8 bits."""
        if self.small:
            self.codes(name, values)
        else:
            self.floats(name, values)
            self.lines.append(f"#define {name}_scale ((const float *)0)")

    def norm(self, name: str, norm: nn.Module) -> int:
        """0 for none, 1 for scale and shift, 2 for a layer norm."""
        if not isinstance(norm, Affine | Normalised):
            return 0
        self.floats(f"{name}_scale", norm.scale)
        self.floats(f"{name}_shift", norm.shift)
        return 1 if isinstance(norm, Affine) else 2

    def layer(self, number: int, layer: StepLayer) -> str:
        """A layer's arrays; its line in the table of layers."""
        own = f"layer{number}"
        kind = self.norm(f"{own}_norm", layer.norm)
        if self.small:
            self.codes(f"{own}_fading", torch.log(-layer.log_decay).mT, True)
            self.codes(f"{own}_angle", turn(layer).mT, True)
            size = layer.w_re.numel()
            self.lines.append(f"static float {own}_decay_re[{size}], {own}_decay_im[{size}];")
        else:
            self.floats(f"{own}_decay_re", layer.decay_re.mT)
            self.floats(f"{own}_decay_im", layer.decay_im.mT)
        for name in MATRICES:
            self.weights(f"{own}_{name}", getattr(layer, name).mT)
        self.floats(f"{own}_D", layer.D)
        self.floats(f"{own}_bias", layer.bias)
        norm = [f"{own}_norm_scale", f"{own}_norm_shift"] if kind else ["0", "0"]
        rest = [f"{own}_{name}" for name in ("D", "bias", "decay_re", "decay_im")]
        rest += [f"{own}_{name}{end}" for name in MATRICES for end in ("", "_scale")]
        first = [str(layer.w_re.shape[1]), str(kind), str(int(layer.prenorm))]
        return "  {" + ", ".join([*first, *norm, *rest]) + "}"


PREPARE = """\
/* decays from their codes, once */
static void prepare_layer(float *re, float *im,
                          const signed char *fading, const float *fading_scale,
                          const float *fading_middle, const signed char *angle,
                          const float *angle_scale, const float *angle_middle, int modes) {{
  int n, h;
  for (n = 0; n < modes; n++) {{
    for (h = 0; h < WIDTH; h++) {{
      const int i = n * WIDTH + h;
      const float size = expf(-expf((float)fading[i] * fading_scale[n] + fading_middle[n]));
      const float turn = (float)angle[i] * angle_scale[n] + angle_middle[n];
      re[i] = size * cosf(turn);
      im[i] = size * sinf(turn);
    }}
  }}
}}
static void prepare(void) {{
{calls}}}
"""


def _prepare(cell: Cell, small: bool) -> str:
    if not small:
        return "static void prepare(void) {}\n"
    calls = ""
    for number, layer in enumerate(cell.layers):
        own = f"layer{number}"
        names = ["decay_re", "decay_im"]
        names += [part + end for part in ("fading", "angle") for end in ("", "_scale", "_middle")]
        arguments = ", ".join(f"{own}_{name}" for name in names)
        calls += f"  prepare_layer({arguments}, {layer.w_re.shape[1]});\n"
    return PREPARE.format(calls=calls)


def bytes_of_state(cell: Cell, small: bool = False) -> int:
    """What a stream takes in memory, with the decays that an 8-bit file computes."""
    decays = 4 * cell.numbers if small else 0
    numbers = -(-(cell.numbers + cell.width) // 2) * 2  # a double begins at a multiple of eight
    return cell.documents * (4 * numbers + 8) + decays


@torch.no_grad()
def c_source(cell: Cell, header: Header, small: bool = False) -> str:
    """The program, with weights as floats or, if small, in 8 bits.

    Raises UserError if the header does not fit the cell, or if samples are characters.
    """
    try:
        header.check(*(int(cell.options[k]) for k in ("vocabulary", "documents", "classes")))
    except ValueError as error:
        raise UserError(str(error)) from error
    if header.symbols:
        raise UserError("samples of this model are characters; its C program would read bytes")
    arrays = Arrays(small)
    vocabulary, classes = int(cell.options["vocabulary"]), int(cell.options["classes"])
    if vocabulary:
        arrays.weights("table", cell.table)
    else:
        arrays.floats("gain", cell.gain)
        arrays.floats("offset", cell.offset)
    rows = [arrays.layer(number, layer) for number, layer in enumerate(cell.layers)]
    last = arrays.norm("last_norm", cell.norm)
    if not last:
        arrays.lines += [
            f"#define last_norm_{part} ((const float *)0)" for part in ("scale", "shift")
        ]
    linear = [cell.head] if cell.documents == 1 else [cell.head[0], cell.head[2]]
    for name, layer in zip(("head",) if len(linear) == 1 else ("inner", "head"), linear):
        arrays.weights(name, layer.weight.mT)
        arrays.floats(f"{name}_bias", layer.bias)
    words = header.words if vocabulary else []
    names = header.classes or [str(k) for k in range(classes)]
    table = ",\n".join(rows)
    eps = [norm.eps for norm in [cell.norm, *(x.norm for x in cell.layers)] if hasattr(norm, "eps")]
    about = {
        "task": header.task or "unknown",
        "method": header.method or "unknown",
        "modes of each layer": ", ".join(str(layer.w_re.shape[1]) for layer in cell.layers),
        "revision": header.revision or "unknown",
        "made from": header.results or "unknown",
        "bytes of weights": str(arrays.bytes),
        "bytes of state": str(bytes_of_state(cell, small)),
        "multiply-adds a step": str(multiply_adds(cell)),
    }
    said = "\n".join(f"   {name}: {remark(value)}" for name, value in about.items())
    constants = {
        "SMALL": int(small),
        "WIDTH": cell.width,
        "LAYERS": len(cell.layers),
        "CLASSES": classes,
        "VOCABULARY": vocabulary,
        "WORDS": len(words),
        "BYTES": int(bool(vocabulary) and not words),
        "DOCUMENTS": cell.documents,
        "STATE": cell.numbers,
        "POOL_MEAN": int(cell.mean),
        "LAST_NORM": last,
        "LENGTH": f"{header.length or 4294967294}ul",
        "EPS": _float(eps[0] if eps else 1e-5),
        "MEAN": _float(header.mean),
        "STD": _float(header.std),
    }
    defines = "\n".join(f"#define {name} {value}" for name, value in constants.items())
    listed = [f"static const char *const classes[] = {{{', '.join(map(text, names))}}};"]
    if words:
        listed += [f"static const char *const words[] = {{{', '.join(map(text, words))}}};"]
    parts = [
        f"/* A DSS model as a stream, made by s4bt {remark(header.version)}.\n{said}\n"
        "   gcc -std=c99 -O3 model.c -lm -o model */\n\n#include <math.h>\n",
        defines,
        f"typedef {'int' if vocabulary else 'float'} sample;",
        *arrays.lines,
        _prepare(cell, small),
    ]
    code = TEMPLATE.read_text(encoding="utf-8")
    table = f"static const s4_layer layers[LAYERS] = {{\n{table}}};"
    code = code.replace("/* @layers@ */", table)
    program = "#ifndef S4_NO_MAIN\n" + "\n".join(listed) + "\n#endif\n"
    return "\n".join(parts) + "\n" + program + "\n" + code


def save_c(cell: Cell, header: Header, path: Path | str, small: bool = False) -> None:
    """Write the program, whole or not at all."""
    with atomic_path(Path(path)) as temporary:
        temporary.write_text(c_source(cell, header, small), encoding="utf-8")

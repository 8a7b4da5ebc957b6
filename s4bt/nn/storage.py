"""Models as safetensors: weights, and a header that says what they are.

The header has one entry, "s4bt": JSON with "format", FORMAT below, and "options", what
`s4bt.nn.s4.S4Model.options` returns, from which the model is made again. (One entry, because
safetensors writes several in random order, and the same model must give the same bytes.) Tensors
have the names of S4Model.state_dict(). Whoever changes one of these counts FORMAT up.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from s4bt.files import UserError, atomic_path
from s4bt.nn.s4 import S4Model

ENTRY, FORMAT = "s4bt", "model 1"


def save_model(model: S4Model, path: Path | str) -> None:
    """Write weights and options as safetensors, whole or not at all."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    header = json.dumps({"format": FORMAT, "options": model.options()}, sort_keys=True)
    with atomic_path(Path(path)) as temporary:
        save_file(tensors, temporary, metadata={ENTRY: header})


def _options(header: dict, path: Path, remedy: str) -> dict:
    """The options of a header.  Raises UserError if it is of another version."""
    found = header.get("format", "none, or an older one")
    if found != FORMAT:
        raise UserError(
            f"{path}: its format is {found!r}, and this version of s4bt reads {FORMAT!r}. {remedy}"
        )
    return header["options"]


def load_model(path: Path | str) -> S4Model:
    """Read what `save_model` wrote.

    Raises UserError, with the file and the remedy, if it is not that.
    """
    path = Path(path)
    remedy = "Store it again, with this version of s4bt."
    if not path.is_file():
        raise UserError(f"{path}: no such model. {remedy}")
    try:
        with safe_open(path, "pt") as file:
            options = _options(json.loads((file.metadata() or {}).get(ENTRY, "{}")), path, remedy)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        with torch.random.fork_rng(devices=[]):
            model = S4Model(**options)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a whole model of this project ({error}). {remedy}") from error
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(
            f"{path}: the weights do not fit the model they name. {remedy}\n{error}"
        ) from error
    return model

"""One step of a stream as an ExecuTorch program (.pte), for phones and small devices.

Its method `forward` takes x (1,), state (1, S), pooled (1, H), count (1, 1), and gives the logits
and the next three, as the ONNX step does (`s4bt.deploy.onnx_files`); the header is not in it.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch

from s4bt.deploy.cell import Cell, StepModel
from s4bt.files import UserError, atomic_path


def save_executorch(cell: Cell, path: Path | str) -> None:
    """Write one step, whole or not at all.

    Raises UserError for a model of two documents, and if executorch is not installed.
    """
    if cell.documents != 1:
        raise UserError("this model reads two documents, and an ExecuTorch step has one")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what executorch imports
        try:
            from executorch.exir import to_edge
        except ImportError as error:
            remedy = "pip install 's4bt[executorch]'"
            raise UserError(f"{error.name} is not installed: {remedy}") from error
        kind = torch.int64 if hasattr(cell, "table") else torch.float32
        step = StepModel(cell).eval()
        program = torch.export.export(step, (torch.zeros(1, dtype=kind), *cell.start()))
        logging.disable(logging.WARNING)
        try:
            content = to_edge(program).to_executorch().buffer
        finally:
            logging.disable(logging.NOTSET)
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(content)

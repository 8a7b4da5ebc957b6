"""Model files with a header in words, and what a task says of its samples and classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from s4bt.deploy.header import Header, revision
from s4bt.files import UserError, atomic_path
from s4bt.nn.s4 import S4Model
from s4bt.nn.storage import ENTRY, FORMAT, load_model

CLASSES = {
    "text": ["negative", "positive"],
    "retrieval": ["different", "same"],
    "pathfinder": ["apart", "connected"],
    "pathx": ["apart", "connected"],
}


def header_of(
    model: S4Model,
    task: str = "",
    info: Any = None,
    words: list[str] | None = None,
    length: int = 0,
    method: str = "",
    results: str = "",
) -> Header:
    """What is known of a model; info: of a prepared task, with mean, std and symbols."""
    read = (
        {} if info is None else {name: getattr(info, name) for name in ("mean", "std", "symbols")}
    )
    names = CLASSES.get(task, [])
    return Header(
        task=task,
        method=method,
        ranks=[layer.state for layer in model.dss_layers()],
        vocabulary=model.vocabulary,
        words=words or [],
        classes=names if len(names) == model.classes else [str(k) for k in range(model.classes)],
        length=length,
        norm=model.norm_kind,
        pooling=model.pooling,
        documents=model.documents,
        revision=revision(),
        results=results,
        **read,
    )


def save_stream(model: S4Model, header: Header, path: Path | str) -> None:
    """Weights and header as safetensors, which `s4bt.nn.storage.load_model` reads, too."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    about = {"format": FORMAT, "options": model.options(), "about": json.loads(header.as_json())}
    with atomic_path(Path(path)) as temporary:
        save_file(tensors, temporary, metadata={ENTRY: json.dumps(about, sort_keys=True)})


def load_stream(path: Path | str) -> tuple[S4Model, Header]:
    """What `save_stream` or `save_model` wrote; of the latter the header says little.

    Raises UserError, with the file and the remedy, if it is neither, or holds numbers that are not
    finite.
    """
    model = load_model(path).eval()
    bad = [name for name, x in model.state_dict().items() if not bool(x.isfinite().all())]
    if bad:
        raise UserError(
            f"{path}: {bad[0]} holds numbers that are not finite; store the model again"
        )
    try:
        with safe_open(Path(path), "pt") as file:
            about = json.loads(file.metadata()[ENTRY]).get("about")
        header = header_of(model) if about is None else Header.of(about)
        header.check(model.vocabulary, model.documents, model.classes)
    except (SafetensorError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: {error}") from error
    return model, header

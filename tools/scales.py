"""Derive the pipeline of another scale from dvc.yaml, as a DVC project of its own.

    python -m tools.scales quick

A DVC project inside another keeps its own lock and cache, and `dvc status` of the outer one does
not see it. Paths below results/<scale>/ become relative to it; everything else is reached through
../../.
"""

from __future__ import annotations

import sys

import yaml
from ruamel.yaml import YAML

from s4bt.files import ROOT, UserError, atomic_path
from s4bt.study.config import SCALES, load_scale

OWN = "results/${scale}/"


def moved(path: str) -> str:
    """A path of dvc.yaml as results/<scale> sees it."""
    return path[len(OWN) :] if path.startswith(OWN) else f"../../{path}"


def moved_out(entry: str | dict) -> str | dict:
    """An output, with its options if it has some."""
    if isinstance(entry, dict):
        return {moved(path): options for path, options in entry.items()}
    return moved(entry)


def scale_pipeline(scale: str) -> dict:
    """The stages of dvc.yaml for another scale."""
    pipeline = YAML(typ="safe").load(ROOT / "dvc.yaml")
    pipeline["vars"] = [{"scale": scale}]
    for stage in pipeline["stages"].values():
        body = stage.get("do", stage)
        body["cmd"] = f"cd ../.. && {body['cmd']}"
        body["deps"] = [moved(path) for path in body["deps"]]
        body["params"] = [{"../../params.yaml": body["params"]}] if body.get("params") else []
        for kind in ("outs", "metrics", "plots"):
            if kind in body:
                body[kind] = [moved_out(entry) for entry in body[kind]]
    return pipeline


def write_scale(scale: str) -> None:
    """Write results/<scale>/dvc.yaml and its .dvc/config."""
    others = [name for name in SCALES if name != "laptop"]
    if scale not in others:
        raise UserError(
            f"{scale!r} is not one of the other scales: {', '.join(others)}. For laptop run: dvc "
            "repro"
        )
    load_scale(scale)
    folder = ROOT / "results" / scale
    if folder.is_symlink():
        raise UserError(
            f"{folder} is a symbolic link, and the paths of a DVC project do not lead out of one. "
            "Make it a folder; what is large can go elsewhere with: dvc "
            f"--cd results/{scale} cache dir --local <folder>"
        )
    (folder / ".dvc").mkdir(parents=True, exist_ok=True)
    (folder / ".dvc" / "config").write_text("[core]\n    no_scm = True\n    analytics = False\n")
    (folder / ".dvc" / ".gitignore").write_text("/cache\n/tmp\n/config.local\n")
    head = f"# Derived from ../../dvc.yaml by: python -m tools.scales {scale}\n"
    with atomic_path(folder / "dvc.yaml") as temporary:
        temporary.write_text(head + yaml.safe_dump(scale_pipeline(scale), sort_keys=False))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python -m tools.scales {'|'.join(SCALES)}")
    try:
        write_scale(sys.argv[1])
    except UserError as error:
        sys.exit(f"error: {error}")

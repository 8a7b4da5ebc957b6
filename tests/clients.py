"""Layers of other people's packages, where they are installed: `make clients`.

lrnnx 1.0.0.post1 imports compiled extensions in its packages' __init__ files, and its layers do not
need them: the files of the layers are imported past these.
"""

import importlib.util
import sys
import types
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / ".clients"


def lrnnx(name):
    """A module of lrnnx, such as models.lti.lru; skips the test if it is not installed."""
    root = FOLDER / "lrnnx"
    found = root.exists() and importlib.util.find_spec("opt_einsum")
    if not found:
        pytest.skip("lrnnx and what it needs are not installed; make clients")
    for package in ("", ".models", ".models.lti", ".ops", ".core"):
        full = f"lrnnx{package}"
        if full not in sys.modules:
            module = types.ModuleType(full)
            module.__path__ = [str(root.joinpath(*package.split(".")))]
            sys.modules[full] = module
    return importlib.import_module(f"lrnnx.{name}")


def lru_pytorch():
    """The class LRU of lru-pytorch; skips the test if it is not installed."""
    reason = "lru-pytorch is not installed; make clients"
    return pytest.importorskip("LRU_pytorch.LRU", reason=reason).LRU

"""What the processes of a stage find in their environment, so that results depend on nothing else.

Instruction sets shape every sum: with these, PyTorch, MKL, OpenBLAS and NumPy take the same ones on
every x86-64 processor with AVX2 (since 2013), and give the same bits. MKL's portable code path is
asked for by name, because the faster one is chosen by the maker of the processor, too.
Other processors and accelerators ignore these names, and round otherwise.

    eval "$(python -m s4bt.study.environment)"

sets them in a shell, for workers that are started by hand.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import MutableMapping
from pathlib import Path

INSTRUCTIONS = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
}
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
LANGUAGE = {"LC_ALL": "C.UTF-8", "LANG": "C.UTF-8", "TZ": "UTC", "PYTHONHASHSEED": "0"}
FIXED = INSTRUCTIONS | THREADS | LANGUAGE
# Of the user's: pictures, start files and width of what is printed.
DROPPED = ("MPLBACKEND", "MATPLOTLIBRC", "PYTHONSTARTUP", "PYTHONWARNINGS", "PYTHONOPTIMIZE")
DROPPED += ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "LANGUAGE", "PYTHONPATH")


def fix(environment: MutableMapping[str, str], root: Path) -> None:
    """Set what is fixed, drop what is not ours, and give IPython and matplotlib folders of ours.

    Modules are found below root.
    """
    for name in DROPPED:
        environment.pop(name, None)
    own = root / ".scratch" / "settings"
    environment.update(FIXED)
    environment["PYTHONPATH"] = os.fspath(root)
    environment["PYTHONNOUSERSITE"] = "1"
    for name in ("IPYTHONDIR", "MPLCONFIGDIR"):
        (own / name.lower()).mkdir(parents=True, exist_ok=True)
        environment[name] = os.fspath(own / name.lower())


if __name__ == "__main__":
    print("\n".join(f"export {name}={shlex.quote(value)}" for name, value in FIXED.items()))

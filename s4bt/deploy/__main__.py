"""python -m s4bt.deploy onnx | c | executorch | stream"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from s4bt.files import UserError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m s4bt.deploy", description="From a model to a file.")
    commands = parser.add_subparsers(dest="command", required=True)
    onnx = commands.add_parser("onnx", help="an ONNX file of one step, or of whole sequences")
    onnx.add_argument("--sequence", action="store_true", help="whole sequences")
    c = commands.add_parser("c", help="one C99 file")
    c.add_argument("--int8", action="store_true", help="weights in 8 bits")
    executorch = commands.add_parser("executorch", help="an ExecuTorch program of one step")
    for command in (onnx, c, executorch):
        command.add_argument("model", type=Path, help="a safetensors file of this project")
        command.add_argument("-o", "--output", type=Path, required=True)
    stream = commands.add_parser("stream", help="samples from standard input, probabilities out")
    stream.add_argument("model", type=Path, help="an ONNX file of one step")
    stream.add_argument("--every", type=_samples, default=1, help="samples between two lines")
    return parser


def _check_output(output: Path, model: Path) -> None:
    """Raise UserError for a folder, no name, or the model itself."""
    if not output.name or output.is_dir():
        raise UserError(f"{output} is a folder; -o takes the name of a file")
    if output.exists() and model.exists() and output.samefile(model):
        raise UserError(f"{output} is the model itself; -o takes the name of another file")


def _samples(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 after one message."""
    given = _parser().parse_args(arguments)
    try:
        if given.command == "stream":
            from s4bt.deploy.stream import run

            run(given.model, given.every)
            return 0
        from s4bt.deploy.cell import Cell
        from s4bt.deploy.models import load_stream

        _check_output(given.output, given.model)
        model, header = load_stream(given.model)
        if given.command == "onnx":
            from s4bt.deploy.onnx_files import save_onnx

            save_onnx(Cell(model), header, given.output, "sequence" if given.sequence else "step")
        elif given.command == "c":
            from s4bt.deploy.c_source import save_c

            save_c(Cell(model), header, given.output, given.int8)
        else:
            from s4bt.deploy.executorch_file import save_executorch

            save_executorch(Cell(model), given.output)
    except (KeyboardInterrupt, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody listens any more
        return 130
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

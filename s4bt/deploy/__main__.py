"""python -m s4bt.deploy onnx | c | executorch | stream"""

from __future__ import annotations

import argparse
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
    stream.add_argument("--every", type=int, default=1, help="samples between two lines")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 after one message."""
    given = _parser().parse_args(arguments)
    try:
        if given.command == "stream":
            from s4bt.deploy.stream import run

            run(given.model, max(0, given.every))
            return 0
        from s4bt.deploy.cell import Cell
        from s4bt.deploy.models import load_stream

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
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""From a truncated model to a file that runs sample by sample.

cell         the recurrence of a whole model, in real arithmetic
bits         weights in a few bits, and without the smallest ones
models       safetensors with a header in words
onnx_files   ONNX, one step and whole sequences
c_source     one file of C99
executorch_file   ExecuTorch, one step
stream       ONNX at the command line
"""

from s4bt.lazy import attach

_HOMES = {
    "bits": ["bytes_of", "pruned", "quantised"],
    "c_source": ["c_source", "save_c"],
    "cell": ["Cell", "multiply_adds"],
    "executorch_file": ["save_executorch"],
    "header": ["Header"],
    "models": ["header_of", "load_stream", "save_stream"],
    "onnx_files": ["save_onnx"],
    "stream": ["Stream"],
}
__getattr__, __dir__, __all__ = attach(
    __name__, {name: f"s4bt.deploy.{file}" for file, names in _HOMES.items() for name in names}
)

"""A stream at the command line: samples in from standard input, probabilities out.

Needs onnxruntime and NumPy, and nothing of what this project needs otherwise.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from s4bt.deploy.header import Header
from s4bt.files import UserError

BLANK = b" \t\r\n"
LONGEST = 64  # characters of a word or a number


def words_of(file: BinaryIO) -> Iterator[str]:
    """The words of a file, as they come.  Raises UserError for a word that does not end."""
    word = b""
    while c := file.read(1):
        if c in BLANK:
            if word:
                yield word.decode("utf-8", "replace")
            word = b""
        else:
            word += c
            if len(word) >= LONGEST:
                shown = word.decode("utf-8", "replace")
                raise UserError(f"a word of more than {LONGEST - 1} bytes: {shown!r}…")
    if word:
        yield word.decode("utf-8", "replace")


def characters_of(file: BinaryIO) -> Iterator[str]:
    """The characters of a UTF-8 file, as they come."""
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while c := file.read(1):
        yield from decoder.decode(c)
    yield from decoder.decode(b"", final=True)


def samples_of(file: BinaryIO, header: Header) -> Iterator[int | float]:
    """Token numbers, or numbers as they are normalised.  Raises UserError, with the place."""
    if not header.vocabulary:
        for place, word in enumerate(words_of(file), 1):
            try:
                value = float(word)
            except ValueError:
                raise UserError(f"sample {place}: {word!r} is not a number") from None
            if not np.isfinite(value):
                raise UserError(f"sample {place}: {word} is not finite")
            yield (value - header.mean) / header.std
    elif header.words:
        known = {word: code for code, word in enumerate(header.words) if word}
        for place, word in enumerate(words_of(file), 1):
            if word not in known:
                raise UserError(
                    f"sample {place}: {word!r} is not in the vocabulary: {' '.join(known)}"
                )
            yield known[word]
    elif header.symbols:
        known = {symbol: code for code, symbol in enumerate(header.symbols) if code > 1}
        for symbol in characters_of(file):
            yield known.get(symbol, 1)  # 1 stands for every rare one
    else:
        place = 0
        while c := file.read(1):
            place += 1
            if c[0] >= header.vocabulary:
                raise UserError(
                    f"sample {place}: byte {c[0]} is not in the vocabulary of {header.vocabulary}"
                )
            yield c[0]


class Stream:
    """An ONNX file of one step, and where it stands.

    Raises UserError if the file is not one, of another version, or damaged.
    """

    def __init__(self, path: Path | str):
        path = Path(path)
        if not path.is_file():
            raise UserError(f"{path}: no such file. Make it with: python -m s4bt.deploy onnx")
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError("onnxruntime is not installed: pip install onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, ["CPUExecutionProvider"]
            )
            strings = self.session.get_modelmeta().custom_metadata_map
            found = {name: json.loads(value) for name, value in strings.items() if name != "kind"}
            self.header = Header.of(found)
            outputs = self.session.get_outputs()[0].shape[-1]
            self.header.check(self.header.vocabulary, self.header.documents, int(outputs))
        except Exception as error:  # onnxruntime's own kinds are many
            said = str(error).splitlines()[0][:200]
            raise UserError(f"{path}: not an ONNX stream of this project ({said})") from error
        if (kind := strings.get("kind")) != "step":
            raise UserError(f"{path}: a file of kind {kind!r}; a stream needs one step")
        if self.header.documents != 1:
            raise UserError(f"{path}: this model compares two documents; use its C program")
        inputs = {value.name: value for value in self.session.get_inputs()}
        self.names = ("state", "pooled", "count")
        self.state = [np.zeros((1, inputs[name].shape[1]), np.float32) for name in self.names]
        self.kind: Any = np.int64 if self.header.vocabulary else np.float32
        self.count, self.logits = 0, np.zeros(1, np.float32)

    def feed(self, x: int | float) -> np.ndarray:
        """Logits (classes,) after one sample more.  Raises UserError if they are not finite."""
        given = dict(zip(self.names, self.state, strict=True)) | {"x": np.array([x], self.kind)}
        try:
            logits, *self.state = self.session.run(None, given)
        except Exception as error:  # onnxruntime's own kinds are many
            said = str(error).splitlines()[0][:200]
            raise UserError(
                f"sample {self.count + 1}: the model does not take it ({said})"
            ) from error
        self.logits, self.count = logits[0], self.count + 1
        if not np.isfinite(self.logits).all():
            raise UserError(
                f"sample {self.count}: the model's answer is not finite; its file is damaged, or "
                "the sample is far outside of what it was trained on"
            )
        return self.logits

    def probabilities(self) -> dict[str, float]:
        """Of the classes, after what was fed."""
        share = np.exp(self.logits - self.logits.max())
        share /= share.sum()
        names = self.header.classes or [str(k) for k in range(len(share))]
        return {name: float(p) for name, p in zip(names, share, strict=True)}

    def line(self) -> str:
        """Samples so far and the probabilities, as the C program prints them."""
        parts = [f"{name} {p:.6f}" for name, p in self.probabilities().items()]
        return "\t".join([str(self.count), *parts])


def run(path: Path | str, every: int, file: BinaryIO | None = None) -> None:
    """Print the probabilities after every so many samples, and at the end.

    Raises UserError for a file or samples that do not fit, and for no sample at all.
    """
    stream, file = Stream(path), file or sys.stdin.buffer
    for x in samples_of(file, stream.header):
        stream.feed(x)
        if stream.header.length and stream.count == stream.header.length + 1:
            print(
                f"note: longer than the {stream.header.length} samples of training",
                file=sys.stderr,
            )
        if every and stream.count % every == 0:
            print(stream.line(), flush=True)
    if not stream.count:
        raise UserError("standard input is empty: give it samples")
    if not every or stream.count % every:
        print(stream.line(), flush=True)

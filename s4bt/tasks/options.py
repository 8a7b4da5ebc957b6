"""The options of every task in params.yaml, typed and validated."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of params.yaml; unknown keys are refused, and so are values of another kind."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Splits(Section):
    """Sizes of the three splits, in examples, and the seed that draws or splits them."""

    train: Count
    val: Count
    test: Count
    seed: Annotated[int, Field(ge=0)] = 0

    def sizes(self) -> dict[str, int]:
        return {"train": self.train, "val": self.val, "test": self.test}


class Official(Splits):
    """source: a folder, archive or http(s) address of the task's official release.

    Without one, examples are made here or come from a package. sha256: of the archive, if known.
    """

    source: str | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")] | None = None


class Tokens(Official):
    """Texts as bytes or as the characters that the training split holds min_count times or more.

    `length` of them at most, with a token behind the last one if end_token; keep: the first or last
    part of a longer text.
    """

    length: Annotated[int, Field(ge=2)]
    tokens: Literal["bytes", "characters"] = "bytes"
    min_count: Count = 15
    end_token: bool = False
    keep: Literal["first", "last"] = "first"


class ListOpsData(Official):
    """Expressions of min_length < tokens < max_length.

    end_token: one more token behind the expression.

    (Nangia & Bowman 2018; parameters of Tay et al. 2021)
    """

    end_token: bool = False
    min_length: Count
    max_length: Count
    max_depth: Annotated[int, Field(ge=2)] = 10
    max_arguments: Annotated[int, Field(ge=2)] = 10
    operator_probability: Fraction = 0.25

    @model_validator(mode="after")
    def _lengths_leave_room(self):
        if self.max_length - self.min_length < 2:
            raise ValueError(
                f"no length lies between min_length {self.min_length} and max_length "
                f"{self.max_length}"
            )
        return self


class TextData(Tokens):
    """Reviews."""


class RetrievalData(Tokens):
    """Pairs of documents.

    Without a source: passages of `length` bytes, cut at random from licence texts of at least that
    length, of licences with `texts` texts in every split.
    """

    texts: Annotated[int, Field(ge=2)] = 3

    @model_validator(mode="after")
    def _licences_are_bytes(self):
        if not self.source and (self.tokens, self.end_token) != ("bytes", False):
            raise ValueError(
                "without a source the documents are passages of bytes: drop tokens and end_token, "
                "or name a source"
            )
        return self


class ImageData(Official):
    """Without a source: digits of side x side pixels, side 28 or, by averaging blocks, 14 or 7.

    normalisation: by mean and deviation of the training split, or those of CIFAR-10 that DSS used.
    """

    side: Literal[7, 14, 28] = 28
    normalisation: Literal["measured", "dss"] = "measured"

    @model_validator(mode="after")
    def _dss_normalises_cifar(self):
        if not self.source and self.normalisation == "dss":
            raise ValueError(
                "normalisation 'dss' is that of CIFAR-10: use 'measured', or name a source"
            )
        return self


class PathfinderData(Official):
    """Two dashed contours, discs on two tips, distractors, on size x size pixels.

    (Linsley et al. 2018)
    """

    size: Annotated[int, Field(ge=8)]
    segments: Count
    distractors: Annotated[int, Field(ge=0)] = 0
    distractor_segments: Count = 4
    paddle_length: Positive = 2.0
    gap: Positive = 1.0
    thickness: Positive = 0.5
    radius: Positive = 1.5
    turn: Positive = 0.3
    contrast: Fraction = 1.0
    distractor_contrast: Fraction = 0.75

"""What is compared: the section `grid` of params.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from s4bt.tasks.options import Count, Section

Ranks = Annotated[list[Count], Field(min_length=1)]


Methods = Annotated[list[str], Field(min_length=1)]


def _refuse_twins(section: Section, *names: str) -> None:
    for name in names:
        if len(set(values := getattr(section, name))) < len(values):
            raise ValueError(f"{name} {values} holds a value twice")


class OneShot(Section):
    """Truncation without retraining: ranks, methods, calibration.

    calibration: training examples for methods that look at the data.
    """

    ranks: Ranks
    methods: Methods
    calibration: Count = 256

    @model_validator(mode="after")
    def _no_twins(self):
        _refuse_twins(self, "ranks", "methods")
        return self


Share = Annotated[float, Field(ge=0)]


class Choice(Section):
    """How careful fits are, tried on validation data of the first seed, at one rank.

    perturbations: relative errors of every number that `weighted` and `weighted-shared` allow for,
    with the default white input; whites: shares of white input, with the default perturbation.
    """

    rank: Count
    perturbations: Annotated[list[Share], Field(min_length=1)]
    whites: Annotated[list[Share], Field(min_length=1)]

    @model_validator(mode="after")
    def _no_twins(self):
        _refuse_twins(self, "perturbations", "whites")
        return self


Fraction = Annotated[float, Field(gt=0, lt=1)]


class Originals(Section):
    """Poorer originals, for the claim that a better one gives a better compressed model.

    shares: of the pretraining steps, each with a schedule of its own; ranks, methods: to which and
    how they are truncated, among those that are retrained.
    """

    shares: Annotated[list[Fraction], Field(min_length=1)]
    ranks: Ranks
    methods: Methods

    @model_validator(mode="after")
    def _no_twins(self):
        _refuse_twins(self, "shares", "ranks", "methods")
        return self


class Grid(Section):
    """What is compared.

    seeds; choice: how careful fits are; one_shot: what is truncated without retraining; ranks r and
    methods: what is retrained, which are among those of one_shot; lr_rank: the rank at which each
    arm's learning rate is chosen; baseline_ranks: those of the dear baselines, (b) with all the
    steps, and (e) with poles of each channel's own, and of (f); more_ranks: of (a), beside `ranks`;
    originals: poorer ones, if the scale has them.
    """

    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    choice: Choice
    one_shot: OneShot
    ranks: Ranks
    methods: Methods
    lr_rank: Count
    baseline_ranks: Ranks
    more_ranks: list[Count] = []
    originals: Originals | None = None

    @model_validator(mode="after")
    def _lists_fit(self):
        if self.lr_rank not in self.ranks:
            raise ValueError(f"lr_rank {self.lr_rank} is not one of the ranks {self.ranks}")
        _refuse_twins(self, "seeds", "ranks", "methods", "baseline_ranks", "more_ranks")
        if both := [r for r in self.more_ranks if r in self.ranks]:
            raise ValueError(f"more_ranks {both} are among the ranks already")
        for name in ("ranks", "methods") if self.originals else ():
            if extra := [x for x in getattr(self.originals, name) if x not in getattr(self, name)]:
                raise ValueError(
                    f"originals.{name} {extra} are not retrained: add them to {name}, which "
                    "choose the learning rates"
                )
        for name in ("ranks", "methods"):
            if extra := [x for x in getattr(self, name) if x not in getattr(self.one_shot, name)]:
                raise ValueError(
                    f"{name} {extra} are retrained but not truncated: add them to one_shot.{name}"
                )
        return self

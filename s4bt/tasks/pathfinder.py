"""Pathfinder and Path-X: do two discs lie on the tips of one dashed contour?  Two classes.  (Linsley et al. 2018; Tay et al. 2021)

Two target contours of `segments` paddles each, distractors, nothing overlapping. Label 1: discs on both tips of the
first contour. Label 0: on one tip of each; the discs stay where label 1 would have put them, and a contour grows from each.
So the places of the discs do not tell the label. Lengths are in pixels of the final image; drawn at twice the size and averaged.
A sample is a grey level, read row by row and normalised to [-1, 1].
"""
from __future__ import annotations

import contextlib
import functools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s4bt.config import PathfinderData, UserError, cores, progress_bar
from s4bt.tasks import Dataset, Info, cut

CLEARANCE = 1.0     # least free distance between two contours, pixels
ATTEMPTS = 8        # contours tried before a scene is given up
TRIES = 3000        # scenes tried before an image is given up


@dataclass(frozen=True)
class Scene:
    """Geometry behind one image: end points of paddles (k, 2, 2) of each contour, targets first; disc centres (2, 2); label."""

    contours: list[np.ndarray]
    discs: np.ndarray
    label: int


def near(a: np.ndarray, b: np.ndarray, least: float) -> bool:
    """Whether two sets of points (k, 2) come closer to each other than `least`."""
    return bool(len(b)) and bool((((a[:, None] - b) ** 2).sum(-1) < least ** 2).any())


def grow(rng: np.random.Generator, data: PathfinderData, segments: int, taken: np.ndarray, least: float,
         start: np.ndarray | None = None) -> np.ndarray | None:
    """A chain of paddles (segments, 2, 2), each turned against the one before by a normal angle of deviation `turn`.

    It begins at `start`, or anywhere; stays inside the image, `least` away from the points `taken`, and does not touch itself. A
    paddle that does not fit is turned again, more and more strongly; None if the chain gets stuck.
    """
    margin = data.radius + 0.5
    pen, angle = rng.uniform(margin, data.size - margin, 2) if start is None else start, 0.0
    paddles, along = [], np.linspace(0, data.paddle_length, 6)[:, None]
    own = np.empty((0, 2))
    for _ in range(segments):
        for attempt in range(12):
            turned = angle + rng.normal(0, data.turn * (1 + attempt / 4)) if paddles else rng.uniform(0, 2 * np.pi)
            direction = np.array([np.cos(turned), np.sin(turned)])
            line = pen + direction * along
            if (line < margin).any() or (line > data.size - margin).any() or near(line, taken, least) \
                    or near(line, own[:-12], data.thickness + CLEARANCE):
                continue
            break
        else:
            return None
        own = np.concatenate([own, line])
        along = np.linspace(-data.gap, data.paddle_length, 6)[:, None]                   # from now on with the gap before
        paddles.append([pen, line[-1]])
        pen, angle = line[-1] + direction * data.gap, turned
    return np.array(paddles)


def outline(contour: np.ndarray) -> np.ndarray:
    """Points along a contour: ends and middles of its paddles and gaps, (2 segments - 1 + 2 segments, 2)."""
    chain = contour.reshape(-1, 2)
    return np.concatenate([chain, (chain[1:] + chain[:-1]) / 2])


def scene(rng: np.random.Generator, data: PathfinderData, label: int) -> Scene:
    """Grow contours until all are placed without touching.  Raises UserError if the image is too crowded."""
    between, disc = data.thickness + CLEARANCE, data.radius - data.thickness / 2

    def fill(contours: list[np.ndarray], starts: list[np.ndarray | None]) -> list[np.ndarray] | None:
        for k in range(len(contours), 2 + data.distractors):
            taken = np.concatenate([np.empty((0, 2)), *map(outline, contours)])
            segments = data.segments if k < 2 else data.distractor_segments
            grown = (grow(rng, data, segments, taken, between + disc, starts[k] if k < len(starts) else None) for _ in range(ATTEMPTS))
            new = next((contour for contour in grown if contour is not None), None)
            if new is None:
                return None
            contours = [*contours, new]
        return contours

    for _ in range(TRIES):
        first = grow(rng, data, data.segments, np.empty((0, 2)), 0)
        if first is None:
            continue
        discs = np.stack([first[0, 0], first[-1, 1]])
        if np.linalg.norm(discs[0] - discs[1]) <= 2 * data.radius + CLEARANCE:
            continue
        positive = fill([first], [])
        negative = positive and fill([], [*discs])                   # both must be possible, so that the discs do not tell the label
        if negative:
            return Scene(positive if label else negative, discs, label)
    raise UserError(f"pathfinder: no room for two contours of {data.segments} paddles and {data.distractors} distractors on "
                    f"{data.size} x {data.size} pixels; make the contours shorter or the image larger")


def draw(s: Scene, data: PathfinderData) -> np.ndarray:
    """Grey levels (size, size) uint8: each paddle and disc by its distance, at twice the size, then averaged 2 x 2."""
    n = 2 * data.size
    centre = (np.arange(n) + 0.5) / 2
    grid = np.stack(np.meshgrid(centre, centre, indexing="ij"), -1).reshape(-1, 1, 2)
    paddles = np.concatenate(s.contours)
    a, d = paddles[:, 0], paddles[:, 1] - paddles[:, 0]
    t = np.clip(((grid - a) * d).sum(-1) / (d ** 2).sum(-1), 0, 1)                       # (n n, paddles)
    gap = np.sqrt(((grid - a - t[..., None] * d) ** 2).sum(-1)) - data.thickness / 2
    targets = sum(len(c) for c in s.contours[:2])
    level = np.where(np.arange(len(paddles)) < targets, data.contrast, data.distractor_contrast)
    ink = (np.clip(0.5 - gap, 0, 1) * level).max(1)
    disc = np.sqrt(((grid - s.discs) ** 2).sum(-1)).min(1) - data.radius
    ink = np.maximum(ink, np.clip(0.5 - disc, 0, 1)).reshape(data.size, 2, data.size, 2).mean((1, 3))
    return (255 * ink).round().astype(np.uint8)


def image(data: PathfinderData, index: int) -> bytes:
    """Image number `index`, with label index % 2; it depends on the seed and the index only."""
    return draw(scene(np.random.default_rng([data.seed, index]), data, index % 2), data).tobytes()


def images(data: PathfinderData, start: int, count: int) -> list[bytes]:
    """Images start .. start + count - 1."""
    return [image(data, i) for i in range(start, start + count)]


def build(data: PathfinderData, raw: Path | None = None) -> Dataset:
    """Draw distinct images on all cores, labels alternating before a random order; any number of workers gives the same."""
    need, chunk, first = sum(data.sizes().values()), 100, 0
    found: dict[bytes, int] = {}
    workers = cores() if need > 20 * chunk else 1
    with progress_bar(need, f"pathfinder {data.size} x {data.size}") as bar, contextlib.ExitStack() as stack:
        do = map if workers == 1 else stack.enter_context(
            ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))).map
        while len(found) < need:
            starts = range(first, first + need - len(found), chunk)
            for start, drawn in zip(starts, do(functools.partial(images, data, count=chunk), starts)):
                for i, pixels in enumerate(drawn, start):
                    found.setdefault(pixels, i % 2)
                bar.update(min(len(found), need) - bar.n)
            first = starts[-1] + chunk
    order = np.random.default_rng(data.seed).permutation(need)
    x = np.frombuffer(b"".join(list(found)[:need]), np.uint8).reshape(need, -1)[order]
    y = np.array(list(found.values())[:need], np.int64)[order]
    return cut(data, Info(0, 2, mean=127.5, std=127.5), x, np.full(need, x.shape[1], np.int32), y)

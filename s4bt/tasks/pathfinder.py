"""Pathfinder and Path-X: do two discs lie on the tips of one dashed contour?  Two classes.

(Linsley et al. 2018; Tay et al. 2021)

With a source, the images of the official release, pathfinder32 or pathfinder128,
curv_contour_length_14 (as S4 and DSS use it), split at random. Without one, generated: two target
contours of `segments` paddles each, distractors, nothing overlapping. Label 1: discs on both tips
of the first contour. Label 0: on one tip of each; the discs stay where label 1 would have put them,
and a contour grows from each, so the places of the discs do not tell the label. Lengths are in
pixels; drawn at twice the size and averaged.

A sample is a grey level, read row by row and normalised to [-1, 1]. Arrays hold many scenes: B
scenes, k paddles, p points.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s4bt.files import UserError
from s4bt.tasks import Info
from s4bt.tasks.options import PathfinderData
from s4bt.tasks.pathfinder_release import read, release
from s4bt.tasks.prepare import Card
from s4bt.tasks.releases import open_release
from s4bt.tasks.stores import Store, chunks

CARD = Card(
    ("generator in this file", "MIT (this project)"),
    ("Long Range Arena, curv_contour_length_14", "Apache-2.0 (Long Range Arena)"),
    (160_000, 20_000, 20_000),
    "size and crowding are those of params.yaml, and the places of the discs tell nothing; "
    "officially 32 x 32 (pathfinder) or 128 x 128 (pathx), 160,000 / 20,000 / 20,000 images",
    "the official task",
)
CLEARANCE = 1.0  # least free distance between two contours, pixels
SCENES = 8192  # scenes begun together; one that fails costs little then
DRAWN = 256  # scenes drawn together
TURNS = 12  # turns tried for a paddle before its contour is given up
ATTEMPTS = 16  # contours tried before their scene is given up


@dataclass(frozen=True)
class Scenes:
    """Geometry behind B images.

    contours: end points of the paddles (B, k, 2, 2) of each, targets first; discs: centres (B, 2,
    2); labels (B,).
    """

    contours: list[np.ndarray]
    discs: np.ndarray
    labels: np.ndarray


def near(a: np.ndarray, b: np.ndarray, least: float) -> np.ndarray:
    """Whether any of points a (B, p, 2) comes closer to any of b (B, q, 2) than `least`: (B,)."""
    square = (a[:, :, None, 0] - b[:, None, :, 0]) ** 2 + (a[:, :, None, 1] - b[:, None, :, 1]) ** 2
    return (square < least**2).any((1, 2))


def along(data: PathfinderData) -> np.ndarray:
    """Where points are taken on a paddle and the gap before it.

    Distances from the paddle's beginning.
    """
    count = 2 + int((data.paddle_length + data.gap) / (data.thickness + CLEARANCE) * 1.5)
    return np.linspace(-data.gap, data.paddle_length, count)


def grow(
    rng: np.random.Generator,
    data: PathfinderData,
    segments: int,
    start: np.ndarray | None,
    taken: np.ndarray,
    discs: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """B chains of paddles (B, segments, 2, 2), and which of them were completed (B,).

    Each paddle is turned against the one before by a normal angle of deviation `turn`.

    A chain begins at `start` (B, 2), or anywhere; it stays inside the image, away from the points
    `taken` (B, q, 2), from the centres `discs` (B, m, 2) and from itself. A paddle that does not
    fit is turned again, more and more strongly.
    """
    B, margin, between = len(taken), data.radius + 0.5, data.thickness + CLEARANCE
    from_discs = data.radius + data.thickness / 2 + CLEARANCE
    pen = rng.uniform(margin, data.size - margin, (B, 2)) if start is None else start.copy()
    chain, angle, alive = np.zeros((B, segments, 2, 2)), np.zeros(B), np.ones(B, bool)
    steps = along(data)
    own = np.full((B, segments * len(steps), 2), np.inf)
    for k in range(segments):
        todo = np.flatnonzero(alive)
        reach = steps if k else np.maximum(steps, 0)
        old = max(0, k - 2) * len(steps)  # its own last two paddles are always near
        for attempt in range(TURNS):
            if not len(todo):
                break
            turned = (
                angle[todo] + rng.normal(0, data.turn * (1 + attempt / 4), len(todo))
                if k
                else rng.uniform(0, 2 * np.pi, len(todo))
            )
            direction = np.stack([np.cos(turned), np.sin(turned)], 1)
            line = pen[todo, None] + direction[:, None] * reach[:, None]  # (b, p, 2)
            bad = ((line < margin) | (line > data.size - margin)).any((1, 2))
            bad[~bad] |= near(line[~bad], discs[todo[~bad]], from_discs)
            bad[~bad] |= near(line[~bad], own[todo[~bad], :old], between)
            bad[~bad] |= near(line[~bad], taken[todo[~bad]], between)
            good = todo[~bad]
            chain[good, k, 0], chain[good, k, 1] = pen[good], line[~bad, -1]
            own[good, k * len(steps) : (k + 1) * len(steps)] = line[~bad]
            pen[good], angle[good] = line[~bad, -1] + direction[~bad] * data.gap, turned[~bad]
            todo = todo[bad]
        alive[todo] = False
    return chain, alive


def outline(chain: np.ndarray, data: PathfinderData) -> np.ndarray:
    """Points on the paddles and gaps of chains (B, k, 2, 2): (B, k p, 2)."""
    a, d, steps = chain[:, :, :1], chain[:, :, 1:] - chain[:, :, :1], np.maximum(along(data), 0)
    points = a + d * steps[:, None] / data.paddle_length
    return points.reshape(len(chain), chain.shape[1] * len(steps), 2)


def fill(
    rng: np.random.Generator,
    data: PathfinderData,
    contours: list[np.ndarray],
    starts: list[np.ndarray],
    discs: np.ndarray,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Grow what is missing of two targets and the distractors.

    A contour begins at a disc for each of `starts`. Returns the contours, and which scenes had room
    for all of them (B,).
    """
    room, contours = np.ones(len(discs), bool), list(contours)
    for k in range(len(contours), 2 + data.distractors):
        segments = data.segments if k < 2 else data.distractor_segments
        nothing = np.empty((len(discs), 0, 2))
        taken = np.concatenate([nothing, *(outline(c, data) for c in contours)], 1)
        new, todo = np.zeros((len(discs), segments, 2, 2)), np.flatnonzero(room)
        # a contour that begins at one disc keeps away from the other
        avoid = discs[:, 1 - k : 2 - k] if k < len(starts) else discs
        for _ in range(ATTEMPTS):
            start = starts[k][todo] if k < len(starts) else None
            grown, done = grow(rng, data, segments, start, taken[todo], avoid[todo])
            new[todo[done]] = grown[done]
            todo = todo[~done]
            if not len(todo):
                break
        room[todo] = False
        contours.append(new)
    return contours, room


def scenes(data: PathfinderData, chunk: int) -> Scenes:
    """Those of SCENES scenes for which there was room, labels alternating.

    They depend on the seed and `chunk` only.

    A pair of discs is used only if a positive and a negative image could be made with it, so that
    it does not tell the label.
    """
    rng = np.random.default_rng([data.seed, chunk])
    nothing = np.empty((SCENES, 0, 2))
    first, done = grow(rng, data, data.segments, None, nothing, nothing)
    discs = np.stack([first[:, 0, 0], first[:, -1, 1]], 1)
    done &= np.linalg.norm(discs[:, 0] - discs[:, 1], axis=1) > 2 * data.radius + CLEARANCE
    first, discs = first[done], discs[done]
    positive, room = fill(rng, data, [first], [], discs)
    positive, discs = [c[room] for c in positive], discs[room]
    negative, room = fill(rng, data, [], [discs[:, 0], discs[:, 1]], discs)
    labels = np.arange(room.sum()) % 2
    contours = [
        np.where(labels[:, None, None, None] == 1, p[room], n[room])
        for p, n in zip(positive, negative)
    ]
    return Scenes(contours, discs[room], labels)


def draw(s: Scenes, data: PathfinderData) -> np.ndarray:
    """Grey levels (B, size, size) uint8.

    Each paddle and disc is drawn by its distance, at twice the size, then averaged 2 x 2.
    """
    n, B = 2 * data.size, len(s.labels)
    canvas = np.zeros((B, n, n), np.float32)

    def ink(centre: np.ndarray, half: float, level: float, distance) -> None:
        cells = (
            np.floor(2 * (centre - half)).astype(np.int64)[:, None]
            + np.arange(int(4 * half) + 2)[:, None]
        )  # (B, w, 2)
        cells = cells.clip(0, n - 1)
        at = np.arange(B)[:, None, None], cells[:, :, None, 0], cells[:, None, :, 1]
        y, x = ((cells[..., i] + 0.5).astype(np.float32) / 2 for i in (0, 1))
        canvas[at] = np.maximum(
            canvas[at], level * np.clip(0.5 - distance(y[:, :, None], x[:, None, :]), 0, 1)
        )

    for number, chain in enumerate(s.contours):
        for a, b in chain.transpose(1, 2, 0, 3).astype(np.float32):  # (B, 2) each

            def from_paddle(y, x, a=a, d=b - a):
                dy, dx = y - a[:, 0, None, None], x - a[:, 1, None, None]
                d = d[:, :, None, None]
                t = ((dy * d[:, 0] + dx * d[:, 1]) / (d**2).sum(1)).clip(0, 1)
                square = (dy - t * d[:, 0]) ** 2 + (dx - t * d[:, 1]) ** 2
                return np.sqrt(square) - data.thickness / 2

            half = (data.paddle_length + data.thickness) / 2 + 0.5
            level = data.contrast if number < 2 else data.distractor_contrast
            ink((a + b) / 2, half, level, from_paddle)
    for disc in s.discs.transpose(1, 0, 2).astype(np.float32):

        def from_centre(y, x, c=disc):
            square = (y - c[:, 0, None, None]) ** 2 + (x - c[:, 1, None, None]) ** 2
            return np.sqrt(square) - data.radius

        ink(disc, data.radius + 0.5, 1.0, from_centre)
    averaged = canvas.reshape(B, data.size, 2, data.size, 2).mean((2, 4))
    return (255 * averaged).round().astype(np.uint8)


def images(data: PathfinderData, chunk: int) -> tuple[np.ndarray, np.ndarray]:
    """The images of a chunk of scenes, one row of pixels each, and their labels."""
    s = scenes(data, chunk)
    x = np.empty((len(s.labels), data.size**2), np.uint8)
    for i in range(0, len(x), DRAWN):
        part = slice(i, i + DRAWN)
        some = Scenes([c[part] for c in s.contours], s.discs[part], s.labels[part])
        x[part] = draw(some, data).reshape(-1, data.size**2)
    return x, s.labels


def build(data: PathfinderData, raw: Path, store: Store) -> Info:
    """Draw distinct images, or read the release, and put them into random places.

    Any number of workers gives the same.
    """
    need, fruitless, notes = sum(data.sizes().values()), 0, []
    store.create((data.size**2,), order=np.random.default_rng(data.seed).permutation(need))
    make, count = images, None
    if data.source:
        root, left = release(open_release(data, raw), data)
        notes += left
        files = (p for p in (root / "metadata").glob("*.npy") if p.stem.isdigit())
        metadata = sorted(files, key=lambda p: int(p.stem))
        if not metadata:
            raise UserError(f"{root}: no metadata/<number>.npy in it. Unpack the release again")
        make, count = functools.partial(read, root, metadata), len(metadata)
    for x, y, *empty in chunks(make, data, store, count):
        fruitless = 0 if store.deal(x, np.full(len(y), x.shape[1], np.int32), y) else fruitless + 1
        notes += [
            f"{name} is an empty file of the release and was skipped"
            for names in empty
            for name in names
        ]
        if fruitless == 20 and not data.source:
            raise UserError(
                f"pathfinder: no room for two contours of {data.segments} paddles and "
                f"{data.distractors} distractors on {data.size} x {data.size} pixels; make the "
                "contours shorter or the image larger"
            )
    return Info(0, 2, mean=127.5, std=127.5, notes=notes)

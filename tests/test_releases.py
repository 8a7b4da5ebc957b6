"""The official releases: small files in each published format, from a folder,
an archive and over HTTP; and what is wrong with broken ones.
"""

import functools
import hashlib
import http.server
import io
import re
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s4bt.files import UserError
from s4bt.tasks import SPLITS, downloads, image, listops, releases
from s4bt.tasks.options import ImageData, ListOpsData, PathfinderData, RetrievalData, TextData
from s4bt.tasks.prepare import prepare, show_tokens

SIZES = {"train": 6, "val": 2, "test": 4}
RNG = np.random.default_rng(0)


# -- the releases, small


def expressions(count, offset):
    return [
        (f"( ( ( [MAX {i % 10} ) {i // 10} ) ] )", str(max(i % 10, i // 10)))
        for i in range(offset, offset + count)
    ]


def write_listops(root):
    folder = root / "lra_release" / "lra_release" / "listops-1000"
    folder.mkdir(parents=True)
    for name, rows in (
        ("train", expressions(8, 0)),
        ("val", expressions(2, 20)),
        ("test", expressions(4, 40)),
    ):
        (folder / f"basic_{name}.tsv").write_text(
            "Source\tTarget\n" + "".join(f"{a}\t{b}\n" for a, b in rows)
        )
    return ListOpsData(**SIZES, min_length=1, max_length=30, end_token=True)


def write_text(root):
    for split in ("train", "test"):
        for label in ("neg", "pos"):
            folder = root / "aclImdb" / split / label
            folder.mkdir(parents=True)
            for i in range(4):
                (folder / f"{i}_{9 if label == 'pos' else 2}.txt").write_bytes(
                    f"{label} número {i} of {split},\r\n0123<br />".encode()
                )
    return TextData(train=6, val=2, test=8, length=60, tokens="characters", min_count=2)


def write_retrieval(root):
    folder = root / "lra_release" / "tsv_data"
    folder.mkdir(parents=True)
    for name, count in (("train", 6), ("eval", 2), ("test", 4)):
        (folder / f"new_aan_pairs.{name}.tsv").write_text(
            "".join(
                f"{i % 2}\tP{i}\t{name}{i}\tthe \"quoted paper {i}\tanother, of {name}'s {i}\n"
                for i in range(count)
            )
        )
    return RetrievalData(**SIZES, length=30)


def write_image(root):
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        records = RNG.integers(0, 256, (4, image.RECORD), np.uint8)
        records[:, 0] = np.arange(4) % 10
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    return ImageData(**SIZES, source=str(root), normalisation="dss")


def write_pathfinder(root):
    folder = root / "lra_release" / "pathfinder32" / "curv_contour_length_14"
    (folder / "metadata").mkdir(parents=True)
    for k in range(2):
        (folder / "imgs" / str(k)).mkdir(parents=True)
        rows = []
        for i in range(7):
            path = folder / "imgs" / str(k) / f"sample_{i}.png"
            if (k, i) == (0, 3):
                path.touch()  # as one file of the real release
            else:
                Image.fromarray(np.full((32, 32), 20 * i + 10 * k, np.uint8)).save(path)
            rows.append(f"imgs/{k} sample_{i}.png {i} {i % 2} 1.0 14.0 2.0 5 1.5 9 0.9 0.75 0.5\n")
        (folder / "metadata" / f"{k}.npy").write_text("".join(rows))
    return PathfinderData(**SIZES, size=32, segments=14)


WRITERS = {
    "listops": write_listops,
    "text": write_text,
    "retrieval": write_retrieval,
    "image": write_image,
    "pathfinder": write_pathfinder,
}


@pytest.fixture(autouse=True)
def small_cifar(monkeypatch):
    monkeypatch.setattr(image, "RECORDS", 4)


@pytest.fixture
def release(tmp_path):
    """Writes the release of a task below tmp_path/release; returns its settings."""

    def write(task):
        return WRITERS[task](tmp_path / "release").model_copy(
            update={"source": str(tmp_path / "release")}
        )

    return write


def made(task, data, tmp_path):
    return prepare(task, data, tmp_path / "arrays", tmp_path / "raw")


def as_text(row):
    return bytes(np.array(row)[np.array(row) > 0]).decode()


# -- every field -----------------------------------------------------------


def test_listops_is_read_with_its_own_splits(release, tmp_path):
    data = made("listops", release("listops"), tmp_path)
    assert [listops.show(row) for row in data["val"].x] == ["[MAX 0 2 ] <end>", "[MAX 1 2 ] <end>"]
    assert (
        data["val"].y.tolist() == [2, 2]
        and data["val"].lengths.tolist() == [5, 5]
        and data.info.vocabulary == 17
    )
    assert data["train"].y.tolist() == [0, 1, 2, 3, 4, 5]


def test_reviews_keep_the_official_test_split(release, tmp_path):
    config = release("text")
    data = made("text", config, tmp_path)
    assert data["test"].y.sum() == 4 and len(set(map(bytes, data["test"].x))) == 8
    known = "neg número 0123 of train,\r\n<br />pos"
    letters = {c: i for i, c in enumerate(sorted(set(known)), 2)}
    for split in ("train", "val"):
        for row, length, label in zip(data[split].x, data[split].lengths, data[split].y):
            word = [letters[c] for c in ("pos" if label else "neg")]
            assert show_tokens(row, data.info).startswith("pos número" if label else "neg número")
            assert (
                row[:3].tolist() == word and (row[length:] == 0).all() and (row[:length] > 0).all()
            )
    as_bytes = made("text", config.model_copy(update={"tokens": "bytes", "keep": "last"}), tmp_path)
    assert all(as_text(row).endswith("of test,\r\n0123<br />") for row in as_bytes["test"].x)


def test_the_same_review_in_training_and_test_is_left_out_of_training(release, tmp_path):
    config = release("text").model_copy(update={"train": 5, "tokens": "bytes"})
    train, test = (
        tmp_path / "release" / "aclImdb" / s / "pos" / "0_9.txt" for s in ("train", "test")
    )
    train.write_bytes(test.read_bytes())
    data = made("text", config, tmp_path)
    assert test.read_text() not in {as_text(row) for s in ("train", "val") for row in data[s].x}
    assert "1 examples of" in " ".join(data.info.notes)


def test_pairs_of_papers_are_read_with_quotes_and_shared_papers_are_counted(release, tmp_path):
    data = made("retrieval", release("retrieval"), tmp_path)
    assert [as_text(d) for d in data["val"].x[1]] == ['the "quoted paper 1', "another, of eval's 1"]
    assert data["train"].y.tolist() == [0, 1, 0, 1, 0, 1] and data["test"].lengths.shape == (4, 2)
    assert "4 papers of train are in test, too" in data.info.notes


def test_a_pair_of_papers_in_training_and_test_is_left_out_of_training(release, tmp_path):
    config = release("retrieval").model_copy(update={"train": 5})
    train, test = (
        next((tmp_path / "release").rglob(f"new_aan_pairs.{name}.tsv"))
        for name in ("train", "test")
    )
    train.write_text(
        "".join([test.read_text().splitlines(True)[0], *train.read_text().splitlines(True)[1:]])
    )
    data = made("retrieval", config, tmp_path)
    assert data["test"].x[0].tobytes() not in {x.tobytes() for x in data["train"].x}
    assert (
        "1 examples of train that stand in another split, or twice, are left out" in data.info.notes
    )


def test_cifar_is_read_as_grey_levels(release, tmp_path):
    data = made("image", release("image"), tmp_path)
    raw = np.fromfile(
        tmp_path / "release" / "cifar-10-batches-bin" / "test_batch.bin", np.uint8
    ).reshape(4, -1)
    pictures = [
        Image.fromarray(r[1:].reshape(3, 32, 32).transpose(1, 2, 0)).convert("L") for r in raw
    ]
    assert np.array_equal(
        data["test"].x, np.stack([np.asarray(p).ravel() for p in pictures])
    )  # Pillow's own grey
    labels = {}
    for i in range(1, 6):
        for record in np.fromfile(
            tmp_path / "release" / "cifar-10-batches-bin" / f"data_batch_{i}.bin", np.uint8
        ).reshape(4, -1):
            labels[
                np.asarray(
                    Image.fromarray(record[1:].reshape(3, 32, 32).transpose(1, 2, 0)).convert("L")
                ).tobytes()
            ] = record[0]
    for split in ("train", "val"):
        assert [labels[x.tobytes()] for x in data[split].x] == data[split].y.tolist()
    assert data["test"].y.tolist() == [0, 1, 2, 3] and (data.info.mean, data.info.std) == (
        122.6,
        61,
    )


def test_pathfinder_images_are_read_and_the_empty_file_is_reported(release, tmp_path):
    data = made("pathfinder", release("pathfinder"), tmp_path)
    for split in data.splits.values():
        for row, label in zip(split.x, split.y):
            assert len(set(row)) == 1 and (row[0] // 10 // 2) % 2 == label
    assert data.info.notes == [
        "imgs/0/sample_3.png is an empty file of the release and was skipped"
    ]


# -- from everywhere -------------------------------------------------------


@pytest.mark.parametrize(
    "task, below",
    [
        ("listops", "a/b/c/d/e/f/g"),
        ("pathfinder", "lra_release/pathfinder32/curv_contour_length_14"),
    ],
)
def test_files_are_found_wherever_they_sit(task, below, release, tmp_path):
    config = release(task)
    expected = made(task, config, tmp_path)
    folder = tmp_path / "release" / below
    if task == "listops":
        folder.parent.mkdir(parents=True)
        (tmp_path / "release" / "lra_release").rename(folder)
        folder = tmp_path / "release"
    else:
        (folder / "metadata" / "._0.npy").write_bytes(b"\0")  # as a Mac leaves them in archives
    again = made(task, config.model_copy(update={"source": str(folder)}), tmp_path)
    assert np.array_equal(expected["train"].x, again["train"].x)


def pack(root, path):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(p for p in root.rglob("*") if p.is_file()):
                archive.write(file, file.relative_to(root))
    else:
        with tarfile.open(path, "w:gz" if "gz" in path.name else "w") as archive:
            for entry in sorted(root.iterdir()):
                archive.add(entry, entry.name)
    return path


@pytest.fixture
def server(tmp_path):
    """Serves tmp_path/web on loopback; .log holds Range headers.

    .behaviour maps a path to "cut" (half of it), "403" or "no ranges".
    """
    (tmp_path / "web").mkdir()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            how, wanted = self.server.behaviour, self.headers.get("Range")
            self.server.log.append(wanted)
            if how == "403":
                return self.send_error(403)
            content = (tmp_path / "web" / self.path.lstrip("/")).read_bytes()
            if self.headers.get("If-Range") not in (None, hashlib.md5(content).hexdigest()):
                wanted = None
            if wanted == f"bytes={len(content)}-":
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                return self.end_headers()
            start = (
                int(re.match(r"bytes=(\d+)-", wanted)[1]) if wanted and how != "no ranges" else 0
            )
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("ETag", hashlib.md5(content).hexdigest())
            if how == "encoding":
                self.send_header("Content-Encoding", "x-gzip")
            self.end_headers()
            self.wfile.write(content[start : len(content) // 2 if how == "cut" else None])

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        web.behaviour, web.log = "", []
        threading.Thread(target=web.serve_forever, daemon=True).start()
        web.url = f"http://127.0.0.1:{web.server_address[1]}"
        yield web
        web.shutdown()


@pytest.mark.parametrize("task", WRITERS)
@pytest.mark.parametrize("name", ["release.tar.gz", "release.zip", "release", "nested.tar"])
def test_folder_archive_and_address_give_the_same_arrays(task, name, release, server, tmp_path):
    config = release(task)
    expected = made(task, config, tmp_path / "folder")
    archive = pack(tmp_path / "release", tmp_path / "web" / name.replace("nested", "inner"))
    if name == "nested.tar":
        with tarfile.open(tmp_path / "web" / name, "w") as outer:
            outer.add(archive, "inner")  # a tar without suffix, alone in another
        archive = tmp_path / "web" / name
    for origin in (str(archive), f"{server.url}/{name}"):
        for _ in range(2):  # the second time nothing is unpacked or fetched again
            data = made(task, config.model_copy(update={"source": origin}), tmp_path / "other")
        for split in SPLITS:
            assert all(
                np.array_equal(a, b)
                for a, b in zip(vars(expected[split]).values(), vars(data[split]).values())
            )
    assert len(server.log) == 1


@pytest.fixture
def big(server, tmp_path):
    """An archive of 3 MB on the server."""
    with zipfile.ZipFile(tmp_path / "web" / "big.zip", "w") as archive:
        archive.writestr("noise", RNG.integers(0, 256, 3_000_000, np.uint8).tobytes())
    return f"{server.url}/big.zip", (tmp_path / "web" / "big.zip").read_bytes()


def test_a_broken_download_goes_on_where_it_stopped(server, big, tmp_path):
    (url, content), target = big, tmp_path / "big.zip"
    server.behaviour = "cut"
    with pytest.raises(UserError, match="the transfer .*Start again to go on from there"):
        downloads.download(url, target)
    assert not target.exists()
    server.behaviour = ""
    assert downloads.download(url, target).read_bytes() == content
    assert server.log[0] is None and int(server.log[1][6:-1]) > 1_000_000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["big.zip", "web"]
    server.behaviour = "cut"
    with pytest.raises(UserError, match="transfer"):
        downloads.download(url, tmp_path / "again.zip")
    server.behaviour = "no ranges"  # starts over
    assert downloads.download(url, tmp_path / "again.zip").read_bytes() == content


def test_a_download_that_was_whole_but_not_checked_is_finished(server, big, tmp_path):
    (url, content), target = big, tmp_path / "big.zip"
    target.with_name("big.zip.part").write_bytes(content)
    target.with_name("big.zip.etag").write_text(hashlib.md5(content).hexdigest())
    assert downloads.download(url, target).read_bytes() == content and server.log == [
        f"bytes={len(content)}-"
    ]
    target.unlink()
    target.with_name("big.zip.part").write_bytes(content + b"more")  # of another version
    target.with_name("big.zip.etag").write_text("another")
    assert downloads.download(url, target).read_bytes() == content


def test_a_server_that_names_an_encoding_gives_the_same_file(server, big, tmp_path):
    server.behaviour = "encoding"
    assert downloads.download(big[0], tmp_path / "big.zip").read_bytes() == big[1]


def test_an_address_that_refuses_or_gives_a_page_is_named(server, tmp_path):
    server.behaviour = "403"
    with pytest.raises(
        UserError, match="/lra_release.gz answers 403 Forbidden. .*as source in params.yaml"
    ):
        downloads.download(f"{server.url}/lra_release.gz", tmp_path / "raw" / "lra_release.gz")
    with pytest.raises(UserError, match="the transfer broke off"):
        downloads.download("http://127.0.0.1:9/nothing.zip", tmp_path / "raw" / "nothing.zip")
    server.behaviour = ""
    (tmp_path / "web" / "lra_release.gz").write_text("<html>Please log in")
    with pytest.raises(UserError, match="neither a tar nor a zip archive: b'<html>Please log in'"):
        downloads.download(f"{server.url}/lra_release.gz", tmp_path / "raw" / "lra_release.gz")
    assert not list((tmp_path / "raw").iterdir())


def test_a_checksum_that_differs_is_refused(server, big, tmp_path, monkeypatch):
    with pytest.raises(
        UserError, match="its sha256 is .*, expected 0000.* delete it and get it again"
    ):
        downloads.download(big[0], tmp_path / "big.zip", "0" * 64)
    assert [p.name for p in tmp_path.iterdir()] == ["web"]
    monkeypatch.setitem(downloads.PUBLISHED, "big.zip", "f" * 32)
    with pytest.raises(UserError, match="its md5 is .*, expected ffff"):
        downloads.verify(tmp_path / "web" / "big.zip", "big.zip", None)
    with pytest.raises(
        UserError, match="is a folder, and sha256 in params.yaml is that of an archive"
    ):
        made("image", ImageData(**SIZES, source=str(tmp_path), sha256="0" * 64), tmp_path)


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize(
    "what, message",
    [
        ("../out.txt", "outside of the folder"),
        ("/out.txt", "outside of the folder"),
        ("link", "is a link"),
        ("hard link", "is a link"),
    ],
)
def test_archives_that_lead_outside_are_refused(kind, what, message, tmp_path):
    path = tmp_path / f"a.{kind}"
    if kind == "zip":
        entry = zipfile.ZipInfo(what)
        entry.external_attr = (0o120777 << 16) if "link" in what else 0
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("fine.txt", "fine")
            archive.writestr(entry, "/etc/passwd")
    else:
        entry = tarfile.TarInfo(what)
        if "link" in what:
            entry.type, entry.linkname = (
                (tarfile.SYMTYPE if what == "link" else tarfile.LNKTYPE),
                "/etc/passwd",
            )
        with tarfile.open(path, "w") as archive:
            archive.addfile(tarfile.TarInfo("fine.txt"), io.BytesIO())
            archive.addfile(entry, io.BytesIO())
    with pytest.raises(UserError, match=message):
        releases.unpack(path, releases=tmp_path / "releases")
    assert not list((tmp_path / "releases").iterdir()) and not (tmp_path / "out.txt").exists()


def damaged(path, release, how):
    content = bytearray(pack(release, path).read_bytes())
    if how == "cut":
        content = content[:-2000]
    elif how == "without its checksum":
        content = content[:-8]
    elif how == "cut between two files":
        with tarfile.open(path) as archive:
            content = content[: archive.getmembers()[-1].offset]
    else:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name, how",
    [
        ("a.tar.gz", "cut"),
        ("a.tar.gz", "without its checksum"),
        ("a.tar.gz", "one bit"),
        ("a.zip", "cut"),
        ("a.zip", "one bit"),
        ("a.tar", "cut between two files"),
    ],
)
def test_a_damaged_archive_is_refused(name, how, release, tmp_path):
    release("image")
    path = tmp_path / name
    damaged(path, tmp_path / "release", how)
    with pytest.raises(
        UserError, match="the archive is damaged, was cut|neither a folder nor a tar or zip archive"
    ):
        releases.open_release(ImageData(**SIZES, source=str(path)), tmp_path / "raw")
    assert not [p for p in (tmp_path / "raw").rglob("*") if p.is_file() and p.name != ".lock"]


def test_a_tar_whose_last_file_is_a_zip_is_a_tar(tmp_path):
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("inside.txt", "inside")
    (tmp_path / "a.txt").write_text("a")
    with tarfile.open(tmp_path / "both.tar", "w") as archive:
        archive.add(tmp_path / "a.txt", "a.txt")
        archive.add(tmp_path / "in.zip", "in.zip")
    assert sorted(
        p.name
        for p in releases.unpack(tmp_path / "both.tar", releases=tmp_path / "releases").iterdir()
    ) == ["a.txt", "in.zip"]


def test_what_is_no_archive_is_said(tmp_path):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(b"no archive")
    with pytest.raises(UserError, match="neither a folder nor a tar or zip archive"):
        made("image", ImageData(**SIZES, source=str(path)), tmp_path)
    with pytest.raises(UserError, match="there is no such folder or file"):
        made("image", ImageData(**SIZES, source=str(tmp_path / "nowhere")), tmp_path)


def test_what_was_looked_for_and_what_is_there_is_said(release, tmp_path):
    config = release("listops")
    (
        tmp_path / "release" / "lra_release" / "lra_release" / "listops-1000" / "basic_val.tsv"
    ).rename(tmp_path / "release" / "valid.tsv")
    with pytest.raises(
        UserError,
        match=r"not hold ListOps.*: basic_val.tsv not found. It holds valid.tsv, .*basic_test",
    ):
        made("listops", config, tmp_path)
    pack(tmp_path / "release", tmp_path / "release" / "lra_release.gz")
    with pytest.raises(
        UserError, match="If lra_release.gz holds the release, name that file as source"
    ):
        made("listops", config, tmp_path)


# -- broken contents -------------------------------------------------------


def edit(path, old, new):
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


BROKEN = {
    "a truncated row": (
        "listops",
        "basic_train.tsv",
        functools.partial(edit, old=b"4 ) 0 ) ] )\t4\n", new=b"4\n"),
        r"basic_train.tsv, line 6: expected an expression, a tab and a digit, found 1 columns",
    ),
    "a header that is missing": (
        "listops",
        "basic_val.tsv",
        functools.partial(edit, old=b"Source\tTarget\n", new=b""),
        "line 1: expected the header",
    ),
    "a label out of range": (
        "listops",
        "basic_test.tsv",
        functools.partial(edit, old=b"\t4\n", new=b"\t10\n"),
        "basic_test.tsv, line 2: expected a digit as Target, found '10'",
    ),
    "unbalanced brackets": (
        "listops",
        "basic_train.tsv",
        functools.partial(edit, old=b"0 ) 0 ) ]", new=b"0 ) 0 ) ] ]"),
        r"line 2: brackets are unbalanced at token 4, '\]'",
    ),
    "an open bracket": (
        "listops",
        "basic_train.tsv",
        functools.partial(edit, old=b"0 ) 0 ) ]", new=b"0 ) 0 ) "),
        "line 2: 1 brackets are not closed",
    ),
    "an unknown token": (
        "listops",
        "basic_train.tsv",
        functools.partial(edit, old=b"[MAX", new=b"[MAD"),
        r"line 2: unknown token '\[MAD'",
    ),
    "bytes that are not UTF-8": (
        "listops",
        "basic_train.tsv",
        functools.partial(edit, old=b"[MAX 1", new=b"[MAX \xff"),
        "line 3: byte 12 is not UTF-8",
    ),
    "a review that is not UTF-8": (
        "text",
        "train/pos/2_9.txt",
        functools.partial(edit, old="ú".encode(), new=b"\xfa"),
        "2_9.txt: byte 6 is not UTF-8",
    ),
    "an empty review": (
        "text",
        "test/neg/1_2.txt",
        lambda path: path.write_text(""),
        "1_2.txt: the review is empty",
    ),
    "a folder without reviews": (
        "text",
        "test/neg",
        lambda path: [p.unlink() for p in path.iterdir()],
        "no <id>_<rating>.txt in it",
    ),
    "too few columns": (
        "retrieval",
        "new_aan_pairs.eval.tsv",
        functools.partial(edit, old=b"\tP1", new=b""),
        "eval.tsv, line 2: expected 5 columns label, id1, .*found 4",
    ),
    "a paper that was cut": (
        "retrieval",
        "new_aan_pairs.eval.tsv",
        lambda path: path.write_bytes(path.read_bytes()[:-5]),
        "eval.tsv, line 2: the last line has no end",
    ),
    "a wrong label": (
        "retrieval",
        "new_aan_pairs.eval.tsv",
        functools.partial(edit, old=b"0\tP0", new=b"2\tP0"),
        "line 1: .*with label 0 or 1",
    ),
    "a file that was cut": (
        "image",
        "data_batch_3.bin",
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        "data_batch_3.bin: 12,291 bytes, expected 4 records of 3073",
    ),
    "an image's label": (
        "image",
        "test_batch.bin",
        lambda path: path.write_bytes(b"\x0b" + path.read_bytes()[1:]),
        "record 1: label 11 is not in 0..9",
    ),
    "a PNG of another size": (
        "pathfinder",
        "imgs/1/sample_2.png",
        lambda path: Image.new("L", (16, 32)).save(path),
        "sample_2.png: 16 x 32 pixels, expected 32 x 32",
    ),
    "a PNG that was cut": (
        "pathfinder",
        "imgs/1/sample_2.png",
        lambda path: path.write_bytes(path.read_bytes()[:60]),
        "sample_2.png: not a whole PNG",
    ),
    "an image that is missing": (
        "pathfinder",
        "imgs/1/sample_2.png",
        Path.unlink,
        "metadata/1.npy, line 3: it names .*sample_2.png, which is not there",
    ),
    "metadata of another kind": (
        "pathfinder",
        "metadata/0.npy",
        functools.partial(edit, old=b" 0 0 1.0", new=b" 0 5 1.0"),
        "metadata/0.npy, line 1: expected folder, file, index, label",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_files_are_named_with_line_or_record(what, release, tmp_path):
    task, end, breaking, message = BROKEN[what]
    config = release(task)
    (path,) = [p for p in (tmp_path / "release").rglob("*") if str(p).endswith(end)]
    breaking(path)
    with pytest.raises(UserError, match=message):
        made(task, config, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["release"]

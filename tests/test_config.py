"""params.yaml: every scale is valid, every mistake is named with its line."""

import re

import pytest
from dvc.utils.serialize import parse_yaml
from ruamel.yaml import YAML

from s4bt.files import UserError, atomic_path, digest
from s4bt.reduction.methods import METHODS
from s4bt.study.config import PARAMS, SCALES, check_methods, load_scale, load_task
from s4bt.tasks import TASKS

TEXT = PARAMS.read_text()


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_is_valid(scale):
    section = load_scale(scale)
    assert len(section.grid.seeds) >= 2
    pathfinder, pathx = section.tasks.pathfinder.data, section.tasks.pathx.data
    assert pathx.size > pathfinder.size


def test_the_larger_scales_climb_more_of_the_ladder():
    assert load_scale("laptop").grid.ranks == [4, 16]
    study = load_scale("study").grid
    assert {*study.ranks, *study.more_ranks} == {2, 4, 8, 16, 32, 64} and len(study.seeds) == 5
    assert load_scale("paper").grid.ranks == [1, 2, 4, 8, 16, 32]


@pytest.mark.parametrize(
    "new, message",
    [
        ("more_ranks: [4]", r"more_ranks \[4\] are among the ranks already"),
        ("more_ranks: [8, 8]", r"more_ranks \[8, 8\] holds a value twice"),
        ("originals: {shares: [1.5], ranks: [4], methods: [weighted]}", "less than 1"),
        ("originals: {shares: [0.5], ranks: [8], methods: [weighted]}", r"originals.ranks \[8\]"),
        ("originals: {shares: [0.5], ranks: [4], methods: [h2]}", r"originals.methods \['h2'\]"),
        ("originals: {shares: [0.5, 0.5], ranks: [4], methods: [weighted]}", "holds a value twice"),
    ],
)
def test_more_of_the_grid_is_checked(tmp_path, new, message):
    path, _ = changed(tmp_path, "    lr_rank: 4\n", f"    lr_rank: 4\n    {new}\n")
    with pytest.raises(UserError, match=message):
        load_scale("laptop", path)


def changed(tmp_path, old, new, count=1):
    """params.yaml with one place changed inside the section of scale laptop,
    and that line's number.
    """
    start = TEXT.index("\nlaptop:")
    assert old in TEXT[start:]
    text = TEXT[:start] + TEXT[start:].replace(old, new, count)
    path = tmp_path / "params.yaml"
    path.write_text(text)
    return path, text[: text.index(new, start)].count("\n") + 1


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("evaluations: 8", "evalutions: 8", "unknown key"),
        ("steps: 1000", "steps: -3", r"greater than or equal to 1 \(got -3\)"),
        ("steps: 1000", "steps: many", r"valid integer.*\(got 'many'\)"),
        ("norm: batch", "norm: group", "'batch' or 'layer'"),
        ("lr: [0.01]", "lr: []", "at least 1 item"),
        (
            "ranks: [4, 8, 16]",
            "ranks: [4, 16, 128]",
            r"rank 128 is above the state dimension N = 64 of task listops",
        ),
        (
            "    ranks: [4, 16]",
            "    ranks: [4, 32]",
            r"ranks \[32\] are retrained but not truncated: add them to one_shot.ranks",
        ),
        (
            "methods: [bt-shared, bt-discrete, weighted, weighted-shared]",
            "methods: [weighted, weighted]",
            r"holds a value twice",
        ),
        ("ranks: [4, 16]", "ranks: [4, 0]", r"greater than or equal to 1 \(got 0\)"),
        (
            "baseline_ranks: [4]",
            "baseline_ranks: [128]",
            r"rank 128 is above the state dimension N = 64 of task listops",
        ),
        ("seeds: [0, 1, 2]", "seeds: [0, 0]", r"seeds \[0, 0\] holds a value twice"),
        ("lr_rank: 4", "lr_rank: 5", "lr_rank 5 is not one of the ranks"),
        ("dt_max: 1.0", "dt_max: 0.0001", "dt_min 0.001 is above dt_max 0.0001"),
        ("max_length: 64", "max_length: 9", "no length lies between min_length 8 and max_length 9"),
        (
            "batch: 32",
            "batch: 32000",
            "task listops: a batch is larger than the 20000 training examples",
        ),
        ("  listops:", "  listop:", "unknown key"),
    ],
)
def test_mistakes_are_named_with_file_line_and_key(tmp_path, old, new, message):
    path, line = changed(tmp_path, old, new)
    with pytest.raises(UserError) as caught:
        load_scale("laptop", path)
    text = str(caught.value)
    assert re.search(message, text), text
    numbers = [int(n) for n in re.findall(r"params\.yaml, line (\d+)", text)]
    start = path.read_text()[: path.read_text().index("\nlaptop:")].count("\n") + 2
    grid = (
        path.read_text()[
            : path.read_text().index("  grid:", path.read_text().index("\nlaptop:"))
        ].count("\n")
        + 1
    )
    assert line in numbers or numbers in (
        [start],
        [grid],
    )  # rules about a whole section name its first line


def test_an_unknown_method_is_named_with_file_and_line(tmp_path):
    path, line = changed(tmp_path, "energy, h2, hankel", "energy, h3, hankel")
    check_methods("laptop", METHODS)
    said = rf"params\.yaml, line {line}\b.*'h3' is no method; use bt-shared, .*weighted"
    with pytest.raises(UserError, match=said):
        check_methods("laptop", METHODS, path)


def test_unknown_names_list_the_known_ones(tmp_path):
    with pytest.raises(UserError, match="unknown task 'speech'. Use one of: " + ", ".join(TASKS)):
        load_task("laptop", "speech")
    with pytest.raises(UserError, match="no scale 'huge'. Use one of: quick, laptop, study, paper"):
        load_scale("huge")
    with pytest.raises(UserError, match="git checkout params.yaml"):
        load_scale("laptop", tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("laptop: [1,\n")
    with pytest.raises(UserError, match="not valid YAML"):
        load_scale("laptop", tmp_path / "params.yaml")


def test_every_key_of_every_scale_is_documented_by_its_class():
    for scale, section in YAML(typ="safe").load(TEXT).items():
        assert load_scale(scale).model_dump(exclude_unset=True) == section


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_digest_sees_names_and_contents(tmp_path):
    (tmp_path / "a").write_text("1")
    before = digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert digest(tmp_path) != before


@pytest.mark.parametrize(
    "text, line, message",
    [
        ("quick:\n  a: 1\n  b: 2\n  a: 3\n", 4, "the key 'a' stands at line 2 already"),
        ("quick: {}\nquick: {}\n", 2, "the key 'quick' stands at line 1 already"),
        ("quick:\n  a: [1, 2\n", None, "is not valid YAML"),
    ],
)
def test_a_key_that_is_there_twice_is_refused_with_both_lines(tmp_path, text, line, message):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_scale("quick", path)
    assert line is None or f"params.yaml, line {line}: " in str(caught.value)


def test_bytes_that_are_no_text_are_named_with_their_line(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_bytes(b"quick:\n  a: 1\n  b: \xe4\n")
    with pytest.raises(UserError, match="params.yaml, line 3: byte 0xe4 is not UTF-8"):
        load_scale("quick", path)


@pytest.mark.parametrize(
    "value, read",
    [("010", 10), ("0o10", 8), ("1_000", 1000), ("1e3", None), ("true", None), ("8.0", None)],
)
def test_whole_numbers_are_read_as_dvc_reads_them(tmp_path, value, read):
    path, line = changed(tmp_path, "evaluations: 8", f"evaluations: {value}")
    assert parse_yaml(path.read_text(), path) == YAML(typ="safe").load(path)
    if read is None:
        with pytest.raises(UserError, match=rf"line {line}: .*evaluations: .*valid integer"):
            load_scale("laptop", path)
    else:
        assert load_scale("laptop", path).tasks.listops.pretrain.evaluations == read


@pytest.mark.parametrize(
    "value, read", [("1e-3", 1e-3), (".5", 0.5), (".inf", None), (".nan", None), ("true", None)]
)
def test_numbers_are_read_as_dvc_reads_them(tmp_path, value, read):
    path, line = changed(tmp_path, "lr: [0.01]", f"lr: [{value}]")
    if read is None:
        with pytest.raises(UserError, match=rf"line {line}: .*lr.0: "):
            load_scale("laptop", path)
    else:
        assert load_scale("laptop", path).tasks.listops.pretrain.lr == [read]

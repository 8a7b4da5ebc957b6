"""Longer inputs, moved numbers, and the tables of what survives."""

import numpy as np
import pandas as pd
import pytest
import torch

from s4bt import S4Model, compress
from s4bt.compression import FragileLayer
from s4bt.reduction.quality import cancellation
from s4bt.reduction.systems import DiagonalLTI
from s4bt.study.care import CONDITIONS, RETRAINED, best, losses, of_choice, robust_losses
from s4bt.study.robustness import perturbed, robustness, twice_as_long
from s4bt.tasks import Dataset, Info, Split
from s4bt.tasks.listops import CODE, show

VALUES = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda v: int(np.median(v)),
    "[SM": lambda v: sum(v) % 10,
}


def value(tokens):
    """What an expression evaluates to, read from its text."""
    stack = [[]]
    for token in tokens.split():
        if token in VALUES:
            stack.append([token])
        elif token == "]":
            operator, *arguments = stack.pop()
            stack[-1].append(VALUES[operator](arguments))
        else:
            stack[-1].append(int(token))
    return stack[0]


@pytest.mark.parametrize("end", [[], ["<end>"]])
def test_an_expression_twice_as_long_has_the_same_value(end):
    texts = ["[MAX 2 [MIN 4 7 ] 0 ]", "[SM 9 [MED 1 2 8 ] ]", "5"]
    rows = [[CODE[t] for t in [*text.split(), *end]] for text in texts]
    x = np.zeros((3, 12), np.uint8)
    for i, tokens in enumerate(rows):
        x[i, : len(tokens)] = tokens
    lengths = np.array([len(tokens) for tokens in rows], np.int32)
    new = twice_as_long("listops", Split(x, lengths, np.zeros(3, np.int64)))
    for i, text in enumerate(texts):
        again = show(new.x[i])
        assert again.endswith("<end>") == bool(end)
        again = again.removesuffix(" <end>")
        assert again == f"[MAX {text} {text} ]" and value(again) == value(text)
        assert (
            new.lengths[i] == len(again.split()) + len(end) and not new.x[i, new.lengths[i] :].any()
        )


def test_texts_are_repeated_and_pictures_get_background():
    x, lengths = np.array([[[3, 4, 0], [5, 6, 7]]], np.uint8), np.array([[2, 3]], np.int32)
    y = np.zeros(1, np.int64)
    new = twice_as_long("retrieval", Split(x, lengths, y))
    assert new.x.tolist() == [[[3, 4, 3, 4, 0, 0], [5, 6, 7, 5, 6, 7]]]
    assert new.lengths.tolist() == [[4, 6]]
    new = twice_as_long("text", Split(x[:, 0], lengths[:, 0], y))
    assert new.x.tolist() == [[3, 4, 3, 4, 0, 0]] and new.lengths.tolist() == [4]
    new = twice_as_long("image", Split(x[:, 1], np.array([3], np.int32), y))
    assert new.x.tolist() == [[5, 6, 7, 0, 0, 0]] and new.lengths.tolist() == [6]


def test_a_perturbed_copy_moves_every_number_of_the_layers_and_no_other():
    model = S4Model(11, 4, layers=2, width=4, state=8)
    before = {name: p.clone() for name, p in model.named_parameters()}
    one, again, other = (perturbed(model, [seed]) for seed in (0, 0, 1))
    for (name, p), q, r in zip(one.named_parameters(), again.parameters(), other.parameters()):
        old = before[name]
        assert torch.equal(dict(model.named_parameters())[name], old) and torch.equal(p, q)
        inside = ".dss." in name
        assert torch.equal(p, old) is not inside and torch.equal(p, r) is not inside
        if inside:
            size = ((p - old) / old).square().mean().sqrt()
            assert 0.003 < size < 0.03


def test_cancellation_is_how_far_terms_exceed_their_sum():
    poles = torch.tensor([[0.9 + 0j, 0.9 - 1e-6], [0.5 + 0j, 0.3]], dtype=torch.complex128)
    residues = torch.tensor([[1.0, -0.99], [0.0, 0.0]], dtype=torch.complex128)
    found = cancellation(DiagonalLTI(poles, residues, dt=1.0), 50)
    assert found[0] == pytest.approx(1.99 / 0.01, rel=1e-3) and found[1] == 1


def test_compress_says_which_layer_is_fragile_and_why():
    torch.manual_seed(0)
    model, x = S4Model(11, 4, layers=2, width=8, state=32).eval(), torch.randint(1, 11, (16, 60))
    with pytest.warns(FragileLayer, match=r"layer 0: terms up to [\d,]+ times .*`perturbation`"):
        _, bold = compress(model, 8, "weighted", x, perturbation=0.0)
    _, careful = compress(model, 8, "weighted", x, perturbation=0.02)
    for a, b in zip(bold, careful):
        assert b["cancellation"] < 100 < a["cancellation"]
        assert b["feedthrough"] <= 10 * max(1, b["before"])


def rows(**worst):
    full = {"task": "image", "arm": "untruncated"} | dict.fromkeys(CONDITIONS, 0.9)
    fits = [
        {"task": "image", "arm": "fit", "method": "weighted", "perturbation": eps, "white": 0.1}
        | dict.fromkeys([*CONDITIONS, *RETRAINED], 0.9)
        | {"perturbed": 0.9 - loss}
        for eps, loss in zip((0.0, 0.001, 0.01, 0.1), worst["perturbed"])
    ]
    return pd.DataFrame([full, *fits])


def test_the_rule_takes_the_smallest_loss_where_it_loses_most():
    lost = losses(rows(perturbed=(0.8, 0.03, 0.02, 0.2)))
    assert best(lost, "perturbation") == 0.01
    said = of_choice(lost, {"weighted": {"perturbation": 0.001, "white": 0.1}})
    assert "perturbation 0.01 (default 0.001)" in said


def test_losses_are_against_the_untruncated_model_of_the_same_seed_and_task():
    table = []
    for task, seed, full in (("image", 0, 0.9), ("image", 1, 0.8), ("text", 0, 0.6)):
        same = {"task": task, "seed": seed, "cancellation": 2.0 + seed, "feedthrough": 1.0}
        table.append(same | {"arm": "untruncated"} | dict.fromkeys(CONDITIONS, full))
        cut = dict.fromkeys(CONDITIONS, full - 0.1 * (seed + 1))
        table.append(same | {"arm": "one-shot", "method": "modal", "rank": 4} | cut)
    found = robust_losses(pd.DataFrame(table)).loc[("modal", 4)]
    assert found["longer"] == pytest.approx((15 + 10) / 2) and found["cancellation"] == 3


def test_a_layer_that_is_kept_whole_is_not_called_fragile(recwarn):
    torch.manual_seed(0)
    model = S4Model(11, 4, layers=1, width=4, state=3)
    with torch.no_grad():
        model.dss_layers()[0].W.copy_(
            torch.tensor([1e4, -1e4, 1e-3])[None, :, None].expand(4, 3, 2)
        )
        model.dss_layers()[0].Lambda_im.zero_()
    with pytest.warns(FragileLayer):
        compress(model, 2, "modal")
    recwarn.clear()
    compress(model, 3, "modal")
    assert not [w for w in recwarn if issubclass(w.category, FragileLayer)]


def test_only_the_split_that_is_named_is_asked():
    """A model that answers 0 is right on one split, and wrong on the others."""

    class Zero(S4Model):
        def forward(self, x, lengths=None):
            return torch.tensor([[1.0, 0.0]]).expand(len(x), 2)

    x, lengths = np.ones((4, 6), np.uint8), np.full(4, 6, np.int32)
    right = {"train": 1, "val": 0, "test": 1}
    splits = {k: Split(x, lengths, np.full(4, v, np.int64)) for k, v in right.items()}
    data, model = Dataset(Info(5, 2), splits), Zero(5, 2, layers=1, width=2, state=2)
    for name, value in (("val", 1.0), ("test", 0.0)):
        found = robustness(model, "text", data, name, 0, 2)
        assert found == {"as_is": value, "longer": value, "perturbed": value}


def test_every_task_split_and_copy_is_perturbed_by_numbers_of_its_own(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "s4bt.study.robustness.perturbed", lambda model, seed: drawn.append(seed) or model
    )
    x, lengths = np.ones((2, 6), np.uint8), np.full(2, 6, np.int32)
    splits = {k: Split(x, lengths, np.zeros(2, np.int64)) for k in ("train", "val", "test")}
    data, model = Dataset(Info(5, 2), splits), S4Model(5, 2, layers=1, width=2, state=2)
    for task in ("text", "image"):
        for name in ("val", "test"):
            for seed in (0, 1):
                robustness(model, task, data, name, seed, 2)
    assert len(set(drawn)) == len(drawn) == 16

"""The classifier: options, truncation of a whole model, checkpoints."""
import itertools

import pytest
import torch

from s4bt.files import UserError
from s4bt.dss import skew_hippo
from s4bt.lti import UnstableSystem
from s4bt.model import S4Model, count_parameters, load_model, save_model, truncate, with_dss_of, with_skew_hippo

OPTIONS = {"layers": 2, "width": 6, "state": 8}


def tokens(model_documents=1, batch=3, length=12):
    shape = (batch, length) if model_documents == 1 else (batch, 2, length)
    return torch.randint(1, 11, shape)


@pytest.mark.parametrize("norm, prenorm, pooling, documents",
                         list(itertools.product(["batch", "layer"], [True, False], ["mean", "last"], [1, 2])))
def test_padding_does_not_reach_the_answer(norm, prenorm, pooling, documents):
    model = S4Model(11, 4, documents, **OPTIONS, norm=norm, prenorm=prenorm, pooling=pooling).eval()
    x = tokens(documents)
    padded = torch.nn.functional.pad(x, (0, 5))
    lengths = torch.full(x.shape[:-1], 12)
    assert model(x).shape == (3, 4)
    assert torch.allclose(model(padded, lengths), model(x), atol=1e-5)


def test_real_samples_go_through_a_linear_encoder():
    assert S4Model(0, 4, **OPTIONS)(torch.randn(3, 12)).shape == (3, 4)


def test_two_documents_are_told_apart_by_their_order():
    model = S4Model(11, 2, 2, **OPTIONS).eval()
    x = tokens(2)
    assert not torch.allclose(model(x), model(x.flip(1)))


def test_parameters_are_counted_by_hand():
    H, N = 6, 8
    sizes = count_parameters(S4Model(11, 4, layers=1, width=H, state=N))
    dss = 2 * N + 2 * H * N + 2 * H
    assert sizes == {"state_space": dss, "total": dss + 11 * H + (H * H + H) + 2 * 2 * H + (4 * H + 4)}


@pytest.mark.parametrize("method", ["bt-shared", "bt-channel"])
def test_truncating_nothing_changes_nothing(method):
    model = S4Model(11, 4, **OPTIONS).eval()
    same, _ = truncate(model, 8, method)
    x = tokens(length=50)
    assert torch.allclose(model(x), same(x), atol=1e-4)


@pytest.mark.parametrize("method, poles", [("bt-shared", "tied"), ("bt-channel", "per-channel")])
def test_truncation_reports_every_layer_and_keeps_the_bound(method, poles):
    model = S4Model(11, 4, **OPTIONS)
    small, report = truncate(model, 3, method)
    assert [row["layer"] for row in report] == [0, 1]
    assert all(row["limit"] * 0.999 <= row["hinf"] <= row["bound"] * 1.001 for row in report)
    assert all(dss.state == 3 and dss.poles == poles for dss in small.dss_layers())
    assert count_parameters(small)["state_space"] < count_parameters(model)["state_space"]
    assert all(dss.state == 8 for dss in model.dss_layers())


def test_the_layers_of_one_model_move_to_another():
    model, other = S4Model(11, 4, **OPTIONS), S4Model(11, 4, **OPTIONS)
    small, _ = truncate(model, 3, "bt-shared")
    mixed = with_dss_of(other, small)
    assert torch.equal(mixed.encoder.weight, other.encoder.weight)
    assert torch.equal(mixed.blocks[1].dss.W, small.blocks[1].dss.W) and mixed.options["state"] == [3, 3]


@pytest.mark.parametrize("poles", ["tied", "per-channel"])
def test_skew_hippo_replaces_poles_and_output_weights_only(poles):
    model = S4Model(11, 4, **OPTIONS)
    with torch.no_grad():
        model.blocks[0].dss.D.fill_(3.0)
    new = with_skew_hippo(model, 3, poles)
    old, fresh = model.state_dict(), new.state_dict()
    kept = [name for name in old if not name.endswith(("Lambda_re", "Lambda_im", "dss.W"))]
    assert len(kept) > 10 and all(torch.equal(old[name], fresh[name]) for name in kept)
    dss = new.blocks[1].dss
    assert torch.allclose(dss.Lambda().imag.reshape(-1, 3)[0], torch.tensor(skew_hippo(3).imag).float()) and dss.W.shape == (6, 3, 2)
    assert new.options["state"] == [3, 3] and new.options["poles"] == [poles] * 2


def test_an_unstable_layer_is_named():
    model = S4Model(11, 4, **OPTIONS, version="softmax", length=12)
    with torch.no_grad():
        model.blocks[1].dss.Lambda_re[2] = 0.5
    with pytest.raises(UnstableSystem, match="layer 1: .* 6 of 48 are not"):
        truncate(model, 3, "bt-channel")
    with pytest.raises(ValueError, match="layer 0: rank must be .* 8; got 9"):
        truncate(model, 9, "bt-shared")


def test_a_checkpoint_brings_back_the_same_model(tmp_path):
    model, _ = truncate(S4Model(11, 4, **OPTIONS, norm="batch").eval(), 3, "bt-channel")
    save_model(model, tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors").eval()
    x = tokens()
    assert torch.equal(model(x), again(x)) and list(tmp_path.iterdir()) == [tmp_path / "m.safetensors"]


def test_broken_checkpoints_are_named(tmp_path):
    path = tmp_path / "m.safetensors"
    with pytest.raises(UserError, match=r"m\.safetensors: no such checkpoint\. Run the stage"):
        load_model(path)
    model = S4Model(11, 4, **OPTIONS)
    save_model(model, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:len(whole) // 2])
    with pytest.raises(UserError, match="not a whole checkpoint"):
        load_model(path)
    model.options["width"] = 7
    save_model(model, path)
    with pytest.raises(UserError, match="the weights do not fit"):
        load_model(path)


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("s4bt.model.save_file", full)
    with pytest.raises(UserError, match="No space left on device. Free some space"):
        save_model(S4Model(11, 4, **OPTIONS), tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())

"""The classifier: options, truncation of a whole model, checkpoints."""

import itertools

import numpy as np
import pytest
import torch

from s4bt.compression import compress, input_spectra, spectrum
from s4bt.files import UserError
from s4bt.nn.dss import skew_hippo
from s4bt.nn.s4 import S4Model, count_parameters, with_dss_of, with_skew_hippo
from s4bt.nn.storage import load_model, save_model
from s4bt.reduction.dispatch import reduce
from s4bt.reduction.methods import METHODS
from s4bt.reduction.ranks import budget, by_bound, layer_adaptive
from s4bt.reduction.systems import UnstableSystem

OPTIONS = {"layers": 2, "width": 6, "state": 8}


def tokens(model_documents=1, batch=3, length=12):
    shape = (batch, length) if model_documents == 1 else (batch, 2, length)
    return torch.randint(1, 11, shape)


@pytest.mark.parametrize(
    "norm, prenorm, pooling, documents",
    list(itertools.product(["batch", "layer"], [True, False], ["mean", "last"], [1, 2])),
)
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
    assert sizes == {
        "state_space": dss,
        "total": dss + 11 * H + (H * H + H) + 2 * 2 * H + (4 * H + 4),
    }


def calibrated(documents=1, batch=16, length=50):
    """Random tokens, the last ones of every sequence padding."""
    x = tokens(documents, batch, length)
    return x, torch.randint(length // 2, length + 1, x.shape[:-1])


@pytest.mark.parametrize("method", METHODS)
def test_truncating_nothing_changes_nothing(method):
    model, seen = S4Model(11, 4, **OPTIONS).eval(), calibrated()
    same, report = compress(model, 8, method, seen)
    assert torch.allclose(model(*seen), same(*seen), atol=1e-3)
    assert all(row["output_error"] < 1e-3 for row in report)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("version, documents", [("exp", 1), ("softmax", 2)])
def test_truncation_reports_every_layer_and_leaves_the_model_alone(method, version, documents):
    model = S4Model(11, 4, documents, **OPTIONS, version=version, length=50).train()
    before, seen = {k: v.clone() for k, v in model.state_dict().items()}, calibrated(documents)
    small, report = compress(model, 3, method, seen)
    assert (
        all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        and model.training
        and small.training
    )
    assert [(row["layer"], row["rank"]) for row in report] == [(0, 3), (1, 3)]
    assert all(row["limit"] * 0.999 <= row["hinf"] for row in report)
    assert all(row["hinf"] <= row["bound"] * 1.001 for row in report) or not METHODS[method].bounded
    assert all(
        dss.state == 3 and dss.sharing == ("tied" if METHODS[method].tied else "per-channel")
        for dss in small.dss_layers()
    )
    assert count_parameters(small)["state_space"] < count_parameters(model)["state_space"]
    assert small(*seen).shape == (16, 4)


def test_the_reported_errors_are_those_of_the_stored_layer():
    model, seen = S4Model(11, 4, **OPTIONS).eval(), calibrated()
    small, report = compress(model, 3, "weighted", seen)
    for parameter in [*model.parameters(), *small.parameters()]:
        parameter.requires_grad_(False)
    u = model.encode(seen[0])
    error = (
        small.blocks[0].dss.kernel(50)
        + torch.nn.functional.pad(small.blocks[0].dss.D[:, None], (0, 49))
        - model.blocks[0].dss.kernel(50)
        - torch.nn.functional.pad(model.blocks[0].dss.D[:, None], (0, 49))
    ).double()
    v, counts = model.blocks[0].dss_input(u), (torch.arange(50) < seen[1][:, None])[:, None]
    assert not bool(counts.all())

    def whole(K):
        """Of the samples that the model uses, also of what padding puts into none of them."""
        y = torch.fft.ifft(torch.fft.fft(v.double(), 100) * torch.fft.fft(K, 100)).real[..., :50]
        return (y * counts).square().sum()

    D = model.blocks[0].dss.kernel(50).double()
    assert np.isclose(report[0]["output_error"], float((whole(error) / whole(D)).sqrt()), rtol=1e-3)
    assert report[0]["output_error"] < compress(model, 3, "bt-discrete", seen)[1][0]["output_error"]


def test_every_layer_is_calibrated_behind_the_truncated_ones():
    model, seen = S4Model(11, 4, **OPTIONS).eval(), calibrated()
    small, _ = compress(model, 2, "weighted", seen)
    received = input_spectra(small, seen)[1]
    alone = reduce(
        model.blocks[1].dss.to_lti(),
        2,
        "weighted",
        model.blocks[1].dss.dt(),
        spectrum=received,
    )
    stored = small.blocks[1].dss.to_lti()
    h, k = (
        s.discretize(small.blocks[1].dss.dt()).impulse_response(50)[:, 1:] for s in (alone, stored)
    )
    assert torch.allclose(h, k, atol=1e-3 * float(h.abs().max()))
    assert not torch.allclose(received, input_spectra(model, seen)[1], rtol=1e-3)


def test_padding_is_no_input():
    x, lengths = calibrated()
    model = S4Model(11, 4, **OPTIONS).eval()
    other = torch.where(torch.arange(50) < lengths[:, None], x, (x + 3) % 11)
    for one, two in zip(input_spectra(model, (x, lengths)), input_spectra(model, (other, lengths))):
        assert torch.allclose(one, two, rtol=1e-4)
    u = model.blocks[0].dss_input(model.encode(x[:1, : lengths[0]]))
    alone = torch.nn.functional.pad(u, (0, 50 - int(lengths[0])))
    assert torch.allclose(spectrum(alone), input_spectra(model, (x[:1], lengths[:1]))[0], rtol=1e-4)


@pytest.mark.parametrize(
    "rank, expected",
    [([2, 5], [2, 5]), (budget(6), None), (by_bound(0.5), None), (layer_adaptive(6), None)],
)
def test_ranks_may_differ_by_layer(rank, expected):
    model = S4Model(11, 4, **OPTIONS)
    for seen in (None, calibrated()):
        small, report = compress(model, rank, "bt-discrete", seen)
        ranks = [dss.state for dss in small.dss_layers()]
        assert ranks == [row["rank"] for row in report] and (expected is None or ranks == expected)
        assert small(tokens()).shape == (3, 4)


def test_the_bound_counts_the_order_before_the_layer_is_stored():
    """A real negative pole is stored as pi / dt in float32 and comes back complex;
    it must not count twice.
    """
    for seed in range(12):
        torch.manual_seed(seed)
        model = S4Model(0, 2, layers=1, width=4, state=5, dt_min=1.0, dt_max=1.0)
        with torch.no_grad():
            model.blocks[0].dss.Lambda_re.copy_(torch.log(torch.rand(5) * 2 + 0.1))
            model.blocks[0].dss.Lambda_im.copy_(torch.rand(5) * 0.8 + 2.4)
        for rank in (1, 2, 3):
            (row,) = compress(model, rank, "bt-discrete")[1]
            assert row["hinf"] <= 1.001 * row["bound"] + 1e-5 * row["gain"], (seed, rank)


@pytest.mark.parametrize("method", METHODS)
def test_a_silent_layer_stays_silent(method):
    model, seen = S4Model(11, 4, **OPTIONS).eval(), calibrated()
    with torch.no_grad():
        model.blocks[1].dss.W.zero_()
        model.blocks[0].dss.W[2].zero_()
    small, report = compress(model, 3, method, seen)
    assert (
        report[1]["output_error"] == report[1]["h2_error"] == 0
        and small.blocks[1].dss.W.abs().max() == 0
    )


def test_parts_that_are_frozen_stay_frozen():
    model = S4Model(11, 4, **OPTIONS, norm="batch").train()
    model.blocks[0].norm.eval()
    small, _ = compress(model, budget(6), "weighted", calibrated())
    for m in (model, small):
        assert m.training and not m.blocks[0].norm.training and m.blocks[1].norm.training
    with pytest.raises(ValueError, match="compress takes no dt"):
        compress(model, 3, dt=0.1)
    assert compress(model, np.int64(3))[1][0]["rank"] == 3


def test_references_are_shared_between_ranks():
    model, known, seen = S4Model(11, 4, **OPTIONS), {}, calibrated()
    reports = [compress(model, r, "bt-discrete", seen, known)[1] for r in (2, 3)]
    assert [list(of_layer) for of_layer in known.values()] == [["bt-discrete"], ["bt-discrete"]]
    assert reports[1] == compress(model, 3, "bt-discrete", seen)[1]


def test_two_steps_are_for_per_channel_reduction():
    model = S4Model(11, 4, **OPTIONS, separate_dt=True).eval()
    small, report = compress(model, 8, "bt-discrete")
    x = tokens(length=50)
    assert torch.allclose(model(x), small(x), atol=1e-4) and not small.dss_layers()[0].separate_dt
    with pytest.raises(
        ValueError, match="layer 0: the rows do not share their poles .*separate steps"
    ):
        compress(model, 3, "bt-shared")


def test_growing_softmax_poles_are_kept_on_request():
    model = S4Model(11, 4, **OPTIONS, version="softmax", length=50).eval()
    with torch.no_grad():
        model.blocks[1].dss.Lambda_re[2] = 0.3
    small, report = compress(model, 7, "bt-discrete", unstable="keep")
    x = tokens(length=50)
    assert torch.allclose(model(x), small(x), atol=0.05) and bool(
        (small.blocks[1].dss.Lambda_re > 0).any()
    )
    assert np.isnan(report[1]["hinf"]) and report[0]["hinf"] > 0


@pytest.mark.parametrize(
    "seen, message",
    [
        (torch.zeros(0, 9, dtype=torch.long), r"the calibration batch is empty: shape \(0, 9\)"),
        (
            torch.zeros(3, 2, 9, dtype=torch.long),
            r"has shape \(B, L\) with L >= 2, not \(3, 2, 9\)",
        ),
        (torch.zeros(3, 1, dtype=torch.long), r"L >= 2, not \(3, 1\)"),
        (torch.full((3, 9), 11), r"token numbers 0\.\.10"),
        (torch.zeros(3, 9), r"holds torch.float32"),
        ((torch.zeros(3, 9, dtype=torch.long), torch.tensor([1, 2, 10])), r"lie in 1\.\.9"),
    ],
)
def test_calibration_that_does_not_fit_is_refused(seen, message):
    with pytest.raises(ValueError, match=message):
        compress(S4Model(11, 4, **OPTIONS), 3, "weighted", seen)
    with pytest.raises(ValueError, match="layer 0: weighted needs the spectrum"):
        compress(S4Model(11, 4, **OPTIONS), 3, "weighted")
    with pytest.raises(ValueError, match="3 ranks for 2 layers"):
        compress(S4Model(11, 4, **OPTIONS), [1, 2, 3])


def test_the_layers_of_one_model_move_to_another():
    model, other = S4Model(11, 4, **OPTIONS), S4Model(11, 4, **OPTIONS)
    small, _ = compress(model, 3, "bt-shared")
    mixed = with_dss_of(other, small)
    assert torch.equal(mixed.encoder.weight, other.encoder.weight)
    assert torch.equal(mixed.blocks[1].dss.W, small.blocks[1].dss.W) and mixed.options()[
        "state"
    ] == [
        3,
        3,
    ]


@pytest.mark.parametrize("sharing", ["tied", "per-channel"])
def test_skew_hippo_replaces_poles_and_output_weights_only(sharing):
    model = S4Model(11, 4, **OPTIONS)
    with torch.no_grad():
        model.blocks[0].dss.D.fill_(3.0)
    new = with_skew_hippo(model, 3, sharing)
    old, fresh = model.state_dict(), new.state_dict()
    kept = [name for name in old if not name.endswith(("Lambda_re", "Lambda_im", "dss.W"))]
    assert len(kept) > 10 and all(torch.equal(old[name], fresh[name]) for name in kept)
    dss = new.blocks[1].dss
    assert torch.allclose(
        dss.Lambda().imag.reshape(-1, 3)[0], torch.tensor(skew_hippo(3).imag).float()
    ) and dss.W.shape == (6, 3, 2)
    assert new.options()["state"] == [3, 3] and new.options()["sharing"] == [sharing] * 2


def test_an_unstable_layer_is_named():
    model = S4Model(11, 4, **OPTIONS, version="softmax", length=12)
    with torch.no_grad():
        model.blocks[1].dss.Lambda_re[2] = 0.5
    with pytest.raises(UnstableSystem, match="layer 1: .* 6 of 48 are not"):
        compress(model, 3, "bt-channel")
    with pytest.raises(ValueError, match="layer 0: rank must be .* 8; got 9"):
        compress(model, 9, "bt-shared")


def test_a_checkpoint_brings_back_the_same_model(tmp_path):
    model, _ = compress(S4Model(11, 4, **OPTIONS, norm="batch").eval(), 3, "bt-channel")
    save_model(model, tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors").eval()
    x = tokens()
    assert torch.equal(model(x), again(x)) and list(tmp_path.iterdir()) == [
        tmp_path / "m.safetensors"
    ]


def test_the_same_model_gives_the_same_bytes(tmp_path):
    model, path = S4Model(11, 4, **OPTIONS), tmp_path / "m.safetensors"
    written = set()
    for _ in range(20):
        save_model(model, path)
        written.add(path.read_bytes())
    assert len(written) == 1


def test_broken_models_and_other_formats_are_named(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    with pytest.raises(UserError, match=r"m\.safetensors: no such model\. Store it again"):
        load_model(path)
    model = S4Model(11, 4, **OPTIONS)
    save_model(model, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a whole model"):
        load_model(path)
    model.width = 7
    save_model(model, path)
    with pytest.raises(UserError, match="the weights do not fit"):
        load_model(path)
    monkeypatch.setattr("s4bt.nn.storage.FORMAT", "model 0")
    save_model(S4Model(11, 4, **OPTIONS), path)
    monkeypatch.undo()
    with pytest.raises(UserError, match="format is 'model 0', and this version.*'model 1'"):
        load_model(path)


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("s4bt.nn.storage.save_file", full)
    with pytest.raises(UserError, match="No space left on device. Free some space"):
        save_model(S4Model(11, 4, **OPTIONS), tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())

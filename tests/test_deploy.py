"""Files made from a model answer as it does, and say what is wrong with what they are given."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from s4bt.deploy.bits import bytes_of, in_bits, pruned, quantised, rounded
from s4bt.deploy.c_source import bytes_of_state, c_source, save_c
from s4bt.deploy.cell import Cell, multiply_adds
from s4bt.deploy.header import FORMAT, Header
from s4bt.deploy.models import header_of, load_stream, save_stream
from s4bt.deploy.sequences import Sequences
from s4bt.files import ROOT, UserError
from s4bt.nn.s4 import S4Model
from s4bt.nn.storage import load_model, save_model

STEPS = 10_000
FLAGS = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
SANITIZED = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
KINDS = {
    "bytes": {"vocabulary": 256, "classes": 3, "norm": "batch"},
    "numbers": {"vocabulary": 0, "classes": 4, "norm": "batch", "sharing": "per-channel"},
    "words": {"vocabulary": 9, "classes": 2, "norm": "layer"},
    "last": {"vocabulary": 256, "classes": 2, "prenorm": False, "pooling": "last"},
    "two documents": {"vocabulary": 256, "classes": 2, "documents": 2, "norm": "batch"},
    "uneven": {"vocabulary": 256, "classes": 2, "state": [3, 7], "norm": "batch"},
}
gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="there is no gcc")


def samples(model, count, seed=0):
    g = torch.Generator().manual_seed(seed)
    shape = (1, count) if model.documents == 1 else (1, 2, count)
    if model.vocabulary:
        return torch.randint(1, model.vocabulary, shape, generator=g)
    return torch.randn(shape, generator=g)


@pytest.fixture(params=KINDS)
def model(request):
    torch.manual_seed(0)
    made = S4Model(**{"layers": 2, "width": 8, "state": 5, **KINDS[request.param]})
    with torch.no_grad():
        for p in made.parameters():
            p += 0.1 * torch.randn_like(p)
        made.train()
        made(samples(made, 40).expand(8, *[-1] * (made.documents + 0)))
    return made.eval()


def probabilities(logits):
    return torch.softmax(logits.detach(), -1)[0].numpy()


def header(model, **more):
    words = ["", *(f"w{i}" for i in range(1, 9))] if model.vocabulary == 9 else []
    return Header(
        vocabulary=model.vocabulary,
        words=words,
        documents=model.documents,
        mean=2.0,
        std=3.0,
        **more,
    )


def text(model, row):
    """Samples as a program reads them."""
    if model.vocabulary == 256:
        return bytes(row.tolist())
    if model.vocabulary:
        return " ".join(f"w{i}" for i in row.tolist()).encode()
    return " ".join(repr(3.0 * v + 2.0) for v in row.tolist()).encode()


@torch.no_grad()
def test_a_cell_and_its_sequences_answer_as_the_model(model):
    x, cell = samples(model, 300), Cell(model)
    assert torch.allclose(Sequences(cell)(x), model(x), atol=1e-5)
    lengths = torch.full(x.shape[:-1], 120)
    assert torch.allclose(Sequences(cell)(x, lengths), model(x, lengths), atol=1e-5)
    features = []
    for row in x.reshape(-1, 300):
        states = cell.start()
        for t, sample in enumerate(row):
            out, *states = cell(sample[None], *states)
            if t == 119:
                early = out
        features.append(out)
    assert torch.allclose(cell.answer(*features), model(x), atol=1e-5)
    if model.documents == 1:  # the answer at any moment
        assert torch.allclose(cell.answer(early), model(x[:, :120]), atol=1e-5)


def test_a_layer_whose_recurrence_does_not_last_is_refused():
    torch.manual_seed(0)
    model = S4Model(5, 2, version="softmax", length=20)
    with torch.no_grad():
        model.dss_layers()[0].Lambda_re[0] = 0.1
    with pytest.raises(UserError, match="poles of a softmax layer grow"):
        Cell(model)


@torch.no_grad()
def test_onnx_answers_as_the_model_does_for_ten_thousand_steps(model, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from s4bt.deploy.onnx_files import save_onnx

    x, cell = samples(model, STEPS), Cell(model)
    kinds = ["step", "sequence", *(["answer"] if model.documents == 2 else [])]
    sessions = {}
    for kind in kinds:
        save_onnx(cell, header(model, task="a task"), tmp_path / f"{kind}.onnx", kind)
        sessions[kind] = ort.InferenceSession(tmp_path / f"{kind}.onnx")
        found = sessions[kind].get_modelmeta().custom_metadata_map
        assert json.loads(found["task"]) == "a task" and found["kind"] == kind
        types = [v.type for v in [*sessions[kind].get_inputs(), *sessions[kind].get_outputs()]]
        assert not any("complex" in name for name in types)
    names = ("state", "pooled", "count")
    rows = x.reshape(-1, STEPS)
    states = [part.numpy() for part in cell.start(len(rows))]
    first = {f"first_{name}": part for name, part in zip(names, states)}
    for column in rows.mT.numpy():
        given = {"x": column} | dict(zip(names, states))
        out, *states = sessions["step"].run(None, given)
    whole, *last = sessions["sequence"].run(None, {"samples": rows.numpy()} | first)
    assert np.allclose(whole[:, -1], out, atol=1e-5) and np.allclose(last[0], states[0], atol=1e-4)
    if model.documents == 2:
        parts = {"first": out[:1], "second": out[1:]}
        (out,) = sessions["answer"].run(None, parts)
    assert np.abs(probabilities(torch.from_numpy(out)) - probabilities(model(x))).max() < 1e-5


def test_only_a_model_of_two_documents_has_a_graph_of_its_answer(tmp_path):
    pytest.importorskip("onnx")
    from s4bt.deploy.onnx_files import save_onnx

    with pytest.raises(ValueError, match="kind is one of step, sequence, answer"):
        save_onnx(Cell(S4Model(5, 2)), Header(), tmp_path / "x.onnx", "answer")


def compiled(folder, source, *extra):
    (folder / "model.c").write_text(source)
    command = ["gcc", *FLAGS, *(extra or ["-O3"]), "model.c", "-lm", "-o", "model"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "model"


def asked(program, *arguments, given=b""):
    done = subprocess.run([program, *arguments], input=given, capture_output=True)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def shown(line):
    return np.array([float(part.split()[-1]) for part in line.strip().split("\t")[1:]])


@gcc
@pytest.mark.parametrize("small", [False, True])
def test_the_c_program_answers_as_the_model_does(model, small, tmp_path):
    cell, x = Cell(model), samples(model, STEPS)
    wanted = probabilities(model(x) if not small else Sequences(quantised(cell, 8))(x))
    names = ['"?/', "b\\", "ü", "d"][: model.classes]
    source = c_source(cell, header(model, classes=names), small)
    rows = [text(model, row) for row in x.reshape(-1, STEPS)]
    files = [tmp_path / f"{i}.txt" for i in range(len(rows))]
    for file, row in zip(files, rows):
        file.write_bytes(row)
    arguments = files if model.documents == 2 else []
    for flags in ([], SANITIZED):
        code, out, err = asked(compiled(tmp_path, source, *flags), *arguments, given=rows[0])
        assert code == 0 and not err
        assert np.abs(shown(out.splitlines()[-1]) - wanted).max() < (1e-4 if small else 1e-5)
    said = re.search(r"bytes of weights: (\d+)", source)[1]
    assert int(said) == bytes_of(cell, 8 if small else 32)
    assert f"bytes of state: {bytes_of_state(cell, small)}" in source
    assert f"multiply-adds a step: {multiply_adds(cell)}" in source
    assert "malloc" not in source


@gcc
@pytest.mark.parametrize(
    "kind, given, message",
    [
        ("bytes", b"", "error: standard input, sample 0: it is empty"),
        ("numbers", b" \n ", "sample 0: it is empty"),
        ("numbers", b"1 2 three", "sample 3: not a number"),
        ("numbers", b"1 nan", "sample 2: a number that is not finite"),
        ("numbers", b"1 inf", "sample 2: a number that is not finite"),
        ("numbers", b"1 " + b"9" * 80, "sample 2: a word of more than 63 characters"),
        ("words", b"w1 w3 w99", "sample 3: a word that is not in the vocabulary"),
        ("words", b"w1 w\0", "sample 2: a byte that is zero"),
    ],
)
def test_the_c_program_says_what_is_wrong_with_its_input(kind, given, message, tmp_path):
    model = S4Model(layers=1, width=4, state=3, **KINDS[kind])
    program = compiled(tmp_path, c_source(Cell(model), header(model)), *SANITIZED)
    code, out, err = asked(program, given=given)
    assert code == 1 and message in err and not out


@gcc
def test_the_c_program_of_two_documents_says_which_one_is_missing(tmp_path):
    model = S4Model(layers=1, width=4, state=3, **KINDS["two documents"])
    program = compiled(tmp_path, c_source(Cell(model), header(model)), *SANITIZED)
    assert "compares two documents" in asked(program)[2]
    (tmp_path / "a").write_text("some words")
    code, _, err = asked(program, tmp_path / "a", tmp_path / "b")
    assert code == 1 and "it cannot be opened" in err


def stream_of(model, folder, **more):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from s4bt.deploy.onnx_files import save_onnx

    path = folder / "step.onnx"
    save_onnx(Cell(model), header(model, **more), path)
    return path


def at_the_command_line(*arguments, given=b"", without=()):
    block = "import sys; " + "".join(f"sys.modules[{name!r}] = None; " for name in without)
    code = f"{block}from s4bt.deploy.__main__ import main; sys.exit(main({list(arguments)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, input=given, capture_output=True, timeout=300
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@gcc
def test_a_stream_runs_with_onnxruntime_and_numpy_alone_and_prints_what_the_c_program_does(
    tmp_path,
):
    torch.manual_seed(0)
    model = S4Model(layers=1, width=4, state=3, **KINDS["bytes"]).eval()
    given = "what a film, ä wonder".encode()
    path = stream_of(model, tmp_path, classes=["bad", "dull", "good"], length=10)
    without = ("torch", "scipy", "safetensors", "pandas", "onnx", "pydantic")
    arguments = ("stream", str(path), "--every", "5")
    code, out, err = at_the_command_line(*arguments, given=given, without=without)
    assert code == 0 and err == "note: longer than the 10 samples of training\n"
    about = header(model, classes=["bad", "dull", "good"], length=10)
    program = compiled(tmp_path, c_source(Cell(model), about))
    code, same, err = asked(program, "5", given=given)
    assert code == 0 and "longer than the 10 samples of training" in err
    assert len(out.splitlines()) == len(same.splitlines()) == 5
    for a, b in zip(out.splitlines(), same.splitlines()):
        assert a.split()[0] == b.split()[0] and np.allclose(shown(a), shown(b), atol=1e-5)


@pytest.mark.parametrize(
    "kind, given, message",
    [
        ("bytes", b"", "standard input is empty"),
        ("numbers", b"1 two", "sample 2: 'two' is not a number"),
        ("numbers", b"1 inf", "sample 2: inf is not finite"),
        ("numbers", b"1 " + b"9" * 80, "a word of more than 63 bytes"),
        ("words", b"w1 w99", "sample 2: 'w99' is not in the vocabulary: w1 w2"),
    ],
)
def test_a_stream_says_what_is_wrong_with_its_input(kind, given, message, tmp_path, capsys):
    import io

    from s4bt.deploy.stream import run

    path = stream_of(S4Model(layers=1, width=4, state=3, **KINDS[kind]), tmp_path)
    with pytest.raises(UserError, match=re.escape(message)):
        run(path, 0, io.BytesIO(given))
    assert not capsys.readouterr().out


def test_symbols_are_characters_and_what_is_rare_is_one_of_them(tmp_path):
    import io

    from s4bt.deploy.stream import samples_of

    about = Header(vocabulary=5, symbols="\0□aé")
    assert list(samples_of(io.BytesIO("aéxa".encode()), about)) == [2, 3, 1, 2]


def test_a_file_that_is_no_stream_is_refused(tmp_path):
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    from s4bt.deploy.onnx_files import save_onnx
    from s4bt.deploy.stream import Stream

    torch.manual_seed(0)
    model = S4Model(layers=1, width=4, state=3, **KINDS["bytes"]).eval()
    path = stream_of(model, tmp_path)
    whole = path.read_bytes()
    for content in (b"", b"no model", whole[:-200]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not an ONNX stream of this project"):
            Stream(path)
    with pytest.raises(UserError, match="no such file. Make it with: python -m s4bt.deploy onnx"):
        Stream(tmp_path / "nothing.onnx")
    old = onnx.load_from_string(whole)
    onnx.helper.set_model_props(old, header(model).as_strings() | {"format": '"stream 0"'})
    path.write_bytes(old.SerializeToString())
    with pytest.raises(UserError, match="its format is 'stream 0', and this version"):
        Stream(path)
    save_onnx(Cell(model), header(model), path, "sequence")
    with pytest.raises(UserError, match="a file of kind 'sequence'; a stream needs one step"):
        Stream(path)
    broken = Cell(model)
    broken.layers[0].w_re[0, 0] = float("nan")
    save_onnx(broken, header(model), path)
    with pytest.raises(UserError, match="sample 1: the model's answer is not finite"):
        Stream(path).feed(1)


def test_a_model_and_its_header_come_back(model, tmp_path):
    about = header_of(model, "text", length=256, method="weighted", results="s0 abc")
    save_stream(model, about, tmp_path / "m.safetensors")
    again, found = load_stream(tmp_path / "m.safetensors")
    names = ["negative", "positive"] if model.classes == 2 else list("0123")[: model.classes]
    assert found == about and found.classes == names and found.format == FORMAT
    x = samples(model, 30)
    assert torch.equal(again(x), model(x))
    assert torch.equal(load_model(tmp_path / "m.safetensors").eval()(x), model(x))
    first = (tmp_path / "m.safetensors").read_bytes()
    save_stream(model, about, tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").read_bytes() == first
    # a file of the study has no such header
    save_model(model, tmp_path / "plain.safetensors")
    assert load_stream(tmp_path / "plain.safetensors")[1].ranks == found.ranks


def test_a_model_that_is_not_finite_or_of_another_version_is_refused(tmp_path):
    model = S4Model(5, 2)
    path = tmp_path / "m.safetensors"
    save_stream(model, Header(format="stream 9"), path)
    with pytest.raises(UserError, match="format is 'stream 9'"):
        load_stream(path)
    with torch.no_grad():
        model.blocks[0].mix.weight[0, 0] = float("nan")
    save_stream(model, Header(), path)
    with pytest.raises(UserError, match="blocks.0.mix.weight holds numbers that are not finite"):
        load_stream(path)


@pytest.mark.parametrize("command", ["c", "onnx"])
def test_errors_are_one_line_and_an_exit_status(command, tmp_path):
    path = tmp_path / "x.safetensors"
    for content, message in ((None, "no such model"), (b"1234567", "not a whole model")):
        if content:
            path.write_bytes(content)
        code, out, err = at_the_command_line(command, str(path), "-o", str(tmp_path / "out"))
        assert code == 1 and message in err and "Traceback" not in err and not out
        assert not (tmp_path / "out").exists()


def test_the_command_line_makes_the_files(tmp_path):
    pytest.importorskip("onnx")
    save_model(S4Model(layers=1, width=4, state=3, **KINDS["bytes"]), tmp_path / "m.safetensors")
    for command, out in ((["c"], "m.c"), (["c", "--int8"], "m8.c"), (["onnx"], "m.onnx")):
        given = [*command, str(tmp_path / "m.safetensors"), "-o", str(tmp_path / out)]
        code, _, err = at_the_command_line(*given)
        assert code == 0 and (tmp_path / out).stat().st_size > 1000, err
    assert (tmp_path / "m8.c").stat().st_size < (tmp_path / "m.c").stat().st_size


def test_rounding_is_within_half_a_step_and_keeps_the_ends():
    x = torch.linspace(-3, 3, 50)[None] * torch.tensor([[1.0], [100.0], [0.0]])
    codes, scale, middle = rounded(x, 6)
    assert codes.abs().max() == 31 and (codes * scale - x).abs().max() <= 100 * 3 / 31 / 2 * 1.001
    assert not middle.any()
    codes, scale, middle = rounded(x + 50, 6, centred=True)
    assert torch.allclose(middle, torch.tensor(50.0)) and codes.min() == -31
    assert (codes * scale + middle - x - 50).abs().max() <= 100 * 3 / 31 / 2 * 1.001
    assert torch.equal(in_bits(x, 16)[2], torch.zeros(50))
    with pytest.raises(ValueError, match="bits must be a whole number from 2 to 16"):
        in_bits(x, 1)


@torch.no_grad()
def test_poles_kept_as_logarithms_stay_inside_and_uniform_ones_do_not():
    torch.manual_seed(0)
    cell = Cell(S4Model(5, 2, layers=1, width=8, state=16, dt_min=1e-3, dt_max=2e-3))
    sizes = {}
    for poles in ("logarithm", "uniform", "exact"):
        layer = quantised(cell, 6, poles, only_poles=True).layers[0]
        sizes[poles] = torch.complex(layer.decay_re, layer.decay_im).abs()
        assert torch.equal(layer.w_re, cell.layers[0].w_re)
    assert float(sizes["logarithm"].max()) < 1 < float(sizes["uniform"].max())
    fading = -torch.log(sizes["logarithm"]) / -torch.log(sizes["exact"])
    assert float(fading.min()) > 0.5 and float(fading.max()) < 2
    with pytest.raises(ValueError, match="poles is one of logarithm, uniform, exact"):
        quantised(cell, 6, "square")


@torch.no_grad()
def test_more_bits_come_nearer_and_the_cell_itself_stays(model):
    cell, x = Cell(model), samples(model, 100)
    exact = Sequences(cell)(x)
    far = [float((Sequences(quantised(cell, bits))(x) - exact).norm()) for bits in (4, 8, 12, 16)]
    assert far[0] > far[1] > far[2] > far[3] and far[3] < 1e-2 * float(exact.norm())
    assert torch.equal(Sequences(cell)(x), exact)


@torch.no_grad()
def test_states_in_bits_come_nearer_with_feedback():
    torch.manual_seed(0)
    model = S4Model(0, 3, layers=1, width=8, state=8).eval()
    x, cell = samples(model, 200), Cell(model)
    exact, known = Sequences(cell)(x), samples(model, 200, seed=1).expand(3, -1)
    assert torch.allclose(Sequences(cell, 16, calibration=known)(x), exact, atol=1e-3)
    plain, fed = (Sequences(cell, 6, feedback, known)(x) for feedback in (False, True))
    assert float((fed - exact).norm()) < 0.7 * float((plain - exact).norm())
    # wherever the poles are: angles of about three
    with torch.no_grad():
        cell.layers[0].angle += 3
    cell.layers[0].refresh()
    exact = Sequences(cell)(x)
    plain, fed = (Sequences(cell, 6, feedback, known)(x) for feedback in (False, True))
    assert float((fed - exact).norm()) < 0.9 * float((plain - exact).norm())
    with pytest.raises(ValueError, match="need calibration"):
        Sequences(cell, 8)


def test_pruning_takes_the_smallest_and_counts_what_is_left():
    torch.manual_seed(0)
    cell = Cell(S4Model(5, 2, layers=1, width=8, state=4))
    half = pruned(cell, 0.5).layers[0].mix
    assert int((half == 0).sum()) == 32
    assert float(half[half != 0].abs().min()) >= float(cell.layers[0].mix[half == 0].abs().max())
    assert torch.equal(pruned(cell, 0.0).layers[0].mix, cell.layers[0].mix)
    assert bytes_of(cell, 32, 0.5) == bytes_of(cell) - 4 * 32 + 8
    assert bytes_of(cell, 8) < 0.6 * bytes_of(cell)


def test_save_c_is_whole_or_not_there(tmp_path):
    model = S4Model(5, 2, layers=1, width=4, state=2)
    save_c(Cell(model), Header(task="*/ oops", vocabulary=5), tmp_path / "m.c")
    assert "task: * / oops" in (tmp_path / "m.c").read_text()
    assert list(tmp_path.iterdir()) == [tmp_path / "m.c"]


def test_executorch_computes_a_step_where_it_is_installed(tmp_path):
    pytest.importorskip(
        "executorch", reason="executorch is not installed: pip install '.[executorch]'"
    )
    from executorch.runtime import Runtime

    from s4bt.deploy.executorch_file import save_executorch

    torch.manual_seed(0)
    model = S4Model(layers=1, width=4, state=3, **KINDS["bytes"]).eval()
    cell, x = Cell(model), samples(model, 200)
    save_executorch(cell, tmp_path / "step.pte")
    step = Runtime.get().load_program(tmp_path / "step.pte").load_method("forward")
    states = list(cell.start())
    for t in range(200):
        out, *states = step.execute([x[:, t].contiguous(), *states])
    assert torch.allclose(out, model(x), atol=1e-5)


def test_what_is_not_installed_is_named_with_the_remedy(tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(S4Model(layers=1, width=4, state=3, **KINDS["bytes"]), path)
    for command, module in (("onnx", "onnx"), ("executorch", "executorch")):
        out = str(tmp_path / "out")
        code, _, err = at_the_command_line(command, str(path), "-o", out, without=[module])
        assert code == 1 and "is not installed: pip install" in err and "Traceback" not in err


@gcc
def test_nothing_in_a_header_gets_out_of_its_place_in_the_c_program(tmp_path):
    torch.manual_seed(0)
    model = S4Model(layers=1, width=3, state=1, vocabulary=4, classes=2).eval()
    bad = "*/ #error \n /* \\\n ??/ " + chr(34)
    about = Header(
        vocabulary=4,
        words=["", "ü", "a\n b", "c" + chr(34) + "\\"],
        classes=["größer", "%s" + chr(34) + "??/"],
        **dict.fromkeys(("task", "method", "revision", "results", "version"), bad),
    )
    program = compiled(tmp_path, c_source(Cell(model), about), *SANITIZED)
    code, out, err = asked(program, given="ü ü".encode())
    assert code == 0 and "größer" in out and '%s"??/' in out, err


@gcc
def test_the_c_program_refuses_what_it_cannot_answer(tmp_path):
    model = S4Model(layers=1, width=3, state=2, **KINDS["numbers"]).eval()
    program = compiled(tmp_path, c_source(Cell(model), header(model)), *SANITIZED)
    assert "sample 1: a number that is not finite" in asked(program, given=b"1e39")[2]
    for arguments in (["abc"], ["-1"], ["3", "4"]):
        code, out, err = asked(program, *arguments, given=b"1 2")
        assert code == 1 and "samples between two answers" in err and not out
    with open("/dev/full", "wb") as full:
        done = subprocess.run([program], input=b"1 2", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1 and b"it cannot be written" in done.stderr


@gcc
def test_the_c_program_is_a_part_of_another_one(tmp_path):
    model = S4Model(layers=1, width=3, state=2, **KINDS["numbers"]).eval()
    (tmp_path / "model.c").write_text(c_source(Cell(model), header(model)))
    (tmp_path / "other.c").write_text(
        '#define S4_NO_MAIN\n#include "model.c"\n'
        "int main(void) { static s4_stream s; float y[CLASSES];"
        " s4_init(&s); s4_step(&s, 1.0f); s4_answer(&s, y); return y[0] != y[0]; }\n"
    )
    command = ["gcc", *FLAGS, "other.c", "-lm", "-o", "other"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert subprocess.run([tmp_path / "other"]).returncode == 0


@pytest.mark.parametrize(
    "options",
    [
        {"state": 1, "width": 1, "classes": 1, "vocabulary": 2},
        {"width": 7, "separate_dt": True},
        {"width": 5, "version": "softmax", "length": 100},
        {
            "layers": 3,
            "sharing": ["tied", "per-channel", "tied"],
            "prenorm": False,
            "norm": "layer",
        },
    ],
)
@torch.no_grad()
def test_all_options_of_a_model_are_those_of_its_cell(options):
    torch.manual_seed(0)
    known = {"vocabulary": 6, "classes": 2, "layers": 2, "width": 4, "state": 3} | options
    model = S4Model(**known).eval()
    x, cell = samples(model, 60), Cell(model)
    assert torch.allclose(Sequences(cell)(x), model(x), atol=1e-5)
    states = cell.start()
    for t in range(60):
        out, *states = cell(x[:, t], *states)
    assert torch.allclose(cell.answer(out), model(x), atol=1e-5)


def test_a_cell_leaves_its_model_alone_and_does_not_follow_it():
    torch.manual_seed(0)
    model = S4Model(5, 2, layers=1, width=4, state=2).train()
    cell = Cell(model)
    assert model.training
    before = cell.head.weight.clone()
    with torch.no_grad():
        model.head.weight += 1
    assert torch.equal(cell.head.weight, before)
    with torch.no_grad():
        model.blocks[0].dss.log_dt[0] = 1e4
    with pytest.raises(UserError, match="holds numbers that are not finite"):
        Cell(model)


def test_a_mean_over_very_many_samples_stays_a_mean():
    cell = Cell(S4Model(5, 2, layers=1, width=4, state=2).eval())
    state, pooled, count = cell.start()
    features, state, pooled, _ = cell(torch.tensor([1]), state, pooled + 1, count + 2.0**24)
    assert float((pooled - 1).abs().max()) < 1e-5 and torch.equal(features, pooled)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"std": 0.0}, "std in its header is 0.0"),
        ({"mean": "abc"}, "mean in its header is 'abc'"),
        ({"mean": None}, "mean in its header is None"),
        ({"classes": [1, 2]}, r"classes in its header is \[1, 2\]"),
        ({"words": 5}, "words in its header is 5"),
        ({"length": "12 x"}, "length in its header is '12 x'"),
        ({"vocabulary": 7}, "speaks of vocabulary 7, .* the model has 5"),
        ({"classes": ["a"]}, "speaks of .* 1 classes, and the model has 5, 1 and 2"),
        ({"words": list("abcdef")}, "more words than the vocabulary of 5"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(change, message, tmp_path):
    model, path = S4Model(5, 2), tmp_path / "m.safetensors"
    about = header_of(model)
    object.__setattr__(about, "ranks", list(about.ranks))
    for name, value in change.items():
        object.__setattr__(about, name, value)
    save_stream(model, about, path)
    with pytest.raises(UserError, match=message):
        load_stream(path)


def test_characters_have_no_c_program():
    model = S4Model(5, 2, layers=1, width=4, state=2)
    with pytest.raises(UserError, match="samples of this model are characters"):
        c_source(Cell(model), Header(vocabulary=5, symbols="\0□abc"))


def test_an_output_that_is_a_folder_or_the_model_itself_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(S4Model(5, 2, layers=1, width=4, state=2), path)
    (tmp_path / "kept").write_text("x")
    for out, message in ((tmp_path, "is a folder"), (path, "is the model itself"), (".", "folder")):
        code, _, err = at_the_command_line("c", str(path), "-o", str(out))
        assert code == 1 and message in err and "Traceback" not in err
    assert (tmp_path / "kept").exists() and load_model(path)


def test_a_long_word_of_any_bytes_is_one_message():
    import io

    from s4bt.deploy.stream import words_of

    with pytest.raises(UserError, match="a word of more than 63 bytes"):
        list(words_of(io.BytesIO(b"\xff" * 80)))

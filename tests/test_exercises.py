"""Every exercise of the course: what is right is accepted, what is wrong refused and named."""

import copy
import json
import re

import numpy as np
import pytest
import torch

from s4bt import course
from s4bt.course.checks import find
from s4bt.course.exercise import EXERCISES, exercise, judge
from s4bt.files import ROOT, UserError

LESSONS = sorted((ROOT / "notebooks" / "lessons").glob("*.ipynb"))
TEXT = {
    path: "\n".join(
        "".join(cell["source"])
        for cell in json.loads(path.read_text())["cells"]
        if cell["cell_type"] == "markdown"
    )
    for path in LESSONS
}
NUMBERS = [n for text in TEXT.values() for n in re.findall(r"^\*\*(\d+\.\d)\*\*", text, re.M)]


def test_every_exercise_of_the_lessons_has_a_check_and_no_other():
    for number in NUMBERS:
        find(number)
    lessons = {n for n in EXERCISES if n.partition(".")[0].isdigit()}
    assert lessons == set(NUMBERS)


@pytest.mark.parametrize("number", NUMBERS)
def test_what_is_right_is_accepted_and_what_is_wrong_is_refused(number):
    task = find(number)
    assert judge(task, task.reference).solved
    assert len(task.inputs()) >= 2 and 3 <= task.minutes <= 15 and task.hints
    seen = []
    for says, wrong in task.mistakes:
        verdict = judge(task, wrong)
        assert not verdict.solved, f"{number} accepts: {says}"
        seen.append(says in verdict.says)
    assert len(seen) >= 2 and all(seen), list(zip(seen, (says for says, _ in task.mistakes)))
    first = task.reference(*copy.deepcopy(task.inputs()[0]))
    for wrong in (
        lambda *_: first,  # right for the lesson's own numbers only
        lambda *_: float("nan"),
        lambda *_: None,
        lambda *_: "a word",
        lambda *_: [[1, 2], [3]],
        lambda *_: 0,
        lambda *_: 1 / 0,
        lambda *_: exit(),
        lambda: 8,
        first,
    ):
        verdict = judge(task, wrong)
        assert not verdict.solved and verdict.says, number


@pytest.fixture
def double():
    made = exercise("99.1", [(1.0,), (3.0,), (-2.0,)], "Add x to itself.", minutes=3)

    @made
    def twice(x):
        return np.array([2 * x, 1j * x, 1.0])

    yield twice
    del EXERCISES["99.1"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda y: y, "3 inputs, largest relative deviation 0e+00 %, 0.0001 % is allowed"),
        (lambda y: y * (1 + 1e-9), "is allowed"),
        (lambda y: -y, "sign is the opposite"),
        (np.conj, "complex conjugate"),
        (lambda y: 2 * y, "twice as large"),
        (lambda y: y / 2, "half as large"),
        (np.square, "the square of"),
        (lambda y: y + 1, "one too large"),
        (lambda y: y - 1, "one too small"),
        (lambda y: y * 180 / np.pi, "in degrees"),
        (lambda y: y * np.pi / 180, "in radians"),
        (lambda y: y[::-1], "order is reversed"),
        (lambda y: y[:2], "(2,), and (3,) is right"),
        (lambda y: y * (1 + 1e-5), "Nearly"),
        (lambda y: y.tolist(), "3 inputs"),
        (lambda y: torch.tensor(y, requires_grad=True), "3 inputs"),
        (lambda y: y + 0.1, "off by 10 %, and 0.0001 % is allowed"),
        (lambda y: y * np.nan, 'hint("99.1") helps'),
        (lambda y: y.missing, "stops with AttributeError"),
    ],
)
def test_what_was_done_to_the_right_answer_is_named(double, change, said):
    verdict = judge(double, lambda x: change(double.reference(x)))
    assert said in verdict.says, verdict.says
    assert verdict.solved == ("inputs, largest" in verdict.says)


def test_a_transposed_matrix_and_an_imaginary_part_too_much_are_named():
    made = exercise("99.2", [(1.0,), (2.0,)], "No.", minutes=3)
    try:
        task = made(lambda x: np.array([[x, 2.0], [3.0, 4.0]]))
        assert "transposed" in judge(task, lambda x: task.reference(x).T).says
        assert "imaginary part should not" in judge(task, lambda x: task.reference(x) + 2j).says
    finally:
        del EXERCISES["99.2"]


def test_an_answer_may_spoil_what_it_was_given(double):
    task = exercise("99.3", [(np.arange(3.0),), (np.ones(2),)], "No.", minutes=3)(np.sum)
    try:

        def spoils(x):
            x *= 2
            return x.sum() / 2

        assert judge(task, spoils).solved and judge(task, np.sum).solved
    finally:
        del EXERCISES["99.3"]


def test_an_answer_that_spoils_the_network_of_the_lesson_is_told_so():
    from s4bt.course.exercises.lesson_08 import random_modes

    def spoils(model, kept):
        for dss in model.dss_layers():
            dss.W.data[:, np.setdiff1d(np.arange(64), kept)] = 0
        return model

    assert "Work on a copy" in judge(random_modes, spoils).says


def test_a_complex_system_is_no_real_embedding():
    from s4bt.course.exercises.lesson_06 import embed

    def diagonal(lam, b, c):
        both = np.array([lam, lam.conjugate()])
        return np.diag(both), np.array([b, b.conjugate()]), np.array([c, c.conjugate()]) / 2

    assert "A real system is asked" in judge(embed, diagonal).says


def test_one_line_is_printed_and_hints_come_before_the_answer(capsys, monkeypatch):
    from s4bt.course import checks

    monkeypatch.setattr(checks, "_given", {})
    course.check("0.2", lambda A, b, c: c @ np.linalg.solve(A, b))
    out = capsys.readouterr().out
    assert out.startswith("0.2: not yet. With input 1 of 3 you have -8: off by 200 %")
    assert "You lost the minus sign" in out and out.count("\n") == 1
    course.answer("0.2")
    out = capsys.readouterr().out
    assert "hint 1 of 2" in out and "np.linalg.solve(A, b)\n" not in out
    course.hint("0.2")
    course.hint("0.2")
    out = capsys.readouterr().out
    assert "hint 2 of 2" in out and 'answer("0.2")' in out
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda x: shown.append(x.data))
    course.answer("0.2")
    assert "return -c @ np.linalg.solve(A, b)" in shown[0] and "check(" not in shown[0]
    course.check("0.2", 8.0)
    assert "the function itself" in capsys.readouterr().out
    for number in ("7.9", "x", "0,1", "77.1"):
        with pytest.raises(UserError, match="no exercise"):
            course.check(number, None)


def test_answers_in_other_forms_are_accepted():
    by_eigenvectors = find("4.2")

    def complex_vectors(A, P, Q, r):
        values, T = np.linalg.eig(P @ Q)
        T = T[:, np.argsort(-values.real)].astype(complex)
        return np.linalg.eigvals((np.linalg.inv(T) @ A @ T)[:r, :r])

    assert judge(by_eigenvectors, complex_vectors).solved
    embed = find("6.2")

    def as_matrices(lam, b, c):
        A, b, c = embed.reference(lam, b, c)
        return torch.tensor(A), b[:, None], c[None, :]

    assert judge(embed, as_matrices).solved
    lunch = find("10.4")
    for seed in range(20):
        rng = np.random.default_rng(seed)

        def best(tries, rng=rng):
            return rng.standard_normal((20000, tries)).max(axis=1).mean()

        assert judge(lunch, lambda theirs, yours: best(theirs) - best(yours)).solved, seed


def test_a_result_that_cannot_even_be_printed_is_refused_in_words():
    class Odd:
        def __repr__(self):
            raise RuntimeError

    verdict = judge(find("0.1"), lambda *_: Odd())
    assert not verdict.solved and "an object of type Odd" in verdict.says
    tensors = judge(find("0.1"), lambda *_: [torch.tensor(1.0, requires_grad=True)])
    assert not tensors.solved and "rows" not in tensors.says


def test_an_exercise_is_found_by_a_number_without_quotes(capsys):
    course.check(0.1, None)
    assert capsys.readouterr().out.startswith("0.1: not yet")

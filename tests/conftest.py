"""Fixtures and strategies of the tests."""

import statistics

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from s4bt.reduction.systems import DiagonalLTI

settings.register_profile(
    "s4bt",
    deadline=None,
    max_examples=25,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("s4bt")


def random_system(seed, order=8, batch=(), real=False, clustered=False, scale=1.0):
    """A stable continuous system whose poles spread over two decades of damping."""
    rng = np.random.default_rng(seed)
    shape = (*batch, order)
    damping = 10 ** rng.uniform(-1.5, 0.5, shape)
    frequency = rng.normal(0, 5, shape)
    if clustered:
        damping, frequency = 0.5 + 1e-4 * rng.random(shape), 3 + 1e-3 * rng.normal(size=shape)
    poles = scale * (-damping + 1j * frequency)
    residues = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    return DiagonalLTI(torch.tensor(poles), torch.tensor(residues), real=real)


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
        stack.append(
            {
                "[MIN": min(values),
                "[MAX": max(values),
                "[MED": int(statistics.median(values)),
                "[SM": sum(values) % 10,
            }[operator]
        )
    (answer,) = stack
    return answer


LONGEST = ["test_pipeline.py", "test_course.py", "test_exercises.py", "test_train.py"]


def pytest_collection_modifyitems(items):
    """The longest files first: at the end no core waits for one of them."""
    items.sort(key=lambda item: (*LONGEST, item.path.name).index(item.path.name))


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)

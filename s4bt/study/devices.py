"""Where a run happens: seeds, the accelerator, and this process's share of a batch.

Where `torch.distributed` is started, every process takes its share of each batch and of each split,
gradients are averaged, and dropout depends on the number of processes, too.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def seed_everything(seed: int) -> None:
    """Seed torch and make it deterministic.

    One thread, so that sums are always taken in the same order.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    # a debugging aid that takes a tenth of every step
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def device() -> torch.device:
    """The accelerator that this process uses if there is one."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def processes() -> int:
    """How many processes share a run."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def process_number() -> int:
    """The number of this one, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def share() -> slice:
    """The rows of a batch that are this process's: all of them, or every n-th."""
    if not distributed.is_initialized():
        return slice(None)
    return slice(process_number(), None, processes())


def summed(x: Tensor, where: torch.device) -> Tensor:
    """x, or its sum over the processes, on the CPU."""
    if distributed.is_initialized():
        distributed.all_reduce(x := x.to(where))
    return x.cpu()

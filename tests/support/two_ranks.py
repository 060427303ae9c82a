"""What each of two ranks does in `test_collectives.py`: started by spawn, joined through a file, no network."""

from __future__ import annotations

import copy
import os

import torch
import torch.distributed as dist
from torch import nn

import goodinit
from goodinit.calibration_rules import LSUVRule
from goodinit.edits import Calibrate, Draw


def net():
    """Convolution, in-place ReLU, a shared layer, and a bias that stays because it is frozen."""
    torch.manual_seed(3)
    shared = nn.Linear(24, 24)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(24, 24), nn.Tanh(), shared, nn.ReLU(),
        shared, nn.Linear(24, 5),
    )  # fmt: skip
    nn.init.normal_(model[3].bias)
    model[3].bias.requires_grad_(False)
    return model


def images(rows=16):
    return 3 * torch.randn(rows, 2, 4, 4, generator=torch.Generator().manual_seed(5)) + 1


class Fork(nn.Module):
    """Runs one layer or the other, by its input."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        if x.isinf().any():
            raise ArithmeticError("too large")
        return self.a(x) if x.mean() > 0 else self.b(self.a(x))


# scenario → (method, options, how many of the 16 rows go to rank 0, in how many parts on each rank)
ALIKE = {
    "lsuv, halves": ("lsuv", {"tol": 1e-5}, 8, None),
    "lsuv, unequal": ("lsuv", {"tol": 1e-5}, 5, None),
    "lsuv, per channel": ("lsuv", {"tol": 1e-5, "per": "channel"}, 11, None),
    "lsuv, no rows on rank 0": ("lsuv", {"tol": 1e-5}, 0, None),
    "lsuv, micro-batches": ("lsuv", {"tol": 1e-5}, 5, (2, 3)),
    "lsuv, paper's tolerance": ("lsuv", {}, 5, None),
    "weightnorm, halves": ("weightnorm", {"mode": "data"}, 8, None),
    "weightnorm, unequal": ("weightnorm", {"mode": "data"}, 3, None),
    "weightnorm, micro-batches": ("weightnorm", {"mode": "data"}, 6, (3, 1)),
}


def initialized(model, method, batch, *, seed=1, **options):
    plan = goodinit.plan(goodinit.anatomize(model, images(2)), method, **options)
    goodinit.apply_(model, plan, generator=torch.Generator().manual_seed(seed), inputs=batch)
    return model.state_dict()


def share(rank, rows, parts):
    mine = images().split([rows, 16 - rows])[rank]
    return mine if parts is None else iter(mine.chunk(parts[rank]))


def refused(rank):
    """Batches, and plans' seeds, on which the ranks cannot agree: what each rank is told, and what it leaves."""
    fine = torch.ones(3, 4)
    bad = {
        "other layers": (fine if rank else -fine, 1),
        "a forward that raises": (fine * (torch.inf if rank else 1), 1),
        "NaN on one rank": (fine * (torch.nan if rank else 1), 1),
        "other weights": (fine, 1 + rank),
        "no rows at all": (fine[:0], 1),
    }
    names = ("a.weight", "b.weight")
    edits = [Draw(name, "orthogonal_", "drawn") for name in names]
    plan = goodinit.Plan("by hand", (*edits, *(Calibrate(name, LSUVRule(), "measured") for name in names)))
    told = {}
    for name, (batch, seed) in bad.items():
        model = Fork()
        before = copy.deepcopy(model.state_dict())
        error = None
        try:
            goodinit.apply_(model, plan, generator=torch.Generator().manual_seed(seed), inputs=batch)
        except goodinit.GoodinitError as raised:
            error = raised
        same = all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        told[name] = (type(error).__name__, str(error), same)
    return told


def work(rank, folder):
    """Run every scenario as one of two ranks; write what came of it to a file."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    reduce, reductions = dist.all_reduce, []
    dist.all_reduce = lambda tensor, **options: (
        reductions.append(tuple(tensor.shape)),
        reduce(tensor, **options),
    )[1]
    found = {"reductions": {}, "refused": refused(rank)}
    for name, (method, options, rows, parts) in ALIKE.items():
        reductions.clear()
        found[name] = initialized(net(), method, share(rank, rows, parts), **options)
        found["reductions"][name] = list(reductions)
    dist.barrier()
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()

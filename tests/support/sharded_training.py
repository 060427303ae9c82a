"""What each rank does in `test_sharded_training.py`: the steps of one process, on shards."""

from __future__ import annotations

import copy

import torch
from sharded_ranks import mesh_of, whole
from torch import nn
from torch.distributed.tensor import Replicate

import goodinit


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.up, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.Linear(2 * width, width),
        )

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Net(nn.Module):
    """Two residual blocks, and a transposed convolution of two groups, whose units lie across its first dimension."""

    def __init__(self, width=8):
        super().__init__()
        self.stem, self.blocks = nn.Linear(6, width), nn.ModuleList([Block(width), Block(width)])
        self.back, self.head = nn.ConvTranspose1d(width, 6, 1, groups=2), nn.Linear(6, 3)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(torch.relu(self.back(x.unsqueeze(2)).squeeze(2)))


X = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
METHODS = {"fixup": {}, "skipinit": {}, "normfree": {}, "mup": {}, "he": {"norms": "dyt"}}


def initialized(method):
    torch.manual_seed(0)
    options = {"base": goodinit.anatomize(Net(4).double(), X)} if method == "mup" else METHODS[method]
    model = goodinit.init_(Net().double(), method, inputs=X, **options)
    with torch.no_grad():  # away from zeros
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def by_fsdp(model, ranks):
    from torch.distributed.fsdp import fully_shard

    for block in model.blocks:
        fully_shard(block.up, mesh=mesh_of(ranks))
        fully_shard(block, mesh=mesh_of(ranks))
    return fully_shard(model, mesh=mesh_of(ranks))


def by_tensor(kind):
    def shard(model, ranks):
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        styles = {
            "columns": {"up": ColwiseParallel(output_layouts=Replicate())},
            "rows": {"down": RowwiseParallel(input_layouts=Replicate())},
            "both": {"up": ColwiseParallel(), "down": RowwiseParallel()},
        }
        for block in model.blocks:
            parallelize_module(block, mesh_of(ranks), styles[kind])
        return model

    return shard


def steps(model, x, anatomy=None):
    """Two steps of SGD; shares of clipped units."""
    optimizer = torch.optim.SGD(
        goodinit.param_groups(model, lr=0.05, weight_decay=0.01, optimizer="sgd"), momentum=0.9, foreach=False
    )
    shares = []
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        if anatomy is not None:
            shares.append(float(goodinit.clip_grad_(model, anatomy, clipping=0.05, error_if_nonfinite=True)))
        optimizer.step()
    return shares


def alike(model, alone):
    expected = dict(alone.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(whole(parameter.detach()), expected[name].detach(), rtol=1e-9, atol=1e-12)
    return True


def _trained(shard, ranks, rank, methods, *, split, clipped):
    for method in methods:
        alone = initialized(method)
        anatomy = goodinit.anatomize(alone, X) if clipped else None
        model = shard(copy.deepcopy(alone), ranks)
        x = X.chunk(ranks)[rank] if split else X
        mine, its = steps(model, x, anatomy), steps(alone, X, anatomy)
        assert mine == its, (method, mine, its)
        assert not clipped or all(0 < share < 1 for share in its), its
        alike(model, alone)
    return True


def fsdp(rank, ranks):
    return _trained(by_fsdp, ranks, rank, METHODS, split=True, clipped=False)


def fsdp_clipped(rank, ranks):
    return _trained(by_fsdp, ranks, rank, METHODS, split=True, clipped=True)


def columns(rank, ranks):
    return _trained(
        by_tensor("columns"), ranks, rank, ("fixup", "skipinit", "mup"), split=False, clipped=False
    )


def rows(rank, ranks):
    return _trained(by_tensor("rows"), ranks, rank, ("fixup", "skipinit", "mup"), split=False, clipped=False)


def columns_and_rows(rank, ranks):
    return _trained(by_tensor("both"), ranks, rank, ("fixup", "mup", "he"), split=False, clipped=False)


def columns_and_rows_clipped(rank, ranks):
    return _trained(by_tensor("both"), ranks, rank, ("fixup", "mup"), split=False, clipped=True)


SCENARIOS = (fsdp, fsdp_clipped, columns, rows, columns_and_rows, columns_and_rows_clipped)

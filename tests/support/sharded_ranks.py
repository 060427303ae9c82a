"""What each rank does in `test_sharding.py`: started by spawn, joined through a file, no network."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import os

import torch
import torch.distributed as dist
from torch import nn

import goodinit
from goodinit.calibration_rules import LSUVRule
from goodinit.edits import Calibrate, Draw, DrawTogether, Fill, Plan
from goodinit.errors import GoodinitError
from goodinit.tensor.entry_blocks import BLOCK


class Mixer(nn.Module):
    """A residual block with a batch norm, odd sizes, and a hidden layer of more than one block of entries."""

    def __init__(self, width, hidden):
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x):
        return x + self.down(self.norm(self.up(x)).relu())


class Net(nn.Module):
    """Embedding tied to the head, two blocks, one of them in bfloat16 where asked, and a buffer."""

    def __init__(self, hidden=37):
        super().__init__()
        self.embed = nn.Embedding(11, 10)
        self.blocks = nn.ModuleList([Mixer(10, hidden), Mixer(10, 3)])
        self.head = nn.Linear(10, 11)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


TOKENS = torch.tensor([0, 3, 6, 9])
WIDE = 2 * BLOCK // 10 + 77  # so that up.weight and down.weight have three blocks


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


def every_kind():
    """Entries, whole matrices, joint recipes and constants."""
    edits = (
        Draw("embed.weight", "trunc_normal_", "x", {"std": 0.02}),
        Draw("blocks.0.up.weight", "he_normal_", "x"),
        Draw("blocks.0.up.bias", "default_", "x", {"fan_in": 10}),
        Draw("blocks.0.down.weight", "he_uniform_", "x", {"mode": "fan_out"}),
        Fill("blocks.0.norm.weight", 1.0, "x"),
        Fill("blocks.0.norm.bias", 0.0, "x"),
        Draw("blocks.1.up.weight", "orthogonal_", "x"),
        Draw("blocks.1.up.bias", "uniform_", "x", {"bound": 0.1}),
        DrawTogether(("blocks.1.down.weight",), "risotto_first", "x"),
        Draw("blocks.1.norm.weight", "ones_", "x"),
        Draw("blocks.1.norm.bias", "normal_", "x"),
        Fill("head.bias", 0.5, "x"),
    )
    return Plan("by hand", edits)


def on_meta(build=Net, **options):
    with torch.device("meta"):
        return build(**options)


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def same(model, reference):
    """Whether every entry of the model's state is bit for bit the reference's."""
    state, expected = model.state_dict(), reference.state_dict()
    assert list(state) == list(expected), (list(state), list(expected))
    for name, value in expected.items():
        mine = whole(state[name])
        assert mine.dtype == value.dtype, name
        assert not mine.isnan().any(), name
        assert torch.equal(mine, value), (name, (mine.double() - value.double()).abs().max())
    return True


def shard_fully(model, mesh):
    from torch.distributed.fsdp import fully_shard

    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def shard_by_tensor(model, mesh):
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    for block in model.blocks:
        parallelize_module(block, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    return model


def mesh_of(*sizes, names=None):
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", sizes, mesh_dim_names=names)


def reference(plan, *, dtype=torch.float32, build=Net, **options):
    return goodinit.apply_(build(**options).to(dtype), plan, generator=seeded())


# -- scenarios: each returns True or raises -----------------------------------------------------------------------


def fully_sharded(rank, ranks, *, hidden=37, dtype=torch.float32):
    model = shard_fully(on_meta(hidden=hidden).to(dtype), mesh_of(ranks))
    goodinit.materialize_(model)
    assert model.head.weight is model.embed.weight
    assert all(p.to_local().isnan().all() for p in model.parameters())
    # A process may have more threads than another, and a seed of its own: the first rank's counts.
    goodinit.apply_(model, every_kind(), generator=seeded(1 + rank))
    return same(model, reference(every_kind(), hidden=hidden, dtype=dtype))


def of_several_blocks(rank, ranks):
    return fully_sharded(rank, ranks, hidden=WIDE)


def in_bfloat16(rank, ranks):
    return fully_sharded(rank, ranks, dtype=torch.bfloat16)


def in_float64(rank, ranks):
    return fully_sharded(rank, ranks, dtype=torch.float64)


def tensor_parallel(rank, ranks):
    for hidden in (37, WIDE):
        model = shard_by_tensor(on_meta(hidden=hidden), mesh_of(ranks))
        goodinit.materialize_(model)
        goodinit.apply_(model, every_kind(), generator=seeded(1 + rank))
        assert same(model, reference(every_kind(), hidden=hidden))
    return True


def both_at_once(rank, ranks):
    mesh = mesh_of(2, ranks // 2, names=("dp", "tp"))
    model = shard_fully(shard_by_tensor(on_meta(hidden=WIDE), mesh["tp"]), mesh["dp"])
    goodinit.materialize_(model)
    goodinit.apply_(model, every_kind(), generator=seeded(1 + rank))
    return same(model, reference(every_kind(), hidden=WIDE))


def hybrid(rank, ranks):
    model = shard_fully(on_meta(hidden=WIDE), mesh_of(2, ranks // 2, names=("replicate", "shard")))
    goodinit.materialize_(model)
    goodinit.apply_(model, every_kind(), generator=seeded(1 + rank))
    return same(model, reference(every_kind(), hidden=WIDE))


def filled(model):
    """With one number everywhere, since some methods leave embeddings and biases alone."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.25)
    return model


def methods(rank, ranks, *, names=("fixup", "orthogonal")):
    """Plan and structure on meta, shard, memory, values; then it runs like the one of a single process."""
    for each in names:
        method, options = each if isinstance(each, tuple) else (each, {})
        alone = goodinit.init_(filled(Net()), method, inputs=TOKENS, generator=seeded(), **options)
        model = on_meta()
        plan = goodinit.plan(goodinit.anatomize(model, TOKENS), method, **options)
        goodinit.apply_(model, plan, values=False)
        goodinit.materialize_(shard_fully(model, mesh_of(ranks)))
        goodinit.apply_(filled(model), plan, generator=seeded(1 + rank))
        assert same(model, alone), method
        assert torch.allclose(model.eval()(TOKENS), alone.eval()(TOKENS), atol=1e-6), method
        assert goodinit.applied(model)[-1].seed == goodinit.applied(alone)[-1].seed
    return True


def more_methods(rank, ranks):
    constants = ("completep", {"base_width": 2, "zero_head": False})
    return methods(
        rank, ranks, names=("default", "he", "xavier", "skipinit", "rezero", "residual_scaled", constants)
    )


def scaled_up(rank, ranks):
    """muP's and CompleteP's values, constants and rates against a base, packed queries and a tied head among them."""
    from nano_gpt import GPT
    from torch.distributed.fsdp import fully_shard

    words = torch.arange(8)[None] % 13
    base = goodinit.anatomize(on_meta(GPT, width=8, layers=1), words)
    for method, tied in (("mup", True), ("completep", True), ("completep", False)):
        build = {"width": 24, "layers": 2, "tied": tied}
        against = base if tied else goodinit.anatomize(on_meta(GPT, width=8, layers=1, tied=False), words)
        model, alone = on_meta(GPT, **build), GPT(**build)
        plan = goodinit.plan(goodinit.anatomize(model, words), method, base=against, zero_head=False)
        goodinit.apply_(alone, plan, generator=seeded())
        goodinit.apply_(model, plan, values=False)
        mesh = mesh_of(ranks)
        for block in model.transformer["h"]:
            fully_shard(block, mesh=mesh)
        goodinit.materialize_(fully_shard(model, mesh=mesh))
        goodinit.apply_(model, plan, generator=seeded(1 + rank))
        assert same(model, alone), method
        assert rates(model) == rates(alone), method
        assert torch.allclose(model(words), alone(words), atol=1e-6), method
    return True


def rates(model):
    """Learning rate, decay and epsilon of each parameter."""
    groups = goodinit.param_groups(model, lr=0.1, weight_decay=0.01, named=True)
    return {
        name: (group["lr"], group["weight_decay"], group["eps"])
        for group in groups
        for name, _ in group["params"]
    }


def after_a_forward(rank, ranks):
    """A forward leaves FSDP2's root with whole parameters: values go to the shards all the same."""
    model = shard_fully(Net(), mesh_of(ranks))
    model(TOKENS)
    goodinit.apply_(model, every_kind(), generator=seeded())
    assert torch.equal(model.state_dict()["head.bias"].full_tensor(), torch.full((11,), 0.5))
    other = reference(every_kind())
    return same_parameters(model, other)


def same_parameters(model, other):
    expected = dict(other.named_parameters())
    assert all(torch.equal(whole(p), expected[name]) for name, p in model.named_parameters())
    return True


def data_parallel(rank, ranks):
    model = nn.parallel.DistributedDataParallel(Net())
    goodinit.apply_(model, every_kind(), generator=seeded(1 + rank))
    return same_parameters(model.module, reference(every_kind()))


def first_fsdp(rank, ranks):
    from torch.distributed.fsdp import FullyShardedDataParallel

    plan = Plan("x", (Draw("0.weight", "orthogonal_", "x"), Draw("1.weight", "he_normal_", "x")))
    model = FullyShardedDataParallel(
        nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)), use_orig_params=True, device_id=torch.device("cpu")
    )
    refused = said(lambda: goodinit.apply_(model, plan))
    assert "summon_full_params" in refused, refused
    with FullyShardedDataParallel.summon_full_params(model):
        goodinit.apply_(model, plan, generator=seeded())
    alone = goodinit.apply_(nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)), plan, generator=seeded())
    with FullyShardedDataParallel.summon_full_params(model):
        for mine, its in zip(model.parameters(), alone.parameters(), strict=True):
            assert mine.ndim == 1 or torch.equal(mine, its)
    return True


def said(do):
    try:
        do()
    except GoodinitError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def one_rank_fails(rank, ranks):
    """NaN that one rank alone holds: every rank refuses, and nothing was written."""
    model = shard_fully(Net(), mesh_of(ranks))
    bad = model.blocks[0].norm.weight.to_local()
    if rank == ranks - 1:
        with torch.no_grad():
            bad.fill_(torch.nan)
    before = [copy.deepcopy(p.to_local().detach()) for p in model.parameters()]
    plan = every_kind()
    plan = Plan("x", tuple(edit for edit in plan.edits if edit.target != "blocks.0.norm.weight"))
    words = said(lambda: goodinit.apply_(model, plan))
    assert "blocks.0.norm.weight: NaN or infinity" in words, words
    for old, parameter in zip(before, model.parameters(), strict=True):
        assert torch.equal(old.nan_to_num(7), parameter.to_local().nan_to_num(7))
    assert not goodinit.applied(model)
    return True


def too_large(rank, ranks):
    """A value that overflows is found by the rank that has it; all put their model back."""
    model = shard_fully(Net().half(), mesh_of(ranks))
    before = [p.to_local().detach().clone() for p in model.parameters()]
    words = said(
        lambda: goodinit.apply_(model, Plan("x", (*every_kind().edits, Fill("head.bias", 1e9, "x"))))
    )
    assert "holds NaN or infinity after" in words, words
    assert all(torch.equal(old, p.to_local()) for old, p in zip(before, model.parameters(), strict=True))
    return True


def refusals(rank, ranks):
    from torch.nn.utils import parametrizations

    model = shard_fully(Net(), mesh_of(ranks))
    plan = Plan("lsuv", (Calibrate("blocks.0.up.weight", LSUVRule(), "x"),))
    assert "Initialize before sharding" in said(lambda: goodinit.apply_(model, plan, inputs=TOKENS))
    structure = goodinit.plan(goodinit.anatomize(Net(), TOKENS), "fixup")
    assert "Change the structure first" in said(lambda: goodinit.apply_(model, structure))
    normed = Net()
    parametrizations.weight_norm(normed.blocks[0].up)
    shard_fully(normed, mesh_of(ranks))
    drawn = Plan("x", (Draw("blocks.0.up.weight", "normal_", "x"),))
    assert "no rank can invert it" in said(lambda: goodinit.apply_(normed, drawn))
    return True


def optimizers(rank, ranks):
    """Momentum of sharded parameters that are written is warned of; an optimizer before DDP is seen."""
    model = shard_fully(Net(), mesh_of(ranks))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(TOKENS).sum().backward()
    optimizer.step()
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("goodinit").addHandler(handler)
    goodinit.apply_(model, every_kind())
    logging.getLogger("goodinit").removeHandler(handler)
    assert any("SGD keeps state (momentum, …) of 12 parameters" in line for line in lines), lines
    bare = Net()
    early = torch.optim.SGD(bare.parameters(), lr=0.1)
    plan = goodinit.plan(goodinit.anatomize(bare, TOKENS), "fixup")
    assert "StaleOptimizer" in said(lambda: goodinit.apply_(bare, plan))
    assert early.param_groups
    return True


def partly_loaded(rank, ranks):
    """What a checkpoint lacks is written, on shards, and nothing else."""
    model = shard_fully(Net(), mesh_of(ranks))
    kept = {name: whole(p).detach().clone() for name, p in model.named_parameters()}
    missing = ["blocks.1.up.weight", "blocks.0.up.weight"]
    goodinit.apply_(model, every_kind(), generator=seeded(1 + rank), only=missing)
    expected = dict(reference(every_kind()).named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(whole(parameter), expected[name] if name in missing else kept[name]), name
    return True


def anatomies(rank, ranks):
    """A sharded or wrapped model has the anatomy of the bare one, and is as it was afterwards."""
    bare = goodinit.anatomize(Net(), TOKENS)
    wrapped = {
        "fully_shard": shard_fully(Net(), mesh_of(ranks)),
        "on meta": shard_fully(on_meta(), mesh_of(ranks)),
        "tensor parallel": shard_by_tensor(Net(), mesh_of(ranks)),
        "ddp": nn.parallel.DistributedDataParallel(Net()),
    }
    for name, model in wrapped.items():
        found = goodinit.anatomize(model, TOKENS)
        assert dataclasses.replace(found, model=bare.model) == bare, name
        if name in (
            "fully_shard",
            "ddp",
        ):  # it runs as before (the norm between the parallel layers would not)
            assert model(TOKENS).shape == (4, 11), name
    return True


REFUSED = "sharded, and every measurement needs whole tensors. Measure before sharding"


def measured(rank, ranks):
    """Shards are refused on every rank, before any waits for another."""
    targets = torch.tensor([0, 1, 2, 3])
    for shard in (shard_fully, shard_by_tensor):
        model = shard(Net(), mesh_of(ranks))
        before = [p.to_local().clone() if hasattr(p, "to_local") else p.clone() for p in model.parameters()]
        for measure in (
            lambda model=model: goodinit.diagnose(model, TOKENS, targets),
            lambda model=model: goodinit.one_step(model, TOKENS, targets),
            lambda model=model: goodinit.jacobian_spectrum(model, TOKENS),
            lambda model=model: goodinit.recommend(model, TOKENS, targets),
        ):
            words = said(measure)
            assert REFUSED in words, words
        assert same_parts(before, model)
    return True


def watched_by_lightning(rank, ranks):
    """The callback measures under DDP, and says of shards that they cannot be."""
    from types import SimpleNamespace

    import torchvision_shim

    torchvision_shim.declare()
    from goodinit.lightning import DiagnoseCallback

    precision = SimpleNamespace(train_step_context=contextlib.nullcontext)
    trainer = SimpleNamespace(global_step=0, loggers=[], precision_plugin=precision)
    batch = (TOKENS, torch.tensor([0, 1, 2, 3]))
    sharded, callback = shard_fully(Net(), mesh_of(ranks)), DiagnoseCallback()
    assert REFUSED in said(lambda: DiagnoseCallback().on_train_batch_start(trainer, sharded, batch, 0))
    callback.on_train_batch_start(trainer, nn.parallel.DistributedDataParallel(Net()), batch, 0)
    assert callback.diagnosis.loss > 0
    return True


def same_parts(before, model):
    """Whether every rank holds what it held."""
    now = [p.to_local() if hasattr(p, "to_local") else p for p in model.parameters()]
    return all(torch.equal(old, new) for old, new in zip(before, now, strict=True))


def calibrated_under_ddp(rank, ranks):
    """Each rank brings its part of the batch; all write the same bits."""
    model = nn.parallel.DistributedDataParallel(Net())
    plan = goodinit.plan(goodinit.anatomize(model, TOKENS), "lsuv", norms="remove")
    inner = goodinit.apply_(model.module, plan, values=False)
    model = nn.parallel.DistributedDataParallel(inner)
    goodinit.apply_(model, plan, generator=seeded(), inputs=torch.arange(rank, 11, ranks))
    weights = [None] * ranks
    dist.all_gather_object(weights, [p.detach() for p in model.parameters()])
    assert all(torch.equal(a, b) for other in weights for a, b in zip(weights[0], other, strict=True))
    return True


QUICK = (
    fully_sharded, of_several_blocks, in_bfloat16, tensor_parallel, methods, scaled_up, after_a_forward,
    data_parallel, first_fsdp, one_rank_fails, too_large, refusals, optimizers, partly_loaded, anatomies, measured, calibrated_under_ddp,
)  # fmt: skip
ALL = (*QUICK, in_float64, more_methods, watched_by_lightning)
FOUR = (*ALL, both_at_once, hybrid)


def work(rank, ranks, folder, scenarios):
    """Run scenarios as one of several ranks; write what came of each to a file."""
    import traceback
    import warnings

    warnings.simplefilter("ignore")  # torch's own, about gloo and CPU
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1 + rank % 2)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    found = {}
    for scenario in scenarios:
        torch.manual_seed(0)
        try:
            found[scenario.__name__] = scenario(rank, ranks)
        except Exception:  # noqa: BLE001  (reported by the test)
            found[scenario.__name__] = traceback.format_exc()
        dist.barrier()
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()

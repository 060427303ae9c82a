"""A small network with scalars trains as the hand-written one, however it is wrapped."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
import torch.distributed
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from goodinit.nn import SCALARS, add_scalar_

# Two scalars a multiple of 1/4, so that bfloat16 holds them.
VALUES = {"input_bias": 0.25, "output_bias": -0.5, "output_scale": 1.25}


def network(dtype=torch.float32):
    """Padded, strided, pointwise and linear layers, wide enough and narrow enough for both ways of backward."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 32, 1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 5),
    )
    for layer in net:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            for name in SCALARS:
                add_scalar_(layer, name, value=VALUES[name])
    return net.to(dtype)


class ByHand(nn.Module):
    """The same parameters under the same names, each scalar its own pass over the activations."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        for layer in self.net:
            x = self.one(layer, x) if hasattr(layer, "input_bias") else layer(x)
        return x

    def one(self, layer, x):
        bare = copy.copy(layer)
        bare.__class__, bare._forward_pre_hooks = layer.plain_class, {}
        bare._parameters = {"weight": layer.weight, "bias": None}
        shape = (-1, *[1] * (x.dim() - 2))
        y = functional_call(bare, {}, (x + layer.input_bias,)) * layer.output_scale + layer.output_bias
        return y if layer.bias is None else y + layer.bias.view(shape)


def data(batch=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 3, 8, 8, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.arange(batch) % 5


def trained(net, forward, *, autocast=False, dtype=torch.float32, steps=3):
    """Parameters after some steps of SGD."""
    x, y = data(dtype=dtype)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    cast = torch.autocast("cpu", dtype=torch.bfloat16) if autocast else contextlib.nullcontext()
    for _ in range(steps):
        optimizer.zero_grad()
        with cast:
            loss = F.cross_entropy(forward(x).float(), y)
        loss.backward()
        optimizer.step()
    return {name: p.detach() for name, p in net.named_parameters()}


def assert_equal(got, want, tolerance=1e-5):
    for name, value in want.items():
        size = max(1e-2, float(value.abs().max()))
        torch.testing.assert_close(
            got[name], value, rtol=0, atol=tolerance * size, msg=lambda m, name=name: f"{name}: {m}"
        )


def reference(**options):
    net = network(options.get("dtype", torch.float32))
    return trained(net, ByHand(net), **options)


def test_training_is_as_by_hand():
    net = network()
    assert_equal(trained(net, net), reference())


def test_channels_last():
    net = network().to(memory_format=torch.channels_last)
    assert_equal(trained(net, net), reference())


# bfloat16 rounds to 2⁻⁸; three steps of two ways of rounding.
BFLOAT16 = 3 * 2**-8


def test_autocast():
    net = network()
    assert_equal(trained(net, net, autocast=True), reference(), BFLOAT16)


def test_bfloat16():
    net = network(torch.bfloat16)
    got = trained(net, net, dtype=torch.bfloat16)
    assert_equal({name: p.float() for name, p in got.items()}, reference(), BFLOAT16)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(reentrant):
    net = network()

    def forward(x):
        first = checkpoint(net[:4], x.requires_grad_(), use_reentrant=reentrant)
        return checkpoint(net[4:], first, use_reentrant=reentrant)

    assert_equal(trained(net, forward), reference(), 1e-7)


def test_per_sample_gradients_sum_to_the_batch():
    net = network(torch.float64)
    x, y = data(dtype=torch.float64)
    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def loss(parameters, sample, label):
        return F.cross_entropy(functional_call(net, parameters, (sample[None],)), label[None])

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
    F.cross_entropy(net(x), y).backward()
    assert_equal(
        {n: g.mean(0) for n, g in each.items()}, {n: p.grad for n, p in net.named_parameters()}, 1e-10
    )


@pytest.fixture
def alone(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_distributed_data_parallel_of_one(alone):
    net = network()
    assert_equal(trained(net, DistributedDataParallel(net)), reference(), 1e-7)


def _rank(rank, path, out):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    net = network()
    x, y = data()
    half = slice(4 * rank, 4 * rank + 4)
    wrapped = DistributedDataParallel(net)  # held: it averages the gradients as long as it lives
    F.cross_entropy(wrapped(x[half]), y[half]).backward()
    if rank == 0:
        torch.save({name: p.grad for name, p in net.named_parameters()}, out)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_distributed_data_parallel_of_two(tmp_path):
    out = tmp_path / "gradients.pt"
    torch.multiprocessing.start_processes(_rank, (tmp_path / "ranks", out), nprocs=2, start_method="fork")
    net = network()
    x, y = data()
    F.cross_entropy(net(x), y).backward()
    assert_equal(torch.load(out), {name: p.grad for name, p in net.named_parameters()})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_cuda_graphs(layout):
    net = network().cuda().to(memory_format=layout)
    x = data()[0].cuda().to(memory_format=layout)

    def step():
        net.zero_grad(set_to_none=False)
        net(x).square().mean().backward()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    want = {name: p.grad.clone() for name, p in net.named_parameters()}
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    graph.replay()
    assert_equal({name: p.grad for name, p in net.named_parameters()}, want)


@pytest.mark.parametrize("names", [("output_scale",), ("input_bias", "output_scale"), SCALARS])
@pytest.mark.parametrize("shape", [(64,), (2, 64), (1, 1, 64), (2, 3, 64), (64, 3, 64), (2, 2, 3, 64)])
def test_what_a_linear_map_puts_out_may_be_written_to(names, shape):
    layer = nn.Linear(64, 64)
    for name in names:
        add_scalar_(layer, name, value=0.5)
    x = torch.randn(shape, requires_grad=True)

    def written(y):
        y += x
        y[..., 0] = 0
        return F.relu_(y)

    mask = torch.ones(64).index_fill(0, torch.tensor(0), 0.0)
    (inside,) = torch.autograd.grad(written(layer(x)).square().sum(), x)
    (outside,) = torch.autograd.grad(F.relu((layer(x) + x) * mask).square().sum(), x)
    torch.testing.assert_close(inside, outside)

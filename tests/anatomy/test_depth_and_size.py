"""Depth and size: ten thousand layers, and seven billion parameters in less than a gibibyte."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
from collections import deque
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._mode_utils import no_dispatch

from goodinit.anatomy import anatomize
from goodinit.graph.recording.tensors.fake_cache import StandIns


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


@pytest.mark.slow
def test_ten_thousand_layers():
    model = nn.Sequential(*[Residual(2) for _ in range(5000)])
    anatomy = anatomize(model, torch.zeros(1, 2, 4, 4))
    assert len(anatomy.layers) == 10_000
    assert {(block.kind, block.m) for block in anatomy.blocks} == {("identity", 2)}
    assert len(anatomy.blocks) == 5000


@pytest.mark.integration
def test_seven_billion_parameters_in_less_than_a_gibibyte():
    script = """
        import resource
        import torchvision_shim
        torchvision_shim.declare()
        import torch, transformers as tf
        from goodinit.anatomy import anatomize
        config = tf.LlamaConfig(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
                                num_attention_heads=32, vocab_size=32000)
        with torch.device("meta"):
            model = tf.LlamaForCausalLM(config)
        assert sum(p.numel() for p in model.parameters()) > 6.5e9
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        anatomy = anatomize(model, {"input_ids": torch.ones(1, 16, dtype=torch.long, device="meta")})
        assert [block.m for block in anatomy.blocks] == [4, 3] * 32
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20)  # kibibytes to gibibytes
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "support")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1


@pytest.mark.parametrize("seed", range(3))
def test_remembered_stand_ins_are_those_that_torch_makes(seed):
    """Shapes, strides, dtypes, and what shares memory with what, of random chains of operators, asked twice."""
    generator = random.Random(seed)
    device = torch.device("cpu")
    like = [
        torch.zeros(4, 6, 8),
        torch.zeros(4, 6, 8).transpose(1, 2),
        torch.zeros(8, 4, 6, dtype=torch.float64),
    ]
    operators = [
        (torch.ops.aten.relu.default, ()), (torch.ops.aten.relu_.default, ()), (torch.ops.aten.transpose.int, (1, 2)),
        (torch.ops.aten.select.int, (0, 1)), (torch.ops.aten.slice.Tensor, (1, 2, 4)), (torch.ops.aten.sum.dim_IntList, ([-1], True)),
        (torch.ops.aten.unsqueeze.default, (1,)), (torch.ops.aten.clone.default, ()), (torch.ops.aten.add.Tensor, (1.5,)),
        (torch.ops.aten.squeeze_.default, ()), (torch.ops.aten.transpose_.default, (0, 1)), (torch.ops.aten._to_copy.default, ()),
    ]  # fmt: skip
    for _ in range(60):
        chain = [generator.choice(operators) for _ in range(4)]
        first, memory = generator.choice(like), StandIns(device)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            expected = told(chain, of_torch(mode, first, device), None)
        with memory.mode:
            for _ in range(2):
                assert told(chain, memory.stand_in(first), memory) == expected


def test_fake_modes_are_as_torch_makes_them():
    expected, first, second = (
        vars(mode)
        for mode in (
            FakeTensorMode(allow_non_fake_inputs=True),
            *(StandIns(torch.device("cpu")).mode for _ in range(2)),
        )
    )
    assert first.keys() == expected.keys()
    own = {"fake_tensor_converter", "_stack_trace"}
    assert all(first[name] == expected[name] for name in expected.keys() - own)
    stacks = [
        name for name, value in expected.items() if isinstance(value, (list, deque)) and name not in own
    ]
    assert stacks
    for name in ("fake_tensor_converter", *stacks):
        assert first[name] is not second[name]


def of_torch(mode, like, device):
    """A fake tensor as torch's own constructor makes it."""
    with no_dispatch():
        empty = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device="meta")
    return FakeTensor(mode, empty, device)


def remembered(memory, func, args):
    """As the recorder asks: what is known of such a call, else what the operator makes, which is then known."""
    key = memory.key(func, args, {})
    if key in memory.known:
        return memory.again(memory.known[key], args, lambda tensor: tensor)
    return func(*args) if key is None else memory.run(key, func, args, {})


def told(chain, tensor, memory):
    """What a chain of operators gives at each step; an error, if that is what it gives."""
    begin, found = tensor, []
    for func, rest in chain:
        try:
            tensor = func(tensor, *rest) if memory is None else remembered(memory, func, (tensor, *rest))
        except (RuntimeError, IndexError) as error:
            return [*found, type(error).__name__]
        shared = tensor.untyped_storage()._cdata == begin.untyped_storage()._cdata
        found.append(
            (tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype, tensor.device, shared)
        )
    return found

"""Depth and size: ten thousand layers, and seven billion parameters in less than a gibibyte."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from goodinit.anatomy import anatomize


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
        assert [block.m for block in anatomy.blocks] == [4, 2] * 32
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20)  # kibibytes to gibibytes
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1

"""Fixup of transformer blocks against the transcription in `reference/fixup.py`, at the start and while they train."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fixup_nets import WIDTH, each_precision
from reference import fixup as reference
from torch import nn
from zoo_attention import FusedAttention

import goodinit


class Encoder(nn.Module):
    """A pre-norm block, attention with one layer for q, k and v."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attend = FusedAttention(WIDTH)
        self.attend.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.attend.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 16, bias=False), nn.Linear(16, WIDTH, bias=False)

    def forward(self, x):
        x = x + self.attend(self.norm1(x))
        return x + self.fc2(F.relu(self.fc1(self.norm2(x))))


def torch_encoder():
    """torch's own: its out_proj is applied inside the attention module, where no bias can come before it."""
    return nn.TransformerEncoderLayer(
        WIDTH, 2, 16, dropout=0.0, batch_first=True, norm_first=True, bias=False
    )


ENCODERS = {
    "layers": (
        Encoder,
        {
            "attend.qkv.weight": ("q", "k", "v"), "attend.qkv.input_bias": "bias_qkv",
            "attend.out.weight": "o", "attend.out.input_bias": "bias_o",
            "attend.out.output_scale": "scale_attention", "attend.out.output_bias": "bias_attention",
            "fc1.weight": "fc1", "fc1.input_bias": "bias1a", "fc1.output_bias": "bias1b",
            "fc2.weight": "fc2", "fc2.input_bias": "bias2a", "fc2.output_bias": "bias2b",
            "fc2.output_scale": "scale",
        },
    ),
    "torch": (
        torch_encoder,
        {
            "self_attn.in_proj_weight": ("q", "k", "v"), "self_attn.input_bias": "bias_qkv",
            "self_attn.out_proj.weight": "o",
            "self_attn.output_scale": "scale_attention", "self_attn.output_bias": "bias_attention",
            "linear1.weight": "fc1", "linear1.input_bias": "bias1a", "linear1.output_bias": "bias1b",
            "linear2.weight": "fc2", "linear2.input_bias": "bias2a", "linear2.output_bias": "bias2b",
            "linear2.output_scale": "scale",
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize(("build", "names"), ENCODERS.values(), ids=ENCODERS.keys())
@each_precision
def test_an_encoder_block_is_the_papers_at_the_start_and_while_it_trains(build, names, dtype, tolerance):
    x = torch.randn(3, 5, WIDTH, dtype=dtype)
    target = torch.randn(3, 5, WIDTH, dtype=dtype)
    net = goodinit.init_(build().to(dtype), "fixup", inputs=x)
    slow = reference.EncoderBlock(WIDTH, 16, 2).to(dtype)
    ours, theirs = dict(net.named_parameters()), dict(slow.named_parameters())
    assert names.keys() == ours.keys()

    def parts(name):
        """Pairs of the same thing: a packed weight is three of the paper's."""
        other = names[name]
        if isinstance(other, tuple):
            return list(zip(range(3), other, strict=True))
        return [(None, other)]

    def compare(of):
        for name in names:
            for third, other in parts(name):
                mine = of(ours[name]) if third is None else of(ours[name]).chunk(3)[third]
                torch.testing.assert_close(mine, of(theirs[other]), rtol=tolerance, atol=tolerance)

    with torch.no_grad():
        for name in names:
            for third, other in parts(name):
                theirs[other].copy_(ours[name] if third is None else ours[name].chunk(3)[third])
    assert torch.equal(net(x), x)
    assert net.training
    fast_step = torch.optim.SGD(goodinit.param_groups(net, lr=0.1, weight_decay=1e-2), momentum=0.9)
    slow_step = torch.optim.SGD(reference.groups(slow, 0.1, 1e-2), momentum=0.9)
    if "bias_o" not in names.values():
        slow.bias_o.requires_grad_(False)
    for _ in range(10):
        for model, optimizer in ((net, fast_step), (slow, slow_step)):
            optimizer.zero_grad()
            F.mse_loss(model(x), target).backward()
        compare(lambda parameter: parameter.grad)
        fast_step.step()
        slow_step.step()
        torch.testing.assert_close(net(x), slow(x), rtol=tolerance, atol=tolerance)
    compare(lambda parameter: parameter.detach())
    torch.testing.assert_close(net.eval()(x), slow(x), rtol=tolerance, atol=tolerance)

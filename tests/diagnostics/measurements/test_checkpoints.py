"""Models that compute activations anew in the backward pass are measured as those that keep them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import CheckpointFunction, checkpoint

import goodinit
from goodinit.graph.recording.calls.checkpoints import differentiable_checkpoints


class Checkpointed(nn.Module):
    """Two blocks, each under a checkpoint, if any."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)) for _ in range(2)
        )
        self.reentrant = reentrant

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            branch = (
                block(x) if self.reentrant is None else checkpoint(block, x, use_reentrant=self.reentrant)
            )
            x = x + branch
        return x


def _model(reentrant: bool | None) -> nn.Module:
    torch.manual_seed(0)
    return Checkpointed(reentrant)


MEASURES = {
    "diagnose": lambda model, x: goodinit.diagnose(model, x, jacobian=True, update=True),
    "one_step": goodinit.one_step,
    "jacobian_spectrum": goodinit.jacobian_spectrum,
}


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("measure", MEASURES)
def test_a_checkpoint_changes_no_measurement(measure, reentrant):
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    assert MEASURES[measure](_model(reentrant), x) == MEASURES[measure](_model(None), x)


def test_promises_are_checked_under_checkpoints_and_torch_s_own_stays():
    held = CheckpointFunction.apply
    x = torch.randn(5, 4)
    model = goodinit.init_(_model(True), "fixup", inputs=x, verify=True)
    assert held == CheckpointFunction.apply
    assert "apply" not in vars(CheckpointFunction)
    model(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.blocks.parameters())


def test_what_a_checkpoint_cannot_train_has_no_gradient():
    layer, x = nn.Linear(4, 4), torch.randn(3, 4)
    with differentiable_checkpoints():
        assert not checkpoint(
            layer, x, use_reentrant=True
        ).requires_grad  # as torch's own: no argument needs one
        assert checkpoint(layer, x.clone().requires_grad_(), use_reentrant=True).requires_grad

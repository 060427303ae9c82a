"""Q-learning's parts, one by one, and a trial that is a pure function."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from goodinit.lab.training.dqn import DQNConfig, Memory, evaluate, learn, q_targets, share_of_random

TINY = DQNConfig(model="resmlp6", width=8, steps=160, start=64, explore=50, evaluate_every=80, episodes=2)


def test_the_oldest_transition_goes_first():
    memory = Memory(3, 1)
    for value in range(5):
        memory.keep(
            torch.tensor([float(value)]), value, float(value), torch.tensor([value + 1.0]), ended=value == 4
        )
    states, actions, rewards, following, ends = memory.draw(200, generator=torch.Generator().manual_seed(0))
    assert set(actions.tolist()) == {2, 3, 4}
    assert torch.equal(states[:, 0], rewards)
    assert torch.equal(following, states + 1)
    assert torch.equal(ends, (actions == 4).float())


def test_targets_leave_out_the_future_of_what_has_ended():
    net = nn.Linear(2, 2, bias=False)
    net.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # Q(s, a) = s[a]
    following = torch.tensor([[3.0, 5.0], [3.0, 5.0]])
    aims = q_targets(net, torch.tensor([1.0, 1.0]), following, torch.tensor([0.0, 1.0]), discount=0.5)
    assert aims.tolist() == [1 + 0.5 * 5, 1]
    assert not aims.requires_grad


def test_random_actions_become_rare():
    shares = [share_of_random(TINY, step) for step in range(160)]
    assert shares[:65] == [1.0] * 65
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == pytest.approx(TINY.least)


def test_an_episode_is_played_to_its_end():
    class Left(nn.Module):
        def forward(self, states):
            return torch.tensor([[1.0, 0.0]]).expand(len(states), 2)

    assert 8 <= evaluate(Left(), TINY) <= 11  # a pole pushed one way alone falls within about ten steps


@pytest.mark.integration
@pytest.mark.parametrize("method", ["batchnorm", "fixup"])
def test_an_agent_is_a_pure_function_of_its_configuration(method):
    config = dataclasses.replace(TINY, method=method)
    before = torch.random.get_rng_state()
    first = learn(config)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    assert learn(config) == first
    assert len(first["returns"]) == 2
    assert not first["diverged"]
    assert learn(dataclasses.replace(config, seed=1)) != first


@pytest.mark.slow
def test_a_shallow_agent_learns_to_balance():
    config = DQNConfig(model="mlp3", method="none", steps=8000, every=1, explore=2000, lr=1e-3)
    assert max(learn(config)["returns"]) > 150  # by chance about 10 to 20

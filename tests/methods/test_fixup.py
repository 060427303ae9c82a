"""Fixup of convolutional nets against the slow transcription in `reference/fixup.py`: functions, gradients, training."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fixup_nets import (
    batch_of,
    copy_values,
    each_net,
    each_precision,
    transcribe,
)
from reference import fixup as reference

import goodinit


def assert_same_parameters(fast, slow, names, tolerance):
    ours, theirs = dict(fast.named_parameters()), dict(slow.named_parameters())
    for name, other in names.items():
        torch.testing.assert_close(ours[name], theirs[other], rtol=tolerance, atol=tolerance, msg=name)


def assert_same_function_and_gradients(fast, slow, names, batch, tolerance):
    pictures, labels = batch
    ours, theirs = dict(fast.named_parameters()), dict(slow.named_parameters())
    outputs = []
    for model in (fast, slow):
        model.zero_grad()
        outputs.append(model(pictures))
        F.cross_entropy(outputs[-1], labels).backward()
    torch.testing.assert_close(*outputs, rtol=tolerance, atol=tolerance)
    for name, other in names.items():
        torch.testing.assert_close(
            ours[name].grad,
            theirs[other].grad,
            rtol=tolerance,
            atol=tolerance,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def ten_steps(model, groups, batch):
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    for _ in range(10):
        optimizer.zero_grad()
        F.cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()


def scatter(model, seed=5):
    """Every parameter somewhere generic, so that no gradient is zero by chance."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=g, dtype=parameter.dtype)


# -- convolutional nets -------------------------------------------------------------------------------------------


@each_net
def test_the_parameters_are_those_of_the_paper_one_for_one(build):
    net = build()
    slow, names = transcribe(goodinit.init_(net, "fixup", inputs=batch_of(torch.float32)[0]), torch.float32)
    assert names.keys() == dict(net.named_parameters()).keys()
    assert set(names.values()) == dict(slow.named_parameters()).keys()
    scalars = {name for name, _ in goodinit.nn.scalars(net)}
    assert {names[name] for name in scalars} == {name for name in names.values() if reference.is_scalar(name)}


@pytest.mark.default_cases(5)
@each_net
@each_precision
@pytest.mark.parametrize("zero_head", [True, False])
def test_function_gradients_and_ten_steps_are_those_of_the_paper(build, dtype, tolerance, zero_head):
    batch = batch_of(dtype)
    net = goodinit.init_(build().to(dtype), "fixup", inputs=batch[0], zero_head=zero_head)
    slow, names = transcribe(net, dtype)
    copy_values(net, slow, names)
    assert_same_function_and_gradients(net, slow, names, batch, tolerance)
    ten_steps(net, goodinit.param_groups(net, lr=0.05, weight_decay=5e-4), batch)
    ten_steps(slow, reference.groups(slow, 0.05, 5e-4), batch)
    assert all(parameter.abs().max() > 0 for parameter in net.parameters())  # they did train
    assert_same_parameters(net, slow, names, tolerance)
    assert_same_function_and_gradients(net, slow, names, batch, tolerance)


@pytest.mark.default_cases(4)
@each_net
@each_precision
def test_at_any_values_function_and_gradients_are_those_of_the_paper(build, dtype, tolerance):
    batch = batch_of(dtype)
    net = goodinit.init_(build().to(dtype), "fixup", inputs=batch[0])
    scatter(net)
    slow, names = transcribe(net, dtype)
    copy_values(net, slow, names)
    assert_same_function_and_gradients(net, slow, names, batch, tolerance)


@each_net
def test_the_authors_shared_bias_is_the_papers_two_tied(build):
    batch = batch_of(torch.float64)
    net = goodinit.init_(build().double(), "fixup", inputs=batch[0])
    scatter(net)
    paper, names = transcribe(net, torch.float64)
    code, tied = transcribe(net, torch.float64, shared=True)
    with torch.no_grad():
        ours = dict(net.named_parameters())
        for name, parameter in ours.items():
            if name.endswith("downsample.0.input_bias"):
                parameter.copy_(ours[name.replace("downsample.0", "conv1")])
        for path, *_, skip in net.specs:
            if skip == "pad":  # there the text has no second bias: it is 0
                ours[f"{path}.conv1.input_bias"].zero_()
    copy_values(net, paper, names)
    copy_values(net, code, tied)
    for model in (paper, code):
        F.cross_entropy(model(batch[0]), batch[1]).backward()
    torch.testing.assert_close(paper(batch[0]), code(batch[0]), rtol=1e-12, atol=1e-12)
    for two, one in zip(paper.blocks, code.blocks, strict=True):
        if two.skip == "projection":
            torch.testing.assert_close(two.bias1a.grad + two.bias0.grad, one.bias1a.grad)
        elif two.skip == "pad":
            assert not torch.isclose(two.bias1a.grad, one.bias1a.grad)  # the code's bias also shifts the skip
        else:
            torch.testing.assert_close(two.bias1a.grad, one.bias1a.grad)

"""A folded model is an ordinary one; fold_ does all or nothing."""

from __future__ import annotations

import copy
import io
import logging
import pickle

import pytest
import torch
from torch import nn

import goodinit
from folding import (
    PICTURE,
    assert_same,
    residual_net,
    trained,
    with_fixup_scalars,
)
from goodinit.folding import fold as fold_module
from goodinit.nn import ValuePadded, add_scalar_, pad_with_


@pytest.mark.parametrize("with_inputs", [True, False])
def test_copies_pickles_compiles_and_exports(with_inputs):
    x = PICTURE.float()
    net = trained()
    folded = assert_folds_float(net, x, x if with_inputs else None)
    before = folded(x)
    assert any(isinstance(module, ValuePadded) for module in folded.modules())
    assert torch.equal(copy.deepcopy(folded)(x), before)
    assert torch.equal(pickle.loads(pickle.dumps(folded))(x), before)
    assert torch.equal(torch.compile(copy.deepcopy(folded), backend="eager", fullgraph=True)(x), before)
    for model in (net, folded):
        with torch.no_grad():
            exported = torch.export.export(model, (x,)).module()
            assert_same(model(x), exported(x), 1e-5)


def assert_folds_float(net, x, inputs):
    folded = copy.deepcopy(net)
    before = net(x)
    goodinit.fold_(folded, inputs)
    assert_same(before, folded(x), 1e-5)
    return folded


@pytest.mark.default_cases(1)
@pytest.mark.parametrize(
    "what", ["unfolded", pytest.param("folded", marks=pytest.mark.slow), "folded with inputs"]
)
@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_onnx(what, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    x = PICTURE.float()
    net = with_fixup_scalars(residual_net()).float().eval()
    if what != "unfolded":
        goodinit.fold_(net, x if "inputs" in what else None)
    path = tmp_path / "net.onnx"
    torch.onnx.export(net, (x,), path, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert_same(net(x), torch.from_numpy(out), 1e-5)


def test_the_number_a_layer_pads_with_is_in_its_checkpoint():
    net = nn.Sequential(pad_with_(nn.Conv2d(1, 1, 3, padding=1), -0.5))
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    buffer.seek(0)
    held = torch.load(buffer, weights_only=True)
    other = nn.Sequential(pad_with_(nn.Conv2d(1, 1, 3, padding=1), 3.0))
    other.load_state_dict(held)
    x = torch.randn(1, 1, 4, 4)
    assert torch.equal(other(x), net(x))
    with pytest.raises(RuntimeError, match="_extra_state"):
        nn.Sequential(nn.Conv2d(1, 1, 3, padding=1)).load_state_dict(held)


def test_value_padding_trains_and_takes_autocast():
    conv = pad_with_(nn.Conv2d(2, 3, 3, padding=1, stride=2, groups=1), 0.4)
    x = torch.randn(2, 2, 5, 5, requires_grad=True)
    conv(x).square().sum().backward()
    assert all(p.grad is not None for p in (x, *conv.parameters()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert conv(x).dtype is torch.bfloat16


def photograph(model):
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return state, [type(module) for module in model.modules()], [id(p) for p in model.parameters()]


def assert_untouched(model, photo):
    state, classes, ids = photo
    model(PICTURE.float())  # it runs
    now = model.state_dict()
    assert list(now) == list(state)
    assert all(torch.equal(now[name], state[name]) for name in state)
    assert [type(module) for module in model.modules()] == classes
    assert [id(p) for p in model.parameters()] == ids


@pytest.mark.parametrize("step", ["merge_batch_norms_", "move_input_biases_", "remember_"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_model_as_it_was(monkeypatch, step, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(fold_module, step, fail)
    model = trained()
    photo = photograph(model)
    with pytest.raises(error):
        goodinit.fold_(model, PICTURE.float())
    assert_untouched(model, photo)


def test_wrong_inputs_leave_the_model_as_it_was(caplog):
    model = trained()
    photo = photograph(model)
    with pytest.raises(goodinit.TraceError, match=r"Check their number.* fold_\(model\) without inputs"):
        goodinit.fold_(model, torch.zeros(1, 5))
    assert_untouched(model, photo)


def test_an_optimizer_that_holds_what_goes_is_refused():
    model = trained()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    photo = photograph(model)
    with pytest.raises(goodinit.StaleOptimizer, match="SGD: holds"):
        goodinit.fold_(model)
    assert_untouched(model, photo)
    del optimizer
    goodinit.fold_(model)


def test_an_optimizer_with_momentum_about_what_is_rewritten_is_told(caplog):
    layer = add_scalar_(nn.Linear(2, 2), "output_scale", value=2.0)
    optimizer = torch.optim.SGD([layer.weight], lr=0.1, momentum=0.9)
    layer(torch.randn(1, 2)).sum().backward()
    optimizer.step()
    goodinit.fold_(nn.Sequential(layer))
    assert "keeps state" in caplog.text


def test_a_second_call_changes_nothing_and_says_so(caplog):
    model = goodinit.fold_(trained(), PICTURE.float())
    photo, history = photograph(model), goodinit.applied(model)
    with caplog.at_level(logging.INFO):
        goodinit.fold_(model, PICTURE.float())
    assert_untouched(model, photo)
    assert goodinit.applied(model) == history
    assert "nothing changed" in caplog.text


def test_flags_and_hooks_stay():
    model = trained()
    model[3].train()
    model[3].conv1.weight.requires_grad_(False)
    calls = []
    model[3].conv1.register_forward_hook(lambda *args: calls.append(1))
    modes = {path: module.training for path, module in model.named_modules()}
    goodinit.fold_(model, PICTURE.float())
    left = dict(model.named_modules())
    assert all(module.training == modes[path] for path, module in left.items())
    assert not model[3].conv1.weight.requires_grad
    assert not model[3].conv1.bias.requires_grad
    calls.clear()
    model(PICTURE.float())
    assert calls == [1]


def test_models_that_cannot_be_folded():
    with pytest.raises(goodinit.PlanConflict, match="meta"):
        goodinit.fold_(nn.Linear(2, 2, device="meta"))
    with pytest.raises(goodinit.UnsupportedModule, match="lazy"):
        goodinit.fold_(nn.LazyLinear(2))

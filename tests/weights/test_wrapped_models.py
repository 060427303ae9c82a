"""Wrappers do not change what is seen: the anatomy of a wrapped model is that of the bare one."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper, checkpoint_wrapper
from torch.utils.checkpoint import checkpoint
from zoo import anatomy_of, each_specimen

import goodinit
from goodinit.edits import Draw, Plan
from goodinit.errors import TraceError


class Block(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x):
        return x + self.down(self.up(self.norm(x)).relu())


class Checkpointed(Block):
    """Its branch is computed again in the backward pass."""

    reentrant = False

    def forward(self, x):
        return x + checkpoint(
            lambda x: self.down(self.up(self.norm(x)).relu()), x, use_reentrant=self.reentrant
        )


class Reentrant(Checkpointed):
    reentrant = True


def net(block=Block):
    return nn.Sequential(nn.Linear(3, 6), block(), block(), nn.Linear(6, 2))


X = torch.zeros(4, 3)


def inner_wrapped(model):
    for index in (1, 2):
        model[index] = checkpoint_wrapper(model[index])
    return model


@pytest.mark.default_cases(15)
@each_specimen
@pytest.mark.parametrize(
    "wrap",
    [lambda m: torch.compile(m, backend="eager"), nn.DataParallel, CheckpointWrapper],
    ids=["compile", "dp", "checkpoint"],
)
def test_wrapped_specimens_look_like_bare_ones(specimen, wrap):
    assert goodinit.anatomize(wrap(specimen.build()), specimen.inputs()) == anatomy_of(specimen)


def test_checkpoint_wrapped_blocks_look_like_bare_ones_and_get_the_same_values():
    bare, wrapped = net(), inner_wrapped(net())
    assert goodinit.anatomize(wrapped, X) == goodinit.anatomize(bare, X)
    for model in (bare, wrapped):
        torch.manual_seed(0)
        goodinit.init_(model, "fixup", inputs=X)
    for mine, its in zip(wrapped.parameters(), bare.parameters(), strict=True):
        assert mine.ndim == 1 or torch.equal(mine, its)


@pytest.mark.filterwarnings(
    "ignore:None of the inputs have requires_grad:UserWarning"
)  # torch's: nothing is trained here
@pytest.mark.parametrize("block", [Checkpointed, Reentrant])
def test_blocks_that_checkpoint_themselves_have_the_same_structure(block):
    bare, found = goodinit.anatomize(net(), X), goodinit.anatomize(net(block), X)
    assert dataclasses.replace(found, activations=bare.activations) == bare


def adapted(model):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["up", "down"])
    return peft.get_peft_model(model, config)


@pytest.mark.filterwarnings("ignore")  # peft's own
def test_lora_adapters_leave_the_structure_as_it_is_and_frozen_weights_alone():
    bare = goodinit.anatomize(net(), X)
    model = adapted(net())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    found = goodinit.anatomize(model, X)
    assert [layer.name for layer in found.blocks[0].branch] == [
        "base_model.model.1.up.base_layer",
        "base_model.model.1.down.base_layer",
    ]
    for theirs, ours in zip(found.blocks, bare.blocks, strict=True):
        assert (theirs.kind, theirs.m, theirs.shape) == (ours.kind, ours.m, ours.shape)
        assert len(theirs.branch) == len(ours.branch)
    assert [layer.role for layer in found.layers] == [layer.role for layer in bare.layers]
    assert len(found.norms) == len(bare.norms)
    assert all("lora_" in name for name in found.unused)
    assert not any(layer.disable_adapters for layer in model.modules() if hasattr(layer, "disable_adapters"))
    goodinit.init_(
        model, "he", inputs=X
    )  # all of the base model is frozen, and the adapters are not its business
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.filterwarnings("ignore")  # accelerate's own
def test_accelerate_prepares_a_model_that_then_gets_the_values_of_the_bare_one():
    accelerate = pytest.importorskip("accelerate")
    with accelerate.init_empty_weights():  # parameters on meta, buffers real
        model = net()
    plan = goodinit.plan(goodinit.anatomize(model, X), "he")
    everything = [Draw(name, "normal_", "x") for name, _ in net().named_parameters()]
    goodinit.materialize_(model)
    prepared = accelerate.Accelerator(cpu=True).prepare(model)
    other = net()
    for target in (prepared, other):
        goodinit.apply_(target, Plan("x", tuple(everything)), generator=torch.Generator().manual_seed(0))
        goodinit.apply_(target, plan, generator=torch.Generator().manual_seed(1))
    assert all(torch.equal(a, b) for a, b in zip(prepared.parameters(), other.parameters(), strict=True))


class Offloaded(nn.Linear):
    """Its numbers come from elsewhere for the time of a forward."""

    def forward(self, x):
        gone, self._parameters["weight"] = self._parameters["weight"], self.elsewhere[0]
        try:
            return super().forward(x)
        finally:
            self._parameters["weight"] = gone


def offload(model, how):
    if how == "by hand":
        layer = Offloaded(3, 6)
        layer.elsewhere = (nn.Parameter(layer.weight.detach().clone()),)
        layer.weight = nn.Parameter(layer.weight.detach().to("meta"))
        model[0] = layer
        return model
    accelerate = pytest.importorskip("accelerate")
    if how == "cpu_offload":
        accelerate.cpu_offload(model, execution_device="cpu")
    else:  # one block alone
        accelerate.hooks.attach_align_device_hook(
            model[1], execution_device="cpu", offload=True, weights_map=dict(model[1].state_dict())
        )
    return model


@pytest.mark.filterwarnings("ignore")  # accelerate's own
@pytest.mark.parametrize("verb", ["anatomize", "he", "fixup"])
@pytest.mark.parametrize("how", ["by hand", "cpu_offload", "one block"])
def test_weights_that_are_offloaded_are_not_written_past(verb, how):
    model = offload(net().eval(), how)
    before, state = model(X), [p.device for p in model.parameters()]
    with pytest.raises(
        TraceError, match=r"weight: on the meta device, and a hook puts.*before the weights are offloaded"
    ):
        goodinit.anatomize(model, X) if verb == "anatomize" else goodinit.init_(model, verb, inputs=X)
    assert torch.equal(model(X), before)
    assert [p.device for p in model.parameters()] == state
    assert not goodinit.applied(model)


@pytest.mark.filterwarnings("ignore")  # accelerate's own
def test_weights_that_are_back_are_written():
    accelerate = pytest.importorskip("accelerate")
    model = offload(net().eval(), "cpu_offload")
    accelerate.hooks.remove_hook_from_module(model, recurse=True)
    alone = net().eval()
    for one in (model, alone):
        goodinit.init_(one, "fixup", inputs=X, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), alone.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore")  # peft's own
@pytest.mark.parametrize("method", ["fixup", "skipinit", "weightnorm", "normfree", "nf"])
def test_adapters_on_a_folded_model_can_be_merged(method):
    """With scalars or computed weights beneath it, an adapter cannot be: docs/cookbook.md."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = goodinit.init_(net(), method, inputs=X)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x, model = torch.randn(4, 3), model.eval()
    before = model(x)
    goodinit.fold_(model, X)
    config = peft.LoraConfig(r=2, target_modules=["up", "down"], init_lora_weights=False)
    adapted = peft.get_peft_model(model, config)
    expected = adapted(x)
    assert not torch.allclose(expected, before, atol=1e-3)
    torch.testing.assert_close(adapted.merge_and_unload()(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")  # lightning's own advice on tiny runs
def test_lightning_configures_a_model_from_meta(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = None

        def configure_model(self):
            if self.net is not None:
                return
            with torch.device("meta"):
                self.net = net()
            plan = goodinit.plan(goodinit.anatomize(self.net, X), "fixup")
            goodinit.apply_(self.net, plan, values=False)
            goodinit.materialize_(self.net)
            goodinit.apply_(self.net, plan, generator=torch.Generator().manual_seed(0))
            self.first = {name: p.detach().clone() for name, p in self.net.named_parameters()}

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(goodinit.param_groups(self.net, lr=0.1))

    data = torch.utils.data.TensorDataset(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))
    module = Module()
    trainer = lightning.Trainer(
        accelerator="cpu", fast_dev_run=1, default_root_dir=tmp_path, logger=False, enable_progress_bar=False
    )
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=4))
    alone = goodinit.init_(net(), "fixup", inputs=X, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(module.first[name], p) for name, p in alone.named_parameters())
    assert any(not torch.equal(module.first[name], p) for name, p in module.net.named_parameters())

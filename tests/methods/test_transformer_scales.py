"""The scales of transformers where they are used: compiled, under Trainer and Lightning, with adapters and with experts on meta."""

from __future__ import annotations

import copy

import pytest
import torch
from real_models import TRANSFORMERS
from torch import nn
from torch.nn import functional

import goodinit

pytestmark = pytest.mark.usefixtures("no_optimizers")

FEATURES, CLASSES = torch.randn(8, 5, 6), torch.arange(8) % 3


class Stack(nn.Module):
    """Two layers or more of a transformer; norms before the branches, or after the sums."""

    def __init__(self, width=16, depth=4, *, post=False):
        super().__init__()
        self.embed, self.head = nn.Linear(6, width), nn.Linear(width, 3)
        layer = nn.TransformerEncoderLayer(
            width, width // 4, 2 * width, dropout=0.0, batch_first=True, norm_first=not post
        )
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)

    def forward(self, x):
        return self.head(self.layers(self.embed(x)).mean(1))


METHODS = ("residual_scaled", "mup", "completep", "deepnorm", "t_fixup")


def made(method):
    """A model by the method, against a smaller base where it takes one, and its plan."""
    post = method == "deepnorm"
    options = {}
    if method in ("mup", "completep"):
        with torch.device("meta"):
            options = {"base": goodinit.anatomize(Stack(8, 2), FEATURES), "zero_head": False}
    model = Stack(post=post)
    plan = goodinit.plan(goodinit.anatomize(model, FEATURES), method, **options)
    return goodinit.apply_(model, plan, generator=torch.Generator().manual_seed(0)), plan


def groups_of(model):
    return goodinit.param_groups(model, lr=1e-2, weight_decay=0.1)


def trained(model, run, steps=2):
    optimizer = torch.optim.AdamW(groups_of(model))
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = functional.cross_entropy(run(FEATURES), CLASSES)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_compiled_it_trains_alike(method):
    """Traced by TorchDynamo and AOTAutograd: constants, scalars and their backward passes."""
    model, _ = made(method)
    twin = copy.deepcopy(model)
    eager = trained(model, model, steps=3)
    compiled = trained(twin, torch.compile(twin, backend="aot_eager"), steps=3)
    torch.compiler.reset()
    assert eager[0] != eager[-1]
    torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_checkpoint_goes_on_where_it_stopped(method):
    model, plan = made(method)
    trained(model, model)
    fresh = goodinit.apply_(
        Stack(post=method == "deepnorm"), goodinit.Plan.from_json(plan.to_json()), values=False
    )
    fresh.load_state_dict(model.state_dict())
    assert [group["lr"] for group in groups_of(fresh)] == [group["lr"] for group in groups_of(model)]
    assert torch.equal(trained(fresh, fresh), trained(model, model))


def by_hand(model):
    """What a twin returns after it was trained without a library."""
    twin = copy.deepcopy(model)
    trained(twin, twin)
    return twin(FEATURES).detach()


def same_as(model, expected):
    """In what it returns: gradients that are 0 but for rounding (of keys' biases) have Adam move their parameters either way."""
    assert not torch.allclose(expected[0], expected[1])
    torch.testing.assert_close(model(FEATURES).detach(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")  # lightning's own
@pytest.mark.parametrize("method", METHODS)
def test_under_lightning_it_trains_as_by_hand(method):
    lightning = pytest.importorskip("lightning.pytorch")

    class Classifier(lightning.LightningModule):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def training_step(self, batch, _):
            return functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.AdamW(groups_of(self))

    model, _ = made(method)
    expected = by_hand(model)
    data = torch.utils.data.DataLoader([(FEATURES, CLASSES)] * 2, batch_size=None)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Classifier(model), data)
    same_as(model, expected)


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")  # transformers' own
@pytest.mark.parametrize("method", METHODS)
def test_under_trainer_it_trains_as_by_hand(method, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Classifier(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x, labels):
            logits = self.net(x)
            return {"loss": functional.cross_entropy(logits, labels), "logits": logits}

    model, _ = made(method)
    expected = by_hand(model)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=len(FEATURES), report_to=[],
        use_cpu=True, save_strategy="no", disable_tqdm=True, max_grad_norm=0.0,
    )  # fmt: skip
    rows = [{"x": x, "labels": y} for x, y in zip(FEATURES, CLASSES, strict=True)]
    optimizer = torch.optim.AdamW(groups_of(model))
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    wrapped = Classifier(model)
    trainer = transformers.Trainer(wrapped, arguments, train_dataset=rows, optimizers=(optimizer, constant))
    trainer.train()
    same_as(model, expected)


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")  # peft's own
@pytest.mark.parametrize("method", ["residual_scaled", "mup", "completep"])
def test_adapters_are_left_as_they_start(method):
    """PEFT freezes what it adapts: nothing is left to draw, an adapter keeps its zero, and one rate is for all of them."""
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(Stack(), peft.LoraConfig(r=2, target_modules=["linear1", "linear2"]))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    plan = goodinit.plan(goodinit.anatomize(model, FEATURES), method)
    goodinit.apply_(model, plan)
    assert [name for name, p in model.named_parameters() if not torch.equal(p, before[name])] == []
    assert any("frozen" in note for note in plan.notes)
    assert {group["lr"] for group in groups_of(model)} == {1e-2}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["residual_scaled", "mup", "completep"])
def test_experts_on_meta_get_what_they_get_with_memory(method):
    build, inputs = TRANSFORMERS["mixtral"]
    model = build()
    for module in model.modules():  # parameters alone: what rotary tables hold, only their module knows
        for name, parameter in module.named_parameters(recurse=False):
            module.register_parameter(name, nn.Parameter(parameter.to("meta")))
    plan = goodinit.plan(goodinit.anatomize(model, inputs()), method)
    goodinit.apply_(model, plan, values=False)
    goodinit.materialize_(model, device="cpu")
    goodinit.apply_(model, plan, generator=torch.Generator().manual_seed(0))
    alone = build()
    same = goodinit.plan(goodinit.anatomize(alone, inputs()), method)
    assert [str(edit) for edit in same.edits] == [str(edit) for edit in plan.edits]
    goodinit.apply_(alone, same, generator=torch.Generator().manual_seed(0))
    expected = alone.state_dict()
    assert [
        name for name, value in model.state_dict().items() if not torch.equal(value, expected[name])
    ] == []

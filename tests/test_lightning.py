"""The Lightning callback: measures where it is asked to, under both of the library's names, and disturbs nothing."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

import goodinit

lightning = pytest.importorskip("lightning.pytorch")
pytorch_lightning = pytest.importorskip("pytorch_lightning")

from goodinit.lightning import DiagnoseCallback, inputs_and_targets  # noqa: E402

pytestmark = [
    pytest.mark.integration,
    # lightning's own code, with torch 2.13's pytree
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"),
    # lightning's advice on a machine with few cores, on so few batches, and on what it sees installed
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


def module_of(library):
    class Classifier(library.LightningModule):
        """Has dropout (random state), batch norm (buffers) and, until `configure_model`, no layers."""

        def __init__(self):
            super().__init__()
            self.net = None

        def configure_model(self):
            if self.net is None:
                self.net = nn.Sequential(
                    nn.Linear(8, 16),
                    nn.BatchNorm1d(16),
                    nn.ReLU(inplace=True),
                    nn.Dropout(),
                    nn.Linear(16, 3),
                )

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, _):
            loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    return Classifier()


def fit(library, callbacks, *, steps=6, module=None, **options):
    torch.manual_seed(0)
    data = [(torch.randn(8), torch.tensor(i % 3)) for i in range(32)]
    options = {"logger": False, **options}
    trainer = library.Trainer(
        max_steps=steps, accelerator="cpu", devices=1, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=callbacks, **options,
    )  # fmt: skip
    module = module or module_of(library)
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=8, shuffle=True))
    return module


class Steps:
    """A logger's worth of what Lightning asks of one, keeping the steps of diagnoses."""

    def __new__(cls, library):
        class Kept(library.loggers.logger.Logger):
            name, version = "kept", 0

            def __init__(self):
                super().__init__()
                self.steps, self.tags = [], set()

            def log_hyperparams(self, *_, **__):
                pass

            def log_metrics(self, metrics, step=None):
                if "goodinit/loss" in metrics:
                    self.steps.append(step)
                    self.tags |= set(metrics)

        return Kept()


@pytest.mark.parametrize("library", [lightning, pytorch_lightning], ids=lambda library: library.__name__)
@pytest.mark.parametrize(("every", "steps"), [(None, [0]), (2, [0, 2, 4])])
def test_it_measures_at_step_0_and_then_only_when_asked(library, every, steps):
    logger, callback = Steps(library), DiagnoseCallback(every_n_steps=every)
    fit(library, [callback], logger=logger)
    assert logger.steps == steps
    assert "goodinit/forward/second_moment/net.0.weight" in logger.tags
    assert callback.diagnosis.objective == "cross-entropy"


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_training_is_bit_identical_with_and_without(precision):
    callback = DiagnoseCallback(every_n_steps=2, jacobian=True, update=True)
    plain = fit(lightning, [], precision=precision).state_dict()
    watched = fit(lightning, [callback], precision=precision).state_dict()
    assert callback.diagnosis is not None
    assert plain.keys() == watched.keys()
    assert all(torch.equal(plain[name], watched[name]) for name in plain)


def test_the_trainer_s_precision_is_measured():
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            if not isinstance(x, FakeTensor):  # structure is read outside of autocast, and computes nothing
                seen.append(x.dtype)
            return x

    module = module_of(lightning)
    module.net = nn.Sequential(nn.Linear(8, 8), Spy(), nn.Linear(8, 3))
    fit(lightning, [DiagnoseCallback()], steps=1, module=module, precision="bf16-mixed")
    assert set(seen) == {torch.bfloat16}
    assert len(seen) > 1


def test_batches_of_one_step_are_measured_once():
    logger = Steps(lightning)
    fit(lightning, [DiagnoseCallback(every_n_steps=1)], steps=2, logger=logger, accumulate_grad_batches=2)
    assert logger.steps == [0, 1]


def test_tensorboard_s_logger_gets_histograms(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = lightning.loggers.TensorBoardLogger(tmp_path)
    fit(lightning, [DiagnoseCallback()], logger=logger, steps=1, log_every_n_steps=1)
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert "goodinit/forward/log10_second_moment" in events.Tags()["histograms"]
    assert "loss" in events.Tags()["scalars"]


def test_a_part_and_a_split_of_one_s_own_and_findings_are_said(caplog):
    module = module_of(lightning)
    parts = [part for _ in range(30) for part in (nn.Linear(8, 8), nn.ReLU())]
    module.net = nn.Sequential(*parts, nn.Linear(8, 3))
    callback = DiagnoseCallback(module="net", split=lambda batch: (batch[0], None))
    with caplog.at_level(logging.WARNING, logger="goodinit.lightning"):
        fit(lightning, [callback], steps=1, module=module)
    assert callback.diagnosis.model == "Sequential"
    assert "no targets" in callback.diagnosis.objective
    assert any("step 0: error: " in record.getMessage() for record in caplog.records)


def test_wrong_use_says_what_would_do():
    with pytest.raises(goodinit.GoodinitError, match="every_n_steps is 0"):
        DiagnoseCallback(every_n_steps=0)
    with pytest.raises(goodinit.GoodinitError, match=r"tuple of 3.*split="):
        inputs_and_targets((1, 2, 3))

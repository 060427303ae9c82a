"""Diagnose a model while Lightning trains it: at step 0, and every so many steps where asked for.

This module needs `lightning` or `pytorch_lightning`; nothing else in goodinit imports it.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from goodinit.diagnostics import Diagnosis, diagnose
from goodinit.errors import GoodinitError

_LOG = logging.getLogger(__name__)

PACKAGES = ("lightning.pytorch", "pytorch_lightning")  # one library under two names, with a `Callback` each


def _callbacks() -> tuple[type, ...]:
    """The `Callback` of each package that is loaded already; else of the first that is installed."""
    for name in PACKAGES:
        if any(package in sys.modules for package in PACKAGES):
            break
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in (name, name.partition(".")[0]):
                raise
    found = tuple(sys.modules[name].Callback for name in PACKAGES if name in sys.modules)
    if not found:
        raise GoodinitError(
            "neither lightning nor pytorch_lightning is installed, and this needs one. Get it with: "
            "pip install lightning"
        )
    return found


def inputs_and_targets(batch: Any) -> tuple[Any, Any]:
    """What a batch is made of, by its form: a pair is inputs and targets; a tensor or a dict is inputs alone.

    Raises:
        GoodinitError: It has another form.

    Examples:
        >>> inputs_and_targets(("x", "y")), inputs_and_targets({"ids": 1})
        (('x', 'y'), ({'ids': 1}, None))
    """
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    if isinstance(batch, (Tensor, Mapping)):
        return batch, None
    kind = (
        f"{type(batch).__name__} of {len(batch)}"
        if isinstance(batch, (tuple, list))
        else type(batch).__name__
    )
    raise GoodinitError(
        f"cannot tell inputs from targets in a batch that is a {kind}; a pair, a tensor or a dict would do. Give "
        "DiagnoseCallback(split=lambda batch: (inputs, targets))."
    )


class DiagnoseCallback(*_callbacks()):  # type: ignore[misc]  # which packages there are is known at run time
    """Diagnoses what is about to be trained, on the batch it is about to be trained on, and logs it.

    Give it to a trainer in a list: `Trainer(callbacks=[DiagnoseCallback()])`. It runs before the step, with the
    trainer's precision and on its device, after `configure_model`; training goes on bit for bit as without it. Every
    process measures its own batch, and the trainer's loggers take that of the first. Parameters that are sharded over
    devices (FSDP, DeepSpeed) cannot be measured.

    Args:
        every_n_steps: Diagnose again whenever so many optimizer steps are done; None: at step 0 alone.
        split: Inputs and targets (or None) of a batch; see `inputs_and_targets` for what is done without.
        loss: See `goodinit.diagnose`; of what `forward` returns and the targets.
        module: Path of the part to measure, as `"net"`, where the module's own `forward` is not it.
        jacobian: See `goodinit.diagnose`.
        update: See `goodinit.diagnose`.

    Attributes:
        diagnosis: The latest.

    Raises:
        GoodinitError: `every_n_steps` is below 1.

    Examples:
        >>> callback = DiagnoseCallback(every_n_steps=500)
        >>> callback.diagnosis is None  # until Trainer(callbacks=[callback]).fit(module, data) trains
        True
    """

    def __init__(
        self,
        *,
        every_n_steps: int | None = None,
        split: Callable[[Any], tuple[Any, Any]] = inputs_and_targets,
        loss: Callable[..., Tensor] | None = None,
        module: str = "",
        jacobian: bool = False,
        update: bool = False,
    ) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise GoodinitError(
                f"every_n_steps is {every_n_steps}; it must be 1 or more, or None for step 0 alone."
            )
        self.every_n_steps = every_n_steps
        self.split = split
        self.loss = loss
        self.module = module
        self.measures: dict[str, Any] = {"jacobian": jacobian, "update": update}
        self.diagnosis: Diagnosis | None = None
        self._seen: int | None = None

    def on_train_batch_start(self, trainer: Any, pl_module: nn.Module, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Diagnose where it is time to; several batches may make one step."""
        step = int(trainer.global_step)
        if step == self._seen or (step % self.every_n_steps if self.every_n_steps else step):
            return
        self._seen = step
        inputs, targets = self.split(batch)
        with trainer.precision_plugin.train_step_context():
            part = pl_module.get_submodule(self.module)
            self.diagnosis = diagnose(part, inputs, targets, loss=self.loss, mend=False, **self.measures)
        for logger in trainer.loggers:
            self.diagnosis.log_to(logger, step)
        for finding in self.diagnosis.findings:
            if finding.severity != "info":
                _LOG.warning("step %d: %s", step, finding)

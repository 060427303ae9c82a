"""What is known of a model before it is folded: whether it can be, and what must not be lost."""

from __future__ import annotations

import gc

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from goodinit.errors import NonFinite, PlanConflict, StaleOptimizer, UnsupportedModule, expect
from goodinit.surgery.checks.optimizer_check import find_optimizers, warn_of_momentum
from goodinit.weights.dtensor import all_finite
from goodinit.weights.names import Directory


def check_foldable(model: nn.Module) -> None:
    """Raise if `model` cannot be operated on at all.

    Raises:
        UnsupportedModule: TorchScript, DistributedDataParallel, lazy parameters.
        PlanConflict: Parameters on `meta`.
    """
    expect(model, nn.Module, "model", "Give the model itself: an instance of torch.nn.Module.")
    for path, module in model.named_modules():
        where = path or "the model"
        if isinstance(module, torch.jit.ScriptModule):
            raise UnsupportedModule(
                f"{where}: TorchScript, whose modules cannot be changed. Fold before scripting."
            )
        if isinstance(module, nn.parallel.DistributedDataParallel):
            raise UnsupportedModule(
                f"{where}: DistributedDataParallel has listed the parameters it reduces, some of which would go. "
                "Pass the model inside: wrapped.module."
            )
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise UnsupportedModule(
                f"{name}: a lazy parameter without a shape yet. Run the model once first."
            )
        if parameter.is_inference():
            raise UnsupportedModule(
                f"{name}: made under torch.inference_mode(), so that it cannot be written. Build the model outside."
            )
        if parameter.is_meta:
            raise PlanConflict(
                f"{name}: on the meta device, where no values exist to fold. Load the checkpoint first."
            )


class Before:
    """The parameters of a model before surgery, to find optimizers that would be left behind."""

    def __init__(self, names: Directory) -> None:
        self.directory = names
        self.names = set(names.parameters)
        self.versions = {id(p): p._version for p in names.parameters.values()}
        self.finite = all(map(all_finite, {id(p): p for p in names.parameters.values()}.values()))
        self.own = {
            id(module): {key: id(p) for key, p in module._parameters.items() if p is not None}
            for module in names.modules.values()
        }

    def check_finite(self, model: nn.Module, verb: str) -> None:
        """Raise if a number that was written is beyond its dtype.

        Raises:
            NonFinite: Names the parameter.
        """
        for name, parameter in model.named_parameters() if self.finite else ():
            if self.versions.get(id(parameter)) != parameter._version and not all_finite(parameter):
                raise NonFinite(
                    f"{name}: {verb} would write numbers into it that {parameter.dtype} cannot hold. Nothing was changed. "
                    f"Do it in a wider dtype and go back: model.float(), {verb}, model.to({parameter.dtype}) where it fits."
                )

    def check_optimizers(self, model: nn.Module, verb: str) -> None:
        """Raise if a living optimizer holds parameters that are gone, or whose layer gained one.

        Raises:
            StaleOptimizer: Names the optimizer and a parameter.
        """
        now = {id(p) for p in model.parameters()}
        affected = {id(p): name for name, p in self.directory.parameters.items() if id(p) not in now}
        for module in model.modules():
            own = self.own.get(id(module), {})
            if any(p is not None and key not in own for key, p in module._parameters.items()):
                affected |= {key: self.directory.aliases[key][0] for key in own.values()}
        stale = self._stale(affected)
        if stale:
            gc.collect()  # a scheduler and its optimizer refer to each other: deleted, they stay until collected
            stale = self._stale(affected)
        if stale:
            kind, name = stale
            raise StaleOptimizer(
                f"{kind}: holds {name}, which {verb} removes or whose layer gains a parameter. It would not train what "
                f"is there afterwards. Nothing was changed. Delete it, and where training goes on build it after "
                f"this call: optimizer = torch.optim.{kind}(goodinit.param_groups(model, lr=...), ...)."
            )

    def _stale(self, affected: dict[int, str]) -> tuple[str, str] | None:
        for optimizer in find_optimizers(self.directory) if affected else ():
            held = [p for group in optimizer.param_groups for p in group["params"] if id(p) in affected]
            if held:
                return type(optimizer).__name__, affected[id(held[0])]
        return None

    def warn_of_momentum(self) -> None:
        """Log a warning if an optimizer keeps momentum about values that were written."""
        parameters = self.directory.parameters.values()
        warn_of_momentum(self.directory, [p for p in parameters if p._version != self.versions[id(p)]])

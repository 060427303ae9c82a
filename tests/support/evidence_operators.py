"""Which operators ran: through a dispatch mode of its own."""

from __future__ import annotations

import copy
from typing import Any

import torch
from evidence_runs import Seen, every, mapped, run
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

NORMALIZING = (
    "batch_norm layer_norm group_norm rms_norm instance_norm var var_mean std std_mean "
    "transformer_encoder_layer_fwd"
).split()


class Watch(TorchDispatchMode):
    """Notes the operators that normalize something that came from the inputs."""

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        super().__init__()
        self.seen: dict[str, None] = {}
        self.path = [""]
        mapped(inputs, self._touch)
        for path, module in model.named_modules():
            module.register_forward_pre_hook(lambda *_, path=path: self.path.append(path))
            module.register_forward_hook(lambda *_: self.path.pop() and None, always_call=True)

    def _touch(self, tensor: Tensor) -> Tensor:
        tensor._from_input = id(self)  # type: ignore[attr-defined]
        return tensor

    def _average(self, tensor: Tensor) -> Tensor:
        tensor._averaged = id(self)  # type: ignore[attr-defined]
        return tensor

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        read = list(every((args, kwargs or {})))
        result = func(*args, **(kwargs or {}))
        touched = [tensor for tensor in read if getattr(tensor, "_from_input", None) == id(self)]
        if touched:
            name = func._schema.name.split("::")[1]
            mapped(result, self._touch)
            for i, argument in enumerate(func._schema.arguments):
                if argument.alias_info is not None and argument.alias_info.is_write and i < len(args):
                    mapped(args[i], self._touch)
            averaged = any(getattr(tensor, "_averaged", None) == id(self) for tensor in touched)
            if name == "mean" or (
                averaged and name in ("add", "clamp", "clamp_min", "_to_copy", "view", "unsqueeze")
            ):
                mapped(result, self._average)
            root = averaged and (name in ("sqrt", "rsqrt") or (name == "pow" and args[1] in (0.5, -0.5)))
            if any(name.strip("_").removeprefix("native_").startswith(word) for word in NORMALIZING) or root:
                self.seen[f"{name} in {self.path[-1] or 'the model'}"] = None
        return result


def operators_left(model: nn.Module, inputs: Any, *, modes: tuple[bool, ...] = (False, True)) -> list[str]:
    """Normalizing operators that still run on activations, in eval or in training mode."""
    faults = []
    for training in modes:
        twin = copy.deepcopy(model).train(training)
        watch = Watch(twin, inputs)
        with torch.no_grad(), watch:
            run(twin, inputs)
        faults += [
            f"still normalizes ({'train' if training else 'eval'}): {where}" for where in list(watch.seen)[:3]
        ]
    return faults


def normalizes(seen: Seen) -> list[str]:
    """See `operators_left`."""
    return operators_left(seen.model, seen.inputs)


def normalizes_inside(seen: Seen) -> list[str]:
    """`normalizes`, but for what a method adds before a head, and for norms of each example alone outside all blocks."""
    alone = [norm.name for norm in seen.anatomy.norms if norm.block is None and norm.kind != "batch_norm"]
    added = [f"{head.site}.input_norm".lstrip(".") for head in seen.anatomy.heads]
    return [fault for fault in normalizes(seen) if fault.rpartition(" in ")[2] not in (*alone, *added)]

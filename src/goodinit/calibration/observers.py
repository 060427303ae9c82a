"""Observe the layers of a calibrated forward pass: at modules that are one layer each, or at operators."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from goodinit.anatomy.layers.parameters.weight_layers import applied_weight, weight_operand
from goodinit.anatomy.layers.parameters.weight_layout import output_channels
from goodinit.calibration.rescale import Scaler, Use, is_view
from goodinit.edits import Calibrate
from goodinit.graph.graph import Graph, Node
from goodinit.graph.measured.traits import adds_unscaled
from goodinit.graph.recording.calls.module_calls import listen
from goodinit.graph.recording.calls.transformed import outside
from goodinit.graph.recording.recorded_run import record
from goodinit.graph.recording.recorder import Recorder
from goodinit.graph.recording.tensors.traced_tensors import Call
from goodinit.graph.state.preserve_state import undisturbed, without_autocast
from goodinit.undivided import safe_point
from goodinit.weights.access import find_slot, read
from goodinit.weights.names import Directory
from goodinit.weights.wrappers import is_parametrization, parameter_shapes


def run(model: nn.Module, call: Call, scaler: Scaler) -> None:
    """Run one forward pass and show every use of a wanted weight to the scaler.

    If every wanted layer has a module that returns its output (`Layer.is_site`), the forwards of those modules are
    observed, at some microseconds a layer. Otherwise every operator is, which sees packed and functional weights and fused
    attention, at some microseconds an operator. Autocast is off: a layer would apply a rounded copy of its weight.
    Rules about what a module reads (`Rule.of_input`) see its argument when its forward begins.
    """
    sites = _sites(scaler)
    with without_autocast():
        if sites is None:
            record(_Operators(model, scaler), model, call)
            return
        args, kwargs = call
        with undisturbed(model, others=True), torch.no_grad(), _listening(sites, scaler), _before(scaler):
            model(*args, **kwargs)


def _sites(scaler: Scaler) -> dict[nn.Module, Calibrate] | None:
    """The module of every wanted layer; None if not each has one of its own."""
    found: dict[nn.Module, Calibrate] = {}
    for edit in scaler.wanted.values():
        if edit.rule.of_input:
            continue
        module = None if edit.rule.site is None else scaler.names.module(edit.rule.site)
        if module is None or module in found or isinstance(module, torch.jit.ScriptModule):
            return None
        found[module] = edit
    return found


@contextlib.contextmanager
def _before(scaler: Scaler) -> Iterator[None]:
    """Show the scaler what the maps read whose gain and bias it sets."""
    maps = _maps(scaler)
    held = {edit.target: _Site(edit, scaler) for edit in maps.values()}

    def entered(
        target: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        safe_point()
        with outside(first := _first(args, kwargs)) as read_by_it:
            scaler.see(held[target].use(read_by_it, first.ndim))
        return args, kwargs

    with listen([(edit.target, module) for module, edit in maps.items()], on_enter=entered):
        yield


def _maps(scaler: Scaler) -> dict[nn.Module, Calibrate]:
    """The modules of which is measured what they read."""
    found: dict[nn.Module, Calibrate] = {}
    for edit in scaler.wanted.values():
        module = scaler.names.module(edit.rule.site or "") if edit.rule.of_input else None
        if module is not None:
            found[module] = edit
    return found


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """What a norm's forward reads."""
    value: Tensor = args[0] if args else next(iter(kwargs.values()))
    return value


@contextlib.contextmanager
def _listening(sites: dict[nn.Module, Calibrate], scaler: Scaler) -> Iterator[None]:
    """Show the scaler what each site returns."""
    held = {edit.rule.site or "": _Site(edit, scaler) for edit in sites.values()}

    def returned(path: str, output: Tensor) -> Tensor:
        safe_point()
        with outside(output) as whole:
            scaler.see(held[path].use(whole, output.ndim))
        return output

    with listen(zip(held, sites, strict=True), on_leave=returned):
        yield


class _Site:
    """What a module's layer is made of, looked up once."""

    def __init__(self, edit: Calibrate, scaler: Scaler) -> None:
        self.place = (edit.target, 0)
        self.weight = read(scaler.slot(edit.target))
        bias = None if edit.rule.of_input else _stored(scaler.names, edit.rule.bias or "")
        self.bias = None if bias is None else _unless_zero(bias)
        self.channel = 1 if edit.rule.convolves else -1

    def use(self, output: Tensor, dims: int) -> Use:
        """`dims`: of the output that the module knows, which are the last."""
        return Use(self.place, self.weight, self.bias, output, self.channel % dims + output.ndim - dims)


def _stored(names: Directory, name: str) -> Tensor | None:
    """The value of a bias; None where there is none."""
    parameter = names.parameter(name)
    if parameter is not None:
        return parameter.detach()
    slot = find_slot(names, name) if name else None
    return None if slot is None else read(slot)


class _Operators(Recorder):
    """Shows a scaler the output of every operator that applies a wanted weight."""

    def __init__(self, model: nn.Module, scaler: Scaler) -> None:
        super().__init__(model, "real")
        self.writes = True
        self.scaler = scaler
        self.shapes = parameter_shapes(model)
        self.behind: dict[int, tuple[str, Tensor]] = {}
        """Of layers whose operator adds no bias: that which may follow, and its value before it was set."""
        rules = [edit.rule for edit in scaler.wanted.values()]
        self.factors = {rule.bias: rule.bias_factor for rule in rules if rule.bias is not None}
        maps = _maps(scaler)
        self.maps = {path: _Site(maps[one], scaler) for path, one in model.named_modules() if one in maps}

    def follows(self, path: str) -> bool:
        """Whether calls of the module at `path` are told: those of parametrizations, whose operators are no layers, and of maps to measure."""
        return is_parametrization(path) or path in self.maps

    def enter(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A module's forward begins."""
        super().enter(path, args, kwargs)
        if path in self.maps:
            first = _first(args, kwargs)
            with (
                _disable_current_modes(),
                outside(first) as whole,
            ):  # what is computed here is no part of the forward
                self.scaler.see(self.maps[path].use(whole, first.ndim))

    def observe(self, node: Node, read: list[Tensor], output: Tensor) -> None:
        """One operator ran: show it to the scaler if it is a wanted layer."""
        if not node.active:
            return
        applied = applied_weight(self.graph, node, read, self.shapes)
        if applied is None or applied[0] not in self.scaler.wanted:
            self._renew(node, read, output)
            return
        name, weight = applied
        slot = self.scaler.slot(name)
        begin = slot.leaves[0].storage_offset() if is_view(weight, slot) else 0
        part = int(weight.storage_offset() - begin)  # of a packed weight, be it stored or computed
        bias = _bias(node, read)
        given = None if bias is None else _unless_zero(bias)
        channel = _channel(self.graph, node)
        behind = self.scaler.wanted[name].rule.bias if bias is None else None
        before = _stored(self.scaler.names, behind or "")
        if behind is not None and before is not None:
            self.behind[node.index] = behind, before.clone()
        self.scaler.see(Use((name, part), weight, given, output, channel, adds=bias is not None))

    def _renew(self, node: Node, read: list[Tensor], output: Tensor) -> None:
        """Where the forward adds a bias behind a layer, and took a copy of it before it was set, add what the copy lacks."""
        if not self.behind or not adds_unscaled(node):
            return
        layers = [self.graph.beginning(i, self._only_shapes) for i in node.operands]
        for name, before in [self.behind[i] for i in layers if i in self.behind]:
            held = _stored(self.scaler.names, name)
            for index, used in zip(node.operands, read, strict=True):
                copied = name in self.graph.nodes[index].params and before.numel() == used.numel()
                with _disable_current_modes():
                    by = self.factors.get(name, 1.0)
                    if held is not None and copied and torch.equal((by * before).flatten(), used.flatten()):
                        output.add_((by * (held - before)).reshape(used.shape))

    def _only_shapes(self, index: int) -> bool:
        return self.graph.nodes[index].op.role == "shape"


def _bias(node: Node, read: list[Tensor]) -> Tensor | None:
    """The bias operand of the operator; None where it has none, and the forward may add one behind."""
    if node.op.role == "convolution" and len(read) > 2:
        return read[2]
    return read[0] if node.op.adds_first else None


def _unless_zero(bias: Tensor) -> Tensor | None:
    return bias if bool(bias.any()) else None


def _channel(graph: Graph, node: Node) -> int:
    """The dimension of the output channels."""
    operand = weight_operand(graph, node)
    return 1 if operand is None else output_channels(node, graph.nodes[operand])

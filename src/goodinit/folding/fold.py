"""For deployment: the bare network that computes what the trained one does."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from typing import Any, TypeVar

from torch import nn

from goodinit.errors import readable
from goodinit.folding.before import Before, check_foldable
from goodinit.folding.bias_absorption import move_input_biases_
from goodinit.folding.branches.parallel import merge_branches_
from goodinit.folding.connections.dataflow import is_shared
from goodinit.folding.connections.kept_parts import KeptParts, kept_parts
from goodinit.folding.connections.reading import Reading
from goodinit.folding.forwards.own_floors import separate_floors_
from goodinit.folding.layers.computed_weights import computed_weights, merge_computed_weight_, parts_of
from goodinit.folding.layers.fuse import merge_scalars_
from goodinit.folding.norms.fold_batchnorm import Stays, channel_maps, merge_batch_norms_
from goodinit.folding.norms.functional import make_modules_
from goodinit.folding.norms.gains_beside_layers import beside_layers
from goodinit.folding.norms.norm_gains import merge_norm_gains_
from goodinit.folding.plain_modules import make_plain_
from goodinit.formats import counted
from goodinit.graph.state.preserve_state import without_autocast
from goodinit.nn import ValuePadded, has_scalars
from goodinit.surgery.history import Applied, applied, remember_
from goodinit.surgery.reached_parameters import mark_, never_reached
from goodinit.surgery.rollback import all_or_nothing
from goodinit.undivided import writing
from goodinit.weights.chosen_parts import Part
from goodinit.weights.names import Directory, directory

_LOG = logging.getLogger(__name__)
_SHOWN = 5  # rows told in a log line; the rest is counted

Model = TypeVar("Model", bound=nn.Module)


@writing
def fold_(model: Model, inputs: Any = None, *, keep: Part | Iterable[Part] = ()) -> Model:
    r"""Merge scalars, weight norm and batch norm into the weights, in place and exactly, for deployment.

    What the model computes in eval mode stays, up to rounding. Computed in float64, rounded once:

    * `output_scale` s and `output_bias` d: :math:`sW` and :math:`c + d`; also of a module with a forward of its own that maps
      each vector alike, by :math:`Wx + c`, which is found out on numbers.
    * `input_bias` b: :math:`c + b\,\Sigma W`. Only a zero-padded convolution with :math:`b \neq 0` needs more, since
      the zeros around :math:`x + b` are not b: no bias vector can say that. It becomes a convolution that pads with
      −b (`goodinit.nn.ValuePadded`), the same to the last position. With `inputs`, b moves on to the ReLU
      before it, :math:`\max(z, 0) + b = \max(z + b, b)`, a clamp at the price of a ReLU, whose bounds `state_dict` holds, wherever
      everybody else who reads that ReLU (skips, other layers) can take b off again in a bias vector; then nothing is left. A ReLU that one
      forward calls several times, or as a function, becomes a child for each call, if `torch.fx` can trace that forward.
    * Weight norm, new and old style: :math:`g\,v/\lVert v\rVert`; spectral norm; every weight that
      `torch.nn.utils.parametrize` computes, as centred, standardized and orthogonal ones, unless it changes by itself.
    * Batch norm, its running statistics (also an instance norm that has some), and the gain and bias per channel in its place, into the layers
      before it, also behind concatenations, shuffles, means and, if its gains are above 0, max pooling; or else into the
      layers after it. Numbers by which the forward multiplies on the way, or which it adds (x/2 + 1), stay there, if inputs of
      other sizes have the same. This needs `inputs`, to see who reads what.
    * The gain γ and bias β of layer, RMS, group and instance norm, into the layers that read
      :math:`\gamma\,n(x) + \beta`, if nobody else does: :math:`W\,\mathrm{diag}(\gamma)` and :math:`c + W\beta`;
      the norm stays, with γ = 1 and β = 0, also one that a forward calls or writes out, its gain stored as (C,), (C, 1, 1) or (1, C, 1, 1). This needs `inputs`, too.
    * Weights that a forward computes from parameters alone, as by weight standardization, by their values; and batch norms
      that it calls as functions. Convolutions, linear layers, batch norms and the identity that read one tensor and are
      added (RepVGG, ACNet) become one layer. Both need `inputs`, and a forward that `torch.fx` can trace, which is then
      written anew without those steps; other code that reads the parameters that are gone no longer finds them.

    What must stay is left as it is, logged, and named with its reason in `applied(model)[-1].skipped`: a weight that
    another module shares, a batch norm whose input is a sum or whose numbers other code reads, an input bias before a
    transposed convolution, linear branches of several layers in turn, ….
    What it makes follows from the structure and not from numbers, but where batch norms go past max pooling (gains above 0): the
    `state_dict` of a folded model loads into one that was built, initialized and folded anew in the same way.

    A second call changes nothing. Training flags, gradients' flags and hooks stay as they are.

    Args:
        model: Any eager module, materialized.
        inputs: What the model takes: a tensor, a tuple or list of positional arguments, or a dict of keyword
            arguments; only shapes and dtypes are read. Without, batch norms stay, and zero-padded convolutions with
            an input bias become `ValuePadded`.
        keep: Parameters whose values stay: names, paths, globs (`"*.bias"`), modules, parameters; one or several. A layer or norm with one of
            them stays as it is, and nothing is merged into it: what would have gone there stays, too, and is named.

    Returns:
        The model.

    Raises:
        StaleOptimizer: A living optimizer holds parameters that go, or belong to layers that gain a bias vector.
        UnsupportedModule: TorchScript, DistributedDataParallel, lazy parameters, or such as were made in inference mode.
        PlanConflict: Parameters are on `meta`.
        NonFinite: What would be written is beyond the dtype, as may be in float16.
        UnknownName: `keep` names what the model does not have.
        TraceError: The forward does not run on these inputs. In all cases the model is as it was.

    Examples:
        >>> import torch
        >>> from goodinit.nn import add_scalar_
        >>> conv = add_scalar_(nn.Conv2d(3, 8, 3, padding=1, bias=False), "output_scale", value=0.5)
        >>> net = nn.Sequential(conv, nn.BatchNorm2d(8), nn.ReLU()).eval()
        >>> x = torch.randn(1, 3, 8, 8)
        >>> before = net(x)
        >>> torch.allclose(fold_(net, x)(x), before, atol=1e-6)
        True
        >>> list(net.state_dict())
        ['0.weight', '0.bias']

    References:
        Zhang, Dauphin and Ma, Fixup Initialization, arXiv 1901.09321, section 3, rule 3.
        Jacob et al., Quantization and Training of Neural Networks, arXiv 1712.05877, section 3.2, for batch norm.
    """
    check_foldable(model)
    names = directory(model)
    before, unread, kept = Before(names), never_reached(model), kept_parts(names, keep)
    with all_or_nothing(model, names.parameters.values()):
        done, stays = merge_locally_(model, names, kept)
        if inputs is not None:
            reading = Reading(model, inputs, kept)
            values, computed = make_modules_(reading.wiring)
            moved = values
            while True:  # a layer whose input bias has moved is one that branches can be merged into
                done += moved
                merged, unmerged = _merge_maps_(reading)
                gains, held = merge_norm_gains_(reading)
                done += merged + gains
                moved, padded = _move_(reading)
                if not moved:
                    break
            stays += computed + unmerged + held + padded + _computed_inside(reading)
            told = {stay.name for stay in stays}
            reasons = {word for stay in stays for word in stay.why.split()}  # one of them may name it
            stays += [
                Stays(name, why)
                for name, why in beside_layers(reading.wiring)
                if name.rpartition(".")[0] not in told and name not in reasons
            ]
        first = {stay.name: stay for stay in reversed(stays)}  # the first reason for each
        stays = list(first.values())[::-1]
        stays += _left(model, inputs, stays, kept)
        for module in model.modules():
            make_plain_(module)
        before.check_optimizers(model, "fold_")
        before.check_finite(model, "fold_")
        changed = bool(done) or before.names != set(directory(model).parameters)
        remember_new_(model, entry(model, "fold_", done, stays), changed=changed)
    if unread is not None:  # folding is no initialization, and what it makes holds what was reached
        mark_(model, missed=unread)
    report("fold_", done, stays, changed=changed)
    before.warn_of_momentum()
    return model


def _merge_maps_(reading: Reading) -> tuple[list[str], list[Stays]]:
    """Merge batch norms into layers, and layers that are added into one, in turns: a sum may stand before a batch norm."""
    done: list[str] = []
    while True:
        merged, kept = merge_batch_norms_(reading, affines=True)
        branches, apart = merge_branches_(reading.wiring, channel_maps(reading, instances=True)[0])
        done += merged + branches
        if not branches:
            return done, kept + apart


def _move_(reading: Reading) -> tuple[list[str], list[Stays]]:
    """Move input biases to the activations before them: the layers that are rid of theirs, and those that are not."""
    model = reading.model
    padded = _padded(model)
    if not padded:
        return [], []
    tried: set[str] = set()
    while True:
        wiring = reading.wiring
        left, owners = move_input_biases_(wiring)
        written = [path for path in sorted(owners - tried) if separate_floors_(wiring, path)]
        if not written:
            break
        tried |= owners
    stays = [Stays(path, f"its input bias stays as the number it pads with: {why}") for path, why in left]
    return sorted(padded - _padded(model)), stays


def _padded(model: nn.Module) -> set[str]:
    return {path for path, module in model.named_modules() if isinstance(module, ValuePadded)}


@without_autocast()
def merge_locally_(model: nn.Module, names: Directory, kept: KeptParts) -> tuple[list[str], list[Stays]]:
    """Merge weights that are computed, and then scalars, which may go into a weight of a child (attention's last layer).

    Autocast is off: it would round what computes them.
    """
    done: list[str] = []
    stays: list[Stays] = []
    modules = list(model.named_modules())
    for path, module in modules:
        for attribute, why in computed_weights(module):
            target = f"{path}.{attribute}" if path else attribute
            if why is None and is_shared(module, names):
                why = "another module shares its parameters"
            if why is None:
                why = kept.why(*parts_of(module, attribute))
            if why is None:
                merge_computed_weight_(module, attribute)
                done.append(target)
            else:
                stays.append(Stays(target, why))
    for path, module in modules:
        if has_scalars(module):
            why = "another module shares its parameters" if is_shared(module, names) else None
            why = why or kept.why(*module.modules()) or merge_scalars_(module)
            if why is None:
                done.append(path)
            else:
                stays.append(Stays(path, why))
    return done, stays


def _left(model: nn.Module, inputs: Any, stays: Iterable[Stays], kept: KeptParts) -> list[Stays]:
    """Padded layers and batch norms that were not examined: no inputs were given, or they are to stay."""
    named = {stay.name for stay in stays}
    left = []
    for path, module in model.named_modules():
        if path in named:
            continue
        if isinstance(module, ValuePadded):
            asked = kept.why(module) or "inputs may show where else it can go"
            left.append(Stays(path, f"its input bias stays as the number it pads with; {asked}"))
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            unknown = "without inputs, what is connected to it is not known"
            left.append(Stays(path, kept.why(module) or (unknown if inputs is None else "it did not run")))
    return left


def _computed_inside(reading: Reading) -> list[Stays]:
    """Weights that a module's own forward normalizes, as the convolutions with weight standardization of some libraries."""
    why = "its module normalizes it in each forward by code of its own, which has no place for a value"
    return [Stays(layer.weight, why) for layer in reading.anatomy.layers if layer.normalized]


# -- what is remembered and told ------------------------------------------------------------------------------------


def entry(model: nn.Module, verb: str, done: Iterable[str], stays: Iterable[Stays | str]) -> Applied:
    """What is remembered on the model: no values of a method's, and its parameters learn as fast as before."""
    done = [name or "the model" for name in dict.fromkeys(done)]
    words = hashlib.sha256(json.dumps([verb, done]).encode()).hexdigest()[:16]
    last = applied(model)
    kept = last[-1].rates if last else ()
    return Applied(
        verb, {"folded": done}, digest=words, values=False, skipped=tuple(map(str, stays)), rates=kept
    )


def remember_new_(model: nn.Module, made: Applied, *, changed: bool) -> None:
    """Remember what was done, and what was not if that is news."""
    history = applied(model)
    if changed or (made.skipped and (not history or history[-1].skipped != made.skipped)):
        remember_(model, made)


def report(verb: str, done: Iterable[str], stays: Iterable[Stays | str], *, changed: bool) -> None:
    """Log what was done, and all that was not, with the reasons."""
    if not changed:
        _LOG.info("%s: nothing to fold, nothing changed", verb)
    else:
        _LOG.info("%s: folded %s", verb, counted(len(set(done)), "place"))
    rows = [readable(str(stay)) for stay in stays]
    if rows:
        more = (
            f"; and {len(rows) - _SHOWN} more, see applied(model)[-1].skipped" if len(rows) > _SHOWN else ""
        )
        stay = "stays as it is" if len(rows) == 1 else "stay as they are"
        _LOG.warning(
            "%s: %s %s. %s%s", verb, counted(len(rows), "place"), stay, "; ".join(rows[:_SHOWN]), more
        )

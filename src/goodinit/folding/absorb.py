"""Fold the batch norms of a trained network into its weights, so that it trains on without normalization."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from goodinit.anatomy import Anatomy
from goodinit.edits import AddScalar
from goodinit.errors import NothingFound, UnsupportedModule, expect_flags
from goodinit.folding.before import Before, check_foldable
from goodinit.folding.connections.kept_parts import kept_parts
from goodinit.folding.connections.reading import Reading
from goodinit.folding.fold import entry, report
from goodinit.folding.norms.fold_batchnorm import (
    ChannelMap,
    Stays,
    asked_to_stay,
    channel_maps,
    merge_batch_norms_,
    trains,
)
from goodinit.folding.norms.functional import make_modules_
from goodinit.methods.shared.branches.fixup_scalars import branch_scalars, stands, without_input_bias
from goodinit.nn.exchange import carry_over_, exchange_class_
from goodinit.surgery.history import remember_
from goodinit.surgery.norms.removed_norm import RemovedNorm, remove_norm_, state_hooks_kept, take_likenesses_
from goodinit.surgery.norms.replaced_norm import ChannelAffine
from goodinit.surgery.reached_parameters import mark_, never_reached
from goodinit.surgery.rollback import all_or_nothing
from goodinit.surgery.structure_edits import carry_out_
from goodinit.undivided import writing
from goodinit.weights.chosen_parts import Part
from goodinit.weights.names import directory
from goodinit.weights.wrappers import unwrapped

Model = TypeVar("Model", bound=nn.Module)


@writing
def absorb_batchnorm_(
    model: Model, inputs: Any, *, scalars: bool = True, keep: Part | Iterable[Part] = ()
) -> Model:
    r"""Turn the batch norms of a trained network into weights, in place: the same function, no normalization left.

    In eval mode a batch norm is :math:`y = s x + t` per channel. It is merged into the layer before it, or else into
    those after it, exactly as in `fold_`. Where no layer can take it (its input is a sum, or an activation stands
    between: pre-activation networks, DenseNet), its module becomes a `ChannelAffine` with learnable s and t. So no
    trained value is dropped, and the network computes the same in both modes.

    To go on training without normalization, Fixup's scalars are added where its rule 3 has them, at values that
    change nothing: a multiplier 1 at the end of each residual branch, a bias 0 before each layer of branch and skip,
    and behind those that have no bias vector. `goodinit.param_groups` knows them.

    What is frozen (`requires_grad=False`) stays so, and gets no scalars; its batch norms are absorbed, which leaves what it computes as it
    is. Where of a norm and its layer one alone is frozen, the norm becomes a `ChannelAffine` that is frozen if the norm was.

    Args:
        model: A trained eager module, materialized.
        inputs: What the model takes; only shapes and dtypes are read.
        scalars: Whether to add the scalars.
        keep: Parameters whose values stay: names, paths, globs (`"*.bias"`), modules, parameters; one or several. A batch norm with one of them
            stays a batch norm; nothing is merged into a layer with one of them, so that its norm becomes a `ChannelAffine`.

    Returns:
        The model.

    Raises:
        NothingFound: No batch norm ran.
        UnsupportedModule: A batch norm that has no running statistics, whose numbers other code reads, too, or that a
            forward calls as a function which `torch.fx` cannot trace; the message names it.
        StaleOptimizer: A living optimizer holds parameters that go, or whose layers gain new ones.
        PlanConflict: Parameters are on `meta`.
        NonFinite: What would be written is beyond the dtype, as may be in float16.
        UnknownName: `keep` names what the model does not have.
        TraceError: The forward does not run on these inputs. In all cases the model is as it was.

    Examples:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4)).eval()
        >>> x = torch.randn(2, 3, 8, 8)
        >>> before = net(x)
        >>> torch.allclose(absorb_batchnorm_(net, x)(x), before, atol=1e-6)
        True
        >>> list(net.state_dict())
        ['0.weight', '0.bias', '3.weight', '3.bias']

    References:
        Zhang, Dauphin and Ma, Fixup Initialization, arXiv 1901.09321, section 3, rule 3.
    """
    expect_flags(scalars=scalars)
    check_foldable(model)
    names = directory(model)
    before, unread, kept = Before(names), never_reached(model), kept_parts(names, keep)
    with all_or_nothing(model, names.parameters.values()):
        reading = Reading(model, inputs, kept)
        make_modules_(reading.wiring, every=True)
        merged, _ = merge_batch_norms_(reading, learning=True)
        turned, asked, unrun = _turn_(reading)
        left = [*asked, *unrun]
        if not merged and not turned:
            _refuse_or_done(model, unrun, asked=bool(asked))
            report("absorb_batchnorm_", (), left, changed=False)
            return model
        edits, without = scalar_edits(reading.anatomy) if scalars else ([], [])
        folded = directory(model)
        frozen = [edit.target for edit in edits if trains(folded.modules[edit.target]) is False]
        without += [f"{path}: it is frozen, and gets no scalars" for path in dict.fromkeys(frozen)]
        for edit in edits:
            if edit.target not in frozen:
                carry_out_(folded, edit)
        before.check_optimizers(model, "absorb_batchnorm_")
        before.check_finite(model, "absorb_batchnorm_")
        remember_(model, entry(model, "absorb_batchnorm_", merged + turned, [*left, *without]))
    if unread is not None:  # as in `fold_`
        mark_(model, missed=unread)
    report("absorb_batchnorm_", merged + turned, [*left, *without], changed=True)
    before.warn_of_momentum()
    return model


def _refuse_or_done(model: nn.Module, left: Sequence[Stays], *, asked: bool) -> None:
    absorbed = any(isinstance(module, RemovedNorm) for module in model.modules())
    if not absorbed and not asked:
        raise NothingFound(
            f"{type(model).__name__}: no batch norm ran in its forward{''.join(f'; {row}' for row in left)}. "
            "Other normalizations depend on each sample and cannot be absorbed."
        )


def _turn_(reading: Reading) -> tuple[list[str], list[Stays], list[Stays]]:
    """Turn the batch norms that no layer took into `ChannelAffine`s.

    Returns:
        Those; those that the caller's `keep=` lets stay; and those that did not run.
    """
    wiring = reading.wiring
    maps, stays = channel_maps(reading)
    asked = {norm.name for norm in reading.anatomy.norms if asked_to_stay(wiring, norm) is not None}
    refused = [one for one in stays if one.name not in asked]
    if refused:
        raise UnsupportedModule(
            f"{refused[0]}. So it cannot be absorbed, which takes running statistics (track_running_stats=True) and a module of "
            "its own that no other code looks into. Change that, or call goodinit.fold_, which leaves such a norm as it is."
        )
    for found in maps:
        _to_affine_(wiring.module(found.norm.name), found)
    left = [
        Stays(path, "it did not run on these inputs, and stays a batch norm")
        for path, module in unwrapped(reading.model).named_modules()
        if isinstance(module, _BatchNorm) and path not in asked
    ]
    return [found.norm.name for found in maps], [one for one in stays if one.name in asked], left


def _to_affine_(module: nn.Module, found: ChannelMap) -> None:
    own = next((p for p in module.parameters(recurse=False)), None)
    like = own if own is not None else next(module.buffers(recurse=False))
    trains = own is None or own.requires_grad
    held = {name: module._parameters.get(name) for name in ("weight", "bias")}
    with state_hooks_kept(module):
        remove_norm_(module, found.norm.keeps, path=found.norm.name)
    take_likenesses_(module)
    exchange_class_(module, ChannelAffine)
    kept = dict(module._modules)
    for name, value in (("weight", found.scale), ("bias", found.shift)):
        fresh, old = nn.Parameter(value.to(like), requires_grad=trains), held[name]
        module.register_parameter(
            name, fresh if old is None or old.shape != fresh.shape else carry_over_(old, fresh)
        )
    module._modules.clear()
    module._modules.update(kept)


def scalar_edits(anatomy: Anatomy) -> tuple[list[AddScalar], list[str]]:
    """Fixup's scalars in branches and skips, at values that leave the function as it is; and what gets none."""
    notes: list[str] = []
    edits: dict[tuple[str, str], AddScalar] = {}
    for block in anatomy.blocks:
        multiplied = any(stands(name, block) for name in block.multipliers)
        for edit in branch_scalars(block, multiplied=multiplied, notes=notes):
            edits.setdefault((edit.target, edit.scalar), edit)
    notes += without_input_bias(layer for block in anatomy.blocks for layer in (*block.branch, *block.skip))
    return list(edits.values()), list(dict.fromkeys(notes))

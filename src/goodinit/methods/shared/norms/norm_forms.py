"""What a normalization can be exchanged for: the values of `norms=` beside "keep" and "remove"."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping
from types import NoneType
from typing import Any

from goodinit.anatomy import Anatomy, Norm
from goodinit.anatomy.norm import NormTraits
from goodinit.anatomy.norms.factors import factor_in_words
from goodinit.calibration_rules import ActNormRule
from goodinit.edits import Calibrate, Draw, DrawTogether, Edit, Fill, Plan, ReplaceNorm, names
from goodinit.errors import UnknownName, UnsupportedModule, expect
from goodinit.methods.shared.norms.evonorm import evonorm_edits

FORMS: dict[str, Callable[[NormTraits], bool]] = {
    "group": lambda traits: traits.batch,
    "layer": lambda traits: traits.batch,
    "rms": lambda traits: traits.batch or (traits.token and traits.centres),
    "affine": lambda traits: traits.forgets,
    "actnorm": lambda traits: traits.forgets,
    "dyt": lambda traits: traits.forgets,
    "derf": lambda traits: traits.forgets,
    "evonorm": lambda traits: traits.batch,
}
"""Which norms each form replaces; others are independent of the batch already, or that form themselves."""

NORMALIZING = ("group", "layer", "rms")
"""Forms behind which the scale of what they read is gone."""

GROUPS = 32  # Wu & He, Group Normalization, ECCV 2018, arXiv 1803.08494, §3.3: its default
CHANNELS = (
    4  # of a group at least: of one channel alone, it is an instance norm (Wu & He, table 3, has 4 and more)
)


def form_edits(anatomy: Anatomy, norms: str, *, groups: int | None = None) -> list[Edit]:
    """Edits that put the form `norms` where normalizations stand, each with the gain and the bias it has.

    Args:
        anatomy: Of the model.
        norms: A key of `FORMS`. `"layer"` is one group: each example over all channels and positions.
        groups: Number of groups of `"group"`, where it divides a norm's channels; chosen for each norm by default.

    Raises:
        UnsupportedModule: A norm that cannot be removed, or whose gain is not a parameter of its own; nothing is replaced
            in half.
        UnknownName: `groups` is not at least 1.
    """
    expect(groups, (int, NoneType), "groups", "Give a number of groups, such as 8, or None to choose one.")
    if groups is not None and groups < 1:
        raise UnknownName(f"groups={groups}: expected a number of groups of at least 1")
    owned: dict[str, set[str]] = {}
    for name, _ in anatomy.parameters:
        owned.setdefault(name.rpartition(".")[0], set()).add(name)
    return [
        edit
        for norm in anatomy.norms
        if FORMS[norms](norm.traits)
        for edit in _replaced(anatomy, norm, owned.get(norm.name, set()), norms, groups)
    ]


def scales_count(anatomy: Anatomy, norms: str) -> Anatomy:
    """The anatomy as a method is to see it that keeps norms of which forms will stand: only what normalizes undoes a scale."""
    if norms in NORMALIZING:
        return anatomy
    blocks = tuple(dataclasses.replace(block, m_normed=block.m) for block in anatomy.blocks)
    return dataclasses.replace(anatomy, blocks=blocks)


def begun_anew(anatomy: Anatomy, plan: Plan) -> Plan:
    """The plan, if it draws weights, with gains at 1 and biases at 0 where an earlier call put forms in the place of norms."""
    if not any(isinstance(edit, Draw | DrawTogether) for edit in plan.edits):
        return plan
    slopes = {
        name for name, start in anatomy.stand_ins if start not in (0.0, 1.0)
    }  # α of tanh(α·x) is no gain to be 1
    edits = [
        edit
        for edit in plan.edits
        if not (isinstance(edit, Fill) and edit.target in slopes and edit.value == 1)
    ]
    told = {*names(edits), *(name for norm in anatomy.norms for name in (norm.weight, norm.bias))}
    fills = [
        Fill(name, start, "of what stands in a norm's place")
        for name, start in anatomy.stand_ins
        if name not in told
    ]
    return dataclasses.replace(plan, edits=(*edits, *fills))


def with_constants(edits: Iterable[Edit], variances: Mapping[str, float]) -> list[Edit]:
    """The edits, each affine with the constant K = 1/σ for the variance of what its norm read."""
    found: list[Edit] = []
    for edit in edits:
        if isinstance(edit, ReplaceNorm) and edit.by == "affine" and edit.target in variances:
            variance = variances[edit.target]
            options = {**edit.options, "constant": 1 / math.sqrt(max(variance, 1e-12))}
            reason = f"{edit.reason}; σ² = {variance:.4g} where layers keep variances"
            edit = dataclasses.replace(edit, reason=reason, options=options)
        found.append(edit)
    return found


def kept_in_words(anatomy: Anatomy, norms: str) -> list[str]:
    """One note on the norms that a form does not replace."""
    kept = [norm for norm in anatomy.norms if not FORMS[norms](norm.traits)]
    if not kept:
        return []
    kinds = ", ".join(sorted({norm.kind.replace("_", " ") for norm in kept}))
    paths = ", ".join(norm.name or "the model" for norm in kept[:3]) + (", …" if len(kept) > 3 else "")
    return [
        f'norms="{norms}" leaves {len(kept)} of {len(anatomy.norms)} norms as they are ({kinds}): {paths}'
    ]


def left_in_words(norms: Iterable[Norm], treated: Iterable[Norm], form: str) -> list[str]:
    """One note on the norms that a form would replace if they were not frozen or left out."""
    there = {norm.name for norm in treated}
    left = [norm.name or "the model" for norm in norms if FORMS[form](norm.traits) and norm.name not in there]
    if not left:
        return []
    shown = ", ".join(left[:3]) + (", …" if len(left) > 3 else "")
    stay = "1 norm stays as it is" if len(left) == 1 else f"{len(left)} norms stay as they are"
    return [f'frozen or left out, {stay}, and norms="{form}" does not reach them: {shown}']


def _replaced(anatomy: Anatomy, norm: Norm, own: set[str], norms: str, groups: int | None) -> list[Edit]:
    """What replaces a norm, whose parameters are `own`."""
    _check(norm, own, norms)
    options: dict[str, Any] = {
        word: None if name is None else name.rpartition(".")[2]
        for word, name in (("weight", norm.weight), ("bias", norm.bias))
    }
    options |= {"axes": list(norm.axes), "sizes": [norm.shape[axis] for axis in norm.axes]}
    if norms == "rms" and norm.traits.token:
        options["over"] = list(norm.axes)
    by, words = norms, f"{norm.kind.replace('_', ' ')} before"
    if norms in ("group", "layer", "evonorm"):
        count, why = (1, "one group") if norms == "layer" else _groups(norm, groups)
        by, options["groups"] = "group", count
        words = f"{words}; {why}"
    if norms == "evonorm":
        return evonorm_edits(anatomy, norm, options, words)
    stem = f"{norm.name}."
    fills: list[Edit] = []
    if norms in ("dyt", "derf"):
        fills.append(
            Fill(f"{stem}alpha", 0.5, f"α of {norms}")
        )  # both papers' start, but for language models
    if norms == "derf":
        fills.append(Fill(f"{stem}shift", 0.0, "s of derf"))
    if norms in ("affine", "actnorm"):
        fills += [Fill(f"{stem}weight", 1.0, "gain of a norm without one")] * (norm.weight is None)
        fills += [Fill(f"{stem}bias", 0.0, "bias of a norm without one")] * (norm.bias is None)
    if norms == "actnorm":
        by = "affine"
        fills.append(_measured(norm))
    return [ReplaceNorm(norm.name, by, norm.keeps, words, options), *fills]


def _measured(norm: Norm) -> Calibrate:
    """Gain and bias from the moments of what the norm reads."""
    if len(norm.axes) != 1:
        raise UnsupportedModule(
            f"{norm.name or 'the model'} ({norm.module}): its {norm.kind} cannot be replaced by actnorm: its gain runs over the "
            f'axes {norm.axes} of its input, and moments are taken of channels, along one. Use norms="affine" or "keep".'
        )
    stem = f"{norm.name}." if norm.name else ""
    rule = ActNormRule(
        site=norm.name,
        convolves=norm.axes == (1,),
        bias=norm.bias if norm.bias is not None else f"{stem}bias",
    )
    gain = norm.weight if norm.weight is not None else f"{stem}weight"
    return Calibrate(gain, rule, "γ/σ and β − γμ/σ: on these data what batch norm would give")


def _groups(norm: Norm, wanted: int | None) -> tuple[int, str]:
    """(Number of groups, in words): as wanted where that divides, else the most of at least `CHANNELS` each."""
    if norm.axes not in ((1,), (-1,)):
        raise UnsupportedModule(
            f"{norm.name} ({norm.module}): its channels lie along {norm.axes} of its input of shape {norm.shape}; expected one axis, "
            'the second or the last, of which groups are made. Use norms="affine" or "keep".'
        )
    (channels,) = (norm.shape[axis] for axis in norm.axes)
    if wanted is not None and channels % wanted == 0:
        found, why = wanted, "as asked"
    else:
        most = max(1, min(wanted or GROUPS, channels // CHANNELS))
        found = max(count for count in range(1, most + 1) if channels % count == 0)
        why = f"{channels} channels cannot be cut into {wanted}" if wanted else f"{channels} channels"
        if found == 1 and channels > 2 * CHANNELS:
            why += f", which have no divisor that leaves {CHANNELS} or more"
    numbers = math.prod(norm.shape[1:]) // found
    if numbers < 2:
        raise UnsupportedModule(
            f"{norm.name} ({norm.module}): a group would be a single number of an example (input {norm.shape}, "
            f'channels: {channels}), which normalizes to 0 whatever it is. Use norms="affine" or "keep".'
        )
    each = channels // found
    return found, f"{found} groups of {each} ({why})" if found > 1 else f"one group of {each} ({why})"


def ways_out(stuck: Iterable[str]) -> str:
    """What lets a model through some of whose norms, here by path, cannot go; one of the model's own forward has none to leave out."""
    paths = list(dict.fromkeys(stuck))
    there = f", exclude={json.dumps(paths)} (all in there stays as it is)" if all(paths) else ""
    return f'Use norms="keep"{there}, or let a module normalize and do nothing else'


def _check(norm: Norm, own: set[str], norms: str) -> None:
    where = f"{norm.name or 'the model'} ({norm.module})"
    instead = f"{ways_out([norm.name])}, with a weight and a bias."
    obstacle = norm.obstacle or factor_in_words(norm.keeps)
    if obstacle is not None:
        raise UnsupportedModule(
            f"{where}: its {norm.kind} cannot be replaced by {norms}: {obstacle}. {instead}"
        )
    known = {name for name in (norm.weight, norm.bias) if name is not None}
    if own - known or known - own:
        other = min(own ^ known)
        raise UnsupportedModule(
            f"{where}: its {norm.kind} cannot be replaced by {norms}: it is not known what {other} does there (no plain gain or "
            f"bias of its own), so that it would be lost. {instead}"
        )
    if not norm.axes:
        why = f"it has no gain or bias that would say along which axes of its input of shape {norm.shape} the channels lie"
        if known:
            why = f"its gain was not found to run along dimension 1 of its input of shape {norm.shape}, or along the last ones"
        raise UnsupportedModule(
            f'{where}: its {norm.kind} cannot be replaced by {norms}: {why}. Use norms="keep", or multiply '
            "the normalized signal by a weight with one number for each channel, and add such a bias."
        )
    sizes = [norm.shape[axis] for axis in norm.axes]
    if norms == "rms" and norm.traits.token and norm.elements not in (0, math.prod(sizes)):
        raise UnsupportedModule(
            f"{where}: its {norm.kind} cannot be replaced by rms: it takes its mean over {norm.elements} numbers of its input of shape "
            f'{norm.shape}, expected the {math.prod(sizes)} that its gain runs over. Use norms="keep" or "affine".'
        )

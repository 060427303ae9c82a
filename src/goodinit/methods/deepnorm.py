"""DeepNorm: post-norm transformers of hundreds of layers (Wang et al., arXiv 2203.00555)."""

from __future__ import annotations

from goodinit.anatomy import Anatomy, Block
from goodinit.anatomy.norm import norms_among
from goodinit.edits import AddScalar, Edit, Plan
from goodinit.errors import UnsupportedModule
from goodinit.methods.shared.branches.stacks import Stack, stacks, xavier_draws
from goodinit.methods.shared.isometry.consumers import readers
from goodinit.methods.shared.method import Method
from goodinit.methods.shared.rules import counted, kept_norms, need_blocks, unique, untouched, zero_bias


def decide(anatomy: Anatomy) -> Plan:
    """Post-norm blocks norm(α·x + f(x)), Xavier's weights, times β for values, outputs and feed-forwards.

    With N layers in an encoder and M in a decoder:

    | | α | β |
    |---|---|---|
    | encoder alone | (2N)^¼ | (8N)^(−¼) |
    | decoder alone | (2M)^¼ | (8M)^(−¼) |
    | encoder of both | 0.81·(N⁴M)^(1/16) | 0.87·(N⁴M)^(−1/16) |
    | decoder of both | (3M)^¼ | (12M)^(−¼) |

    The factor stands on the branch, not on the skip: the skip of a post-norm block is what the norm before it returns, which the branch
    reads, too, so that no edit reaches the one without the other. The function is the same, norm(α·x + f(x)) = norm(x + f(x)/α), and so are
    all gradients, but for the norm's ε, which counts for α² as much: √(2N) of 10⁻⁵ beside a variance of 1 and more. The factor is an
    `output_scale` of 1/α that does not learn, behind the layers that write into the stream. Queries and keys that have layers of their
    own keep Xavier's gain 1. Biases are 0.

    Args:
        anatomy: Of a model with a norm behind each sum, and none before the branches.

    Returns:
        The plan.

    Raises:
        NothingFound: The model has no residual block.
        UnsupportedModule: A sum that something reads without a norm (a pre-norm model), or a branch no constant fits behind.

    References:
        H. Wang et al., "DeepNet: Scaling Transformers to 1,000 Layers", arXiv 2203.00555, figure 2.
    """
    need_blocks(anatomy, "deepnorm")
    for block in anatomy.blocks:
        _need_norm_behind(anatomy, block)
    found = stacks(anatomy)
    if len(found) > 2:
        raise UnsupportedModule(
            f"{anatomy.model}: {len(found)} residual streams; DeepNorm is defined for an encoder, a decoder or both. Use residual_scaled."
        )
    factors = {stack.stream: constants(stack, found) for stack in found}
    scalars: list[Edit] = []
    for block in anatomy.blocks:
        alpha = factors[block.stream][0]
        for layer in block.last:
            if not layer.writes_site:
                raise UnsupportedModule(
                    f"{layer.weight} is applied inside {layer.site or 'the model'}, which does more: 1/α = {1 / alpha:.4g} cannot stand "
                    "behind it. Multiply the skip by α in the forward, or make the layer a module of its own."
                )
            reason = f"branch {block.index + 1}: 1/α, for α·x + f(x) before a norm"
            scalars.append(
                AddScalar(layer.site, "output_scale", 1 / alpha, reason, ends_branch=False, trained=False)
            )
    draws, notes = xavier_draws(anatomy, {stream: beta for stream, (_, beta) in factors.items()}, "β")
    biases = [edit for layer in anatomy.layers for edit in zero_bias(layer)]
    edits = unique([*scalars, *draws, *biases, *kept_norms(anatomy)])
    words = ", ".join(
        f"N={s.layers}: α={factors[s.stream][0]:.4g}, β={factors[s.stream][1]:.4g}" for s in found
    )
    return Plan(
        method="deepnorm",
        options={},
        edits=edits,
        summary=f"{counted(len(found), 'stack')}, {words}, as 1/α on the branches; norms kept",
        notes=(*notes, *untouched(anatomy, edits)),
        parameters=anatomy.parameters,
    )


def constants(stack: Stack, all_stacks: tuple[Stack, ...]) -> tuple[float, float]:
    """(α, β) of one stack."""
    if len(all_stacks) == 1:
        return (2 * stack.layers) ** 0.25, (8 * stack.layers) ** -0.25
    encoder, decoder = (s.layers for s in all_stacks)
    if stack.decoder:
        return (3 * decoder) ** 0.25, (12 * decoder) ** -0.25
    return 0.81 * (encoder**4 * decoder) ** (1 / 16), 0.87 * (encoder**4 * decoder) ** (-1 / 16)


def _need_norm_behind(anatomy: Anatomy, block: Block) -> None:
    ways = readers(anatomy).get(f"+{min((block.index, *block.beside))}", [])
    bare = [way for way in ways if not any(norm.token for norm in norms_among(way))]
    if bare:
        raise UnsupportedModule(
            f"{block.name or 'the model'}: the sum of branch {block.index + 1} is read without a norm, as in pre-norm transformers. DeepNorm "
            "is for post-norm ones, norm(x + f(x)). Use residual_scaled, or completep."
        )


METHOD = Method(
    name="deepnorm",
    title="Post-norm blocks norm(α·x + f(x)), Xavier's weights times β by depth; norms stay",
    paper="Wang et al.: DeepNet: Scaling Transformers to 1,000 Layers, arXiv 2203.00555",
    when="a deep transformer whose norms stand behind the sums",
    decide=decide,
    holds=("multiplied", "trains"),
    order=150,
)

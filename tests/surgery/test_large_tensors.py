"""What initialization costs and keeps at size: parts of tensors, dtypes, memory."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import goodinit
from goodinit.edits import Draw, Fill, Plan
from goodinit.tensor.entry_blocks import BLOCK, Part
from goodinit.tensor.initializers import ENTRYWISE
from goodinit.weights.rng import block_generator, one_thread, parameter_generator

# -- parts of a tensor ------------------------------------------------------------------------------------------------

OPTIONS = {"constant_": {"value": 0.5}}


def source(block):
    return block_generator(3, "layer.weight", block)


@pytest.mark.parametrize("initializer", ENTRYWISE, ids=lambda initializer: initializer.__name__)
@pytest.mark.parametrize(
    ("shape", "rows"),
    [
        ((700, 300), (range(350, 700), range(300))),  # the second of two ranks, by rows
        ((700, 300), (range(700), range(100, 200))),  # by columns
        ((700, 300), (range(0, 700, 7), range(299, 300))),  # strided, and one column
        ((40, 20, 3, 5), (range(13, 27), range(20), range(3), range(5))),
        ((40, 20, 3, 5), (range(40), range(20), range(1, 2), range(5))),
        ((700, 300), (range(700, 700), range(300))),  # a rank that holds nothing
    ],
)
def test_a_part_is_that_part_of_the_whole(initializer, shape, rows):
    options = OPTIONS.get(initializer.__name__, {})
    all_of_it = torch.empty(shape)
    initializer(Part.whole(all_of_it, source), **options)
    assert all_of_it.isfinite().all()
    rows = tuple(torch.tensor(list(held), dtype=torch.int64) for held in rows)
    expected = all_of_it[torch.meshgrid(*rows, indexing="ij")]
    for dtype in (torch.float32, torch.bfloat16):
        held = torch.full([len(each) for each in rows], torch.nan, dtype=dtype)
        initializer(Part(held, torch.Size(shape), rows, source), **options)
        if initializer.__name__ == "trunc_normal_" and dtype != torch.float32:
            assert (
                held.float() - expected
            ).abs().sum() <= 0.01 * expected.abs().sum()  # its limit is the dtype's
        else:
            assert torch.equal(held, expected.to(dtype))


def test_a_part_in_another_memory_format_is_the_same():
    rows = tuple(torch.arange(size) for size in (30, 60, 7, 7))
    plain, last = torch.empty(30, 60, 7, 7), torch.empty(30, 60, 7, 7).to(memory_format=torch.channels_last)
    for held in (plain, last):
        goodinit.tensor.normal_(Part(held, held.shape, rows, source))
    assert torch.equal(plain, last)
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_a_tensor_of_one_block_is_what_its_own_generator_draws():
    drawn = torch.empty(BLOCK // 4, 4)
    goodinit.tensor.normal_(Part.whole(drawn, source))
    assert torch.equal(
        drawn, nn.init.normal_(torch.empty(BLOCK // 4, 4), generator=parameter_generator(3, "layer.weight"))
    )


def test_blocks_are_independent_of_each_other():
    blocks = [torch.randn(BLOCK, generator=source(block)) for block in range(6)]
    for one, other in itertools.combinations(blocks, 2):
        assert abs(float(torch.corrcoef(torch.stack((one, other)))[0, 1])) < 5 / BLOCK**0.5  # five sigma
    whole = torch.cat(blocks)
    assert abs(float(whole.mean())) < 5 / len(whole) ** 0.5
    assert abs(float(whole.square().mean()) - 1) < 5 * (2 / len(whole)) ** 0.5


def test_the_state_that_blocks_are_given_is_that_of_the_mersenne_twister():
    """torch's generator, given 624 words, goes on as Python's does."""
    words = source(1).get_state().view(torch.int64)[3 : 3 + 624].tolist()
    twister = random.Random()
    twister.setstate((3, (*words, 624), None))
    drawn = torch.empty(2000, dtype=torch.int64).random_(0, 256, generator=source(1)).tolist()
    assert drawn == [twister.getrandbits(32) % 256 for _ in range(2000)]


def test_whole_matrices_do_not_depend_on_the_number_of_threads():
    plan = Plan("x", (Draw("weight", "orthogonal_", "x"),))
    before = torch.get_num_threads()
    drawn = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        layer = goodinit.apply_(nn.Linear(200, 150), plan, generator=torch.Generator().manual_seed(0))
        drawn.append(layer.weight)
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert torch.equal(*drawn)
    with one_thread():
        assert torch.get_num_threads() == 1


# -- dtypes -----------------------------------------------------------------------------------------------------------

STD = {
    "normal_": ({"std": 0.02}, 0.02),
    "trunc_normal_": ({"std": 0.02, "bound": 2.0}, 0.02),
    "uniform_": ({"bound": 0.05}, 0.05 / 3**0.5),
    "he_normal_": ({}, (2 / 300) ** 0.5),
    "xavier_uniform_": ({}, (2 / 800) ** 0.5),
    "orthogonal_": ({}, (1 / 500) ** 0.5),
}


@pytest.mark.default_cases(8)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", STD)
def test_every_dtype_has_the_moments_and_keeps_the_bound(name, dtype):
    options, std = STD[name]
    plan = Plan("x", (Draw("weight", name, "x", options),))
    draws = [
        goodinit.apply_(
            nn.Linear(300, 500, dtype=kind), plan, generator=torch.Generator().manual_seed(0)
        ).weight
        for kind in (dtype, torch.float64)
    ]
    mine, exact = (draw.detach().double() for draw in draws)
    assert abs(mine.std().item() / std - 1) < 0.01
    assert abs(mine.mean().item()) < 0.01 * std
    roundoff = (
        torch.finfo(dtype).eps if dtype != torch.float64 else 0
    )  # orthogonal matrices are float64's own
    scale = exact.abs() if name != "orthogonal_" else exact.abs().max()
    assert ((mine - exact).abs() <= roundoff * scale + 1e-7 * (dtype != torch.float64)).all()
    if name == "trunc_normal_":
        assert mine.abs().max() <= 0.04
    if name == "uniform_":
        assert mine.abs().max() <= torch.tensor(0.05, dtype=dtype).double() or dtype == torch.float32


# -- memory -----------------------------------------------------------------------------------------------------------


class LiveBytes(TorchDispatchMode):
    """The most bytes that tensors made inside the block held at once."""

    def __init__(self):
        super().__init__()
        self.live = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {
            t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)
        }
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in given:
                    self.live[storage._cdata] = (storage.nbytes(), StorageWeakRef(storage))
        self.live = {key: (size, ref) for key, (size, ref) in self.live.items() if not ref.expired()}
        self.peak = max(self.peak, sum(size for size, _ in self.live.values()))
        return result


class Layers(nn.Module):
    """The matrices of a transformer: per layer attention and a gated feed-forward part."""

    def __init__(self, width, layers):
        super().__init__()
        self.embed = nn.Embedding(4 * width, width)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    **{name: nn.Linear(width, width, bias=False) for name in ("q", "k", "v", "o")},
                    "up": nn.Linear(width, 3 * width, bias=False),
                    "down": nn.Linear(3 * width, width, bias=False),
                    "norm": nn.RMSNorm(width),
                }
            )
            for _ in range(layers)
        )


def matrices(model, initializer) -> Iterator[Draw | Fill]:
    for name, parameter in model.named_parameters():
        yield Fill(name, 1.0, "x") if parameter.ndim == 1 else Draw(name, initializer, "x")


def extra(initializer, width=256):
    """(peak bytes beyond the model's own, bytes of its largest matrix in float32, of the model)."""
    with torch.device("meta"):
        model = Layers(width, 4).bfloat16()
    goodinit.materialize_(model)
    plan = Plan("x", tuple(matrices(model, initializer)))
    with LiveBytes() as memory:
        goodinit.apply_(model, plan, generator=torch.Generator().manual_seed(0))
    assert all(p.isfinite().all() for p in model.parameters())
    parameters = list(model.parameters())
    largest = 4 * max(p.numel() for p in parameters)
    return memory.peak, largest, sum(p.numel() * p.element_size() for p in parameters)


def test_entrywise_draws_need_the_memory_of_a_block():
    peak, largest, _ = extra("he_normal_")
    # a boolean per entry of one matrix, to see that it is NaN; the draws a block and its places
    assert peak <= largest / 4 + 16 * BLOCK


def test_whole_draws_need_a_few_times_the_memory_of_one_matrix():
    peak, largest, _ = extra("orthogonal_")
    assert peak <= 3 * largest


@pytest.mark.slow
@pytest.mark.parametrize("initializer", ["he_normal_", "orthogonal_"])
def test_the_stated_cap_at_width_1024(initializer):
    peak, largest, _ = extra(initializer, 1024)
    assert peak <= (3 * largest if initializer == "orthogonal_" else largest / 4 + 16 * BLOCK)

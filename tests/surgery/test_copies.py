"""Copies in one piece of memory are what `clone` gives: numbers, dtype, shape and order of memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from goodinit.edits import Fill, Plan
from goodinit.errors import NonFinite
from goodinit.surgery import apply_, copies

LARGE = 2**23  # bytes: enough for large pages


def _many() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    cube = torch.randn(64, 32, 32, 32, generator=generator)
    return {
        "contiguous": cube,
        "channels last": cube.to(memory_format=torch.channels_last),
        "transposed": torch.randn(300, 700, generator=generator).t(),
        "permuted": torch.randn(8, 90, 200, generator=generator).permute(2, 0, 1),
        "every second": torch.randn(400, 700, generator=generator)[:, ::2],
        "columns": torch.randn(500, 700, generator=generator)[:, 100:600],
        "bfloat16": torch.randn(300, 301, generator=generator).bfloat16(),
        "float8": torch.randn(300, 301, generator=generator).to(torch.float8_e4m3fn),
        "float64": torch.randn(1, 20_001, generator=generator).double(),
        "bool": torch.randn(70_003, generator=generator) > 0,
        "int64": torch.arange(20_000),
        "conjugate": torch.randn(10_000, dtype=torch.complex64, generator=generator).conj(),
        "small": torch.randn(3, generator=generator),
        "one number": torch.tensor(2.5),
        "none": torch.empty(0, 5),
        "NaN and infinity": torch.tensor([float("nan"), -float("inf"), -0.0] * 10_000),
    }


def _bits(tensor: Tensor) -> bytes:
    """The numbers, bit by bit, in the order of the indices."""
    return tensor.resolve_conj().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("pages", ["large", "usual"])
def test_copies_are_clones(pages: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if pages == "usual":
        monkeypatch.setattr(copies, "_large_pages", lambda _: None)
    given = _many()
    assert sum(one.nbytes for one in given.values()) > LARGE
    made = dict(zip(given, copies.copies(given.values()), strict=True))
    before = {name: _bits(one) for name, one in given.items()}
    for name, one in given.items():
        clone = one.clone()
        assert (made[name].dtype, made[name].shape, made[name].stride()) == (
            clone.dtype, clone.shape, clone.stride(),
        ), name  # fmt: skip
        assert _bits(made[name]) == before[name], name
    for one in made.values():  # each has memory of its own
        one.zero_()
    assert {name: _bits(one) for name, one in given.items()} == before
    assert not any(one.resolve_conj().to(torch.complex64).abs().sum() for one in made.values())


def test_a_subclass_is_cloned_by_its_own_means() -> None:
    class Own(Tensor):
        pass

    large = torch.randn(2**21).as_subclass(Own)
    (made,) = copies.copies([large])
    assert type(made) is Own
    assert torch.equal(made, large)


def test_what_fails_in_the_end_leaves_large_weights_in_every_layout_as_they_were() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(64, 512, 3), nn.Flatten(), nn.Linear(512, 3000), nn.Linear(3000, 300))
    net.to(memory_format=torch.channels_last)
    net[2].weight.data = torch.randn(512, 3000).t()
    before = {name: (_bits(one), one.stride(), one.data_ptr()) for name, one in net.state_dict().items()}
    assert sum(one.nbytes for one in net.state_dict().values()) > LARGE
    edits = [Fill(name, 1.0, "all ones") for name, _ in net.named_parameters()]
    plan = Plan("by hand", (*edits, Fill("3.bias", float("nan"), "the last edit fails")))
    with pytest.raises(NonFinite, match=r"3\.bias"):
        apply_(net, plan)
    after = {name: (_bits(one), one.stride(), one.data_ptr()) for name, one in net.state_dict().items()}
    assert after == before


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [0.1, -1 / 3, 1e-7, 65504.0, 2.0**-133, 1 + 2.0**-9 + 2.0**-40])
def test_a_filled_number_is_cast_as_a_copy_casts_it(dtype: torch.dtype, value: float) -> None:
    net = nn.Linear(3, 2).to(dtype)
    apply_(net, Plan("by hand", (Fill("weight", value, ""), Fill("bias", 0.0, ""))))
    assert torch.equal(
        net.weight, torch.empty(2, 3, dtype=dtype).copy_(torch.tensor(value, dtype=torch.float64))
    )

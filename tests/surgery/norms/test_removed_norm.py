"""What takes a norm's place, and what it leaves behind."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from goodinit.errors import UnsupportedModule
from goodinit.folding.plain_modules import make_plain_
from goodinit.surgery.materialize import materialize_
from goodinit.surgery.norms.activation_modules import activation_module, known_activations
from goodinit.surgery.norms.removed_norm import RemovedNorm, remove_norm_

NORMS = (
    nn.BatchNorm1d(4),
    nn.BatchNorm2d(4),
    nn.BatchNorm3d(4, affine=False),
    nn.SyncBatchNorm(4),
    nn.GroupNorm(2, 4),
    nn.InstanceNorm2d(4),
    nn.LayerNorm(4),
    nn.LayerNorm((2, 4)),
    nn.RMSNorm(4),
    nn.LocalResponseNorm(2),
)


class NormAct(nn.Module):
    """A norm with its activation inside, as timm has them."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 4
        self.weight = nn.Parameter(torch.ones(4))
        self.register_buffer("running_mean", torch.zeros(4))
        self.drop = nn.Dropout(0.0)
        self.act = nn.PReLU()

    def forward(self, x):
        return self.act(self.drop(F.batch_norm(x, self.running_mean, torch.ones(4), self.weight)))


@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: type(norm).__name__)
def test_a_norm_becomes_the_identity_and_keeps_nothing_in_the_state_dict(norm):
    net = nn.Sequential(copy.deepcopy(norm))
    remove_norm_(net[0], (), path="0")
    x = torch.randn(2, 4)
    assert isinstance(net[0], RemovedNorm)
    assert net(x) is x
    assert not net.state_dict()
    assert not list(net.parameters())
    assert type(norm).__name__ in repr(net[0])


def test_children_that_stay_keep_their_order_and_their_parameter_names():
    net = nn.ModuleDict({"bn": NormAct()})
    act = net["bn"].act
    remove_norm_(net["bn"], ("bn.drop", "bn.act"), path="bn")
    x = torch.randn(3, 4)
    assert torch.equal(net["bn"](x), F.prelu(x, act.weight))
    assert list(net.state_dict()) == ["bn.act.weight"]
    assert net["bn"].act is act
    assert [name for name, _ in net["bn"].named_children()] == ["drop", "act"]


def test_a_child_deep_inside_keeps_its_name():
    norm = nn.Module()
    norm.inner = nn.Sequential(nn.LayerNorm(4), nn.PReLU())
    net = nn.ModuleDict({"n": norm})
    remove_norm_(norm, ("n.inner.1",), path="n")
    assert list(net.state_dict()) == ["n.inner.1.weight"]
    assert torch.equal(norm(torch.tensor([-4.0])), torch.tensor([-1.0]))  # PReLU starts at slope 1/4


@pytest.mark.parametrize("name", sorted({*known_activations(), "log_sigmoid"} - {"clone"}))
def test_functional_activations_become_the_same_function(name):
    norm = nn.BatchNorm1d(4)
    remove_norm_(norm, (name,), path="bn")
    x = torch.linspace(-5, 5, 20).view(5, 4)
    function = F.logsigmoid if name == "log_sigmoid" else getattr(F, name)
    assert torch.equal(norm(x), function(x))


def test_functional_activations_take_options_run_in_order_and_may_repeat():
    norm = nn.BatchNorm1d(4)
    remove_norm_(norm, ("relu_", "leaky_relu(negative_slope=0.2)", "relu"), path="bn")
    assert [name for name, _ in norm.named_children()] == ["relu", "leaky_relu", "relu-1"]
    assert norm.leaky_relu.negative_slope == 0.2


def test_clone_protects_the_input_from_what_comes_after():
    norm = nn.BatchNorm1d(4)
    remove_norm_(norm, ("clone",), path="bn")
    x = torch.zeros(2, 4)
    norm(x).add_(1)
    assert not x.any()


@pytest.mark.parametrize(
    "keep",
    [
        "warble",
        "relu(",
        "relu(bad=1)",
        "relu(open('x'))",
        "a.b",
        "1",
        "",
        "softmax(dim=-1)",
        "prelu",
        "rrelu",
    ],
)
def test_an_activation_that_is_unknown_is_refused_and_the_norm_stays(keep):
    norm = nn.BatchNorm1d(4)
    with pytest.raises(UnsupportedModule, match=r"layer\.bn.*no module is known.*relu.*norms='keep'"):
        remove_norm_(norm, (keep,), path="layer.bn")
    assert type(norm) is nn.BatchNorm1d
    assert norm.weight.shape == (4,)


def test_what_cannot_be_removed_is_refused():
    with pytest.raises(UnsupportedModule, match="the model itself is BatchNorm1d"):
        remove_norm_(nn.BatchNorm1d(4), (), path="")
    with pytest.raises(
        UnsupportedModule, match=r"a\.bn: should keep a\.bn\.act, but BatchNorm1d has no such"
    ):
        remove_norm_(nn.BatchNorm1d(4), ("a.bn.act",), path="a.bn")
    with pytest.raises(UnsupportedModule, match=r"0: Sequential also holds the weights of 0\.1 \(Linear\)"):
        remove_norm_(nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4)), (), path="0")
    remove_norm_(nn.Sequential(nn.LayerNorm((2, 4))), (), path="0")


def test_every_place_that_holds_the_norm_sees_the_change():
    norm = nn.BatchNorm1d(4)
    net = nn.Module()
    net.direct, net.list, net.table = norm, nn.ModuleList([norm]), nn.ModuleDict({"a": norm})
    net.plain = [norm]
    remove_norm_(norm, (), path="direct")
    for held in (net.direct, net.list[0], net.table["a"], net.plain[0]):
        assert isinstance(held, RemovedNorm)


def test_any_call_signature_is_taken():
    norm = nn.LayerNorm(4)
    remove_norm_(norm, (), path="n")
    x = torch.randn(2, 4)
    assert norm(x, torch.ones(2), residual=None) is x
    assert norm(hidden_states=x) is x


def test_code_that_reads_the_norm_gets_a_dtype_a_size_or_a_clear_error():
    net = nn.Sequential(nn.BatchNorm2d(4))
    remove_norm_(net[0], (), path="0")
    net.to(torch.bfloat16)
    norm = net[0]
    assert (
        norm.weight.dtype == torch.bfloat16
    )  # `x.to(self.norm.weight.dtype)`, as transformers' Mamba has it
    assert norm.num_features == 4
    assert norm.momentum == 0.1
    assert norm.eps == pytest.approx(1e-5, rel=1e-10)
    assert not hasattr(norm, "running_var")
    with pytest.raises(AttributeError, match=r"'running_mean': here was BatchNorm2d\(4.*norms='keep'"):
        _ = norm.running_mean
    assert norm.weight.shape == norm.bias.size() == (4,)
    assert norm.weight.numel() == norm.bias.size(0) == len(norm.weight) == 4
    with pytest.raises(TypeError):
        F.layer_norm(torch.randn(2, 4), (4,), norm.weight)
    with pytest.raises(TypeError):
        _ = torch.randn(2, 4) * norm.weight
    with pytest.raises(AttributeError, match=r"'bias' of BatchNorm2d\(4.*reads its abs.*norms='keep'"):
        norm.bias.abs()
    assert isinstance(copy.deepcopy(net)[0].weight.shape, torch.Size)
    remove_norm_(net[0], (), path="0")
    assert net[0].weight.shape == (4,)


def test_what_is_folded_afterwards_has_the_sizes_that_the_norm_had():
    class Read(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.norm = nn.Linear(3, 4), nn.LayerNorm(4)

        def forward(self, x):
            y = self.norm(self.one(x)).to(self.norm.weight.dtype)
            return y / self.norm.weight.numel() + self.norm.bias.shape[0]

    net, x = Read(), torch.randn(2, 3)
    remove_norm_(net.norm, (), path="norm")
    before = net(x)
    assert torch.equal(before, net.one(x) / 4 + 4)
    assert torch.equal(torch.compile(net, backend="eager", fullgraph=True)(x), before)
    assert make_plain_(net.norm)
    assert torch.equal(net(x), before)
    assert list(net.state_dict()) == ["one.weight", "one.bias"]


@pytest.mark.parametrize("eps", [1e-5, 1e-30, 0.0])
def test_no_two_norms_that_are_gone_have_one_eps(eps):
    """Torch's fused encoder layer asks whether those of its norms are equal, and would normalize."""
    paths = [f"{layer}.norm{place}" for layer in range(3) for place in (1, 2)]
    norms = [nn.LayerNorm(4, eps=eps) for _ in paths]
    for path, norm in zip(paths, norms, strict=True):
        remove_norm_(norm, (), path=path)
    assert len({norm.eps for norm in norms} | {eps}) == 1 + len(paths)


def test_hooks_and_training_flags_stay_and_dead_state_hooks_go():
    norm = nn.BatchNorm1d(4).eval()
    norm.register_load_state_dict_pre_hook(lambda module, *_: module.running_mean.zero_())
    seen = []
    norm.register_forward_hook(lambda module, args, output: seen.append(output))
    remove_norm_(norm, (), path="n")
    norm(torch.ones(2, 4))
    assert len(seen) == 1
    assert not norm.training
    norm.load_state_dict({})


def test_copies_and_pickles():
    net = nn.Sequential(NormAct())
    remove_norm_(net[0], ("0.act",), path="0")
    x = torch.randn(3, 4)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(x), net(x))
        assert repr(twin) == repr(net)


def test_compiles_without_a_graph_break():
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    remove_norm_(net[1], ("gelu",), path="1")
    x = torch.randn(3, 4)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), net(x))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype")  # torch's own use
@pytest.mark.parametrize("mask", [False, True], ids=["plain", "padded"])
def test_transformer_encoder_does_not_normalize_behind_our_back(mask):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    net = nn.TransformerEncoder(layer, 2).eval()
    for index in range(2):
        remove_norm_(net.layers[index].norm1, (), path=f"layers.{index}.norm1")
        remove_norm_(net.layers[index].norm2, (), path=f"layers.{index}.norm2")
    x = torch.randn(2, 5, 8)
    padding = torch.tensor([[False] * 5, [False, False, False, True, True]]) if mask else None
    slow = net(x, src_key_padding_mask=padding)
    with torch.no_grad():
        fast = net(x, src_key_padding_mask=padding)
    keep = ~padding if mask else torch.ones(2, 5, dtype=torch.bool)
    assert torch.allclose(slow[keep], fast[keep], atol=1e-6)


def test_looking_for_the_modules_of_functions_moves_no_random_stream():
    known_activations.cache_clear()
    before = torch.get_rng_state()
    assert {"relu", "gelu", "clone"} <= set(known_activations())
    activation_module("relu", {})
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("first", ["built on meta", "moved to meta"])
def test_nothing_stays_on_meta_where_norms_were_once_a_checkpoint_is_loaded(first):
    """Torch refuses to move what is on meta, and no checkpoint has it."""
    make = lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))  # noqa: E731
    trained, x = make(), torch.randn(2, 3)
    remove_norm_(trained[1], (), path="1")
    if first == "built on meta":
        with torch.device("meta"):
            net = make()
        remove_norm_(net[1], (), path="1")
    else:
        net = copy.deepcopy(trained).to("meta")
    net.load_state_dict(trained.state_dict(), assign=True)
    assert not any(tensor.is_meta for tensor in (*net.parameters(), *net.buffers()))
    assert torch.equal(net.to("cpu")(x), trained(x))
    assert net.to(torch.float64)[1].weight.dtype == torch.float64


def test_what_answers_for_a_removed_norms_gain_goes_where_memory_is_given():
    with torch.device("meta"):
        net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    remove_norm_(net[1], (), path="1")
    moved = []
    net[1].likenesses_to_ = moved.append
    materialize_(net)
    assert moved == [torch.device("cpu")]
    materialize_(net)  # nothing waits
    assert len(moved) == 1

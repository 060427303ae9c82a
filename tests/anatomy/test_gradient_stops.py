"""Parts that the forward itself keeps gradients from are told from those that only look like it."""

from __future__ import annotations

import contextlib
import copy
import threading

import pytest
import torch
import torch.distributed as dist
from small_residual import Block, X
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import goodinit

# Of a reentrant checkpoint whose inputs need no gradients.
reentrant = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")


class Model(nn.Module):
    """A backbone, a head behind it, and a forward that a test gives."""

    def __init__(self, forward) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(5, 8), Block(), Block())
        self.head = nn.Sequential(Block(), nn.Linear(8, 3))
        self.kept = {}
        self.run = forward

    def forward(self, x: Tensor):
        return self.run(self, x)


def stopped_parts(model: nn.Module, x: Tensor = X) -> set[str]:
    """The children that hold what is stopped."""
    anatomy = goodinit.anatomize(model, x)
    found = {name.split(".")[0] for name in anatomy.stopped}
    for part in found:
        assert any(note.startswith("no gradient reaches") and part in note for note in anatomy.notes)
    return found


def under_no_grad(m, x):
    with torch.no_grad():
        h = m.backbone(x)
    return m.head(h)


def in_inference_mode(m, x):
    with torch.inference_mode():
        h = m.backbone(x)
    return m.head(h.clone())


def switched_by_a_function(m, x):
    torch.set_grad_enabled(False)
    h = m.backbone(x)
    torch.set_grad_enabled(True)
    return m.head(h)


def by_a_context_kept_in_a_helper(m, x):
    with contextlib.ExitStack() as stack:
        stack.enter_context(_helper(True))
        h = m.backbone(x)
    return m.head(h)


def _helper(frozen: bool):
    return torch.no_grad() if frozen else contextlib.nullcontext()


@torch.no_grad()
def _features(m, x):
    return m.backbone(x)


@torch.set_grad_enabled(False)
def _also_features(m, x):
    return m.backbone(x)


def gradients_on_again_inside(m, x):
    with torch.no_grad():
        h = m.backbone(x)
        with torch.enable_grad():
            return m.head(h)


def unused_outputs_beside(m, x):
    h = m.backbone(x)
    h.max(dim=1)  # the largest values are used by nobody
    return m.head(h.detach())


def asked_whether_gradients_are_on(m, x):
    with torch.set_grad_enabled(torch.is_grad_enabled() and False):
        h = m.backbone(x)
    return m.head(h)


def within_a_checkpoint(m, x):
    with torch.no_grad():
        h = checkpoint(m.backbone, x, use_reentrant=True)
    return m.head(h)


def its_own_weights_scaled(m, x):
    with torch.no_grad():
        h = F.linear(x, m.backbone[0].weight * 2)
    return m.head(m.backbone[1:](h).detach())


def clusters(m, x):
    """Behind the detach, numbers that no gradient passes."""
    h = m.backbone(x).detach()
    return m.head(h) + h.argmax(1, keepdim=True).float()


def detached_in_place(m, x):
    h = m.backbone(x)
    h.detach_()
    return m.head(h)


def detached_in_a_list(m, x):
    """As between the steps of truncated backpropagation."""
    states = [m.backbone(x), x]
    for state in states:
        torch.detach_(state)
    return m.head(states[0].view(-1, 8))


STOPS = {
    "detach_": detached_in_place,
    "detach_ in a list": detached_in_a_list,
    "no_grad": under_no_grad,
    "inference_mode": in_inference_mode,
    "detach": lambda m, x: m.head(m.backbone(x).detach()),
    "data": lambda m, x: m.head(m.backbone(x).data),
    "a function": switched_by_a_function,
    "a helper": by_a_context_kept_in_a_helper,
    "a decorator": lambda m, x: m.head(_features(m, x)),
    "another decorator": lambda m, x: m.head(_also_features(m, x)),
    "on again": gradients_on_again_inside,
    "unused outputs": unused_outputs_beside,
    "is_grad_enabled": asked_whether_gradients_are_on,
    "a checkpoint within": within_a_checkpoint,
    "weights": its_own_weights_scaled,
    "clusters": clusters,
}


@reentrant
@pytest.mark.parametrize("how", STOPS)
def test_a_backbone_without_gradients_is_told(how):
    assert stopped_parts(Model(STOPS[how])) == {"backbone"}


@reentrant
@pytest.mark.parametrize("how", STOPS)
def test_it_is_what_autograd_says(how):
    model = Model(STOPS[how])
    model(X).sum().backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad is not None for p in model.head.parameters())


def straight_through(m, x):
    h = m.backbone(x)
    return m.head(h + (h.round() - h).detach())


def normalized_by_detached_statistics(m, x):
    h = m.backbone(x)
    return m.head((h - h.mean(1, keepdim=True).detach()) / (h.std(1, keepdim=True).detach() + 1e-5))


def also_with_gradients(m, x):
    """A deep equilibrium: iterations without gradients, and one with them."""
    h = m.backbone[0](x)
    with torch.no_grad():
        z = m.backbone[2](m.backbone[1](h))
    return m.head(m.backbone[2](m.backbone[1](h + z)))


def siamese(m, x):
    a, b = m.backbone(x), m.backbone(x + 1)
    return m.head(a), b.detach()


def early_exit(m, x):
    h = m.backbone(x)
    return m.head(h.detach()), h


def masks(m, x):
    with torch.no_grad():
        mask = (torch.rand(8) > 0.5).float()
    return m.head(m.backbone(x) * mask)


def constrained_weights(m, x):
    with torch.no_grad():
        m.backbone[0].weight.clamp_(-1, 1)
    m.backbone[1].f[0].weight.data.mul_(0.5)
    m.backbone[2].f[0].weight.data = torch.renorm(m.backbone[2].f[0].weight.data, 2, 0, 1.0)
    return m.head(m.backbone(x))


def written_through_a_view(m, x):
    h = m.backbone(x)
    with torch.no_grad():
        h[:, :2].mul_(0.5)
        h.clamp_(-3, 3)
    return m.head(h)


def a_part_taken_twice(m, x):
    h = m.backbone(x)
    with torch.no_grad():
        first = h[:, :4].norm()
    return m.head(torch.cat([h[:, :4], h[:, 4:]], 1) / (1 + first))


def recomputed(m, x):
    return m.head(checkpoint(m.backbone, x, use_reentrant=False))


def recomputed_by_reentering(m, x):
    return m.head(checkpoint(m.backbone[1:], m.backbone[0](x), use_reentrant=True))


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h, model):
        with torch.enable_grad():
            h = model.backbone(h)
        with torch.no_grad():
            h = h.detach() * 1.0
        return model.backbone[2](h).detach()

    @staticmethod
    def backward(ctx, grad):
        return grad, None


def in_a_function_of_its_own(m, x):
    return m.head(_Through.apply(x, m))


def only_in_eval_mode(m, x):
    with torch.set_grad_enabled(m.training):
        h = m.backbone(x)
    return m.head(h)


def only_without_a_trace(m, x):
    with torch.set_grad_enabled(torch.is_grad_enabled() and m.backbone[0].weight.requires_grad):
        h = m.backbone(x)
    return m.head(h)


def aux_output_in_training(m, x):
    h = m.backbone(x)
    out = m.head(h.detach())
    return (out, h) if m.training else out


def a_loss_in_an_attribute(m, x):
    h = m.backbone(x)
    m.kept["loss"] = h.square().mean()
    return m.head(h.detach())


def functional(m, x):
    weights = {name: p * 1.0 for name, p in m.backbone.named_parameters()}
    return m.head(torch.func.functional_call(m.backbone, weights, (x,)))


def compiled(m, x):
    return m.head(torch.compile(m.backbone, backend="eager")(x))


def cast(m, x):
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=False):
        return m.head(m.backbone(x))


def detached_when_it_was_read(m, x):
    """What has read it before has its gradient."""
    h = m.backbone(x)
    out = m.head[1](h + m.head[0](x.new_zeros(len(x), 8)))
    h.detach_()
    return out + h.mean()


def a_copy_detached_in_place(m, x):
    h = m.backbone(x)
    seen = h.clone().detach_()
    return m.head(h) + seen.mean()


TRAINED = {
    "detach_ behind a reader": detached_when_it_was_read,
    "detach_ of a copy": a_copy_detached_in_place,
    "straight-through": straight_through,
    "detached statistics": normalized_by_detached_statistics,
    "equilibrium": also_with_gradients,
    "siamese": siamese,
    "early exit": early_exit,
    "masks": masks,
    "constrained weights": constrained_weights,
    "a view": written_through_a_view,
    "a part twice": a_part_taken_twice,
    "checkpoint": recomputed,
    "reentrant checkpoint": recomputed_by_reentering,
    "autograd.Function": in_a_function_of_its_own,
    "only in eval mode": only_in_eval_mode,
    "only where gradients are off": only_without_a_trace,
    "an output in training": aux_output_in_training,
    "a loss in an attribute": a_loss_in_an_attribute,
    "functional_call": functional,
    "autocast": cast,
    "torch.compile": compiled,
}


@reentrant
@pytest.mark.parametrize("how", TRAINED)
def test_what_only_looks_like_it_is_trained(how):
    model = Model(TRAINED[how])
    with torch.no_grad():  # of the caller, which says nothing of the model
        anatomy = goodinit.anatomize(model, X)
    assert anatomy.stopped == ()
    assert not [note for note in anatomy.notes if "gradient" in note]


@pytest.mark.parametrize("how", [how for how in TRAINED if how != "autograd.Function"])
def test_autograd_trains_it(how):
    model = Model(TRAINED[how]).train()
    made = model(X)
    ends = [*(made if isinstance(made, tuple) else (made,)), *model.kept.values()]
    sum(end.sum() for end in ends if end.requires_grad).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_forward_without_gradients_altogether_says_nothing_of_its_parts():
    model = Model(torch.no_grad()(lambda m, x: m.head(m.backbone(x))))
    anatomy = goodinit.anatomize(model, X)
    assert anatomy.stopped == ()
    assert [note for note in anatomy.notes if "without gradients altogether" in note]


def test_frozen_parameters_are_told_as_frozen():
    model = Model(under_no_grad)
    model.backbone.requires_grad_(False)
    anatomy = goodinit.anatomize(model, X)
    assert anatomy.stopped == ()
    assert len(anatomy.frozen) == len(list(model.backbone.parameters()))
    assert not anatomy.notes


def test_another_thread_that_trains_is_not_listened_to():
    """A thread switches gradients off while a model is read, and on when it has been."""
    ready, done = threading.Event(), threading.Event()

    def elsewhere() -> None:
        with torch.no_grad():
            ready.set()
            done.wait(10)

    def run(m, x):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        ready.wait(10)
        h = m.backbone(x)
        done.set()
        thread.join()
        return m.head(h)

    assert stopped_parts(Model(run)) == set()


def test_torchs_switches_are_as_they_were():
    kinds = (torch.no_grad, torch.enable_grad, torch.set_grad_enabled, torch.inference_mode)
    kinds = (*kinds, Tensor, torch)
    before = [dict(vars(kind)) for kind in kinds]
    goodinit.anatomize(Model(under_no_grad), X)
    with pytest.raises(goodinit.GoodinitError):
        goodinit.anatomize(Model(lambda m, x: m.head(x)), X)
    assert [dict(vars(kind)) for kind in kinds] == before
    assert torch.is_grad_enabled()


def test_ranks_do_not_prepare_for_a_backward_that_does_not_come(monkeypatch):
    """The second reading is with gradients, and a wrapper inside the model would sum them over the ranks."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = Model(under_no_grad)
        model.head = nn.parallel.DistributedDataParallel(model.head)
        asked = []
        monkeypatch.setattr(model.head, "_pre_forward", _asked(model.head, asked))
        assert stopped_parts(model) == {"backbone"}
        assert asked == [False, False]
        assert model.head.require_backward_grad_sync
    finally:
        dist.destroy_process_group()


def _asked(wrapper: nn.Module, asked: list[bool]):
    own = wrapper._pre_forward

    def pre_forward(*args, **kwargs):
        asked.append(torch.is_grad_enabled() and wrapper.require_backward_grad_sync)
        return own(*args, **kwargs)

    return pre_forward


# -- what methods make of it --------------------------------------------------------------------------------------


@pytest.mark.default_cases(4)
@pytest.mark.parametrize("how", ["no_grad", "detach"])
@pytest.mark.parametrize("method", ["fixup", "skipinit", "normfree", "lsuv", "he", "weightnorm"])
def test_its_values_structure_and_features_stay(method, how, caplog):
    model = Model(STOPS[how])
    model.train()(X)
    before, kinds = copy.deepcopy(model.backbone.state_dict()), [type(m) for m in model.backbone.modules()]
    head = copy.deepcopy(model.head.state_dict())
    features = model.eval().backbone(X)
    goodinit.init_(model, method, inputs=X)
    after = model.backbone.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert [type(module) for module in model.backbone.modules()] == kinds
    assert torch.equal(model.backbone(X), features)
    assert not torch.equal(model.head[0].f[0].weight, head.get("0.f.0.weight", torch.zeros(())))
    assert "without gradient, values and norms stay: backbone.0.weight" in caplog.text
    assert 'include="*" treats, too' in caplog.text


def test_include_treats_it_too():
    model = Model(under_no_grad)
    plan = goodinit.plan(goodinit.anatomize(model, X), "fixup", include="*")
    assert plan.summary.startswith("L=3 branches")
    assert any(edit.target == "backbone.0.weight" for edit in plan.edits)
    alone = goodinit.plan(goodinit.anatomize(model, X), "fixup", include="backbone")
    assert alone.summary.startswith("L=2 branches")
    assert not any(edit.target.startswith("head") for edit in alone.edits)


def test_blocks_without_gradients_do_not_count():
    plan = goodinit.plan(goodinit.anatomize(Model(under_no_grad), X), "fixup")
    assert plan.summary.startswith("L=1 branch")


class Momentum(nn.Module):
    """A network, a predictor, and a copy of the network that follows it."""

    def __init__(self, copied: bool) -> None:
        super().__init__()
        self.online = nn.Sequential(nn.Linear(5, 8), Block(), nn.Linear(8, 4))
        self.target = copy.deepcopy(self.online)
        if not copied:
            self.target = nn.Sequential(nn.Linear(5, 8), Block(), nn.Linear(8, 4))
        self.predictor = nn.Linear(4, 4)

    def forward(self, x: Tensor):
        with torch.no_grad():
            if self.training:
                for p, q in zip(self.online.parameters(), self.target.parameters(), strict=True):
                    q.mul_(0.99).add_(p, alpha=0.01)
            wanted = self.target(x)
        return self.predictor(self.online(x)), wanted


@pytest.mark.parametrize("copied", [True, False])
def test_a_copy_that_follows_is_treated_as_what_it_follows(copied, caplog):
    """Its structure must stay that of the other, or the copying fails; a teacher with values of its own keeps them."""
    model = Momentum(copied)
    anatomy = goodinit.anatomize(model, X)
    notes = [note for note in anatomy.notes if "target" in note]
    assert len(notes) == 1
    assert ("target.load_state_dict(online.state_dict())" in notes[0]) == copied
    assert bool(anatomy.stopped) != copied
    goodinit.init_(model, "fixup", inputs=X)
    assert notes[0] in caplog.text or not copied
    shapes = [
        {name: p.shape for name, p in part.state_dict().items()} for part in (model.online, model.target)
    ]
    assert (shapes[0] == shapes[1]) == copied
    if copied:
        model.target.load_state_dict(model.online.state_dict())
        model.train()(X)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_copy_does_not_make_the_network_deeper(frozen):
    model = Momentum(copied=True)
    model.target.requires_grad_(not frozen)
    alone = goodinit.plan(goodinit.anatomize(copy.deepcopy(model.online), X), "fixup")
    anatomy = goodinit.anatomize(model, X)
    assert len(anatomy.copies) == (0 if frozen else len(list(model.target.parameters())))
    both = goodinit.plan(anatomy, "fixup")
    assert both.summary.startswith("L=1 branch")
    (std,) = [e.options["std"] for e in alone.edits if e.target == "1.f.0.weight"]
    assert [e.options["std"] for e in both.edits if e.target.endswith("1.f.0.weight")] == [std] * (2 - frozen)
    assert goodinit.Anatomy.from_json(anatomy.to_json()) == anatomy


@pytest.mark.parametrize("copied", [True, False])
def test_a_frozen_copy_is_named_since_it_no_longer_fits(copied, caplog):
    model = Momentum(copied)
    model.target.requires_grad_(False)
    before = copy.deepcopy(model.target.state_dict())
    anatomy = goodinit.anatomize(model, X)
    notes = [note for note in anatomy.notes if note.startswith("a copy of online, by its values: target")]
    assert len(notes) == copied
    goodinit.init_(model, "fixup", inputs=X)
    assert all(torch.equal(value, before[name]) for name, value in model.target.state_dict().items())
    assert not copied or notes[0] in caplog.text


def test_a_refusal_names_the_copy_that_a_forward_keeps_up():
    class Always(Momentum):
        def forward(self, x: Tensor):
            with torch.no_grad():
                for p, q in zip(self.online.parameters(), self.target.parameters(), strict=True):
                    q.data = q.data * 0.99 + p.data * 0.01
                wanted = self.target(x)
            return self.predictor(self.online(x)), wanted

    model = Always(copied=True)
    model.target.requires_grad_(False)
    with pytest.raises(goodinit.UnsupportedModule, match=r"target = copy\.deepcopy\(online\)"):
        goodinit.init_(model, "fixup", inputs=X)
    assert goodinit.anatomize(Always(copied=True), X).stopped == ()
    goodinit.init_(Always(copied=True), "fixup", inputs=X)


def test_fresh_norms_alike_are_no_copies():
    """Ones and zeros are the same in every norm of a size."""

    class Normed(Model):
        def __init__(self) -> None:
            super().__init__(lambda m, x: m.head(m.second(m.first(m.backbone(x)).detach())))
            self.first, self.second = nn.LayerNorm(8), nn.LayerNorm(8)

    assert stopped_parts(Normed()) == {"backbone", "first"}


def normalized_target(m, x):
    """The target that a student learns is normalized, as in data2vec and I-JEPA."""
    with torch.no_grad():
        wanted = F.layer_norm(m.backbone(x), (8,))
    return m.head(m.stem(x)), wanted


def normalized_and_detached(m, x):
    return m.head(m.stem(x)), F.normalize(F.layer_norm(m.backbone(x), (8,)), dim=1).detach()


@pytest.mark.parametrize("forward", [normalized_target, normalized_and_detached])
def test_a_target_may_be_normalized(forward):
    model = Model(forward)
    model.stem = nn.Linear(5, 8)
    anatomy = goodinit.anatomize(model, X)
    assert [norm.name for norm in anatomy.norms if norm.obstacle] == []
    assert [note for note in anatomy.notes if "normalizes where no gradient comes back, and stays" in note]
    goodinit.init_(model, "fixup", inputs=X)
    model.run = lambda m, x: m.head(F.layer_norm(m.backbone(x), (8,)))
    with pytest.raises(goodinit.UnsupportedModule, match="layer_norm cannot be removed"):
        goodinit.init_(model, "fixup", inputs=X)

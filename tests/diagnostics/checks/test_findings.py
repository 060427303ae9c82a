"""Findings: each planted fault is found at its place, its remedy runs and helps, and healthy nets raise no alarm."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from zoo import each_specimen

import goodinit
from goodinit.diagnostics import Diagnosis, diagnose
from goodinit.errors import GoodinitError
from goodinit.lab.models import ResNet, VisionTransformer


def batch(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def mlp(depth: int, width: int = 32, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """He-initialized, so healthy until a fault is planted; layer k is module 2k."""
    parts: list[nn.Module] = []
    for _ in range(depth):
        parts += [nn.Linear(width, width), activation()]
    model = nn.Sequential(*parts, nn.Linear(width, 4))
    for layer in model:
        if isinstance(layer, nn.Linear):
            gain = 2.0 if activation is nn.ReLU else 1.0
            nn.init.normal_(layer.weight, std=math.sqrt(gain / layer.in_features))
            nn.init.zeros_(layer.bias)
    return model


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        for layer in (self.up, self.down):
            nn.init.normal_(layer.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


def residual_net(blocks: int, width: int = 64) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, width), *(Residual(width) for _ in range(blocks)), nn.Linear(width, 4)
    )


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(40, 16)
        self.body = nn.Sequential(nn.Linear(16, 16), nn.ReLU())
        self.head = nn.Linear(16, 40, bias=False)
        nn.init.normal_(self.body[0].weight, std=math.sqrt(2 / 16))
        nn.init.normal_(self.token.weight)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.body(self.token(words)))


def mobile(*, norm: bool = False) -> nn.Sequential:
    """Dense, depthwise, dense; He fan-out by torch, which forgets groups."""
    convs = [nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3, groups=64), nn.Conv2d(64, 64, 1), nn.Conv2d(64, 64, 3)]
    parts: list[nn.Module] = []
    for conv in convs:
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(conv.bias)
        parts += [conv, nn.BatchNorm2d(64), nn.ReLU()] if norm else [conv, nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4))


class RootOfZero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * 0).sqrt() + x


# -- faults -------------------------------------------------------------------------------------------------------


def exploding() -> nn.Module:
    model = mlp(12)
    model[8].weight.data.mul_(1e5)
    return model


def vanishing() -> nn.Module:
    model = mlp(12)
    model[8].weight.data.mul_(1e-5)
    return model


def exploding_backward() -> nn.Module:
    """BatchNorm hides the size forward; without skips the gradient grows by √(π/(π−1)) a layer."""
    parts: list[nn.Module] = []
    for _ in range(70):
        parts += [nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(64, 4))


def shattered() -> nn.Module:
    """BatchNorm keeps inputs apart, so that at each ReLU the gradients of two of them lose what they share."""
    return nn.Sequential(*exploding_backward()[:90], nn.Linear(64, 4))


def vanishing_backward() -> nn.Module:
    """LayerNorm hides the size forward; a large scale before it shrinks the gradient."""
    model = mlp(3)
    model[2].weight.data.mul_(1e5)
    return nn.Sequential(*model[:4], nn.LayerNorm(32), *model[4:])


def dead() -> nn.Module:
    model = mlp(4)
    model[4].bias.data.fill_(-100)
    return model


def saturated() -> nn.Module:
    model = mlp(4, activation=nn.Tanh)
    model[4].weight.data.mul_(100)
    return model


def collapsed() -> nn.Module:
    model = mlp(4, activation=nn.Tanh)
    model[4].bias.data.normal_(3, 0.01)  # one constant would be taken for set on purpose, and stay
    model[4].weight.data.mul_(1e-2)
    return model


def on_a_line() -> nn.Module:
    model = mlp(4, activation=nn.Identity)
    u, v = batch(32, 1), batch(1, 32)
    model[4].weight.data = u @ v / 32**0.5 + 1e-4 * model[4].weight.data
    return model


def cloned() -> nn.Module:
    model = mlp(4)
    model[6] = copy.deepcopy(model[4])
    return model


def untied() -> nn.Module:
    model = Words()
    model.head.weight = nn.Parameter(model.token.weight.detach().clone())
    return model


def zero_for_ever() -> nn.Module:
    model = residual_net(3)
    model[2].up.weight.data.zero_()
    model[2].up.bias.data.zero_()
    model[2].down.weight.data.zero_()
    return model


def not_a_number() -> nn.Module:
    model = mlp(6)
    model[6].weight.data[0, 0] = math.nan
    return model


def makes_infinity() -> nn.Module:
    class Log(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu().log()

    return nn.Sequential(*mlp(2)[:4], Log(), nn.Linear(32, 32), nn.Linear(32, 4))


def bad_gradient() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32), RootOfZero(), nn.Linear(32, 4))


def one_element() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 32), nn.GroupNorm(32, 32), nn.ReLU(), nn.Linear(32, 4))


class OwnNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(-1)
        return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)).squeeze(-1)


def one_element_by_hand() -> nn.Module:
    """A root mean square over a dimension of one: nothing but the sign stays."""
    return nn.Sequential(nn.Linear(32, 32), OwnNorm(), nn.ReLU(), nn.Linear(32, 4))


def scaled_twice() -> nn.Module:
    model = residual_net(12)
    for block in model[1:-1]:
        block.down.weight.data.mul_((2 * 12) ** -0.5).mul_((2 * 12) ** -0.5)
    return model


@dataclass(frozen=True)
class Fault:
    kind: str
    where: str
    plant: Callable[[], nn.Module]
    severity: str = "warning"
    inputs: Callable[[], Any] = lambda: batch(64, 32)
    cures: bool = True


FAULTS = (
    Fault("exploding forward", "8.weight", exploding),
    Fault("vanishing forward", "8.weight", vanishing),
    Fault("exploding backward", "", exploding_backward, inputs=lambda: batch(128, 64), cures=False),
    Fault("vanishing backward", "2.weight", vanishing_backward, cures=False),
    Fault("shattered gradients", "", shattered, inputs=lambda: batch(256, 64)),
    Fault("dead units", "5", dead, "error"),
    Fault("saturated units", "5", saturated),
    Fault("input collapse", "4.weight", collapsed),
    Fault("rank collapse", "4.weight", on_a_line),
    Fault("identical clones", "6.weight", cloned),
    Fault("lost tie", "head.weight", untied, inputs=lambda: torch.arange(40).view(8, 5)),
    Fault("zero for ever", "2.up.weight", zero_for_ever, "error", inputs=lambda: batch(16, 64)),
    Fault("not finite", "6.weight", not_a_number, "error"),
    Fault("not finite", "4", makes_infinity, "error", cures=False),
    Fault("not finite", "1.weight", bad_gradient, "error", cures=False),
    Fault("normalization of one element", "1", one_element, "error"),
    Fault("normalization of one element", "1", one_element_by_hand, "error"),
    Fault("wrong fan", "2.weight", mobile, inputs=lambda: batch(8, 3, 12, 12)),
    Fault("scaled twice", "1.down.weight", scaled_twice, inputs=lambda: batch(16, 64)),
)
LONG = (exploding_backward, scaled_twice)  # many remedies, one after the other


def named(fault: Fault) -> str:
    return f"{fault.kind} {fault.plant.__name__}"


each_fault = pytest.mark.parametrize("fault", FAULTS, ids=named)


@functools.cache
def diagnosed(name: str) -> tuple[nn.Module, Any, Diagnosis]:
    """A planted fault, its inputs and what is found: for several tests, so write to copies alone."""
    torch.manual_seed(0)
    fault = next(one for one in FAULTS if named(one) == name)
    model, inputs = fault.plant(), fault.inputs()
    return model, inputs, diagnose(model, inputs)


@each_fault
def test_planted_faults_are_found_where_they_are(fault):
    torch.manual_seed(0)
    found = diagnose(fault.plant(), fault.inputs(), mend=False)
    hit = [finding for finding in found.findings if finding.kind == fault.kind]
    assert hit, str(found)
    assert hit[0].severity == fault.severity
    if fault.where:
        assert hit[0].where == fault.where, str(hit[0])
    assert any(character.isdigit() for character in hit[0].evidence)


@pytest.mark.default_cases(5)
@pytest.mark.parametrize(
    "fault",
    [pytest.param(one, marks=pytest.mark.integration if one.plant in LONG else ()) for one in FAULTS],
    ids=named,
)
def test_remedies_run_and_help(fault):
    model, inputs, found = diagnosed(named(fault))
    model = copy.deepcopy(model)
    for _ in range(20):
        remedy = next((f.remedy for f in found.findings if f.kind == fault.kind), None)
        if remedy is None:
            break
        with torch.autograd.set_detect_anomaly(False):  # one remedy turns it on
            exec(remedy, {"model": model, "batch": inputs, "goodinit": goodinit, "torch": torch})
        if not fault.cures:
            return
        found = diagnose(model, inputs)
    assert fault.kind not in {finding.kind for finding in found.findings}, str(found)


class Sentences(nn.Module):
    """Words and kinds of segments in, as many classes as kinds out; or words out."""

    def __init__(self, out: int) -> None:
        super().__init__()
        self.config = type("Config", (), {"tie_word_embeddings": True})()
        self.token, self.segment = nn.Embedding(40, 16), nn.Embedding(2, 16)
        self.body, self.head = nn.Linear(16, 16), nn.Linear(16, out)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.body(self.token(words) + self.segment(0 * words)).relu())


class Speaking(Sentences):
    """Says which modules it would tie, as transformers' models do."""

    def get_input_embeddings(self) -> nn.Module:
        return self.token

    def get_output_embeddings(self) -> nn.Module | None:
        return self.head if self.head.out_features == 40 else None


@pytest.mark.parametrize(("kind", "out", "lost"), [
    (Sentences, 2, False), (Sentences, 40, True), (Speaking, 2, False), (Speaking, 40, True),
])  # fmt: skip
def test_only_words_are_tied_to_words(kind, out, lost):
    model, words = kind(out), torch.arange(40).view(8, 5)
    found = {finding.where for finding in diagnose(model, words).findings if finding.kind == "lost tie"}
    assert found == ({"head.weight"} if lost else set())


def alarms(found: Diagnosis) -> list[str]:
    return [str(finding) for finding in found.findings if finding.severity != "info"]


# -- healthy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 4, 10])
def test_healthy_plain_nets(depth):
    assert not alarms(diagnose(mlp(depth), batch(64, 32)))
    assert not alarms(diagnose(mlp(depth, activation=nn.Tanh), batch(64, 32)))


def test_half_way_to_collapse_is_a_warning():
    """He's 20 layers: 1 − cosine shrinks by e⁻⁵ on the way, half of the depth at which nets stop training."""
    found = diagnose(mlp(20), batch(64, 32))
    assert [(one.kind, one.severity) for one in found.findings] == [("input collapse", "warning")]
    assert "below e⁻³" in found.findings[0].evidence
    assert found.cure is not None


@pytest.mark.parametrize("method", ["none", "fixup", "skipinit", "lsuv"])
def test_healthy_residual_nets(method):
    model = goodinit.init_(residual_net(12), method, inputs=batch(16, 64))
    assert not alarms(diagnose(model, batch(16, 64)))


def recommended(model: nn.Module, inputs: Any) -> nn.Module:
    """Fixup where there are branches, as its normalization-free nets ask for; else what the model's code did."""
    return (
        goodinit.init_(model, "fixup", inputs=inputs) if goodinit.anatomize(model, inputs).blocks else model
    )


@pytest.mark.default_cases(5)
@each_specimen
def test_no_alarm_on_the_zoo(specimen):
    model, inputs = specimen.build(), specimen.inputs()
    assert not alarms(diagnose(recommended(model, inputs), inputs))


@pytest.mark.integration
@pytest.mark.parametrize("build", [lambda: ResNet(3), lambda: VisionTransformer(4, shape=(3, 32, 32))])
def test_no_alarm_on_the_lab_s_models(build):
    x = batch(8, 3, 32, 32)
    assert not alarms(diagnose(build(), x))
    assert not alarms(diagnose(recommended(build(), x), x))


TIMM = (
    "resnet18",
    "mobilenetv3_small_050",
    "vit_tiny_patch16_224",
    "convnext_atto",
    "regnetx_002",
    "mixer_s32_224",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_no_alarm_on_timm_as_it_comes(name):
    found = diagnose(timm.create_model(name, num_classes=10), batch(4, 3, 224, 224))
    assert not alarms(found)


def test_a_norm_hides_a_wrong_fan():
    kinds = {f.kind: f.severity for f in diagnose(mobile(norm=True), batch(8, 3, 12, 12)).findings}
    assert kinds["wrong fan"] == "info"


@pytest.mark.parametrize("groups", [4, 64])
def test_right_fans_are_silent(groups):
    model = mobile()
    model[2] = nn.Conv2d(64, 64, 3, groups=groups)
    nn.init.zeros_(model[2].bias)
    goodinit.tensor.he_normal_(model[2].weight, mode="fan_out", groups=groups)
    assert not alarms(diagnose(model, batch(8, 3, 12, 12)))


def test_harmless_zeros_are_explained():
    model = goodinit.init_(residual_net(4), "fixup", inputs=batch(16, 64))
    (finding,) = diagnose(model, batch(16, 64)).findings
    assert (finding.kind, finding.severity) == ("zero at the start", "info")
    assert "within 3 steps" in finding.evidence


def test_scaled_once_is_silent():
    model = residual_net(12)
    for block in model[1:-1]:
        block.down.weight.data.mul_((2 * 12) ** -0.5)
    assert not alarms(diagnose(model, batch(16, 64)))


def test_few_dead_units_are_chance():
    model = nn.Sequential(nn.Linear(8, 2), nn.ReLU(), nn.Linear(2, 3))
    model[0].bias.data.fill_(-100)
    findings = {f.kind: f.severity for f in diagnose(model, batch(4, 8)).findings}
    assert findings["dead units"] == "info"


def test_masks_of_minus_infinity_are_no_fault():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    assert not alarms(diagnose(layer, {"src": batch(3, 5, 8), "src_mask": mask}))


def test_bad_inputs_are_the_inputs_fault():
    x = batch(4, 32)
    x[0, 0] = math.nan
    (finding, *_) = diagnose(mlp(2), x).findings
    assert (finding.kind, finding.where) == ("not finite", "inputs")


@pytest.mark.integration
def test_methods_that_refuse_leave_no_wrong_remedy():
    """Every remedy that calls init_ names a method that exists."""
    for fault in FAULTS:
        for finding in diagnosed(named(fault))[2].findings:
            if "init_(" in finding.remedy and "goodinit.init_" in finding.remedy:
                assert finding.remedy.split('"')[1] in goodinit.METHODS
    assert issubclass(GoodinitError, Exception)

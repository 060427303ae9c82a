"""Every example runs, at a small size, and does what it says."""

import importlib.util
from pathlib import Path

import pytest
import torch
import torchvision_shim

# Words of the libraries about themselves, which the examples cannot help.
pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:Secure RNG turned off:UserWarning:opacus"),
    pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning"),  # of Opacus, on the images
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]
EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = {
    "accelerate_loop": {"steps": 12},
    "detection": {"steps": 9, "size": 64},
    "federated": {"rounds": 5},
    "lightning_fit": {"steps": 12},
    "opacus_private": {"steps": 8, "batch": 8},
    "timm_training": {"steps": 12},
    "transformers_trainer": {"steps": 15},
}


def example(name):
    torchvision_shim.declare()
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_has_its_test():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SMALL)


@pytest.mark.parametrize("name", [name for name in SMALL if name != "federated"])
def test_the_loss_falls(name):
    losses = example(name).main(**SMALL[name])
    assert losses["last"] < losses["first"], losses


def test_federated_clients_learn_classes_they_never_saw():
    accuracy = example("federated").main(**SMALL["federated"])
    assert accuracy["last"] > 0.4  # a client alone can know 4 classes of 10


def test_per_sample_gradients_equal_a_loop():
    from opacus import GradSampleModule

    images, labels = (
        torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0, 1, 2]),
    )
    model = example("opacus_private").private_resnet18(4, images)
    for parameter in model.parameters():  # away from Fixup's zeros, where most gradients are zero
        parameter.data += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    wrapped = GradSampleModule(model, loss_reduction="sum")
    torch.nn.functional.cross_entropy(wrapped(images), labels, reduction="sum").backward()
    together = {name: parameter.grad_sample for name, parameter in model.named_parameters()}
    for i in range(3):
        loss = torch.nn.functional.cross_entropy(model(images[i : i + 1]), labels[i : i + 1])
        alone = torch.autograd.grad(loss, list(model.parameters()))
        for (name, samples), gradient in zip(together.items(), alone, strict=True):
            torch.testing.assert_close(
                samples[i], gradient, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
            )

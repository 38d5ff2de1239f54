"""A hybrid model through a live gateway: encrypted layers in a clear PyTorch module."""

import copy
import dataclasses
import sys
import types

import numpy as np
import pytest
import torch

from privacy.client import verify_saved
from privacy.client.hybrid import connect
from privacy.client.lora import LoraTrainer
from privacy.client.wire import Call
from privacy.errors import FormatError, NotFoundError
from privacy.hybrid import parse_hybrid
from privacy.publish.hybrid import client_state, publish_layers

LAYERS = ("conv", "mlp.0")


class Net(torch.nn.Module):
    """A convolution and a linear layer that run encrypted, the rest in the clear."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 3, 3, stride=2, padding=1)
        self.mlp = torch.nn.Sequential(
            torch.nn.Linear(12, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)
        )

    def forward(self, x):
        return self.mlp(torch.relu(self.conv(x)).flatten(1))


@pytest.fixture(scope="module")
def images():
    return torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Net().eval()


@pytest.fixture(scope="module")
def spec(net, models_dir):
    made = publish_layers(net, LAYERS, name="net", store=models_dir, trainable=True)
    assert parse_hybrid(made.to_bytes()) == made
    return made


@pytest.fixture(scope="module")
def blind(net, spec, gateway, owner):
    """The data owner's module: it never had the weights of the encrypted layers."""
    module = Net().eval()
    usage = connect(module, spec, owner)
    module.load_state_dict(client_state(net, spec))
    return module, usage


def test_encrypted_layers_answer_as_the_clear_module(net, blind, images):
    module, usage = blind
    with torch.no_grad():
        clear, told = net(images[:6]), module(images[:6])
    assert told.shape == clear.shape
    assert (told - clear).abs().max() < 0.01
    assert torch.equal(told.argmax(1), clear.argmax(1))
    assert (usage["conv"].rows, usage["mlp.0"].rows) == (6 * 4, 6)
    assert usage["conv"].bytes_up > 0
    assert {"receipt-signature", "decrypted-here"} <= usage["conv"].checks


@pytest.mark.parametrize("factor", [0.0, 1e-6, 1e6])
def test_no_activation_is_out_of_range(net, blind, images, factor):
    with torch.no_grad():
        clear, told = net(images[:2] * factor), blind[0](images[:2] * factor)
    assert (told - clear).abs().max() <= 0.01 * clear.abs().max()


def test_activations_that_are_not_finite_are_refused(blind, images):
    with pytest.raises(FormatError, match="not finite"):
        blind[0](images[:1] * np.inf)


def test_the_data_owner_holds_no_weight_of_an_encrypted_layer(net, spec, blind):
    state = client_state(net, spec)
    names = {"conv.bias", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias"}
    assert set(state) == names
    assert {name for name, _ in blind[0].named_parameters()} == names


def test_gradients_pass_through_a_layer_published_for_training(net, blind, images):
    given = torch.relu(net.conv(images[:3])).flatten(1).detach()
    found = []
    for mlp in (net.mlp, blind[0].mlp):
        x = given.clone().requires_grad_()
        loss = mlp(x).square().sum()
        found.append(torch.autograd.grad(loss, [x, mlp[0].bias]))
    for clear, told in zip(*found, strict=True):
        assert (told - clear).abs().max() < 0.02 * clear.abs().max()


def test_a_layer_not_published_for_training_says_so(spec, owner, images):
    module = Net()
    layers = [dataclasses.replace(layer, backward="") for layer in spec.layers]
    connect(module, dataclasses.replace(spec, layers=tuple(layers)), owner)
    with pytest.raises(FormatError, match="trainable=True"):
        module.conv(images[:1].clone().requires_grad_()).sum().backward()


def test_a_receipt_is_kept_for_every_job_of_a_layer(blind, owner, images):
    before = set((owner.home.root / "receipts").glob("*"))
    with torch.no_grad():
        blind[0](images[:1])
    new = set((owner.home.root / "receipts").glob("*")) - before
    assert len(new) == len(LAYERS)
    for folder in new:
        verdict = verify_saved(folder / "receipt.json", home=owner.home)
        assert verdict.exit_code == 7  # genuine; the output was not kept
        assert verdict.receipt.model.startswith("net.")
        with pytest.raises(NotFoundError) as gone:  # nor at the gateway
            owner.run(_result(verdict.receipt.job_id))
        assert gone.value.code == "result-gone"
        assert owner.job(verdict.receipt.job_id)["status"] == "succeeded"


def _result(job_id):
    yield Call("GET", f"/v1/jobs/{job_id}/result")


def test_a_module_that_cannot_be_connected_stays_whole(spec, owner):
    module = Net()
    *others, last = spec.layers
    wrong = dataclasses.replace(last, inputs=last.inputs + 1)
    broken = dataclasses.replace(spec, layers=(*others, wrong))
    with pytest.raises(FormatError, match="another shape"):
        connect(module, broken, owner)
    assert [type(m) for m in module.modules()] == [type(m) for m in Net().modules()]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_layer_answers_as_concrete_mls_own_hybrid_model(
    net, blind, images, monkeypatch
):
    # Concrete-ML imports it for a remote mode that is not used here.
    monkeypatch.setitem(sys.modules, "requests", types.ModuleType("requests"))
    from concrete.ml.torch.hybrid_model import HybridFHEMode, HybridFHEModel

    given = torch.relu(net.conv(images)).flatten(1).detach()
    theirs = HybridFHEModel(copy.deepcopy(net.mlp), "0")
    theirs.compile_model(given, n_bits=8)
    layer = theirs.remote_modules["0"]
    layer.fhe_local_mode = HybridFHEMode("execute")
    with torch.no_grad():
        clear, told = net.mlp[0](given[:3]), blind[0].mlp[0](given[:3])
        off = (layer(given[:3]) - clear).abs().max()
    assert 0 < off < 0.05  # theirs runs encrypted, at 8 bits
    assert (told - clear).abs().max() <= off


def test_adapters_train_around_an_encrypted_layer_as_around_a_clear_one(
    net, spec, owner, images
):
    module = Net().eval()
    connect(module, spec, owner)
    module.load_state_dict(client_state(net, spec))
    batches = [(images[:4], torch.tensor([0, 1, 0, 1]))] * 2
    losses = []
    for one in (copy.deepcopy(net), module):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            trainer = LoraTrainer(one, ["mlp.0"], rank=2)
        losses.append(trainer.fit(batches, torch.nn.functional.cross_entropy))
    clear, told = losses
    assert clear[1] < clear[0]
    assert told == pytest.approx(clear, rel=0.01)
    assert told[0] - told[1] == pytest.approx(clear[0] - clear[1], rel=0.2)

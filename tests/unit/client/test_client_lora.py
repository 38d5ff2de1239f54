"""Adapters around layers of a module; encrypted ones are tried in tests/e2e."""

import copy

import pytest
import torch
from torch.nn.functional import mse_loss

from privacy.client.lora import LoraTrainer
from privacy.errors import FormatError


@pytest.fixture
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2)
        )


@pytest.fixture
def rows():
    return torch.rand(16, 4, generator=torch.Generator().manual_seed(1))


def batches(net, rows, count):
    """What the network says, but for a turn of its first layer's input."""
    with torch.no_grad():
        wanted = net(rows.flip(1))
    return [(rows, wanted)] * count


def test_adapters_change_nothing_until_they_are_trained(net, rows):
    before = net(rows)
    LoraTrainer(net, ["0"])
    assert torch.equal(net(rows), before)


def test_adapters_learn_and_the_layers_stay_as_they_were(net, rows):
    base = copy.deepcopy(net)
    told = []
    losses = LoraTrainer(net, ["0", "2"], rank=2).fit(
        batches(base, rows, 60), mse_loss, progress=told.append
    )
    assert losses[-1] < losses[0] / 4
    assert [event["loss"] for event in told] == losses
    assert told[-1]["done"] == 60
    for at in (0, 2):
        assert torch.equal(net[at].layer.weight, base[at].weight)
        assert torch.equal(net[at].layer.bias, base[at].bias)


def test_saved_adapters_give_the_same_answers_elsewhere(net, rows, tmp_path):
    other = copy.deepcopy(net)
    trainer = LoraTrainer(net, ["0"])
    trainer.fit(batches(other, rows, 5), mse_loss)
    torch.save(trainer.state(), tmp_path / "adapters.pt")
    fresh = LoraTrainer(other, ["0"])
    fresh.load(torch.load(tmp_path / "adapters.pt", weights_only=True))
    assert torch.equal(other(rows), net(rows))


def test_adapters_are_of_their_layers_type(net, rows):
    net, rows = net.double(), rows.double()
    LoraTrainer(net, ["0"]).fit(batches(copy.deepcopy(net), rows, 1), mse_loss)
    assert net(rows).dtype == torch.float64


def test_adapters_of_half_precision_layers_have_room_for_adams_steps(net, rows):
    net[0].half()
    LoraTrainer(net, ["0"])
    assert {w.dtype for w in net[0].trained()} == {torch.float32}


def test_training_can_be_taken_back(net, rows):
    trainer, before = LoraTrainer(net, ["0"]), net(rows)
    kept = trainer.state()
    trainer.fit(batches(copy.deepcopy(net), rows, 3), mse_loss)
    assert not torch.equal(net(rows), before)
    trainer.load(kept)
    assert torch.equal(net(rows), before)


def test_adapters_for_other_layers_are_refused(net):
    first = LoraTrainer(copy.deepcopy(net), ["0"]).state()
    thin = LoraTrainer(copy.deepcopy(net), ["2"], rank=2).state()
    trainer = LoraTrainer(net, ["2"])
    for state in (first, thin, {}):
        with pytest.raises(FormatError, match="other layers"):
            trainer.load(state)


@pytest.mark.parametrize(
    ("layers", "options", "match"),
    [
        (["7"], {}, "no layer '7'"),
        ([], {}, "at least one"),
        (["0", "1"], {}, "1 is a ReLU"),
        (["0"], {"rank": 0}, "rank 0"),
        (["0"], {"rate": float("nan")}, "rate nan"),
    ],
)
def test_what_cannot_be_adapted_is_refused_and_left_whole(net, layers, options, match):
    with pytest.raises(FormatError, match=match):
        LoraTrainer(net, layers, **options)
    assert type(net[0]) is torch.nn.Linear
    assert net[0].weight.requires_grad


def test_a_loss_that_is_not_finite_is_refused_and_loses_no_step(net, rows):
    trainer = LoraTrainer(net, ["0"])
    good = batches(copy.deepcopy(net), rows, 3)
    trainer.fit(good, mse_loss)
    kept = copy.deepcopy(trainer.state())
    with pytest.raises(FormatError, match="step 1 is not finite"):
        trainer.fit([(rows * torch.inf, good[0][1])], mse_loss)
    assert all(torch.equal(trainer.state()[name], kept[name]) for name in kept)


def test_a_gradient_that_is_not_finite_is_refused_and_loses_no_step(net, rows):
    """As a node may answer; the loss is finite all the same."""
    trainer = LoraTrainer(net, ["0"])
    kept = trainer.state()
    net[2].register_full_backward_hook(lambda *_: (torch.full((16, 6), torch.nan),))
    with pytest.raises(FormatError, match="a gradient of step 1 is not finite"):
        trainer.fit(batches(copy.deepcopy(net), rows, 1), mse_loss)
    assert all(torch.equal(trainer.state()[name], kept[name]) for name in kept)

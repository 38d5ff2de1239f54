"""What data owners of a hybrid model get must not hold what was kept from them."""

import pytest
import torch

from privacy.errors import FormatError
from privacy.hybrid import HybridSpec, RemoteLayer
from privacy.publish.hybrid import client_state, publish_layers


class Language(torch.nn.Module):
    """An embedding, and a head that may share its weight, as GPT-2's does."""

    def __init__(self, *, tied: bool):
        super().__init__()
        self.embedding = torch.nn.Embedding(6, 4)
        self.head = torch.nn.Linear(4, 6)
        if tied:
            self.head.weight = self.embedding.weight


HEAD = HybridSpec("language", (RemoteLayer("head", "head/1", 4, 6),))


def test_a_layer_whose_weight_is_anothers_too_is_refused(tmp_path):
    with pytest.raises(FormatError) as caught:
        publish_layers(Language(tied=True), ["head"], name="l", store=tmp_path / "m")
    assert caught.value.code == "shared-weight"
    assert "embedding.weight" in caught.value.message
    assert not (tmp_path / "m").exists()
    with pytest.raises(FormatError):
        client_state(Language(tied=True), HEAD)


def test_layers_that_share_a_weight_may_be_kept_back_together():
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    module[1].weight = module[0].weight
    layers = tuple(RemoteLayer(str(i), "l/1", 4, 4) for i in range(2))
    assert set(client_state(module, HybridSpec("l", layers))) == {"0.bias", "1.bias"}


@pytest.mark.filterwarnings("ignore:torch.nn.utils.weight_norm is deprecated")
def test_what_a_weight_is_made_of_is_kept_back_too():
    module = Language(tied=False)
    torch.nn.utils.weight_norm(module.head)
    assert set(client_state(module, HEAD)) == {"embedding.weight", "head.bias"}

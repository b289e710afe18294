"""Weights of transformers' Mamba and Mamba-2 backbones load unrenamed and mean the same."""

import pytest
import torch
from transformers import Mamba2Config, Mamba2Model, MambaConfig, MambaModel

from vla_ros.models.mamba import MambaStack

WIDTH, LAYERS, STATES = 64, 2, 16


def backbone(mixer: str) -> torch.nn.Module:
    shape = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "state_size": STATES}
    if mixer == "mamba1":
        return MambaModel(MambaConfig(**shape, vocab_size=8))
    heads = {"head_dim": 64, "num_heads": 2, "n_groups": 1, "chunk_size": 16}
    return Mamba2Model(Mamba2Config(**shape, **heads, vocab_size=8))


@pytest.mark.parametrize("mixer", ["mamba1", "mamba2"])
@torch.no_grad()
def test_transformers_weights_give_transformers_outputs(mixer):
    torch.manual_seed(0)
    theirs = backbone(mixer).eval()
    for name, parameter in theirs.named_parameters():
        if name.endswith(("norm.weight", ".D", "bias")):  # not all ones or zeros
            parameter.add_(0.3 * torch.randn_like(parameter))
    ours = MambaStack(WIDTH, LAYERS, STATES, mixer)
    weights = theirs.layers.state_dict(prefix="layers.")
    ours.load_state_dict(weights)

    x = torch.randn(1, 40, WIDTH)
    expected = theirs(inputs_embeds=x).last_hidden_state
    parallel, _ = ours(x)
    torch.testing.assert_close(theirs.norm_f(parallel), expected, atol=1e-5, rtol=0)
    states, outputs = ours.initial_state(1), []
    for t in range(x.shape[1]):
        y, states = ours.step(x[:, t], states)
        outputs.append(y)
    stepped = theirs.norm_f(torch.stack(outputs, dim=1))
    torch.testing.assert_close(stepped, expected, atol=1e-5, rtol=0)

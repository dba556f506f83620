"""Networks for images of about 30 x 30 pixels, as used for published results. ImageNet networks would shrink them to one position."""
import torch
import torch.nn.functional as F
from torch import nn


def resnet18_28(n_classes: int) -> nn.Module:
    """ResNet-18 as in the MedMNIST paper, for images of 28 x 28 pixels (Yang et al., Scientific Data 2023).

    The first layer is a 3 x 3 convolution of stride 1, and no pooling follows it. The initial weights are drawn as PyTorch does by default,
    unlike those of torchvision.
    """
    import torchvision  # imported here because it takes seconds
    model = torchvision.models.resnet18(num_classes=n_classes)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
    return model


class Block(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.more = stride, (channels - in_channels) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        # The shortcut has no weights: it takes every second pixel and pads the new channels with zeros (option A of the paper).
        shortcut = F.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, self.more, self.more))
        return F.relu(out + shortcut)


class ResNet32(nn.Module):
    """(B, 3, H, W) -> logits (B, K). Three stages of five blocks with 16, 32 and 64 channels (He et al., CVPR 2016, section 4.2)."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks, before = [], 16
        for channels in (16, 32, 64):
            for i in range(5):
                blocks.append(Block(before, channels, 2 if i == 0 and channels > 16 else 1))
                before = channels
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(64, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(F.relu(self.bn1(self.conv1(x))))
        return self.fc(x.mean((2, 3)))

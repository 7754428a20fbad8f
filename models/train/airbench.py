"""A dense network that learns CIFAR-10 at a third of ResNet-9's cost: a teacher where hours are short.

After airbench94 (Jordan 2024, arXiv 2404.00498, sections 3.1 to 3.3): 2x2 whitening filters that stay as they are, six
3x3 convolutions that begin as the identity, 118 million multiplications an image.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

FILTERS = 24  # of the first layer: the 12 directions of a 2x2 patch of three colours, each with both signs


def convolution(inputs, outputs):
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight[:inputs].data)
    return conv


class Group(nn.Module):
    """Two convolutions with batch norm and GELU, pooled behind the first convolution."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1, self.bn1 = convolution(inputs, outputs), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = convolution(outputs, outputs), nn.BatchNorm2d(outputs)

    def forward(self, x):
        x = F.gelu(self.bn1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.bn2(self.conv2(x)))


class Airbench(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.whiten = nn.Conv2d(3, FILTERS, 2)
        self.whiten.weight.requires_grad_(False)
        self.groups = nn.Sequential(Group(FILTERS, 64), Group(64, 256), Group(256, 256))
        self.fc = nn.Linear(256, classes, bias=False)
        self.logit_scale = 1 / 9

    @torch.no_grad()
    def look(self, x, least=5e-4):
        """Takes the whitening filters from normalised images x [n][3][32][32]."""
        patches = x.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / torch.sqrt(values + least)).T.reshape(-1, 3, 2, 2)
        self.whiten.weight.copy_(torch.cat([filters, -filters]))
        self.whiten.bias.zero_()

    def forward(self, x):
        x = self.groups(F.gelu(self.whiten(x)))
        return self.fc(F.max_pool2d(x, x.shape[-1]).flatten(1)) * self.logit_scale

"""ResNet-9 for CIFAR-10: 64-128-128/128-256-256-256/256, and how it is evaluated."""
import torch
import torch.nn as nn
import torch.nn.functional as F

from . import norms


class Block(nn.Module):
    """3x3 convolution, batch norm, ReLU and, if `pool`, a 2x2 max-pool."""

    def __init__(self, inputs, outputs, pool=False):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.pool = pool

    def forward(self, x):
        x = self.conv(x)
        if self.training and norms.fits(self.bn, x, self.pool):
            return norms.norm_relu(self.bn, x, self.pool)
        x = F.relu(self.bn(x), inplace=True)
        return F.max_pool2d(x, 2) if self.pool else x


class ResNet9(nn.Module):
    TITLE = "ResNet-9 for CIFAR-10"
    SIGN = "res1a.bn.weight"  # a weight that no other network has
    FIRST = "conv1"           # stays dense
    INNER = ("conv2", "res1a", "res1b", "conv3", "conv4", "res2a", "res2b")  # replaced by Halut, in order

    def __init__(self, width=64, top=256, classes=10):
        super().__init__()
        w = width
        self.conv1 = Block(3, w)
        self.conv2 = Block(w, 2 * w, pool=True)
        self.res1a, self.res1b = Block(2 * w, 2 * w), Block(2 * w, 2 * w)
        self.conv3 = Block(2 * w, 4 * w, pool=True)
        self.conv4 = Block(4 * w, top, pool=True)
        self.res2a, self.res2b = Block(top, top), Block(top, top)
        self.fc = nn.Linear(top, classes)
        self.logit_scale = 0.125

    def forward(self, x):
        x = self.conv2(self.conv1(x))
        x = x + self.res1b(self.res1a(x))
        x = self.conv4(self.conv3(x))
        x = x + self.res2b(self.res2a(x))
        return self.fc(F.adaptive_max_pool2d(x, 1).flatten(1)) * self.logit_scale

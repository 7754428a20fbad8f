"""Two more networks of the original's paper: ResNet-20 and the ResNet-8 of MLPerf Tiny, for CIFAR-10.

They are plain PyTorch, as a user would bring them: nothing in them knows of Halut. `inner` names what convert
replaces: every 3x3 convolution but the first. The 1x1 shortcuts stay dense, since one column is no product to
save, but convert takes them as well.
"""
import torch.nn as nn
import torch.nn.functional as F


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs, outputs, stride, bias, norm_shortcut):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=bias)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=bias)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut.append(nn.Conv2d(inputs, outputs, 1, stride, bias=bias))
            if norm_shortcut:
                self.shortcut.append(nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, blocks, classes=10, bias=False, norm_shortcut=True, width=16):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=bias)
        self.bn1 = nn.BatchNorm2d(width)
        stages, inputs = [], width
        for stage in range(3):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(Residual(inputs, width << stage, stride, bias, norm_shortcut))
                inputs = width << stage
        self.blocks = nn.Sequential(*stages)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        x = self.blocks(F.relu(self.bn1(self.conv1(x))))
        x = F.adaptive_avg_pool2d(x, 1)
        return self.fc(x.view(x.size(0), -1))


def resnet20(classes=10):
    """He et al. 2015, 41 million multiplications an image; shortcuts are projections (option B)."""
    return ResNet(3, classes)


def resnet8(classes=10):
    """The image classification model of MLPerf Tiny, 12.5 million multiplications an image: one block a stage,
    biases before batch norm, shortcuts without one."""
    return ResNet(1, classes, bias=True, norm_shortcut=False)


NETS = {"resnet20": resnet20, "resnet8": resnet8}


def inner(model):
    """Names of the 3x3 convolutions but the first, in order of execution."""
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    return names[1:]

"""Networks that learn CIFAR-10 at a third to a half of ResNet-9's cost: a dense one to teach, and one that can be
converted.

After airbench94 (Jordan 2024, arXiv 2404.00498, sections 3.1 to 3.3): 2x2 whitening filters that stay as they are, six
3x3 convolutions that begin as the identity.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

from .net import Block

FILTERS = 24  # of the first layer: the 12 directions of a 2x2 patch of three colours, each with both signs
WIDTHS = (64, 256, 256)


class Whitened(nn.Module):
    """What both have: the first layer, the classifier, and how they begin."""

    def __init__(self, outputs, classes, first):
        super().__init__()
        self.whiten = first
        self.whiten.weight.requires_grad_(False)
        self.fc = nn.Linear(outputs, classes, bias=False)
        self.logit_scale = 1 / 9

    def start_as_identity(self):
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d) and conv is not self.whiten:
                nn.init.dirac_(conv.weight[:conv.in_channels].data)

    @torch.no_grad()
    def look(self, x, least=5e-4):
        """Takes the whitening filters from normalised images x [n][3][32][32]."""
        patches = x.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / torch.sqrt(values + least)).T.reshape(-1, 3, 2, 2)
        self.filter_with(torch.cat([filters, -filters]), torch.zeros(FILTERS))

    @torch.no_grad()
    def filter_with(self, filters, bias):
        """filters [FILTERS][3][2][2]: what a larger window has besides is zero."""
        self.whiten.weight.zero_()
        self.whiten.weight[:, :, -2:, -2:] = filters
        self.whiten.bias.copy_(bias)

    def classify(self, x):
        return self.fc(F.adaptive_max_pool2d(x, 1).flatten(1)) * self.logit_scale


class Group(nn.Module):
    """Two convolutions with batch norm and GELU, pooled behind the first convolution."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x):
        x = F.gelu(self.bn1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.bn2(self.conv2(x)))


class Airbench(Whitened):
    """118 million multiplications an image."""
    SIGN = "groups.0.bn1.weight"  # a weight that no other network has

    def __init__(self, classes=10):
        super().__init__(WIDTHS[-1], classes, nn.Conv2d(3, FILTERS, 2))
        sizes = (FILTERS, *WIDTHS)
        self.groups = nn.Sequential(*(Group(*pair) for pair in zip(sizes, WIDTHS)))
        self.start_as_identity()

    def forward(self, x):
        return self.classify(self.groups(F.gelu(self.whiten(x))))


class AirbenchReLU(Whitened):
    """The same with ReLU, which has an integer form and leaves maps that can be padded, and pooled behind it. The first
    layer is padded too, so that maps are 32, 16, 8 and 4 wide: each pool takes all of one. 147 million multiplications
    an image."""
    TITLE = "Airbench with ReLU for CIFAR-10"
    SIGN = "conv6.bn.weight"
    FIRST = "whiten"
    INNER = tuple(f"conv{n}" for n in range(1, 7))

    def __init__(self, classes=10, widths=WIDTHS):
        super().__init__(widths[-1], classes, nn.Conv2d(3, FILTERS, 3, padding=1))
        sizes = [FILTERS, *(width for width in widths for _ in range(2))]
        for number, name in enumerate(self.INNER):
            setattr(self, name, Block(*sizes[number:number + 2], pool=number % 2 == 0))
        self.start_as_identity()

    def forward(self, x):
        x = F.relu(self.whiten(x))
        for name in self.INNER:
            x = getattr(self, name)(x)
        return self.classify(x)

    @classmethod
    @torch.no_grad()
    def of(cls, other, images):
        """Begins with the weights of an Airbench. Batch norm moves from behind the pools to before them, where the
        statistics are others, those of `images`, normalised: gain and offset make up for that. So where no gain is
        negative it is the same function but for GELU and the row and column that padding adds."""
        model = cls(other.fc.out_features).eval()
        model.filter_with(other.whiten.weight, other.whiten.bias)
        model.fc.load_state_dict(other.fc.state_dict())
        for number, name in enumerate(cls.INNER):
            group, place = other.groups[number // 2], 1 + number % 2
            block, norm = getattr(model, name), getattr(group, f"bn{place}")
            block.conv.load_state_dict(getattr(group, f"conv{place}").state_dict())
            block.bn.load_state_dict(norm.state_dict())
            if block.pool:
                hook = block.conv.register_forward_hook(lambda _, args, y, norm=block.bn: take_statistics(norm, y))
                model(images)
                hook.remove()
                keep_function(block.bn, norm)
        return model


def take_statistics(norm, y):
    norm.running_mean.copy_(y.mean((0, 2, 3)))
    norm.running_var.copy_(y.var((0, 2, 3)))


def keep_function(norm, other):
    """Gives a batch norm with statistics of its own the gain and offset that `other` has with those of its own."""
    gain = other.weight / torch.sqrt(other.running_var + other.eps)
    norm.weight.copy_(gain * torch.sqrt(norm.running_var + norm.eps))
    norm.bias.copy_(other.bias + gain * (norm.running_mean - other.running_mean))

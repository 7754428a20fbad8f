"""HalutConv2d and HalutLinear: drop-in layers that look products up instead of multiplying.

Forward: each codebook (a range of the im2col columns: channel, ky, kx) is hashed by a 4-level tree to one of 16
prototypes, and the table rows of the prototypes are summed. Backward: exact for the table; the input and the
thresholds see the decisions of the taken path, through the leading directions of the table (`refresh`). A `linear`
layer's input sees the convolution that fits the table best on recent patches instead.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from . import kernels, tensors

PASSES = {"cpu": kernels}  # who computes on a device; tensors.py where none is named
BLOCK = 64      # outputs of a table block in kernels.c
RANK = 4        # directions of the table that the gradients of decisions look along, as in kernels.c
SHARE = 4       # one image in so many measures the threshold gradient
# Half-widths of the windows around a threshold, in standard deviations of what is compared.
INPUT_WINDOW = 1.0      # as what is compared feels the decision
THRESHOLD_WINDOW = 0.3  # as the threshold does: it gathers from all positions and can do with few of each
NEVER = torch.finfo(torch.float32).max  # a threshold that sends everything left


def pair(value):
    """A size in both directions, given as one number or two."""
    return [int(value), int(value)] if isinstance(value, int) else [int(v) for v in value]


def padded(outputs):
    return (outputs + BLOCK - 1) // BLOCK * BLOCK


def halut_layers(model):
    return [m for m in model.modules() if isinstance(m, HalutConv2d)]


def passes(x):
    return PASSES.get(x.device.type, tensors)


class Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, table, threshold, layer):
        last = not x.is_contiguous()
        x, table = x.float().contiguous(), table.contiguous()  # `model.to(memory_format=...)` permutes tables as well
        codes = passes(x).encode(layer, x, threshold)
        y = passes(x).accumulate(codes, table)
        ctx.save_for_backward(x, table, threshold, codes)
        ctx.layer = layer
        y = y.view(len(x), *layer.out_size(x), -1)[..., :layer.out_channels].permute(0, 3, 1, 2)
        return y if last else y.contiguous()  # in the memory format of x, as a convolution does it

    @staticmethod
    def backward(ctx, grad_y):
        x, table, threshold, codes = ctx.saved_tensors
        layer = ctx.layer
        grad = grad_y.permute(0, 2, 3, 1).reshape(codes.shape[1], -1).float()
        if grad.shape[1] != padded(layer.out_channels):
            grad = F.pad(grad, (0, padded(layer.out_channels) - grad.shape[1]))
        grad = grad.contiguous()
        grad_x = grad_table = grad_threshold = None
        if ctx.needs_input_grad[0]:
            grad_x = layer.input_gradient(x, grad, grad_y, threshold).contiguous(memory_format=torch.channels_last)
        if ctx.needs_input_grad[1]:
            grad_table = passes(x).table_gradient(codes, grad, table, layer.fast)
        if ctx.needs_input_grad[2]:
            grad_threshold = layer.threshold_gradient(x, grad, threshold)
        return grad_x, grad_table, grad_threshold, None


class HalutConv2d(nn.Module):
    """Takes nn.Conv2d's place, stride and padding alike in both directions. codebooks: how many ranges the im2col
    columns are cut into; default one for each input channel; or `width`: columns a range has at most. prototypes: 2, 4,
    8 or 16 a codebook; with fewer than 16 the deeper levels of a tree send everything left. Tables start at zero: see
    convert.learn."""

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, *, groups=1, bias=True,
                 codebooks=None, width=None, prototypes=16):
        super().__init__()
        kernel = tuple(pair(kernel_size))
        for value in (stride, padding):
            if len(set(pair(value))) > 1:
                raise ValueError(f"stride {stride}, padding {padding}: must be alike in both directions")
        for name, value, least in (("in_channels", in_channels, 1), ("out_channels", out_channels, 1),
                                   ("kernel_size", min(kernel), 1), ("stride", min(pair(stride)), 1),
                                   ("padding", min(pair(padding)), 0), ("groups", groups, 1)):
            if value < least:
                raise ValueError(f"{name} {value}: must be at least {least}")
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"groups {groups}: must divide {in_channels} in_channels and {out_channels} out_channels")
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel
        self.stride, self.padding = pair(stride)[0], pair(padding)[0]
        self.groups = groups
        self.columns = in_channels * kernel[0] * kernel[1]
        if codebooks is not None and width is not None:
            raise ValueError(f"{codebooks} codebooks and a width of {width}: one decides the other")
        if width is not None:
            if not 1 <= width <= self.columns:
                raise ValueError(f"codebooks {width} columns wide of {self.columns} columns")
            codebooks = math.ceil(self.columns / width)
        self.codebooks = in_channels if codebooks is None else codebooks
        if not 1 <= self.codebooks <= self.columns:
            raise ValueError(f"{self.codebooks} codebooks for {self.columns} columns")
        if prototypes not in (2, 4, 8, 16):
            raise ValueError(f"{prototypes} prototypes: 2, 4, 8 or 16 are possible")
        self.prototypes = prototypes
        blocks = padded(out_channels) // BLOCK
        self.table = nn.Parameter(torch.zeros(blocks, self.codebooks, 16, BLOCK))
        self.threshold = nn.Parameter(torch.zeros(self.codebooks, 16))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.register_buffer("split", torch.zeros(self.codebooks, 4, dtype=torch.int32))
        self.register_buffer("spread", torch.ones(self.codebooks))
        self.register_buffer("surrogate", torch.zeros(out_channels, in_channels // groups, *kernel))
        self.register_buffer("basis", torch.zeros(self.codebooks, RANK, 16))
        self.register_buffer("direction", torch.zeros(self.codebooks * RANK, padded(out_channels)))
        self.fast = False  # bfloat16 where only a gradient's direction matters
        self.linear = False  # the input sees the surrogate
        self.recent = None
        self.close_levels()

    def out_size(self, x):
        """Height and width of the output for an input x."""
        return [(size + 2 * self.padding - k) // self.stride + 1 for size, k in zip(x.shape[2:], self.kernel_size)]

    @torch.no_grad()
    def close_levels(self):
        """Below the levels that the prototypes need, every decision goes left: node n is at level log2(n)."""
        self.threshold[:, self.prototypes:] = NEVER

    def ranges(self):
        """First column of each codebook, and the end: the first (columns % codebooks) are one wider."""
        width, wider = divmod(self.columns, self.codebooks)
        return [c * width + min(c, wider) for c in range(self.codebooks + 1)]

    def rows(self):
        """The table as [codebooks][16][outputs]. With fewer prototypes, leaves that no code names are copies of those
        that they would have been part of."""
        rows = self.table.permute(1, 2, 0, 3).reshape(self.codebooks, 16, -1)[..., :self.out_channels]
        each = 16 // self.prototypes
        return rows if each == 1 else rows[:, ::each].repeat_interleave(each, 1, output_size=16)

    @torch.no_grad()
    def set_rows(self, rows):
        full = F.pad(rows, (0, padded(self.out_channels) - self.out_channels))
        self.table.copy_(full.view(self.codebooks, 16, -1, BLOCK).permute(2, 0, 1, 3))

    def check(self, x):
        """The kernels trust the shape of an input: they would read past the end of one that does not fit."""
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"input {list(x.shape)}: must be [n][{self.in_channels}][height][width]")
        if min(size + 2 * self.padding - k for size, k in zip(x.shape[2:], self.kernel_size)) < 0:
            raise ValueError(f"input {list(x.shape)}: smaller than the kernel {list(self.kernel_size)}")

    def forward(self, x):
        self.check(x)
        if self.training:
            self.recent = x.detach()[:16]
        y = Lookup.apply(x, self.table, self.threshold, self)
        return y if self.bias is None else y + self.bias.view(1, -1, 1, 1)

    def codes(self, x):
        self.check(x)
        x = x.float().contiguous()
        return passes(x).encode(self, x, self.threshold)

    def along(self, grad, x):
        """The output's gradient [positions][outputs] along the table's directions: [positions][codebooks * rank]."""
        return passes(x).along(grad, self.direction, self.fast)

    def input_gradient(self, x, grad, grad_y, threshold):
        if self.linear:
            return self.linear_gradient(grad_y, x)
        return passes(x).input_gradient(self, x, threshold, INPUT_WINDOW * self.spread, self.along(grad, x))

    def linear_gradient(self, grad_y, x):
        """The surrogate convolution's gradient, as a convolution itself where that is possible: faster."""
        kind = torch.bfloat16 if self.fast else torch.float32
        border = self.kernel_size[0] - 1 - self.padding
        if self.stride == 1 and self.groups == 1 and border >= 0 and self.kernel_size[0] == self.kernel_size[1]:
            grad = grad_y.to(kind).contiguous(memory_format=torch.channels_last)
            back = self.surrogate.to(kind).flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)
            return F.conv2d(grad, back, padding=border).float()
        rest = [size - ((out - 1) * self.stride - 2 * self.padding + k) for size, out, k in
                zip(x.shape[2:], self.out_size(x), self.kernel_size)]
        # float32 always: torch 1.13 refuses a strided transposed convolution in bfloat16, channels last
        return F.conv_transpose2d(grad_y.float(), self.surrogate, stride=self.stride, padding=self.padding,
                                  output_padding=rest, groups=self.groups)

    def threshold_gradient(self, x, grad, threshold):
        images = max(1, len(x) // SHARE)
        few = self.along(grad[:images * len(grad) // len(x)], x)
        window = THRESHOLD_WINDOW * self.spread
        return passes(x).threshold_gradient(self, x[:images], threshold, window, few) * (len(x) / images)

    @torch.no_grad()
    def refresh(self, rows_max=8192):
        """Takes the directions of the table as it is now, and how the last training inputs spread."""
        x = self.recent.float()
        x = x[:max(1, rows_max // math.prod(self.out_size(x)))].contiguous()
        patches = F.unfold(x, self.kernel_size, padding=self.padding, stride=self.stride)
        patches = patches.transpose(0, 1).reshape(self.columns, -1)
        rows = self.rows()
        if self.linear:
            self.fit_surrogate(x, patches)
        centred = rows - rows.mean(1, keepdim=True)
        vectors = torch.linalg.eigh(centred @ centred.transpose(1, 2))[1][..., -RANK:]
        self.basis.copy_(vectors.transpose(1, 2))  # rows ~ vectors @ (vectors^T centred)
        along = vectors.transpose(1, 2) @ centred  # [codebooks][rank][outputs]
        self.direction[:, :self.out_channels].copy_(along.reshape(-1, self.out_channels))
        used = self.split[:, :self.prototypes.bit_length() - 1]
        values = patches[used.long()]  # [codebooks][levels][positions]
        self.spread.copy_(values.std((1, 2)).clamp_min(1e-2))

    def fit_surrogate(self, x, patches):
        every = torch.arange(16, dtype=torch.uint8, device=x.device)
        hot = (self.codes(x)[..., None] == every).float()  # [codebooks][positions][16]
        rows, edges, wider = self.rows(), self.ranges(), self.columns % self.codebooks
        fit = torch.cat([self._fit(patches[edges[a]:edges[b]].view(b - a, -1, patches.shape[1]), hot[a:b], rows[a:b])
                         .reshape(-1, self.out_channels) for a, b in ((0, wider), (wider, self.codebooks)) if a < b])
        weight = fit.reshape(self.in_channels, *self.kernel_size, self.out_channels).permute(3, 0, 1, 2)
        self.surrogate.copy_(self._grouped(weight))

    def _grouped(self, weight):
        if self.groups == 1:
            return weight
        size, each = self.in_channels // self.groups, self.out_channels // self.groups
        return torch.cat([weight[i * each:(i + 1) * each, i * size:(i + 1) * size] for i in range(self.groups)])

    @staticmethod
    def _fit(patches, hot, rows):
        """Ridge regression of the looked-up rows on the patches: [codebooks][width][outputs]."""
        centred = patches - patches.mean(2, keepdim=True)
        square = centred @ centred.transpose(1, 2)
        ridge = 0.05 * square.diagonal(dim1=1, dim2=2).mean(1).view(-1, 1, 1) + 1e-6
        square = square + ridge * torch.eye(square.shape[1], device=square.device)
        return torch.linalg.solve(square, (centred @ hot) @ rows).reshape(-1, *rows.shape[2:]).reshape(
            patches.shape[0], patches.shape[1], -1)


class HalutLinear(HalutConv2d):
    """Takes nn.Linear's place: a 1x1 convolution of one position. codebooks default: a quarter of the inputs."""

    def __init__(self, in_features, out_features, bias=True, codebooks=None, width=None, prototypes=16):
        if codebooks is None and width is None:
            codebooks = max(1, in_features // 4)
        super().__init__(in_features, out_features, 1, bias=bias, codebooks=codebooks, width=width,
                         prototypes=prototypes)

    def forward(self, x):
        if x.dim() < 1 or x.shape[-1] != self.in_channels:
            raise ValueError(f"input {list(x.shape)}: the last dimension must be {self.in_channels}")
        return super().forward(x.reshape(-1, self.in_channels, 1, 1)).reshape(*x.shape[:-1], self.out_channels)

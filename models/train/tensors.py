"""The passes of a Halut layer in PyTorch alone, for a GPU: the functions of kernels.py and the same definitions, so
that a checkpoint may move between the two. Sums are in float32 but for the table's gradient of a `fast` layer."""
import torch
import torch.nn.functional as F

LEVELS, PROTOTYPES = 4, 16
HOT_MAX = 1 << 28  # values of a one-hot matrix at a time


def values(layer, x):
    """What each codebook's levels compare: [codebooks][4][positions]; a padded value is 0."""
    pad, (kernel_h, kernel_w) = layer.padding, layer.kernel_size
    windows = F.pad(x, [pad] * 4).unfold(2, kernel_h, layer.stride).unfold(3, kernel_w, layer.stride)
    split = layer.split.long()
    found = windows[:, split // (kernel_h * kernel_w), :, :, split // kernel_w % kernel_h, split % kernel_w]
    return found.reshape(layer.codebooks, LEVELS, -1)


def decide(threshold, level, place, value):
    """place: the node less the first of its level, [codebooks][positions]; returns it one level down."""
    first = 1 << level
    return 2 * place + (value > threshold[:, first:2 * first].gather(1, place)).long()


def encode(layer, x, threshold):
    value, threshold = values(layer, x), threshold.detach()
    place = torch.zeros_like(value[:, 0], dtype=torch.long)
    for level in range(LEVELS):
        place = decide(threshold, level, place, value[:, level])
    return place.to(torch.uint8)


def accumulate(codes, table):
    codebooks = codes.shape[0]
    rows = table.permute(1, 2, 0, 3).reshape(codebooks * PROTOTYPES, -1)
    first = PROTOTYPES * torch.arange(codebooks, device=codes.device).view(-1, 1)
    return F.embedding_bag((codes.long() + first).t().contiguous(), rows, mode="sum")


def table_gradient(codes, grad, table, fast):
    """The one-hot matrix, transposed, times the gradient."""
    codebooks, positions = codes.shape
    kind = torch.bfloat16 if fast else torch.float32
    out = torch.zeros(codebooks * PROTOTYPES, grad.shape[1], device=grad.device)
    every = torch.arange(PROTOTYPES, dtype=torch.uint8, device=codes.device).view(1, -1, 1)
    size = max(1, HOT_MAX // len(out))
    for first in range(0, positions, size):
        hot = (codes[:, None, first:first + size] == every).to(kind).reshape(len(out), -1)
        out += (hot @ grad[first:first + size].to(kind)).float()
    blocks, _, _, block = table.shape
    return out.view(codebooks, PROTOTYPES, blocks, block).permute(2, 0, 1, 3).contiguous()


def along(grad, direction, fast):
    kind = torch.bfloat16 if fast else torch.float32
    return (grad.to(kind) @ direction.to(kind).t()).float()


def pushes(layer, x, threshold, window, along):
    """Per level, of each codebook's decision at each position: its node, and how the loss would change with its
    threshold, the negative of how it would with the value that is compared."""
    threshold = threshold.detach()
    value = values(layer, x)
    along = along.t().reshape(layer.codebooks, -1, value.shape[2])
    place = [torch.zeros_like(value[:, 0], dtype=torch.long)]
    for level in range(LEVELS):
        place.append(decide(threshold, level, place[level], value[:, level]))

    def entry(leaf):  # the rows of `leaf` along the directions, [codebooks][rank][positions]
        return layer.basis.gather(2, leaf[:, None].expand(-1, along.shape[1], -1))
    mine = entry(place[LEVELS])
    for level in range(LEVELS):
        other = place[level + 1] ^ 1
        for deeper in range(level + 1, LEVELS):
            other = decide(threshold, deeper, other, value[:, deeper])
        change = ((mine - entry(other)) * along).sum(1)
        node = (1 << level) + place[level]
        off = (value[:, level] - threshold.gather(1, node)) / window[:, None]
        push = change * (1 - off.abs()).clamp_min(0) * (1 - 2 * (place[level + 1] & 1))
        yield node, push / window[:, None]


def threshold_gradient(layer, x, threshold, window, along):
    out = torch.zeros_like(threshold)
    for node, push in pushes(layer, x, threshold, window, along):
        out.scatter_add_(1, node, push)
    return out


def input_gradient(layer, x, threshold, window, along):
    columns = torch.zeros(layer.columns, len(along), device=x.device)
    for level, (_, push) in enumerate(pushes(layer, x, threshold, window, along)):
        columns.index_add_(0, layer.split[:, level].long(), -push)
    columns = columns.view(layer.columns, len(x), -1).transpose(0, 1)
    return F.fold(columns, x.shape[2:], layer.kernel_size, padding=layer.padding, stride=layer.stride)

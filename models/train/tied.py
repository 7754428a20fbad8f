"""Tables tied to the weights of the dense layer that they stand for: table = projection @ weight.

A table of free entries has many times the numbers of the layer that it replaces, and learns the noise of its training
images. Of the codes one can say which patch they stand for, though: row k of a codebook's part of `projection` is what
prototype k adds to the patch, by ridge regression over all codebooks together. What the layer then does is the dense
layer on rebuilt patches; its weights learn as those of the dense network do, and the patches' rounding is in the loop.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils import parametrize

from .layers import BLOCK, HalutLinear, padded, passes

RIDGE = 1.0  # in rows: what is added to the counts' diagonal


class Tied(nn.Module):
    """The parametrisation of a layer's table by a dense layer's weights [outputs][channels][kernel][kernel]."""

    def __init__(self, projection):
        super().__init__()
        self.register_buffer("projection", projection)  # [codebooks * 16][columns]

    def __deepcopy__(self, memo):
        return Tied(self.projection)  # which is large and never changes: copies of a network share it

    def forward(self, weight):
        rows = self.projection @ weight.flatten(1).t().to(self.projection.dtype)
        rows = F.pad(rows.float(), (0, padded(len(weight)) - len(weight)))
        return rows.view(len(rows) // 16, 16, -1, BLOCK).permute(2, 0, 1, 3).contiguous()


def tie(layer, weight, projection):
    """From now on the layer's parameter is `weight`: its table follows it, its input's gradient goes through it."""
    if layer.groups != 1 or layer.prototypes != 16:
        raise ValueError("only a layer without groups, of 16 prototypes, can be tied")
    layer.table = nn.Parameter(weight.detach().clone())
    parametrize.register_parametrization(layer, "table", Tied(projection.bfloat16()), unsafe=True)


def is_tied(model):
    return any(parametrize.is_parametrized(layer, "table") for layer in model.modules())


def untie(model):
    """Makes the tables of all tied layers their own again, in place."""
    for layer in model.modules():
        if parametrize.is_parametrized(layer, "table"):
            tying = layer.parametrizations.table[0]
            tying.projection = tying.projection.float()  # for the last time without rounding
            parametrize.remove_parametrizations(layer, "table")
    return model


def flat(layer):
    """The same trees on rows of the im2col matrix instead of maps."""
    same = HalutLinear(layer.columns, layer.out_channels, False, layer.codebooks).to(layer.split.device)
    same.split.copy_(layer.split)
    same.threshold.data.copy_(layer.threshold.data)
    return same


@torch.no_grad()
def projection(layer, rows, target, ridge=RIDGE):
    """float32 [codebooks * 16][columns] for the codes of im2col `rows`: summed over the codebooks they rebuild
    `target`, rows of as many columns. The regression shrinks towards the mean patch of each prototype."""
    compute, entries = passes(rows), 16 * layer.codebooks
    codes = flat(layer).codes(rows[..., None, None])
    counts = compute.pair_counts(codes)
    target = F.pad(target, (0, padded(layer.columns) - layer.columns))
    shape = torch.empty(target.shape[1] // BLOCK, layer.codebooks, 16, BLOCK)
    sums = compute.table_gradient(codes, target, shape, False)
    sums = sums.permute(1, 2, 0, 3).reshape(entries, -1)[:, :layer.columns]
    own, edges = torch.zeros_like(sums), layer.ranges()
    for c in range(layer.codebooks):
        mine, columns = slice(16 * c, 16 * c + 16), slice(edges[c], edges[c + 1])
        own[mine, columns] = sums[mine, columns] / counts.diagonal()[mine, None].clamp_min(1)
    rest = (sums - counts @ own).double()
    counts.diagonal().add_(ridge)
    return own + torch.cholesky_solve(rest, torch.linalg.cholesky(counts.double())).float()

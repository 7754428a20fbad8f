"""Batch norm, ReLU and 2x2 max-pool as one step of training on a CPU: binds norms.c."""
import ctypes

import torch

from .native import library, pointer

LANES = 16  # channels are a multiple of it, as in norms.c


class Map(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in "images height width channels pool".split()]


def fits(norm, x, pool):
    """Whether norm_relu can take these: a training step on a CPU, channels last."""
    return (norm.training and norm.affine and norm.track_running_stats and norm.momentum is not None and
            x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0 and x.shape[1] % LANES == 0 and
            x.is_contiguous(memory_format=torch.channels_last) and
            not (pool and (x.shape[2] % 2 or x.shape[3] % 2)))


def norm_relu(norm, x, pool):
    """What `norm`, ReLU and, if `pool`, a 2x2 max-pool make of x; the norm's running statistics are updated."""
    return NormRelu.apply(x, norm.weight, norm.bias, norm, pool)


def sums(channels):
    return torch.zeros(2, channels, dtype=torch.float64)


class NormRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, norm, pool):
        images, channels, height, width = x.shape
        rows = images * height * width
        m = Map(images, height, width, channels, 2 if pool else 1)
        total = sums(channels)
        library("norms").norm_statistics(pointer(x), ctypes.c_size_t(rows), channels, pointer(total))
        if not torch.isfinite(total).all():
            raise FloatingPointError("training has diverged: a batch norm's input is not finite")
        shift = total[0] / rows
        mean, variance = x[0, :, 0, 0] + shift, (total[1] / rows - shift ** 2).clamp_min(0)
        with torch.no_grad():
            norm.running_mean.lerp_(mean.float(), norm.momentum)
            norm.running_var.lerp_((variance * rows / max(1, rows - 1)).float(), norm.momentum)
            norm.num_batches_tracked += 1
        inverse = (variance + norm.eps).rsqrt()
        gain = (weight.detach() * inverse).float()
        offset = (bias.detach() - weight.detach() * inverse * mean).float()
        y = torch.empty(images, channels, height // m.pool, width // m.pool,
                        memory_format=torch.channels_last)
        library("norms").norm_forward(ctypes.byref(m), pointer(x), pointer(gain), pointer(offset), pointer(y))
        ctx.save_for_backward(x, gain, offset, mean, shift, inverse)
        ctx.map = m
        return y

    @staticmethod
    def backward(ctx, grad_y):
        x, gain, offset, mean, shift, inverse = ctx.saved_tensors
        grad_y = grad_y.float().contiguous(memory_format=torch.channels_last)
        fixed = [ctypes.byref(ctx.map), pointer(x), pointer(gain), pointer(offset), pointer(grad_y)]
        total = sums(x.shape[1])
        library("norms").norm_gradient_sums(*fixed, pointer(total))
        grad_bias, grad_weight = total[0], (total[1] - shift * total[0]) * inverse
        rows = x.numel() // x.shape[1]
        # gain * (grad - mean of grad - normalised x * mean of grad * normalised x), sorted by x
        slope = -gain * grad_weight * inverse / rows
        level = -gain * grad_bias / rows - slope * mean
        slope, level = slope.float(), level.float()
        grad_x = torch.empty_like(x)
        library("norms").norm_backward(*fixed, pointer(slope), pointer(level), pointer(grad_x))
        return grad_x, grad_weight.float(), grad_bias.float(), None, None

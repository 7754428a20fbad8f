"""The passes of a Halut layer on a CPU: binds kernels.c. The same functions as tensors.py, which is for every other
device."""
import ctypes

import torch

from . import native


def library():
    return native.library("kernels")


def pointer(tensor):
    assert tensor.is_contiguous()
    return native.pointer(tensor)


class Geometry(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in
                "images channels height width kernel_h kernel_w stride pad out_h out_w".split()]


def geometry(layer, x):
    return Geometry(*x.shape, *layer.kernel_size, layer.stride, layer.padding, *layer.out_size(x))


def encode(layer, x, threshold):
    """x float32 [n][channels][h][w], contiguous, to codes u8 [codebooks][positions]."""
    g = geometry(layer, x)
    codes = torch.empty(layer.codebooks, g.images * g.out_h * g.out_w, dtype=torch.uint8)
    library().encode(ctypes.byref(g), pointer(x), layer.codebooks, pointer(layer.split), pointer(threshold.detach()),
                     pointer(codes))
    return codes


def accumulate(codes, table):
    """Sums table rows: [positions][outputs], table as kernels.c has it."""
    codebooks, positions = codes.shape
    y = torch.empty(positions, table.shape[0] * table.shape[3])
    library().accumulate(pointer(codes), pointer(table), ctypes.c_size_t(positions), codebooks, y.shape[1], pointer(y))
    return y


def table_gradient(codes, grad, table, fast):
    """grad float32 [positions][outputs], contiguous; the result has the table's shape."""
    out = torch.zeros_like(table)
    library().table_gradient(pointer(codes), pointer(grad), ctypes.c_size_t(codes.shape[1]), codes.shape[0],
                             grad.shape[1], pointer(out))
    return out


def along(grad, direction, fast):
    """The matrix product as a convolution of one position: several times as fast here."""
    kind = torch.bfloat16 if fast else torch.float32
    rows = grad.to(kind).view(1, len(grad), 1, -1).permute(0, 3, 1, 2)  # channels last, as it lies
    out = torch.nn.functional.conv2d(rows, direction.to(kind)[:, :, None, None])
    return out.permute(0, 2, 3, 1).reshape(len(grad), -1).float()


def _path_gradient(function, layer, x, threshold, window, along, out):
    g = geometry(layer, x)
    function(ctypes.byref(g), pointer(x), layer.codebooks, pointer(layer.split), pointer(threshold.detach()),
             pointer(window), pointer(layer.basis), pointer(along), pointer(out))
    return out


def threshold_gradient(layer, x, threshold, window, along):
    """window float32 [codebooks]: the half-width around a threshold. along float32 [positions][codebooks * rank]: the
    output's gradient along the table's directions."""
    return _path_gradient(library().threshold_gradient, layer, x, threshold, window, along,
                          torch.zeros_like(threshold))


def input_gradient(layer, x, threshold, window, along):
    return _path_gradient(library().input_gradient, layer, x, threshold, window, along, torch.zeros_like(x))

"""Binds kernels.c: compiled for this machine on first use, kept in the user's cache."""
import ctypes
import hashlib
import os
import platform
import subprocess
import tempfile

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "kernels.c")
FLAGS = ["-O3", "-march=native", "-mprefer-vector-width=512", "-fopenmp", "-shared", "-fPIC", "-std=c17"]


class Geometry(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in
                "images channels height width kernel_h kernel_w stride pad out_h out_w".split()]


def _library():
    flags = [f for f in FLAGS if platform.machine() == "x86_64" or "prefer" not in f]
    with open(SOURCE, "rb") as file:
        key = hashlib.sha256(file.read() + " ".join(flags).encode() + platform.processor().encode() +
                             _cpu_flags()).hexdigest()[:16]
    cache = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "halut-train")
    path = os.path.join(cache, f"kernels-{key}.so")
    if not os.path.exists(path):
        os.makedirs(cache, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=cache, suffix=".so")
        os.close(handle)
        subprocess.run([os.environ.get("CC", "gcc"), *flags, "-o", part, SOURCE], check=True)
        os.replace(part, path)
    return ctypes.CDLL(path)


def _cpu_flags():
    try:
        with open("/proc/cpuinfo", "rb") as file:
            return next((line for line in file if line.startswith((b"flags", b"Features"))), b"")
    except OSError:
        return b""


library = _library()


def pointer(tensor):
    assert tensor.is_contiguous()
    return ctypes.c_void_p(tensor.data_ptr())

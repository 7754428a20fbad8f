"""Compiles a C file of this folder for this machine, on first use, and binds it; it is kept in the user's cache."""
import ctypes
import functools
import hashlib
import os
import platform
import subprocess
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
FLAGS = ["-O3", "-march=native", "-mprefer-vector-width=512", "-fopenmp", "-shared", "-fPIC", "-std=c17"]


def _cpu_flags():
    try:
        with open("/proc/cpuinfo", "rb") as file:
            return next((line for line in file if line.startswith((b"flags", b"Features"))), b"")
    except OSError:
        return b""


@functools.lru_cache(None)
def library(name):
    """Of NAME.c."""
    source = os.path.join(HERE, f"{name}.c")
    flags = [f for f in FLAGS if platform.machine() == "x86_64" or "prefer" not in f]
    with open(source, "rb") as file:
        key = hashlib.sha256(file.read() + " ".join(flags).encode() + platform.processor().encode() +
                             _cpu_flags()).hexdigest()[:16]
    cache = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "halut-train")
    path = os.path.join(cache, f"{name}-{key}.so")
    if not os.path.exists(path):
        os.makedirs(cache, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=cache, suffix=".so")
        os.close(handle)
        subprocess.run([os.environ.get("CC", "gcc"), *flags, "-o", part, source], check=True)
        os.replace(part, path)
    return ctypes.CDLL(path)


def pointer(tensor):
    """Of a tensor's values in the order they lie in: the caller knows which."""
    return ctypes.c_void_p(tensor.data_ptr())

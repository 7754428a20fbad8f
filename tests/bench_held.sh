#!/usr/bin/env bash
# test: held to AVX2, a program and a library that it loads later see no more than AVX2, also in a thread, and a handler
# of their own for the signal still gets its faults
# sanitizers: none, their library must be loaded before the one that this is about
set -eu
held=$HALUT_BUILD/tests/bench/avx2.so
flags=" $(grep -m 1 '^flags' /proc/cpuinfo || true) "
if [[ $flags != *" avx2 "* || $flags != *" cpuid_fault "* ]]; then
  echo "skip: no AVX2, or cpuid cannot be made to fault here"
  exit 77
fi
seen() {
  LD_PRELOAD=$held "$HALUT_BUILD/halut" bench models/signal.safetensors --threads 2 --seconds 0.05 --json |
    sed -nE 's/.*"cpu": "([a-z0-9]+)".*/\1/p'
}
[ "$(seen)" = avx2 ] || { echo "halut chose '$(seen)'"; exit 1; }
LD_PRELOAD=$held /usr/bin/python3 - <<'END'
import ctypes
import mmap
import os
import signal
import threading

def vector_bits():
    """Leaf 7's EBX, asked by code of our own in executable memory."""
    code = bytes.fromhex("53" "b807000000" "31c9" "0fa2" "89d8" "5b" "c3")
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return ctypes.CFUNCTYPE(ctypes.c_uint32)(address)()

found = []
thread = threading.Thread(target=lambda: found.append(vector_bits()))
thread.start()
thread.join()
found.append(vector_bits())
for bits in found:
    assert bits >> 5 & 1, f"AVX2 is hidden: {bits:#x}"
    assert not bits & (1 << 16 | 1 << 30 | 1 << 31), f"AVX-512 is seen: {bits:#x}"

# A fault that is nobody's: Python's own handler reports it and the process dies of it.
child = os.fork()
if child == 0:
    import faulthandler
    faulthandler.enable(os.fdopen(os.dup(2), "wb", 0))
    ctypes.string_at(8)
    os._exit(0)
status = os.waitpid(child, 0)[1]
assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSEGV, f"status {status}"
END

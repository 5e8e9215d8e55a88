# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Attaches to threads as a debugger does, waits until each has stopped, and lets go: `attach.py TID...`.
Prints `ready`, and when all have stopped the milliseconds that it took. PTRACE_SEIZE leaves no stray SIGSTOP behind."""

import ctypes
import os
import sys
import time

PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17
WALL = 0x40000000

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def ptrace(request, tid):
    """OSError where the kernel says no."""
    if libc.ptrace(request, tid, None, None) < 0:
        code = ctypes.get_errno()
        raise OSError(code, 'ptrace %#x of %d: %s' % (request, tid, os.strerror(code)))


def main():
    tids = [int(word) for word in sys.argv[1:]]
    print('ready', flush=True)
    start = time.perf_counter()
    for tid in tids:
        ptrace(PTRACE_SEIZE, tid)
        ptrace(PTRACE_INTERRUPT, tid)
    for tid in tids:
        _, status = os.waitpid(tid, WALL)
        assert os.WIFSTOPPED(status), '%d ended' % tid
    took = (time.perf_counter() - start) * 1e3
    for tid in tids:
        ptrace(PTRACE_DETACH, tid)
    print('%.3f' % took, flush=True)


main()

# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""What differs from one architecture to the other, as far as tests see it."""

import platform

ARM64 = platform.machine() == 'aarch64'
QEMU = 'qemu-system-aarch64' if ARM64 else 'qemu-system-x86_64'
# The first byte of guest memory.
RAM_BASE = 0x40000000 if ARM64 else 0
# Where Linux maps all physical memory, with nokaslr and no5lvl: that + a physical address is what a debugger asks for.
DIRECT_MAP = 0xffff000000000000 - RAM_BASE if ARM64 else 0xffff888000000000
# Where a "g" packet of gdb's has them.
GDB_PC, GDB_SP = (32 * 8, 31 * 8) if ARM64 else (16 * 8, 7 * 8)
# The program counter's number for gdb, and the length of a breakpoint instruction.
GDB_PC_NUMBER, BREAKPOINT_BYTES = (32, 4) if ARM64 else (16, 1)
# The Debian guest's clock.
CLOCK = 'arch_sys_counter' if ARM64 else 'kvm-clock'

# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Kernel and initial RAM disk are files of others, who may cut them short or take them away at any time."""

import os
import shutil
import struct
import threading

import pytest

from harness.qmp import QmpError
from harness.vm import Postern, bare_elf

INITRD_BYTES = 64 << 20


def idle_kernel(path):
    """Something that loads as a Linux kernel does, initial RAM disk and all, and is never started."""
    ident = b'\x7fELF\x02\x01\x01' + bytes(9)
    header = struct.pack('<16sHHIQQQIHHHHHH', ident, 2, 62, 1, 0x1000000, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    program = struct.pack('<IIQQQQQQ', 1, 7, 0x1000, 0x1000000, 0x1000000, 4096, 4096, 4096)
    path.write_bytes((header + program).ljust(0x1000, b'\0') + b'\xf4' * 4096)
    return str(path)


def test_an_initrd_cut_short_while_resets_copy_it_ends_nothing(tmp_path):
    """Resets one after the other, and a file that shrinks and grows meanwhile: each reset works or says what was wrong with which file, and
    the machine is there all the time."""
    initrd = tmp_path / 'initrd'
    with open(initrd, 'wb') as f:
        f.truncate(INITRD_BYTES)
    over = threading.Event()

    def shrink_and_grow():
        fd = os.open(initrd, os.O_WRONLY)
        while not over.is_set():
            os.ftruncate(fd, 4096)
            os.ftruncate(fd, INITRD_BYTES)
        os.close(fd)
    worker = threading.Thread(target=shrink_and_grow)
    with Postern(kernel=idle_kernel(tmp_path / 'kernel'), options=['--initrd', str(initrd), '--paused'], cpus=1) as vm:
        worker.start()
        failed = []
        try:
            for _ in range(400):
                try:
                    vm.command('system_reset')
                except QmpError as error:
                    failed.append(str(error))
                assert vm.status() in ('prelaunch', 'internal-error')
                if len([text for text in failed if 'ended at byte' in text]) >= 3:
                    break
        finally:
            over.set()
            worker.join()
        assert failed and all(str(initrd) in text for text in failed), failed
        assert any('put it back' in text for text in failed), failed
        vm.command('system_reset')
        assert vm.status() == 'prelaunch'


def test_a_reset_without_its_kernel_leaves_the_guest_running(tmp_path):
    """system_reset says which file is missing; the guest goes on, and is reset once the file is back."""
    kernel = tmp_path / 'kernel'
    shutil.copy(bare_elf(), kernel)
    with Postern(kernel=str(kernel)) as vm:
        guest = vm.bare(ready=True)
        kernel.rename(tmp_path / 'away')
        with pytest.raises(QmpError, match=str(kernel)):
            vm.command('system_reset')
        assert vm.status() == 'running'
        guest.mark()
        (tmp_path / 'away').rename(kernel)
        guest.limit(100)
        vm.command('system_reset')
        assert vm.status() == 'running'
        guest.wait_ready()
        assert guest.info()['pages'] == guest.info()['total']

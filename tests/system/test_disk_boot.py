# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A machine without --kernel starts with what its first disk holds, and starts anew from there. The guest is the bare one, put on a disk as
its kernel."""

import os
import re
import shutil
import subprocess

import pytest

from harness.qmp import QmpError
from harness.vm import Postern, bare_elf, run_postern
from harness.waiting import seconds, wait_for

MKE2FS = shutil.which('mke2fs', path=os.environ['PATH'] + ':/usr/sbin:/sbin')
pytestmark = pytest.mark.skipif(not MKE2FS, reason='no mke2fs (e2fsprogs)')


def disk(tmp_path, kernel=None, name='disk'):
    """A file system with that kernel."""
    root, path = tmp_path / 'root', tmp_path / name
    (root / 'boot').mkdir(parents=True, exist_ok=True)
    shutil.copy(kernel or bare_elf(), root / 'boot' / 'vmlinuz-1.0')
    new = tmp_path / 'new'
    subprocess.run([MKE2FS, '-q', '-F', '-t', 'ext4', '-d', root, new, '16M'], check=True, timeout=seconds(20),
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    new.rename(path)
    return str(path)


def found(vm):
    """How often a kernel was taken out of the disk."""
    return len(re.findall(r'kernel /boot/vmlinuz-1.0, \d+ bytes', vm.log()))


def test_it_starts_from_the_disk_and_again_after_a_reset(tmp_path):
    path = disk(tmp_path)
    with Postern(kernel=None, options=['--disk', path]) as vm:
        vm.bare(ready=True)
        assert found(vm) == 1
        vm.command('system_reset')
        vm.q.wait_event('RESET')
        assert found(vm) == 2 and vm.status() == 'running'
        vm.command('stop')
        vm.command('system_reset')
        vm.wait_status('prelaunch')
        assert found(vm) == 3
        vm.command('cont')
        assert vm.status() == 'running'


def test_a_disk_that_has_lost_its_kernel_is_an_error_that_can_be_mended(tmp_path):
    path = disk(tmp_path)
    with Postern(kernel=None, options=['--disk', path]) as vm:
        vm.bare(ready=True)
        with open(tmp_path / 'junk', 'wb') as f:
            f.truncate(1 << 20)
        os.rename(tmp_path / 'junk', path)
        vm.command('system_reset')
        vm.wait_status('internal-error')
        assert 'neither a file system' in vm.log()
        os.unlink(path)
        with pytest.raises(QmpError):
            vm.command('system_reset')
        with pytest.raises(QmpError):
            vm.command('cont')
        disk(tmp_path)
        vm.command('system_reset')
        vm.wait_status('prelaunch')
        vm.command('cont')
        assert vm.status() == 'running'


def test_a_stop_while_a_reset_looks_for_the_kernel_holds(tmp_path):
    """The machine is paused for that; a stop makes it stay so, and QMP answers all the time."""
    with Postern(kernel=None, options=['--disk', disk(tmp_path)]) as vm:
        vm.bare(ready=True)
        for _ in range(10):
            vm.command('system_reset')
            vm.command('stop')
            vm.q.wait_event('RESET')
            wait_for(lambda: vm.status() in ('paused', 'prelaunch'), 5, vm.status)
            vm.command('cont')
            assert vm.status() == 'running'


@pytest.mark.parametrize('what, said', [('junk', 'neither'), ('qcow2', 'qcow2'), ('none', 'No such file'), ('text', 'neither a bzImage')])
def test_what_has_no_kernel_is_said(tmp_path, what, said):
    path = tmp_path / 'disk'
    if what == 'junk':
        path.write_bytes(os.urandom(100000))
    elif what == 'qcow2':
        path.write_bytes(b'QFI\xfb' + bytes(100000))
    elif what == 'text':
        (tmp_path / 'kernel').write_text('no kernel\n' * 1000)
        disk(tmp_path, tmp_path / 'kernel')
    code, text = run_postern('run', '--serial', 'null', '--disk', path)
    assert code == 1 and said in text and str(path) in text, text

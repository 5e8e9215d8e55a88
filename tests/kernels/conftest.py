# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""How VMMs answer on this kernel while every vCPU waits for a page: tests of the kernel module (kmod/), run by tools/kernels in the lab.

$POSTERN_KMOD names a postern_intr.ko for this kernel; without it, tests of the module are skipped. What tests measure is appended to
$POSTERN_KERNELS_ROWS, a JSON object a line.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from harness import kvm, machine, migration, net  # noqa: E402

REASON = migration.have_build() or kvm.kvm_reason() or kvm.uffd_reason() or net.reason() or \
    (None if shutil.which(machine.QEMU) else machine.QEMU + ' is not installed')
COMPLAINT = re.compile(r'BUG:|WARNING:|Oops|general protection|soft lockup|blocked for more than|rcu.*stall')
NAME = 'postern_intr'


def pytest_collection_modifyitems(items):
    """Marks everything where nothing can be asked."""
    for item in items:
        if REASON:
            item.add_marker(pytest.mark.skip(reason=REASON))


def dmesg():
    """The kernel's log, lines."""
    done = subprocess.run(['dmesg'], stdout=subprocess.PIPE, text=True, errors='replace', check=False, timeout=60)
    return done.stdout.splitlines()


@pytest.fixture(autouse=True)
def kernel_is_well():
    """The kernel has nothing to complain about."""
    before = len([line for line in dmesg() if COMPLAINT.search(line)])
    yield
    new = [line for line in dmesg() if COMPLAINT.search(line)][before:]
    assert not new, 'the kernel complained: %s' % new[:5]


class Module:
    """The kernel module."""

    def __init__(self, path):
        self.path = path

    def load(self, *parameters):
        """insmod; CompletedProcess."""
        return subprocess.run(['insmod', self.path, *parameters], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=120, check=False)

    def unload(self):
        """rmmod; CompletedProcess."""
        return subprocess.run(['rmmod', NAME], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120,
                              check=False)

    @staticmethod
    def is_loaded():
        """Is it?"""
        return os.path.exists('/sys/module/' + NAME)

    @staticmethod
    def stats():
        """Its counters."""
        with open('/sys/kernel/debug/%s/stats' % NAME, encoding='ascii') as file:
            return {name: int(value) for name, value in (line.split() for line in file)}

    def set(self, wanted):
        """Loads or unloads it as wanted."""
        if wanted != self.is_loaded():
            done = self.load() if wanted else self.unload()
            assert done.returncode == 0, done.stdout + '\n'.join(dmesg()[-10:])
        assert self.is_loaded() == wanted


@pytest.fixture(scope='session')
def module():
    """The Module; skips without."""
    path = os.environ.get('POSTERN_KMOD')
    if not path:
        pytest.skip('no kernel module for this kernel (POSTERN_KMOD)')
    return Module(path)


@pytest.fixture
def loaded(module, interruptible):
    """The Module, loaded for this test; where it loads."""
    if interruptible:
        pytest.skip('this kernel ends such waits by itself')
    module.set(True)
    yield module
    stats = module.stats()
    module.set(False)
    assert stats['missed'] == 0 and stats['strange'] == 0, stats


@pytest.fixture(scope='session')
def interruptible():
    """Does the kernel end waits of guest page faults on signals by itself? Linux 6.2 on x86."""
    return platform.machine() == 'x86_64' and tuple(int(x) for x in platform.release().split('.')[:2]) >= (6, 2)


@pytest.fixture(scope='session')
def note():
    """note(vmm, module, test, answer): one row of the report."""
    path = os.environ.get('POSTERN_KERNELS_ROWS')

    def write(vmm, with_module, test, answer):
        row = {'kernel': platform.release(), 'arch': platform.machine(), 'vmm': vmm, 'module': with_module, 'test': test,
               'ms': None if answer.ms is None else round(answer.ms, 1), 'answered': answer.answered}
        print(row)
        if path:
            with open(path, 'a', encoding='ascii') as file:
                file.write(json.dumps(row) + '\n')
    return write

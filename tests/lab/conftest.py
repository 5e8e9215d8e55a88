# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Tests that need a stock kernel's KVM and a stock guest: they run inside the lab (lab/README.md), by
`lab/run --kernel 6.1 -- python3 -m pytest tests/lab`. Elsewhere they are skipped, and say so."""

import os
import platform
import re
import subprocess

import pytest

from harness import debian, kvm, migration, net
from harness.machine import ARM64

REASON = (None if os.environ.get('POSTERN_LAB') else 'only inside the lab: lab/run -- python3 -m pytest tests/lab') or \
    migration.have_build() or kvm.kvm_reason() or kvm.uffd_reason() or debian.reason() or net.reason()
COMPLAINT = re.compile(r'BUG:|WARNING:|Oops|general protection|soft lockup|blocked for more than|rcu.*stall')


# What there is on arm64 (docs/arm64.md).
ON_ARM64 = ('test_boot', 'test_host', 'test_migrate')


def pytest_collection_modifyitems(items):
    """Marks everything here when this is not the lab."""
    for item in items:
        if REASON:
            item.add_marker(pytest.mark.skip(reason=REASON))
        elif ARM64 and item.path.stem not in ON_ARM64:
            item.add_marker(pytest.mark.skip(reason='not on arm64 yet'))


def _complaints():
    done = subprocess.run(['dmesg'], stdout=subprocess.PIPE, text=True, errors='replace', check=False, timeout=60)
    return [line for line in done.stdout.splitlines() if COMPLAINT.search(line)]


@pytest.fixture(autouse=True)
def kernel_is_well():
    """The host's kernel has nothing to complain about."""
    before = len(_complaints())
    yield
    new = _complaints()[before:]
    assert not new, 'the kernel complained: %s' % new[:5]


@pytest.fixture(scope='session')
def kernel():
    """(major, minor) of the host's kernel."""
    return tuple(int(x) for x in platform.release().split('.')[:2])


@pytest.fixture(scope='session')
def expected_way_out(kernel):
    """What `auto` must find: Linux 6.2 made guest faults interruptible, on x86."""
    return 'kernel' if kernel >= (6, 2) and platform.machine() == 'x86_64' else 'eject'

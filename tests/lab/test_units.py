# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Unit tests of what needs a KVM, on a stock kernel's: a machine at hand may have none, and its kernel another way out."""

import os
import subprocess

import pytest

from harness.vm import bare_elf, build_dir
from harness.waiting import seconds


@pytest.mark.parametrize('name', ['machine/test_machine_machine', 'kvm/test_kvm', 'kvm/test_kvm_vcpu', 'memory/test_memory_eject',
                                  'memory/test_memory_direct_access'])
def test_unit(name):
    done = subprocess.run([os.path.join(build_dir(), 'tests/unit', name)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors='replace', check=False, timeout=seconds(60), env=dict(os.environ, POSTERN_BARE=bare_elf()))
    assert done.returncode == 0 and '[  PASSED  ]' in done.stdout, done.stdout[-3000:]

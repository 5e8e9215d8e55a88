# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""System tests need the build and a KVM that runs the bare guest; where either is missing they are skipped, and say so."""

import pytest

from harness import kvm, migration, net

REASON = migration.have_build() or kvm.bare_reason() or kvm.kvm_reason() or kvm.uffd_reason()
_link = {}


def pytest_collection_modifyitems(items):
    """Marks everything here when the host lacks what it takes."""
    for item in items:
        if REASON:
            item.add_marker(pytest.mark.skip(reason=REASON))


@pytest.fixture
def needs_link():
    """Skips where there are no network namespaces."""
    if 'reason' not in _link:
        _link['reason'] = net.reason()
    if _link['reason']:
        pytest.skip(_link['reason'])


@pytest.fixture(params=['kernel', 'eject'])
def way_out(request):
    """Both ways out of a wait for a page; the kernel's only where it has it."""
    if request.param == 'kernel' and kvm.interruptible_reason():
        pytest.skip(kvm.interruptible_reason())
    return request.param

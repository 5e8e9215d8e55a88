# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Makes `import harness` work for every test, and turns a leftover process or namespace into a failure."""

import os
import subprocess
import sys

import pytest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


def _children():
    """Our own children that still run."""
    out = []
    with open('/proc/self/task/%d/children' % os.getpid(), encoding='ascii') as f:
        for pid in f.read().split():
            try:
                with open('/proc/%s/stat' % pid, encoding='ascii', errors='replace') as stat:
                    if stat.read().rsplit(')', 1)[1].split()[0] != 'Z':
                        out.append(pid)
            except OSError:
                pass
    return out


def _namespaces():
    done = subprocess.run(['ip', 'netns', 'list'], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                          check=False, timeout=60)
    stem = 'postern-%x-' % os.getpid()
    return [line.split()[0] for line in done.stdout.splitlines() if line.startswith(stem)]


def _left():
    try:
        return set(_children()) | set(_namespaces())
    except OSError:         # a kernel without /proc/.../children
        return set(_namespaces())


@pytest.fixture(autouse=True)
def leaves_nothing_behind():
    """No process and no namespace outlives a test, but those of fixtures that are shared."""
    before = _left()
    yield
    left = _left() - before
    assert not left, 'processes or namespaces left behind: %s' % sorted(left)

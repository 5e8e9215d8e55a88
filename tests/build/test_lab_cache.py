# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""The lab's cache (lab/cache.py), and what a module's build is blamed for
(lab/kmod.py). Boots no lab."""
import os
import pathlib
import sys
import time

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(TOP / 'lab'))

import cache  # noqa: E402
import kmod  # noqa: E402

LONG_AGO = time.time() - 400 * 86400


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))


def fill(target, _work, log):
    """As dpkg-deb leaves it: the directory has the package's time."""
    (target / 'file').write_text('x')
    log.write_text('built\n')
    os.utime(target, (LONG_AGO, LONG_AGO))


@pytest.mark.parametrize('kind', ['headers', 'emulator', 'image', 'root', 'debian'])
def test_what_was_built_just_now_stays(kind):
    place = cache.cached(kind + '-x', fill)
    cache.cache_prune()
    assert (place / 'file').exists()


@pytest.mark.parametrize('kind', ['headers', 'emulator', 'image', 'root', 'debian'])
def test_what_nobody_has_used_for_long_goes_and_what_is_used_stays(kind):
    old, used = (cache.cached('%s-%s' % (kind, name), fill) for name in ('old', 'used'))
    for place in (old, used):
        os.utime(place, (LONG_AGO, LONG_AGO))
    assert cache.cached(used.name, None) == used
    cache.cache_prune()
    assert used.exists() and not old.exists()


def test_a_build_that_fails_leaves_nothing():
    def fail(target, work, log):
        fill(target, work, log)
        raise cache.LabError('no')
    with pytest.raises(cache.LabError):
        cache.cached('image-x', fail)
    assert [path.name for path in cache.cache_dir().iterdir()] == ['image-x.lock']


def test_other_programs_than_the_kernels_own_are_no_fault_of_a_module():
    assert not kmod.warnings_of(
        'warning: the compiler differs from the one used to build the kernel\n'
        'warning: pahole version differs from the one used to build the kernel\n  CC [M] x.o\n')
    assert kmod.warnings_of('x.c:1: warning: unused\n') == ['x.c:1: warning: unused']

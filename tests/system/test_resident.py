# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""How much memory a machine takes besides its guest's, and that libraries are there only where they are used."""

import os

import pytest

from harness.disks import MIB, Nbdkit
from harness.resident import parts
from harness.s3 import S3
from harness.vm import Postern, run_postern, sanitized
from harness.waiting import wait_for

pytestmark = pytest.mark.skipif(sanitized(), reason='AddressSanitizer takes memory of its own')
BOUND_KIB = 6 * 1024
# With the libraries that read and write images.
IMAGE_BOUND_KIB = 10 * 1024
# What is loaded when it is used, and whose.
LAZY = ('libnbd', 'libgnutls', 'libxml2', 'libicu', 'libstdc++', 'libncurses', 'libtinfo', 'libext2fs', 'libseccomp')


def raw(tmp_path):
    path = tmp_path / 'disk'
    path.write_bytes(bytes(MIB))
    return str(path)


def test_a_machine_without_nbd_disks_takes_little(tmp_path):
    """With a disk, which is more than most of what is measured elsewhere has."""
    with Postern(memory='64M', options=['--disk', raw(tmp_path), '--rng']) as vm:
        vm.bare(ready=True)
        resident = parts(vm.pid, 64 * MIB)
        assert not [name for name in resident if name.startswith(LAZY)], resident
        assert sum(resident.values()) <= BOUND_KIB, resident


def test_what_images_took_is_given_back(tmp_path):
    """After saves, and once all has come of a machine that was restored."""
    with Postern(memory='64M', cpus=1) as vm:
        vm.bare(ready=True).fill()
        for i in range(6):
            vm.save(tmp_path / ('image%d' % i), track=i % 2 == 0)
        resident = parts(vm.pid, 64 * MIB)
        assert sum(resident.values()) <= IMAGE_BOUND_KIB, resident
    with Postern.restored(tmp_path / 'image0') as vm:
        wait_for(lambda: 'all of the guest\'s memory has come from image' in vm.log(), 30)
        resident = parts(vm.pid, 64 * MIB)
        assert sum(resident.values()) <= IMAGE_BOUND_KIB, resident


def test_what_a_cache_took_is_given_back(tmp_path):
    """Blocks on their way from a server to the cache and the guest."""
    (tmp_path / 'cache').mkdir(mode=0o700)
    with S3() as server:
        env = dict(os.environ, **server.env)
        store, _, query = server.url('images').partition('?')
        image = '%s/web?%s' % (store, query)
        with Postern(memory='64M', cpus=1, env=env) as vm:
            vm.bare(ready=True).fill()
            vm.save(image)
        with Postern.restored(image, env=env,
                              options=['--store-cache', str(tmp_path / 'cache')]) as vm:
            wait_for(lambda: 'all of the guest\'s memory has come from image' in vm.log(), 60)
            resident = parts(vm.pid, 64 * MIB)
            assert resident['[heap]'] <= 4 * 1024, resident


def test_a_library_is_loaded_when_it_is_used(tmp_path):
    with Nbdkit(tmp_path) as server, Postern(memory='64M', options=['--disk', server.uri]) as vm:
        assert [name for name in parts(vm.pid, 64 * MIB) if name.startswith('libnbd')]


def test_a_library_that_is_missing_is_named(tmp_path):
    """It cannot be taken away from here: one that is none takes its place."""
    (tmp_path / 'libnbd.so.0').write_text('none\n')
    env = dict(os.environ, LD_LIBRARY_PATH=str(tmp_path))
    code, text = run_postern('run', '--serial', 'null', '--incoming', 'defer', '--disk', 'nbd+unix:///?socket=/nonexistent', env=env)
    assert code == 1 and 'libnbd.so.0' in text and 'apt install libnbd0' in text, text
    code, text = run_postern('doctor', env=env)
    assert code == 0, text

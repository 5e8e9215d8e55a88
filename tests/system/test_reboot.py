# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A guest that reboots after a migration starts anew where it is: with the source's kernel, which went along, or with its own disk's."""

import os
import shutil

import pytest

from harness.migration import Pair, free_port
from harness.qmp import QmpError
from harness.vm import Postern, bare_elf, run_postern
from harness.waiting import seconds
from test_disk_boot import MKE2FS, disk, found

needs_mke2fs = pytest.mark.skipif(not MKE2FS, reason='no mke2fs (e2fsprogs)')


def assert_reboots(vm, guest):
    """By itself, and by the operator."""
    for by_guest in (True, False):
        guest.limit(100)
        if by_guest:
            guest.reboot()
        else:
            vm.command('system_reset')
        event = vm.q.wait_event('RESET', timeout=20)
        assert event['data']['guest'] is by_guest
        info = guest.wait_ready(seconds(20))
        assert info['pages'] == info['total'], 'the guest remembers what it was told before the reset'
        assert vm.status() == 'running', vm.log()


def migrate(source, destination):
    """Over the loopback, to its end."""
    uri = 'tcp:127.0.0.1:%d' % free_port()
    destination.command('migrate-incoming', uri=uri)
    source.command('migrate', uri=uri)
    for vm in (destination, source):
        vm.wait_migration('completed')


def test_a_guest_reboots_where_it_went():
    with Pair() as pair:
        pair.start()
        pair.wait_completed()
        assert_reboots(pair.destination, pair.arrived())


def test_its_kernel_goes_on_with_it_to_the_next_host(tmp_path):
    """The file is on the first host alone, and gone by then; it is larger than what waits on a connection, which nobody counts twice."""
    kernel = tmp_path / 'kernel'
    shutil.copy(bare_elf(), kernel)
    with open(kernel, 'ab') as f:
        f.truncate(40 << 20)
    with Pair(source_options=dict(kernel=str(kernel)), memory='64M') as pair, Postern.incoming('third', memory='64M') as third:
        pair.start()
        pair.wait_completed()
        kernel.unlink()
        migrate(pair.destination, third)
        guest = third.bare()
        guest.mark(seconds(20))
        assert_reboots(third, guest)
        for line in ('41943040 bytes of kernel',):
            assert line in pair.destination.log() and line in third.log()


def test_a_reset_that_was_asked_for_while_memory_was_late_is_done():
    """The guest asks for it where its memory is still missing: once all of it has come, it starts anew."""
    with Pair() as pair:
        pair.start(bandwidth=1 << 20)
        guest = pair.arrived()
        guest.limit(100)
        guest.reboot()
        pair.destination.wait_status('paused')
        pair.finish()
        pair.destination.q.wait_event('RESET', timeout=20)
        info = guest.wait_ready(seconds(20))
        assert info['pages'] == info['total']
        assert pair.destination.status() == 'running'


def test_a_destinations_own_kernel_is_what_starts(tmp_path):
    """Its operator named it. And a source whose kernel has gone can be left by this way alone."""
    kernel, own = tmp_path / 'kernel', tmp_path / 'own'
    shutil.copy(bare_elf(), kernel)
    shutil.copy(bare_elf(), own)
    with Pair(source_options=dict(kernel=str(kernel))) as pair:
        kernel.unlink()
        pair.begin()
        error = pair.source.wait_migration('failed')['error-desc']
        assert str(kernel) in error and 'start the destination with --kernel' in error, error
        assert pair.source.status() == 'running'
        with Postern('own', kernel=str(own), incoming='defer') as destination:
            migrate(pair.source, destination)
            guest = destination.bare()
            guest.mark(seconds(20))
            assert_reboots(destination, guest)
            own.unlink()
            with pytest.raises(QmpError, match=str(own)):
                destination.command('system_reset')
            assert destination.status() == 'running'


@pytest.mark.parametrize('words', [['--incoming', 'defer'], ['--restore', 'web']])
def test_a_kernel_that_is_not_there_is_told_before_a_reset_wants_it(tmp_path, words):
    with Postern(memory='64M') as vm:
        vm.bare(ready=True)
        vm.save(tmp_path / 'web')
    code, text = run_postern('run', '--serial', 'null', *words, '--kernel', 'none', cwd=tmp_path)
    assert code == 1 and 'kernel: none: No such file or directory' in text, text
    code, text = run_postern('run', '--serial', 'null', *words, '--kernel', bare_elf(), '--initrd', 'none', cwd=tmp_path)
    assert code == 1 and 'initrd: none: No such file or directory' in text, text


@needs_mke2fs
def test_a_disk_that_boots_itself_does_so_where_the_guest_went(tmp_path):
    path = disk(tmp_path)
    both = dict(options=['--disk', path])
    with Pair(source_options=dict(both, kernel=None), destination_options=both) as pair:
        pair.start()
        pair.wait_completed()
        assert found(pair.destination) == 0
        assert_reboots(pair.destination, pair.arrived())
        assert found(pair.destination) == 2, pair.destination.log()


@needs_mke2fs
def test_a_disk_does_not_take_the_place_of_the_kernel_that_went_along(tmp_path):
    """The source's guest has a kernel of its own beside its disk. That is what starts it, wherever it is."""
    (tmp_path / 'text').write_text('no kernel\n' * 1000)
    both = dict(options=['--disk', disk(tmp_path, tmp_path / 'text')])
    with Pair(**both) as pair:
        pair.start()
        pair.wait_completed()
        assert_reboots(pair.destination, pair.arrived())
        assert found(pair.destination) == 0


@needs_mke2fs
def test_a_destination_without_the_disk_is_refused(tmp_path):
    """It would have nothing to start the guest with."""
    with Pair(source_options=dict(kernel=None, options=['--disk', disk(tmp_path)])) as pair:
        pair.begin()
        error = pair.source.wait_migration('failed')['error-desc']
        assert '--disk, or with --kernel' in error, error
        assert pair.source.status() == 'running'
        assert os.path.exists(tmp_path / 'disk')

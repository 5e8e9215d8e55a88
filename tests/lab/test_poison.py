# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""The host's memory fails under the guest: its kernel poisons a page, as for an error of the hardware."""

import contextlib
import re
import signal
import struct

import pytest

from harness.gdbremote import GdbError, GdbRemote, GdbTimeout
from harness.qmp import QmpError
from harness.vm import Postern
from harness.waiting import seconds

PAGE = 4096
MIB = 1 << 20
OFFLINE = '/sys/devices/system/memory/hard_offline_page'


def guest_memory(vm, size):
    """Where the guest's RAM lies in the process."""
    with open('/proc/%d/maps' % vm.pid, encoding='ascii') as maps:
        for line in maps:
            found = re.match(r'([0-9a-f]+)-([0-9a-f]+) rw-p 0+ 00:00 0 +$', line.rstrip('\n') + ' ')
            if found:
                start, end = (int(x, 16) for x in found.groups())
                if end - start == size:
                    return start
    raise AssertionError('no mapping of %d bytes' % size)


def poison(vm, size, gpa):
    """The kernel gives the page behind gpa up."""
    address = guest_memory(vm, size) + gpa
    with open('/proc/%d/pagemap' % vm.pid, 'rb') as pagemap:
        pagemap.seek(address // PAGE * 8)
        entry, = struct.unpack('<Q', pagemap.read(8))
    assert entry >> 63 and entry & (1 << 55) - 1, 'the page is not in memory'
    try:
        with open(OFFLINE, 'w', encoding='ascii') as offline:
            offline.write('0x%x' % ((entry & (1 << 55) - 1) * PAGE))
    except OSError as e:
        pytest.skip('%s: %s' % (OFFLINE, e))


@pytest.fixture
def vm():
    with Postern(memory='64M', gdb=True) as machine:
        guest = machine.bare(ready=True)
        guest.fill(seconds(60))
        guest.walk('c')
        yield machine


def test_a_guest_that_touches_it_is_paused_and_the_page_is_named(vm):
    gpa = 48 * MIB + 5 * PAGE
    vm.command('query-status')
    poison(vm, 64 * MIB, gpa)
    event = vm.q.wait_event('POSTERN_PAGE_LOST', timeout=60)
    assert (event['data']['gpa'], event['data']['pages']) == (gpa, 1)
    vm.wait_status('io-error')
    assert '0x%x has failed' % gpa in vm.log()
    # Everything is answered, and nobody lets the guest go on or touches the page.
    with pytest.raises(QmpError, match='lost'):
        vm.command('cont')
    assert vm.faults()['pages']['lost'] == 1
    with GdbRemote('unix:' + vm.path('gdb')) as gdb:
        gdb.ask('?')
        assert gdb.ask('m%x,8' % gpa).startswith('E')
        assert 'lost' in gdb.monitor('missing')
        assert len(gdb.read(gpa - PAGE, 8)) == 8
        assert gdb.ask('D') == 'OK'
    assert vm.status() == 'io-error'
    assert vm.end()[0] == 0


def test_postern_that_has_to_touch_it_ends_with_a_word(vm):
    gpa = 48 * MIB + 6 * PAGE
    vm.command('stop')
    poison(vm, 64 * MIB, gpa)
    with GdbRemote('unix:' + vm.path('gdb')) as gdb:
        gdb.ask('?')
        with contextlib.suppress(GdbError, GdbTimeout, ConnectionError):
            gdb.ask('m%x,8' % gpa)
    assert vm.wait_exit() == -signal.SIGBUS
    assert 'failed (poisoned by its kernel) behind guest physical address 0x%x' % gpa in vm.log()

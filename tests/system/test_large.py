# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Machines much larger than their host: RAM of which nearly nothing is there, and more vCPUs than CPUs."""

import time

import pytest

from harness.gdbremote import GdbRemote
from harness.migration import Pair
from harness.vm import Postern, run_postern, sanitized
from harness.waiting import seconds

MIB, GIB = 1 << 20, 1 << 30
CPUS_MAX = 128


def page_tables(vm):
    """Bytes."""
    with open('/proc/%d/status' % vm.pid, encoding='ascii') as f:
        return next(int(line.split()[1]) << 10 for line in f if line.startswith('VmPTE:'))


def cost(vm):
    """What the machine takes, in bytes; KVM's own part of its slots is not known."""
    return vm.rss() + page_tables(vm)


def sparse_pages(info):
    """Pages of the guest's work area, far from each other, on both sides of every hole."""
    total, low = info['total'], info['lowpages']
    return [0, low - 1, low, low + (28 << 18) - 1, low + (28 << 18), total // 2, total - 1]


@pytest.mark.parametrize('memory', ['64G'])
def test_a_large_guest_whose_memory_is_late(memory):
    """It starts, touches pages everywhere, is stopped and quit; the rest never came."""
    with Pair(memory=memory, cpus=2, fill=False) as pair:
        pages = sparse_pages(pair.guest.info())
        for page in pages:
            pair.guest.corrupt(page)            # the first bit of its second word
        pair.start(bandwidth=4096)
        guest = pair.arrived()
        for page in pages:
            assert guest.touch(page, seconds(20))['page'] == page
        missing = pair.destination.faults()['pages']['missing']
        assert missing > 8 << 18, missing
        assert cost(pair.destination) < 64 * MIB or sanitized()
        begin = time.monotonic()
        pair.destination.command('stop')
        assert time.monotonic() - begin < seconds(2)
        assert pair.destination.status() == 'paused'
        pair.destination.command('cont')
        guest.mark(seconds(10))
        # It has missing pages for good now: both end as they are asked to.
        for vm in (pair.destination, pair.source):
            vm.command('quit')
            assert vm.wait_exit() == 0


def test_a_terabyte_starts_and_ends():
    """Where the host's addresses and KVM's memory reach so far; else the error says how much would do."""
    code, text = run_postern('run', '--incoming', 'unix:/nonexistent/x', '--serial', 'null', '--memory', '1T', timeout=60)
    if 'bits of guest physical addresses' in text or 'the host has no memory' in text:
        assert code == 1 and ('--memory of at most' in text or 'memory slot' in text), text
        pytest.skip(text.strip())
    with Postern.incoming(memory='1T', cpus=1) as vm:
        assert vm.faults()['pages']['total'] == 1 << 28
        assert cost(vm) < 32 * MIB or sanitized()
        vm.command('quit')
        assert vm.wait_exit() == 0


def test_sizes_that_cannot_be_are_named():
    for words, said in ((('--memory', '2T'), '16M to 1T'), (('--memory', '17592186044416'), '16M to 1T'), (('--cpus', '129'), '128')):
        code, text = run_postern('run', '--incoming', 'defer', '--serial', 'null', *words)
        assert code == 2 and said in text, text


def test_many_vcpus_stop_and_go():
    """Each has a thread; a stop parks all of them, and gdb knows them."""
    with Postern(memory='64M', cpus=CPUS_MAX, gdb=True, options=['--paused']) as vm:
        cpus = vm.command('query-cpus-fast')
        assert [cpu['cpu-index'] for cpu in cpus] == list(range(CPUS_MAX))
        assert len({cpu['thread-id'] for cpu in cpus}) == CPUS_MAX
        for _ in range(3):
            vm.command('cont')
            vm.command('stop', command_timeout=seconds(20))
            assert vm.status() == 'paused'
        with GdbRemote('unix:' + vm.path('gdb')) as gdb:
            gdb.ask('?')
            threads = gdb.ask('qfThreadInfo')
            assert threads == 'm' + ','.join('%x' % (i + 1) for i in range(CPUS_MAX)), threads
            assert gdb.ask('T80') == 'OK'              # the last
            assert gdb.ask('T81') != 'OK'
            assert gdb.ask('Hg80') == 'OK'
            last = gdb.ask('g')
            assert gdb.ask('Hg1') == 'OK'
            assert gdb.ask('g') != last                 # another stack, at least
        vm.command('quit')
        assert vm.wait_exit(20) == 0


def test_many_vcpus_migrate():
    """Their states travel in one message. They do not run: as many as that leave a small host no time for anything else."""
    with Postern('src', memory='64M', cpus=CPUS_MAX, options=['--paused']) as source, \
            Postern.incoming(memory='64M', cpus=CPUS_MAX) as destination:
        uri = 'unix:' + destination.path('migrate')
        destination.command('migrate-incoming', uri=uri)
        source.command('migrate', uri=uri)
        for vm in (destination, source):
            vm.wait_migration('completed', timeout=60)
        assert destination.status() == 'paused'
        assert len(destination.command('query-cpus-fast')) == CPUS_MAX

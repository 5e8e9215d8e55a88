# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""The link is cut while most of the memory is missing, and every vCPU waits for a page that does not come. Whatever is asked
of the destination then is answered at once; with each way out of the wait."""

import importlib.util
import os
import shutil
import signal

import pytest

from harness import gdbremote
from harness.migration import Pair
from harness.qmp import QmpError
from harness.vm import ROOT
from harness.waiting import seconds, wait_for

pytestmark = pytest.mark.usefixtures('needs_link')
needs_gdb = pytest.mark.skipif(not shutil.which('gdb'), reason='gdb is not installed')
KIB = 1024
BOUND_MS = 1000     # what a busy machine must not exceed; the figures are printed


def assert_sound(guest):
    guest.quiet(seconds(30))
    assert guest.first_error(seconds(10))['errors'] == 0
    found = guest.verify(seconds(120))
    assert found['errors'] == 0, found


@pytest.fixture
def waiting(way_out):
    """A Pair whose link is cut, with both vCPUs of the destination waiting; gdb's socket is open."""
    with Pair(link=True, memory='256M', way_out=way_out,
              destination_options={'gdb': True, 'kernel': 'bare', 'page_timeout_ms': 500}) as pair:
        pair.guest.walk('c')
        pair.start(bandwidth=256 * KIB)
        guest = pair.arrived()
        before = guest.stats(seconds(20))
        guest.wait_stats(lambda s: all(s[c] > before[c] + 20 for c in ('cpu0', 'cpu1')), seconds(20))
        pair.link.down()
        pair.wait_paused()
        pair.wait_all_waiting()
        assert pair.destination.faults()['way-out'] == way_out
        yield pair


def recover_and_check(pair):
    """The link comes back, the guest is well."""
    pair.link.up()
    pair.recover(bandwidth=0)
    pair.wait_completed()
    if not pair.destination.command('query-status')['running']:
        pair.destination.command('cont')
    assert_sound(pair.arrived())


def timed(q, name, bound=BOUND_MS):
    """A command that must be quick."""
    ms, result = q.timed(name)
    print('%s: %.2f ms' % (name, ms))
    assert ms < bound * max(1, seconds(1)), '%s took %.0f ms' % (name, ms)
    return result


def test_stop_answers_while_every_vcpu_waits(waiting):
    q = waiting.destination.q
    assert timed(q, 'query-status')['status'] == 'running'
    for _ in range(20):
        timed(q, 'stop')
        assert timed(q, 'query-status')['status'] == 'paused'
        assert all(c['x-postern']['parked'] for c in timed(q, 'query-cpus-fast'))
        timed(q, 'cont')
        assert timed(q, 'query-status')['status'] == 'running'
        waiting.wait_all_waiting()
    assert len([e for e in q.poll_events() if e['event'] == 'STOP']) == 20
    assert not waiting.destination.stuck_threads()
    recover_and_check(waiting)


def test_every_query_and_every_new_client_is_answered_while_every_vcpu_waits(waiting):
    q = waiting.destination.qmp()
    for command in timed(q, 'query-commands'):
        if command['name'] == 'query-balloon':      # as in QEMU, an error where there is none
            with pytest.raises(QmpError, match='DeviceNotActive'):
                timed(q, 'query-balloon')
        elif command['name'].startswith('query-'):
            timed(q, command['name'])
    for _ in range(10):
        client = waiting.destination.qmp(2)
        timed(client, 'query-status')
        client.close()


def test_it_shows_which_vcpu_waits_for_which_page_and_how_long(waiting):
    vm = waiting.destination
    first = vm.waiting_cpus()
    assert set(first) == {0, 1}
    for entry in first.values():
        assert entry['gpa'] % 4096 == 0 and 0 < entry['gpa'] < 256 << 20
        assert entry['page'] in ('missing', 'requested')
        assert entry['name'].startswith('vcpu')
    wait_for(lambda: all(vm.waiting_cpus()[c]['since-us'] >= first[c]['since-us'] + 200000 for c in (0, 1)), 10)
    later = vm.waiting_cpus()
    assert {c: later[c]['gpa'] for c in later} == {c: first[c]['gpa'] for c in first}
    cpus = vm.command('query-cpus-fast')
    assert [c['x-postern']['waits-for']['gpa'] for c in cpus] == [first[0]['gpa'], first[1]['gpa']]
    pages = vm.faults()['pages']
    assert pages['missing'] > 1000
    assert pages['total'] == pages['present'] + pages['missing'] + pages['requested'] + pages['lost']


def test_both_sides_say_what_happened_and_what_to_do(waiting):
    for vm in (waiting.source, waiting.destination):
        info = vm.migration()
        assert info['status'] == 'postcopy-paused'
        print('%s: %s' % (vm.name, info['error-desc']))
        assert info['error-desc']
    assert waiting.source.status() == 'postmigrate'
    assert waiting.destination.status() == 'running'


def test_the_debugger_answers_while_every_vcpu_waits(waiting):
    missing = waiting.destination.waiting_cpus()[0]['gpa']
    with gdbremote.GdbRemote('unix:' + waiting.destination.path('gdb')) as gdb:
        ms, reply = gdb.timed('?')
        print('gdb ?: %.2f ms' % ms)
        assert reply[0] in 'TS'
        ms, registers = gdb.timed('g')
        assert ms < BOUND_MS * seconds(1) and len(registers) > 128
        rip = int.from_bytes(bytes.fromhex(registers[256:272]), 'little')
        assert 0x100000 <= rip < 0x400000, hex(rip)
        assert len(gdb.read(rip, 16)) == 16
        ms, reply = gdb.timed('m%x,8' % missing)
        print('gdb read of a missing page: %r after %.0f ms' % (reply, ms))
        assert reply.startswith('E') and ms < 3000 * seconds(1)
        timed(waiting.destination.q, 'query-status')
        assert len(gdb.read(rip, 16)) == 16, 'present pages are still read'
        assert gdb.ask('D') == 'OK'
    waiting.destination.command('cont')
    recover_and_check(waiting)


def test_qmp_goes_on_while_the_debugger_waits_for_a_page(waiting):
    missing = waiting.destination.waiting_cpus()[1]['gpa']
    with gdbremote.GdbRemote('unix:' + waiting.destination.path('gdb')) as gdb:
        gdb.ask('?')
        gdb.send('m%x,8' % missing)
        for _ in range(5):
            timed(waiting.destination.q, 'query-status', 200)
        assert gdb.receive(5).startswith('E')


@needs_gdb
def test_gdb_itself_attaches_to_the_guest_and_leaves(waiting):
    missing = waiting.destination.waiting_cpus()[0]['gpa']
    output, took = gdbremote.run_gdb([
        'set architecture i386:x86-64', 'set remotetimeout 10', 'target remote ' + waiting.destination.path('gdb'),
        'info threads', 'info registers rip', 'x/2i $rip', 'x/gx 0x%x' % missing, 'detach'], timeout=20)
    print('gdb: %.1f s\n%s' % (took, output))
    assert 'rip ' in output and '=> 0x' in output
    assert 'Cannot access memory' in output or 'rror' in output
    timed(waiting.destination.q, 'query-status')


@needs_gdb
def test_a_debugger_attaches_to_the_process(waiting):
    output, took = gdbremote.run_gdb(['info threads'], ['-p', str(waiting.destination.pid)], timeout=60)
    print('gdb -p: %.1f s' % took)
    assert 'vcpu' in output.lower(), output
    timed(waiting.destination.q, 'query-status')
    recover_and_check(waiting)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_while_every_vcpu_waits(waiting, number):
    q = waiting.destination.qmp()
    code, ms = waiting.destination.end(number, 5)
    print('%s to exit: %.1f ms' % (number.name, ms))
    assert code == 0
    assert q.wait_event('SHUTDOWN')['data']['reason'] == 'host-signal'


def test_quit_ends_it_while_every_vcpu_waits(waiting):
    waiting.destination.qmp().command('quit')
    assert waiting.destination.wait_exit(5) == 0


def test_sigkill_leaves_no_process_in_uninterruptible_sleep(waiting):
    assert not waiting.destination.stuck_threads()
    print('SIGKILL to gone: %.1f ms' % waiting.destination.kill(5))
    assert not os.path.exists('/proc/%d' % waiting.destination.pid)


def test_reset_waits_for_the_pages_and_hangs_nothing(waiting):
    timed(waiting.destination.q, 'system_reset')
    timed(waiting.destination.q, 'query-status')
    waiting.link.up()
    waiting.recover(bandwidth=0)
    waiting.wait_completed()
    wait_for(lambda: waiting.destination.status() in ('running', 'prelaunch', 'paused'), 10)
    waiting.destination.command('cont')
    guest = waiting.arrived()
    guest.wait_ready(seconds(20))


def test_no_stop_is_lost_in_a_hundred_rounds(way_out):
    spec = importlib.util.spec_from_file_location('stop_latency', os.path.join(ROOT, 'bench', 'stop_latency.py'))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = module.measure(way_out, 100)
    print(result)
    assert result['n'] == 100 and result['lost'] == 0
    assert result['errors'] == 0

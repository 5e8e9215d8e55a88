# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A running Debian guest migrates by postcopy on a stock kernel; the wire is pulled, everything is asked for, the
migration is recovered, and memcheck inside the guest says that no page was lost, torn or stale."""

import contextlib
import re

import pytest

from harness import gdbremote
from harness.debian import DebianPair
from harness.machine import ARM64, BREAKPOINT_BYTES, DIRECT_MAP, GDB_PC_NUMBER, RAM_BASE
from harness.report import percentile
from harness.waiting import seconds, wait_for

SLOW = 1 << 20


def wait_waiting(pair):
    """Every vCPU of the destination waits for a page."""
    return pair.wait_all_waiting(timeout=30)


def test_with_async_page_faults_over_a_unix_socket_and_on_over_loopback():
    """Twice in a row: the guest that has come goes on to a third machine. Between its vCPUs and a missing page there may be a
    kernel worker; stop and cont go on as ever."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(DebianPair(transport='unix', mb=48, memory='160M', async_pf=True))
        first.start(bandwidth=SLOW)
        vm = first.destination
        for _ in range(5):
            wait_for(lambda: vm.faults()['vcpus'] or vm.faults()['others'], 20, 'nobody waits')
            vm.command('stop')
            assert vm.status() == 'paused'
            vm.command('cont')
        first.finish()
        first.assert_sound(passes=1)
        # a destination that has arrived is a source like any other
        second = stack.enter_context(DebianPair(transport='tcp', source=first.destination, console=first.arrived(),
                                                memory='160M'))
        second.start(bandwidth=8 << 20)
        second.finish()
        second.assert_sound(passes=2)
        assert first.destination.status() == 'postmigrate'


@pytest.fixture(scope='module')
def cut():
    """A Debian guest whose wire was pulled while most of its memory was missing. The tests below go on from one another,
    in their order, to its recovery."""
    with DebianPair(link=True, gdb=True, mb=48, memory='160M') as pair:
        pair.start(bandwidth=SLOW)
        pair.link.down()
        yield pair


def test_most_of_the_memory_is_missing_and_vcpus_wait(cut, expected_way_out):
    waits = wait_waiting(cut)
    faults = cut.destination.faults()
    assert faults['way-out'] == expected_way_out
    assert faults['pages']['present'] < faults['pages']['total'] // 2
    for wait in waits.values():
        assert wait['page'] in ('missing', 'requested')
        assert 0 <= wait['gpa'] - RAM_BASE < 160 << 20
    waiting = {c['cpu-index'] for c in cut.destination.command('query-cpus-fast') if 'waits-for' in c['x-postern']}
    assert waiting == {0, 1}


def test_stop_answers_within_100_ms(cut):
    vm, times = cut.destination, []
    for _ in range(11):
        wait_waiting(cut)
        times.append(vm.q.timed('stop')[0])
        assert vm.status() == 'paused'
        assert all(c['x-postern']['parked'] for c in vm.command('query-cpus-fast'))
        vm.command('cont')
        assert vm.status() == 'running'
    print('stop: median %.1f ms, longest %.1f ms' % (percentile(times, 0.5), max(times)))
    assert percentile(times, 0.5) < 100, times


def test_stop_on_the_heels_of_cont(cut):
    vm, times = cut.destination, []
    for _ in range(30):
        vm.command('cont')
        times.append(vm.q.timed('stop')[0])
        assert vm.status() == 'paused'
    vm.command('cont')
    assert percentile(times, 0.5) < 100, times


def test_a_second_client_is_answered(cut):
    wait_waiting(cut)
    with contextlib.closing(cut.destination.qmp()) as second:
        assert second.command('query-status')['running']
        assert second.command('query-migrate')['status'].startswith('postcopy-')


def test_the_guests_debugger_sees_what_is_there_and_is_refused_what_is_not(cut):
    vm = cut.destination
    missing = DIRECT_MAP + wait_waiting(cut)[0]['gpa']
    with gdbremote.GdbRemote('unix:' + vm.path('gdb')) as stub:
        assert stub.ask('?').startswith('T')
        assert len(stub.ask('g')) > 24 * 16
        stub.send('m%x,8' % missing)
        assert vm.q.command('query-status', 2)['running'] is False
        assert stub.receive().startswith('E')
        why = stub.monitor('missing')
        assert re.search(r'missing|requested|not come', why), why
        assert stub.ask('D') == 'OK'
    vm.wait_status('running')


def test_a_debugger_on_the_process_attaches_and_leaves(cut):
    wait_waiting(cut)
    vm = cut.destination
    output, took = gdbremote.run_gdb(['info threads'], ['-p', str(vm.pid)], timeout=10)
    print('gdb -p: %.1f s' % took)
    assert {'vcpu0', 'vcpu1'} <= set(re.findall(r'"(vcpu\d)"', output)), output[-1500:]
    assert vm.command('query-status')['running']
    assert not [t for t in vm.threads() if t.state in 'Tt'], vm.threads()


def test_it_is_recovered_twice_and_the_guest_is_sound(cut):
    cut.wait_paused()
    assert cut.running() == ['destination']
    cut.link.up()
    cut.recover(bandwidth=SLOW)
    before = cut.destination.faults()['pages']['present']
    wait_for(lambda: cut.destination.faults()['pages']['present'] > before + 200, 30, 'no page comes')
    assert cut.destination.faults()['pages']['missing'] > 0
    cut.link.down()
    cut.wait_paused()
    wait_waiting(cut)
    cut.link.up()
    cut.recover(bandwidth=0)
    cut.wait_completed()
    assert cut.destination.migration()['postern']['recoveries'] == 2
    assert cut.destination.faults()['pages']['present'] == cut.destination.faults()['pages']['total']
    cut.assert_sound(passes=3)


# ---- gdb itself on the guest that has come

def gdb(vm, *commands):
    """Runs gdb on the stub; returns its output."""
    output, took = gdbremote.run_gdb(['target remote ' + vm.path('gdb')] + list(commands), timeout=15)
    print('%.1f s\n%s' % (took, output))
    return output


def goes_on(pair):
    """After gdb has left, the guest runs, and its memory is sound."""
    pair.destination.wait_status('running')
    pair.arrived().wait_passes(1)
    assert pair.arrived().status()[2] == 0


def test_gdb_shows_vcpus_registers_and_code(cut):
    names = 'pc sp ttbr1_el1 cpsr' if ARM64 else 'rip rsp cr3 eflags'
    out = gdb(cut.destination, 'info threads', 'info registers ' + names, 'x/3i $pc', 'thread 2', 'x/i $pc', 'detach')
    assert re.search(r'^\* 1 +Thread ', out, re.M) and re.search(r'^  2 +Thread ', out, re.M), out
    rip = re.search(r'^(?:rip|pc) +0x([0-9a-f]+)', out, re.M)
    assert rip, out
    listed = re.findall(r'^(?:=>)? +0x([0-9a-f]+).*:\t(\S+)', out, re.M)
    assert len(listed) >= 4, out
    assert listed[0][0] == rip[1] and '(bad)' not in [op for _, op in listed], listed
    goes_on(cut)


def test_gdb_steps_move_one_instruction(cut):
    out = gdb(cut.destination, *['printf "at %#lx\\n", $pc', 'stepi'] * 5, 'printf "at %#lx\\n", $pc', 'detach')
    at = [int(x, 16) for x in re.findall(r'^at 0x([0-9a-f]+)', out, re.M)]
    assert len(at) == 6 and len(set(at)) > 1, out
    goes_on(cut)


def program_counter(stub):
    """Of the vCPU that is shown."""
    return int.from_bytes(bytes.fromhex(stub.ask('p%x' % GDB_PC_NUMBER)), 'little')


@pytest.mark.skipif(not ARM64, reason='QEMU\'s emulation of SVM does not trap them')
@pytest.mark.parametrize('kind', ['Z0', 'Z1'], ids=['software', 'hardware'])
def test_breakpoints_are_hit(cut, kind):
    """Where a vCPU is, it comes again: memcheck goes round in a loop."""
    with gdbremote.GdbRemote('unix:' + cut.destination.path('gdb')) as stub:
        assert stub.ask('?').startswith('T')
        for _ in range(20):
            here = program_counter(stub)
            what = '%s,%x,4' % (kind, here)
            assert stub.ask(what) == 'OK'
            stub.send('vCont;c')
            try:
                reply = stub.receive(0.5)
            except gdbremote.GdbTimeout:
                stub.interrupt()
                reply = stub.receive()
            assert stub.ask(what.replace('Z', 'z', 1)) == 'OK'
            if reply.startswith('T05'):
                break
        assert reply.startswith('T05'), 'never hit; last %r' % reply
        assert program_counter(stub) == here
        assert stub.ask('D') == 'OK'
    goes_on(cut)


def test_breakpoints_are_taken_and_leave_no_trace(cut):
    """Whether they are hit cannot be seen here: QEMU's emulation of SVM neither arms the debug registers that VMRUN loads
    nor intercepts int3."""
    with gdbremote.GdbRemote('unix:' + cut.destination.path('gdb')) as stub:
        assert stub.ask('?').startswith('T')
        here = program_counter(stub)
        before = stub.read(here, 16)
        assert stub.ask('Z0,%x,%d' % (here, BREAKPOINT_BYTES)) == 'OK'
        assert stub.read(here, 16) == before, 'the debugger sees its own breakpoint'
        assert stub.ask('z0,%x,%d' % (here, BREAKPOINT_BYTES)) == 'OK'
        assert stub.read(here, 16) == before
        for i in range(4):
            assert stub.ask('Z%d,%x,%d' % (1 + i % 2, 0x7000 + 16 * i, 1 + i % 2 * 7)) == 'OK'
        assert stub.ask('Z1,8000,1').startswith('E'), 'there are four'
        stub.send('vCont;c')
        cut.destination.wait_status('running')
        stub.interrupt()
        assert re.match(r'T0[25]', stub.receive())
        assert stub.ask('z1,7000,1') == 'OK'
        assert stub.ask('Z1,8000,1') == 'OK'
        assert stub.ask('D') == 'OK'
    goes_on(cut)


def test_a_debugger_that_just_goes_away_leaves_a_guest_that_runs(cut):
    gdb(cut.destination, 'hbreak *0x7000', 'disconnect')
    goes_on(cut)


def test_nothing_is_left_of_the_migration(cut):
    """Threads and descriptors of the migration are gone, and the source ends in order."""
    names = [t.name for t in cut.destination.threads()]
    assert not [n for n in names if 'urgent' in n or 'bulk' in n], names
    assert cut.source.end()[0] == 0
    cut.arrived().wait_passes(1)
    assert cut.destination.end(timeout=seconds(1) * 10)[0] == 0

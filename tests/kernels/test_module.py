# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""The kernel module: what is right after it has ended waits, how it comes and goes, and where it does not load."""

import contextlib
import ctypes
import os
import time

import pytest

import asking
from conftest import NAME, dmesg
from harness import debian
from harness.gdbremote import run_gdb
from harness.machine import ARM64

SYS_TGKILL = {'x86_64': 234, 'aarch64': 131}[os.uname().machine]
SIGUSR1 = 10            # both VMMs kick their vCPUs with it
CYCLES = 200 if ARM64 else 2000
ROUNDS = 60
Guest = asking.PAIRS['qemu']    # the bare one where there is one

bare = pytest.mark.skipif(ARM64, reason='the bare guest is x86-64 code')


def kick(machine):
    """SIGUSR1 to each of its threads that waits in the kernel for a page, and to each vCPU's that says it is one; how many."""
    tids = asking.stranded_threads(machine) | {t.tid for t in machine.threads() if t.name.startswith('vcpu')}
    for tid in tids:
        ctypes.CDLL(None).syscall(SYS_TGKILL, machine.pid, tid, SIGUSR1)
    return len(tids)


def test_does_not_load_where_the_kernel_does_it_itself(module, interruptible):
    if not interruptible:
        pytest.skip('this kernel does not')
    done = module.load()
    assert done.returncode != 0 and 'not supported' in done.stdout, done.stdout
    assert not module.is_loaded()
    assert [line for line in dmesg()[-5:] if NAME in line and 'not loaded: this kernel' in line]


def test_keeps_kvm_while_it_is_loaded(loaded):
    if os.uname().machine != 'x86_64':
        pytest.skip('KVM is built in')
    assert loaded.is_loaded() and NAME in os.listdir('/sys/module/kvm/holders')


@pytest.mark.parametrize('guest', [pytest.param(asking.QemuPair, marks=bare), asking.DebianQemuPair], ids=('bare', 'debian'))
def test_all_is_answered_and_recovered_and_memory_is_right(loaded, guest):
    """One after the other on the same machine, as an operator would."""
    if guest is asking.DebianQemuPair and debian.reason():
        pytest.skip(debian.reason())
    with guest() as pair:
        pair.strand()
        for test in ('gdb', 'stop'):
            assert asking.ask(test, pair, 5).answered, '%s: %s' % (test, asking.whereabouts(pair.destination))
            pair.destination.command('cont')
            asking.wait_stranded(pair.destination)
        output, _ = run_gdb(('info threads',), ('-p', str(pair.destination.pid)), timeout=20)
        assert 'KVM_RUN' in output or 'ioctl' in output, output
        asking.wait_stranded(pair.destination)
        assert asking.ask('second-client', pair, 5).answered
        pair.destination.q.wait_event('STOP')
        pair.destination.command('cont')
        pair.recover_and_verify()
        assert loaded.stats()['cuts'] > 0


@pytest.mark.parametrize('first', [False, pytest.param(True, marks=pytest.mark.skipif(
    not ARM64, reason='what KVM does on its own account is not helped on x86'))], ids=('guest', 'stolen-time'))
def test_many_times_stop_and_cont(loaded, first):
    """While the vCPU waits for a page that the guest, or KVM itself, needs."""
    with Guest() as pair:
        pair.strand(first)
        longest = 0
        for _ in range(CYCLES):
            ms, _ = pair.destination.q.timed('stop')
            longest = max(longest, ms)
            pair.destination.command('cont')
            pair.destination.q.events.clear()
            asking.wait_stranded(pair.destination, 0)
        print('longest stop of %d: %.1f ms' % (CYCLES, longest))
        stats = loaded.stats()
        assert stats['cuts'] >= CYCLES, stats
        pair.recover_and_verify()


@pytest.mark.parametrize('first', (False, True), ids=('guest', 'first-page'))
def test_unloaded_while_a_vcpu_waits(module, interruptible, first):
    """It goes, the vCPU waits on, nothing is lost, and it comes again."""
    if interruptible:
        pytest.skip('this kernel ends such waits by itself')
    module.set(True)
    with Guest() as pair:
        pair.strand(first)
        assert kick(pair.destination)
        asking.wait_stranded(pair.destination)
        module.set(False)
        asking.wait_stranded(pair.destination)
        module.set(True)
        asking.wait_stranded(pair.destination)
        pair.recover_and_verify()
        module.set(False)


@bare
def test_loaded_and_unloaded_while_vcpus_wait_and_are_kicked(module, interruptible):
    """Pages come slowly, so that at each moment faults of before and after are under way."""
    if interruptible:
        pytest.skip('this kernel ends such waits by itself')
    totals = {}
    with contextlib.ExitStack() as stack:
        qemu = stack.enter_context(asking.QemuPair())
        postern = stack.enter_context(asking.PosternPair(cpus=2))
        for pair in (qemu, postern):
            pair.strand()
            pair.link.up()
        kicks = 0
        for i in range(ROUNDS):
            module.set(True)
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                kicks += kick(qemu.destination) + kick(postern.destination)
            for machine in (qemu.destination, postern.destination) if i % 4 == 0 else ():
                machine.command('stop')
                machine.command('cont')
            for name, value in module.stats().items():
                totals[name] = totals.get(name, 0) + value
            kicks += kick(qemu.destination) + kick(postern.destination)
            module.set(False)
            kicks += kick(qemu.destination) + kick(postern.destination)
        print('%d kicks, %s' % (kicks, totals))
        assert totals['cuts'] > ROUNDS and totals['missed'] == 0 and totals['strange'] == 0, totals
        for pair in (qemu, postern):
            pair.finish_and_verify()

# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A machine that is stopped and continued by QMP, again and again, with a debugger beside it that does what it likes.

    with Postern(gdb=True) as vm:
        ...
        stress = Stress(vm, rng, able=able())
        stress.run(pairs=1000)
        print(stress.report())

The debugger reads and writes registers and memory, lets one vCPU run or step alone, interrupts at once or up to 1 ms
later, sets breakpoints and watchpoints where the guest is, detaches (or goes away) while it runs and while it is stopped,
and comes back. Whatever it meets (the machine may have been let run behind its back), each request is answered within
BOUND_S, and each "stopped" that it is told comes after an interruption in that time. What goes wrong is raised by run().
"""

import os
import random
import re
import threading
import time

from harness.gdbremote import GdbError, GdbRemote, GdbTimeout
from harness.vm import Postern
from harness.waiting import seconds

BOUND_S = 1.0               # a hang bound, not a claim of speed
OFFSET_S = 1e-3             # detaches and interruptions come this much later at most
RUNS = ('c', 'vCont;c', 'vCont;c:1', 'vCont;c:2')
STEPS = ('vCont;s:1', 'vCont;s:2')
ALL = {'step', 'break'}
STATUS_EVERY = 50
REGISTERS = r'[0-9a-f]{1000,}|E10'
RIP = slice(2 * 128, 2 * 136)       # of a 'g' reply
XMM15 = 0x37                        # a register that the bare guest does not use


class Wrong(AssertionError):
    """An answer that may not be, or none in time."""


def _takes(resume, before=None):
    """Does this host's KVM do it right? Some hand the exception to the guest, at once or later, which resets it."""
    with Postern(memory='64M', gdb=True) as vm:
        vm.bare(ready=True).walk('c')
        with GdbRemote('unix:' + vm.path('gdb')) as gdb:
            gdb.ask('?')
            for _ in range(20):
                pc = int.from_bytes(bytes.fromhex(gdb.ask('g')[RIP]), 'little')
                if before and gdb.ask('Z' + before % pc) != 'OK':
                    return False
                gdb.send(resume)
                try:
                    if not gdb.receive(1).startswith('T05'):
                        return False
                except GdbTimeout:
                    return False
                if before:
                    gdb.ask('z' + before % pc)
            gdb.ask('D')
        vm.wait_status('running')
        return not [e for e in vm.q.poll_events() if e['event'] == 'RESET']


def able():
    """What the debugger may use of KVM's guest debugging without harm to the guest: some of ALL."""
    return {what for what, sound in (('step', _takes('vCont;s:1')), ('break', _takes('vCont;c', '0,%x,1'))) if sound}


class Stalls:
    """The longest time for which this host did not run a thread of a processor that was due: no answer can be expected of it
    in less."""

    EVERY_S = 0.005

    def __init__(self):
        self.longest = 0.0
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(cpu,), daemon=True) for cpu in sorted(os.sched_getaffinity(0))]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _run(self, cpu):
        os.sched_setaffinity(0, {cpu})      # of this thread
        before = time.monotonic()
        while not self._end.is_set():
            time.sleep(self.EVERY_S)
            now = time.monotonic()
            self.longest = max(self.longest, now - before - self.EVERY_S)
            before = now


class Debugger:
    """The debugger's side, on a thread of its own: sessions, one after the other, until end()."""

    def __init__(self, address, rng, can):
        self.address, self.rng = address, rng
        self.runs = RUNS + (STEPS if 'step' in can else ())
        self.breaks = ('1', '2', '4') + (('0',) if 'break' in can else ())
        self.slowest = {}               # of each kind of request, in seconds
        self.count = {}
        self.error = None
        self._pc = None
        self._gdb = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name='debugger', daemon=True)

    def start(self):
        """Until end()."""
        self._thread.start()

    def end(self):
        """Ends the session that is under way, too; raises what went wrong."""
        self._end.set()
        self._thread.join()
        if self.error:
            raise self.error

    def _run(self):
        try:
            while not self._end.is_set():
                self._session()
        except Exception as e:      # pylint: disable=broad-except
            self.error = e

    # one request

    def _note(self, kind, start, reply=''):
        took = time.monotonic() - start
        self.slowest[kind] = max(self.slowest.get(kind, 0), took)
        what = 'E' if reply.startswith('E') else ''
        self.count[kind + what] = self.count.get(kind + what, 0) + 1

    def _receive(self, kind, start, wanted):
        """The reply to what was sent at `start`; text for the user's console is passed over."""
        end = start + seconds(BOUND_S)
        while True:
            try:
                reply = self._gdb.receive(max(0.0, end - time.monotonic()) / seconds(1))
            except GdbTimeout as e:
                raise Wrong('gdb: no answer to %s in %.1f s: %s' % (kind, seconds(BOUND_S), e)) from None
            if reply.startswith('O') and reply != 'OK':
                continue
            if not re.fullmatch(wanted, reply):
                raise Wrong('gdb: %s is answered with %r' % (kind, reply[:80]))
            self._note(kind, start, reply)
            return reply

    def _ask(self, payload, wanted, kind=None):
        start = time.monotonic()
        self._gdb.send(payload)
        return self._receive(kind or payload, start, wanted)

    # what a debugger does

    def _registers(self):
        reply = self._ask('g', REGISTERS)
        if not reply.startswith('E'):
            self._pc = int.from_bytes(bytes.fromhex(reply[RIP]), 'little')

    def _registers_again_and_again(self):
        """The register cache flushed for each: some are under way whenever the machine is let run."""
        n = self.rng.randrange(5, 40)
        self._ask('Hg2', 'OK', 'Hg')
        start = time.monotonic()
        for _ in range(n):
            self._gdb.send('g')
        for _ in range(n):      # each from when the one before it was answered
            self._receive('g', start, REGISTERS)
            start = time.monotonic()

    def _write_register(self):
        self._ask('P%x=%032x' % (XMM15, self.rng.getrandbits(128)), r'OK|E10|E0e', 'P')

    def _write_registers(self):
        self._ask('G', r'OK|E10|E0e')       # of none: all stay as they are, and are written

    def _memory(self):
        if self._pc:
            self._ask('m%x,10' % self._pc, r'[0-9a-f]+|E10|E0e', 'm')

    def _threads(self):
        self._ask('Hg%x' % self.rng.choice((1, 2)), 'OK', 'Hg')
        self._ask('qThreadExtraInfo,%x' % self.rng.choice((1, 2)), r'[0-9a-f]+', 'qThreadExtraInfo')

    def _break(self):
        if not self._pc:
            return
        kind = self.rng.choice(self.breaks)
        what = '%s,%x,%x' % (kind, self._pc & (~7 if kind > '1' else ~0), 1 if kind < '2' else 8)
        if self._ask('Z' + what, r'OK|E10|E0e', 'Z' + kind) != 'OK':
            return
        for _ in range(self.rng.randrange(3)):
            self._let_run()
        self._ask('z' + what, r'OK|E10', 'z' + kind)

    def _let_run(self):
        """A continue or a step, and an interruption: in the same segment, or a moment later."""
        kind = self.rng.choice(self.runs)
        start = time.monotonic()
        if self.rng.randrange(3):
            self._gdb.send(kind)
            time.sleep(self.rng.random() * OFFSET_S)
            self._gdb.interrupt()
        else:
            self._gdb.send(kind, b'\x03')
        self._receive(kind, start, r'T[0-9a-f]{2}.*')

    def _leave(self):
        """A detach while it is stopped, or while it runs (perhaps alone), or just away."""
        if self.rng.randrange(4):
            self._gdb.send(self.rng.choice(self.runs))
            time.sleep(self.rng.random() * OFFSET_S)
        if self.rng.randrange(4):
            start = time.monotonic()
            self._gdb.send('D')
            while self._receive('D', start, r'OK|T.*') != 'OK':
                pass
        self._gdb.close()

    def _session(self):
        doings = (self._registers, self._registers_again_and_again, self._registers_again_and_again, self._write_register,
                  self._write_registers, self._memory, self._threads, self._let_run, self._let_run, self._break)
        self._gdb = GdbRemote(self.address, BOUND_S)
        try:
            # One that has just gone may not have been noticed yet.
            if self._ask('?', r'T05.*|E\.another debugger is attached').startswith('E'):
                return
            for _ in range(self.rng.randrange(3, 20)):
                self.rng.choice(doings)()
            self._leave()
        except GdbError as e:
            raise Wrong('gdb: %s' % e) from None
        finally:
            self._gdb.close()


class Stress:
    """See above. vm has two vCPUs and a gdb socket; can: what the debugger uses of ALL."""

    def __init__(self, vm, rng, can):
        self.vm, self.rng = vm, rng
        # Each has its own, so that a seed means the same however the two meet.
        self.debugger = Debugger('unix:' + vm.path('gdb'), random.Random(rng.getrandbits(64)), can)
        self.slowest = {}
        self.stalls = Stalls()
        self.pairs = 0

    def _command(self, name):
        ms, result = self.vm.q.timed(name, BOUND_S)
        self.slowest[name] = max(self.slowest.get(name, 0), ms / 1e3)
        return result

    def run(self, pairs, go_on=lambda: True):
        """So many pairs of cont and stop, or for as long as go_on() says, asked now and then."""
        with self.stalls:
            self._run(pairs, go_on)

    def _run(self, pairs, go_on):
        self.debugger.start()
        try:
            while self.pairs < pairs and not self.debugger.error:
                self._command('cont')
                time.sleep(self.rng.random() * OFFSET_S)
                self._command('stop')
                self.pairs += 1
                if self.pairs % STATUS_EVERY == 0:
                    self._command('query-status')
                    self._command('query-cpus-fast')
                    if not go_on():
                        break
        finally:
            self.debugger.end()

    def report(self):
        """The slowest of each request, and how many there were; E: that were refused with an error."""
        slowest = {**self.slowest, **self.debugger.slowest}
        return '%d pairs; the host stalled for up to %.0f ms; slowest of each, ms: %s; gdb: %s' % (
            self.pairs, self.stalls.longest * 1e3, ', '.join('%s %.1f' % (k, v * 1e3) for k, v in sorted(slowest.items())),
            ', '.join('%s %d' % (k, v) for k, v in sorted(self.debugger.count.items())))

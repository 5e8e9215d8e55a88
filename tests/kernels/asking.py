# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A VMM whose every vCPU waits for a page that does not come, and what an operator asks of it then.

    with QemuPair() as pair:
        pair.strand()                           # postcopy, the link is cut, the vCPU waits
        print(ask('stop', pair, seconds=5))     # Answer(answered=False, ms=None)

Asked are `stop`, a second client while `stop` is under way, SIGINT, and a debugger that attaches to every thread.
"""

import collections
import contextlib
import os
import platform
import select
import signal
import subprocess
import sys
import time

from harness import debian, machine
from harness.migration import Pair
from harness.net import Link
from harness.qmp import Qmp, QmpTimeout
from harness.vm import Qemu, bare_guest
from harness.waiting import scale, seconds, wait_for

HERE = os.path.dirname(os.path.abspath(__file__))
MEMORY_MIB = 64
TRICKLE = 1 << 18       # bytes a second while pages are to be missing
FAR_MS = 1000           # a page takes twice that to come: time for the link to be cut first
SETTLED = 20            # pages that the guest has asked for when it is well under way, and has what KVM itself needs of it
TESTS = ('stop', 'second-client', 'sigint', 'gdb')

Answer = collections.namedtuple('Answer', 'answered ms')


def _where(machine, thread):
    """Where in the kernel it sleeps. Linux 5.10 names no wait channel, so there its stack is read; not so later, whose unwinder warns of
    return probes when a thread wakes up at that moment."""
    if tuple(int(x) for x in platform.release().split('.')[:2]) >= (5, 16):
        return thread.wchan
    try:
        with open('/proc/%d/task/%d/stack' % (machine.pid, thread.tid), encoding='ascii') as file:
            return file.read()
    except OSError:
        return thread.wchan


def stranded_threads(machine):
    """Numbers of its threads that wait for a page of userfaultfd's now."""
    return {thread.tid for thread in machine.threads() if 'handle_userfault' in _where(machine, thread)}


def whereabouts(machine):
    """Where each of its threads is in the kernel, for people."""
    return '; '.join('%s: %s' % (thread.name, ' < '.join(_where(machine, thread).split('\n')[:12])) for thread in machine.threads())


def wait_stranded(machine, seconds_long=0.3):
    """Until one has waited for so long, and so does not wait for a page that comes. That it was away once does not count: QEMU
    kicks its vCPUs now and then by itself."""
    since, missed = {}, set()

    def long():
        nonlocal missed
        now, time_now = stranded_threads(machine), time.monotonic()
        for tid in set(since) - now:
            if tid in missed:
                del since[tid]
        missed = set(since) - now
        for tid in now:
            since.setdefault(tid, time_now)
        return {tid for tid in now if time_now - since[tid] >= seconds_long}
    return wait_for(long, 20, 'no thread waits for a page', every=0.02)


class PosternPair(Pair):
    """postern, source and destination, over a link that can be cut."""

    name = 'postern'

    def __init__(self, **more):
        super().__init__(link=True, memory='%dM' % MEMORY_MIB, **more)

    def strand(self):
        """The guest runs at the destination and waits for a page behind a link that is cut."""
        self.guest.walk('c')
        self.start(bandwidth=TRICKLE)
        self.link.down()
        self.wait_all_waiting()     # asked of postern: where it ejects, they wait outside of the kernel's fault

    def another_client(self):
        """A new QMP client of the destination's."""
        return self.destination.qmp()

    def finish_and_verify(self):
        """The link is not cut: all that is missing comes, and is right."""
        self.finish()
        _verify(self.arrived())

    def recover_and_verify(self):
        """The link is back; every word of the guest's memory is as it should be."""
        self.wait_paused()
        self.link.up()
        self.recover(bandwidth=0)
        self.wait_completed()
        _verify(self.arrived())


class _Qemu(Qemu):
    """With a second QMP socket: one of QEMU's has one client at a time."""

    def spawn(self, words, *rest, **more):
        super().spawn(words + ['-qmp', 'unix:%s,server=on,wait=off' % self.path('qmp2')], *rest, **more)


class QemuPair:
    """QEMU as Debian has it, the same guest, the same link."""

    name = 'qemu'

    def __init__(self):
        self.stack = contextlib.ExitStack()
        self.ports = 4500
        try:
            self.link = self.stack.enter_context(Link())
            self.source = self._machine('qsrc', self.link.a)
            self.attach()
            self.destination = self._machine('qdst', self.link.b, incoming='defer')
            for side in (self.source, self.destination):
                side.q.command('migrate-set-capabilities', capabilities=[
                    {'capability': name, 'state': True} for name in ('events', 'postcopy-ram')])
            self.greet()
        except BaseException:
            self.stack.close()
            raise

    machine_options = {'memory_mib': MEMORY_MIB}

    def _machine(self, name, side, **more):
        machine = _Qemu(name, netns=side.name, **self.machine_options, **more)
        self.stack.callback(machine.close)      # killed: it does not end while it waits
        return machine

    def attach(self):
        """Before anything else takes time: QEMU throws away what a guest says to nobody."""

    def greet(self):
        """The guest answers, and has filled its memory."""
        self.guest = self.source.bare(ready=True)
        self.guest.fill(seconds(60))
        self.guest.walk('c')

    def verify(self):
        """The guest at the destination finds its memory as it should be."""
        _verify(bare_guest.Bare(self.destination.serial()))

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        for one in (self.source, self.destination) if kind else ():
            print('---- %s (exit code %s)\n%s----' % (one.name, one.process.poll(), one.log()[-4000:]), file=sys.stderr)
        self.stack.close()

    def _address(self):
        self.ports += 1
        return 'tcp:%s:%d' % (self.link.b.address, self.ports)

    def strand(self, first=False):
        """As PosternPair's. first: for the first page of all that the destination's vCPU needs; which on arm64 is the one in which KVM
        counts stolen time."""
        if first:
            self.link.shape(delay_ms=FAR_MS)
        self.source.command('migrate-set-parameters', max_bandwidth=TRICKLE, max_postcopy_bandwidth=TRICKLE)
        uri = self._address()
        self.destination.command('migrate-incoming', uri=uri)
        self.source.command('migrate', uri=uri)
        self.source.wait_migration('active')
        self.source.command('migrate-start-postcopy')
        self.destination.q.wait_event('RESUME', timeout=30)
        if not first:
            wait_for(lambda: self._asked() >= SETTLED, 30, lambda: 'pages asked for: %d' % self._asked())
        self.link.down()
        wait_stranded(self.destination)

    def _asked(self):
        """How many pages the destination has asked for."""
        return self.source.command('query-migrate').get('ram', {}).get('postcopy-requests', 0)

    def another_client(self):
        """As PosternPair's."""
        return Qmp('unix:' + self.destination.path('qmp2'), 10)

    def finish_and_verify(self):
        """As PosternPair's."""
        self.source.command('migrate-set-parameters', max_bandwidth=0, max_postcopy_bandwidth=0)
        self._finished()

    def _finished(self):
        for side in (self.source, self.destination):
            side.wait_migration('completed', timeout=60)
        self.verify()

    def recover_and_verify(self):
        """As PosternPair's."""
        for side in (self.source, self.destination):
            side.command('migrate-pause')
            side.wait_migration('postcopy-paused')
        self.link.up()
        self.link.shape()
        uri = self._address()
        self.destination.command('migrate-recover', uri=uri)
        self.source.command('migrate-set-parameters', max_bandwidth=0, max_postcopy_bandwidth=0)
        self.source.command('migrate', uri=uri, resume=True)
        self._finished()


class DebianQemuPair(QemuPair):
    """The same with the lab's stock Debian guest, whose memcheck keeps rewriting and verifying its memory; without asynchronous page
    faults, so that the vCPU itself waits; and, on x86, without stolen time, which the module does not help (kmod/README.md)."""

    machine_options = {'memory_mib': 192, 'kernel': debian.guest_file('vmlinuz'), 'binary': machine.QEMU,
                       'board': 'virt,gic-version=3' if machine.ARM64 else 'pc',
                       'cpu': 'host' if machine.ARM64 else 'host,kvm-steal-time=off',
                       'options': debian.words('memcheck.mb=48 memcheck.workers=1 memcheck.random=1 no-kvmapf watchdog_thresh=60'
                                               + (' console=ttyAMA0' if machine.ARM64 else ''))}

    def attach(self):
        self.guest = debian.Console(self.source)
        self.stack.callback(self.guest.close)

    def greet(self):
        self.guest.wait_ready()
        self.guest.wait_passes(1)

    def verify(self):
        with debian.Console(self.destination) as console:
            assert console.wait_passes(2)[3] == 0
            assert console.status()[2] == 0
            console.assert_well()


def _verify(guest):
    """Nothing wrong was seen while the guest ran, and nothing is wrong now."""
    with contextlib.closing(guest):
        guest.quiet(seconds(30))
        assert guest.first_error(seconds(20))['errors'] == 0
        verified = guest.verify(seconds(60))
        assert verified['errors'] == 0 and verified['pages'] > MEMORY_MIB * 256 * 3 // 4, verified


class DebianPosternPair(debian.DebianPair):
    """postern with the lab's stock Debian guest."""

    name = 'postern'

    def __init__(self):
        super().__init__(link=True, mb=48, memory='192M', cpus=1, parameters=' no-kvmapf')

    def strand(self):
        """As PosternPair's."""
        self.start(bandwidth=TRICKLE)
        self.link.down()
        self.wait_all_waiting()

    def another_client(self):
        """As PosternPair's."""
        return self.destination.qmp()


# The bare guest is for x86-64.
PAIRS = {pair.name: pair for pair in ((DebianQemuPair, DebianPosternPair) if machine.ARM64 else (QemuPair, PosternPair))}


def _timed(function, limit):
    """function(seconds, unstretched) raises QmpTimeout when there is no answer."""
    start = time.perf_counter()
    try:
        function(limit / scale())
    except QmpTimeout:
        return Answer(False, None)
    return Answer(True, (time.perf_counter() - start) * 1e3)


def ask_stop(pair, limit):
    """QMP stop, and the machine is stopped."""
    answer = _timed(lambda t: pair.destination.q.command('stop', t), limit)
    if answer.answered:
        assert not pair.destination.command('query-status')['running']
    return answer


def ask_second_client(pair, limit):
    """Somebody else's query-status, after `stop` was given."""
    with contextlib.closing(pair.another_client()) as other:
        pair.destination.q.send('stop')
        time.sleep(0.2)         # not a wait for anything: the other client comes later
        return _timed(lambda t: other.command('query-status', t), limit)


def ask_sigint(pair, limit):
    """Ctrl-C, until the process is gone."""
    start = time.perf_counter()
    pair.destination.send_signal(signal.SIGINT)
    try:
        pair.destination.process.wait(limit)
    except subprocess.TimeoutExpired:
        return Answer(False, None)
    return Answer(True, (time.perf_counter() - start) * 1e3)


def ask_gdb(pair, limit):
    """A debugger attaches to every thread, as gdb -p does, and lets go again."""
    tids = [str(t.tid) for t in pair.destination.threads()]
    with subprocess.Popen([sys.executable, os.path.join(HERE, 'attach.py'), *tids], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, text=True) as tracer:
        assert tracer.stdout.readline() == 'ready\n'
        if not select.select([tracer.stdout], [], [], limit)[0]:
            tracer.kill()
            return Answer(False, None)
        return Answer(True, float(tracer.stdout.readline()))


_ASK = {'stop': ask_stop, 'second-client': ask_second_client, 'sigint': ask_sigint, 'gdb': ask_gdb}


def ask(test, pair, limit):
    """One of TESTS of a pair that is stranded: an Answer, within so many seconds of real time."""
    return _ASK[test](pair, limit)

# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Who is measured: postern and QEMU behind one face, so that both get the same guest, commands and verification; and the
floors, which get the same guest and commands.

    vmm = POSTERN                   # or QEMU, QEMU_PREEMPT
    with contextlib.closing(vmm.source(1024)) as src, contextlib.closing(vmm.destination(1024)) as dst:
        vmm.prepare(src, dst)
        vmm.migrate(src, dst, cap=200_000_000)

Machines are closed, not asked to end: QEMU does not while it waits for pages.

Pinned(cpu) around a start pins that process; the default, None, leaves every thread where the scheduler puts it.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import time

from harness import vm
from harness.migration import free_port
from harness.waiting import seconds, wait_for

DONE = ('completed', 'failed', 'cancelled')
PRECOPY_BYTES = 1 << 20         # a second: almost everything must come by postcopy


@contextlib.contextmanager
def pinned(cpu):
    """What is started inside runs on that CPU alone; None: anywhere."""
    if cpu is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def status_event(machine, *wanted, timeout=120):
    """Waits for the event that the migration is in one of these states; returns (state, the machine's own time of it in
    s). No polling: it would take the CPU from what is measured."""
    event = machine.q.wait_event('MIGRATION', lambda d: d['status'] in wanted, timeout)
    return event['data']['status'], event_time(event)


def event_time(event):
    """Seconds since 1970, of the machine that sent it."""
    return event['timestamp']['seconds'] + event['timestamp']['microseconds'] / 1e6


def smaps(pid):
    """[(bytes, resident bytes, anonymous and writable?)] of each mapping."""
    out, head = [], None
    with open('/proc/%d/smaps' % pid, encoding='ascii', errors='replace') as f:
        for line in f:
            words = line.split()
            if re.match(r'[0-9a-f]+-[0-9a-f]+$', words[0]):
                start, end = (int(x, 16) for x in words[0].split('-'))
                head = (end - start, words[1].startswith('rw') and len(words) == 5)
            elif words[0] == 'Rss:':
                out.append((head[0], int(words[1]) * 1024, head[1]))
    return out


def rss_kib(machine, memory_mib):
    """Resident KiB of everything but guest RAM, which is what anonymous mappings of an eighth of it or more hold; None when
    these do not make up the guest's memory, so that a wrong figure is never shown."""
    least = max(memory_mib >> 3, 64) << 20
    maps = smaps(machine.pid)
    ram = sum(size for size, _, plain in maps if plain and size >= least)
    if not memory_mib << 20 <= ram <= (memory_mib + 64) << 20:
        return None
    return sum(rss for size, rss, plain in maps if not (plain and size >= least)) // 1024


class Vmm:
    """cpus: whether it can have more than one with this guest."""

    name = ''
    pin = (None, None)              # CPUs of source and destination

    def source(self, memory_mib, cpus=1):
        """A machine with the bare guest, running."""
        with pinned(self.pin[0]):
            return self._start('src', memory_mib, cpus, None)

    def destination(self, memory_mib, cpus=1):
        """A machine that waits for a migration."""
        with pinned(self.pin[1]):
            return self._start('dst', memory_mib, cpus, 'defer')

    def _start(self, name, memory_mib, cpus, incoming):
        raise NotImplementedError

    def prepare(self, src, dst):
        """Before the clock starts."""
        for machine in (src, dst):
            machine.q.command('migrate-set-capabilities', capabilities=[
                {'capability': c, 'state': True} for c in self.capabilities])

    capabilities = ('events', 'postcopy-ram')

    def migrate(self, src, dst, cap=0):
        """Starts it; cap: bytes a second of the bulk, 0: none. Returns when the command was given (time.time())."""
        uri = 'tcp:127.0.0.1:%d' % free_port()
        self.set_cap(src, cap)
        dst.q.command('migrate-incoming', uri=uri)
        start = time.time()
        src.q.command('migrate', uri=uri)
        self.switch(src)
        return start

    def switch(self, src):
        """To postcopy, as soon as that is possible."""

    def set_cap(self, src, cap):
        """Bytes a second of the bulk; 0: none."""
        src.q.command('migrate-set-parameters', max_postcopy_bandwidth=cap)

    @staticmethod
    def resumed(dst):
        """When the destination let the guest run (time.time())."""
        return event_time(dst.q.wait_event('RESUME', timeout=60))

    @staticmethod
    def finished(src, dst):
        """Waits for the end; returns when the later side had it (time.time())."""
        ends = []
        for machine in (src, dst):
            status, at = status_event(machine, *DONE)
            if status != 'completed':
                raise AssertionError('%s: %s: %s' % (machine.name, status, machine.migration().get('error-desc')))
            ends.append(at)
        return max(ends)

    @staticmethod
    def huge_pages_back(_dst, _end):
        """Waits until the destination has done what it does after the end in the background; how many ms after the end that was, or
        None where there is nothing to wait for."""
        return None

    @staticmethod
    def arrived(dst):
        """The guest, spoken to at the destination."""
        return dst.bare()

    def requests(self, src, dst):
        """How many distinct pages were fetched because somebody waited for them."""
        raise NotImplementedError


class Postern(Vmm):
    """postern run"""

    name = 'postern'
    capabilities = ('events',)

    def __init__(self, options=()):
        self.options = tuple(options)

    @staticmethod
    def huge_pages_back(dst, end):
        q = dst.qmp()
        wait_for(lambda: not q.command('query-postern-faults')['pages']['broken-huge'], 60, every=0.01)
        return (time.time() - end) * 1e3

    def _start(self, name, memory_mib, cpus, incoming):
        args = {'memory': '%dM' % memory_mib, 'cpus': cpus, 'log_level': 'warn', 'options': self.options}
        if incoming:
            return vm.Postern.incoming(name, uri=incoming, **args)
        return vm.Postern(name, **args)

    def requests(self, src, dst):
        return dst.faults()['counters']['requests']


class _TracedQemu(vm.Qemu):
    """QEMU that notes each page that it asks for in a file: its counter counts pages that are asked for twice, twice. Costs it
    a line in a buffer a fault."""

    def spawn(self, words, *rest, **more):
        super().spawn(words + ['-trace', 'postcopy_ram_fault_thread_request', '-D', self.path('trace')], *rest, **more)

    def asked(self):
        """How many distinct pages so far."""
        with open(self.path('trace'), encoding='ascii', errors='replace') as f:
            return len(set(re.findall(r'Request for HVA=(0x[0-9a-f]+)', f.read())))


class Qemu(Vmm):
    """QEMU, microvm, the bare guest by multiboot: one vCPU. Precopy is held to next to nothing until postcopy begins."""

    def __init__(self, preempt):
        self.preempt = preempt
        self.name = 'qemu preempt' if preempt else 'qemu plain'
        if preempt:
            self.capabilities = self.capabilities + ('postcopy-preempt',)

    def _start(self, name, memory_mib, cpus, incoming):
        return (_TracedQemu if incoming else vm.Qemu)('q' + name, memory_mib, incoming=incoming)

    def switch(self, src):
        status_event(src, 'active')
        src.q.command('migrate-start-postcopy')

    def set_cap(self, src, cap):
        src.q.command('migrate-set-parameters', max_postcopy_bandwidth=cap, max_bandwidth=PRECOPY_BYTES)

    def requests(self, src, dst):
        return dst.asked()


class Floor:
    """`floors serve`: the bare guest over raw userfaultfd, kept for all rounds of a size. guest: its Bare."""

    name = 'floor'

    def __init__(self, program, memory_mib):
        ours, theirs = socket.socketpair()
        words = [program, 'serve', vm.bare_elf(), str(memory_mib), str(theirs.fileno())]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        pass_fds=[theirs.fileno()], process_group=0)
        theirs.close()
        self.guest = vm.bare_guest.Bare(ours)
        self.info = self.guest.wait_ready(seconds(20))

    @contextlib.contextmanager
    def awake(self):
        """It runs inside only: its guest never rests, and would take a CPU from whoever is measured next."""
        self.process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGSTOP)

    def close(self):
        """Ends it."""
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)
        self.process.stdout.close()
        self.guest.close()

    def _ask(self, line):
        self.process.stdin.write(line.encode() + b'\n')
        self.process.stdin.flush()
        answer = self.process.stdout.readline().split()
        if not answer or answer[0] != b'ok':
            raise AssertionError('floors: no answer to %r' % line)
        return [int(x) for x in answer[1:]]

    def late(self, where):
        """All pages of the work area are gone; where they come from: 'local' or 'tcp'."""
        self._ask('late %s %d %d' % (where, self.info['base'], self.info['lowpages']))

    def whole(self):
        """All pages are there, on huge pages."""
        self._ask('whole')

    def place(self, *cpus):
        """CPUs of the vCPU, of the thread that copies, of the process that serves; -1: any."""
        self._ask('place %d %d %d' % cpus)

    def count(self):
        """Pages asked for since late()."""
        return self._ask('count')[0]


POSTERN = Postern()
QEMU = Qemu(False)
QEMU_PREEMPT = Qemu(True)

__all__ = ['DONE', 'Floor', 'POSTERN', 'QEMU', 'QEMU_PREEMPT', 'Postern', 'Qemu', 'Vmm', 'pinned', 'rss_kib']

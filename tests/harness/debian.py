# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""The stock Debian guest of the lab (lab/README.md), whose memcheck program keeps rewriting and verifying its memory.

    with DebianPair(link=True) as pair:             # pair.guest, pair.arrived(): Consoles
        pair.guest.wait_passes(2)
        pair.start(bandwidth=1 << 20)

    with debian(cpus=4) as vm:
        with Console(vm) as console: console.wait_ready()

The console is the serial port's unix socket; a thread reads it all the time, so no output is lost and every line has
the time at which it came.
"""

import contextlib
import os
import re
import select
import socket
import threading
import time

from harness.lab import GuestStuck, kept_when_lost
from harness.machine import ARM64
from harness.migration import Pair
from harness.qmp import QmpTimeout
from harness.vm import Postern
from harness.waiting import seconds, wait_for

GUEST = os.environ.get('POSTERN_GUEST', '/guest')
READY = re.compile(r'GUEST-READY uptime=(?P<uptime>[\d.]+) cpus=(?P<cpus>\d+) clocksource=(?P<clock>\S+)')
REPORT = re.compile(r'memcheck (?P<kind>status |quit )?pass=(?P<passes>\d+) pages=(?P<pages>\d+) errors=(?P<errors>\d+)')
# What a Linux guest says when it is not well.
UNWELL = re.compile(r'memcheck ERROR.*|soft lockup.*|.*rcu.*stall.*|BUG:.*|WARNING:.*|Oops.*|Kernel panic.*|'
                    r'clocksource:.*unstable.*|general protection fault.*|blocked for more than.*')
# ... and when one of its processors goes on no more: what is awaited of it will not come.
STUCK = re.compile(r'.*(?:soft lockup|rcu.*stall).*')
BOOT_SECONDS = 40       # unstretched


def guest_file(name):
    """vmlinuz, vmlinux or initrd of the guest."""
    return os.path.join(GUEST, name)


def reason():
    """Why there is no Debian guest here, or None."""
    for name in ('vmlinuz', 'initrd'):
        if not os.path.exists(guest_file(name)):
            return 'no Debian guest here: %s is missing' % guest_file(name)
    return None


def words(parameters='', quiet=True):
    """The options that a machine needs to boot it, beside the kernel: initrd and command line."""
    # A stock arm64 kernel sets 64 MiB aside for devices.
    line = 'console=ttyS0 nokaslr %s panic=-1 %s%s' % ('cma=0' if ARM64 else 'no5lvl', 'quiet ' if quiet else '', parameters)
    return ['--initrd', guest_file('initrd'), '--append', line]


def debian(name='debian', parameters='', kernel='vmlinuz', memory='192M', cpus=2, options=(), quiet=True, **more):
    """A machine that boots it; parameters are for the kernel's command line (memcheck.mb=N and the like)."""
    return Postern(name, memory=memory, cpus=cpus, kernel=guest_file(kernel),
                   options=words(parameters, quiet) + list(options), **more)


class Descriptors:
    """What a Console needs of a socket, over plain descriptors: pipes, a terminal. Owns them."""

    def __init__(self, read_fd, write_fd):
        self._read_fd, self._write_fd = read_fd, write_fd
        self._end = threading.Event()

    def recv(self, size):
        """As a socket's; b'' after shutdown()."""
        while not self._end.is_set():
            if select.select([self._read_fd], [], [], 0.1)[0]:
                return os.read(self._read_fd, size)
        return b''

    def sendall(self, data):
        """As a socket's."""
        while data:
            data = data[os.write(self._write_fd, data):]

    def shutdown(self, _how):
        """Ends recv()."""
        self._end.set()

    def close(self):
        """Closes both."""
        for fd in {self._read_fd, self._write_fd}:
            os.close(fd)


class Console:
    """The other side of a machine's serial socket, or of any stream that is like one."""

    def __init__(self, vm=None, stream=None):
        self._sock = stream or vm.serial()
        self._lock = threading.Lock()
        self._text = ''
        self._lines = []        # (time.monotonic(), line)
        self._seen = 0          # expect() has matched up to here
        self.closed = False
        self._thread = threading.Thread(target=self._read, name='console', daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        """Hangs up."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(seconds(5))
        self._sock.close()

    def _read(self):
        rest = ''
        while True:
            try:
                data = self._sock.recv(1 << 16)
            except OSError:
                data = b''
            if not data:
                self.closed = True
                return
            text = data.decode('utf-8', 'replace').replace('\r', '')
            *done, rest = (rest + text).split('\n')
            now = time.monotonic()
            with self._lock:
                self._text += text
                self._lines += [(now, line) for line in done]

    def text(self):
        """All that has come."""
        with self._lock:
            return self._text

    def lines(self):
        """Whole lines: [(time.monotonic(), line)]."""
        with self._lock:
            return list(self._lines)

    def assert_goes_on(self, ended, awaited):
        """What is awaited may still come: the machine had not `ended` (closed, asked before the text was looked at, since what came
        last counts), and the guest's kernel does not say that a processor is stuck."""
        text = self.text()
        assert not ended, 'the machine hung up; no %r; the end is %r' % (awaited, text[-1500:])
        stuck = STUCK.search(text)
        if stuck:
            raise GuestStuck('the guest is stuck, no %r: %s' % (awaited, stuck[0]))

    def write(self, text):
        """Types."""
        self._sock.sendall(text.encode())

    def expect(self, pattern, timeout=20.0):
        """Waits until a line past the one found last matches somewhere; returns the match."""
        rx = re.compile(pattern) if isinstance(pattern, str) else pattern

        def found():
            ended = self.closed
            for i, (_, line) in enumerate(self.lines()[self._seen:], self._seen):
                match = rx.search(line)
                if match:
                    self._seen = i + 1
                    return match
            self.assert_goes_on(ended, rx.pattern)
            return None
        with kept_when_lost(self.text):
            return wait_for(found, timeout, lambda: 'console: no %r; the end is %r' % (rx.pattern, self.text()[-1500:]),
                            every=0.01)

    def wait_ready(self, timeout=BOOT_SECONDS):
        """Until the guest's init runs; returns {'uptime', 'cpus', 'clock'}."""
        return self.expect(READY, timeout).groupdict()

    def reports(self):
        """memcheck's lines so far, in order: [(time, passes, pages, errors)]."""
        out = []
        for when, line in self.lines():
            match = REPORT.search(line)
            if match:
                out.append((when, int(match['passes']), int(match['pages']), int(match['errors'])))
        return out

    def wait_passes(self, more=2, timeout=60.0):
        """Until memcheck has gone over all its memory so many times more than when first heard; returns the last
        report. AssertionError as soon as the guest is unwell."""
        self.assert_well()
        start = len(self.reports())

        def there():
            ended = self.closed
            self.assert_well()
            new = self.reports()[start:]
            if new and new[-1][1] >= new[0][1] + more:
                return new[-1]
            assert not ended, 'the machine hung up; the end of the console is %r' % self.text()[-600:]
            return None
        with kept_when_lost(self.text):
            return wait_for(there, timeout, lambda: 'memcheck does not go on; the end of the console is %r'
                            % self.text()[-600:], every=0.02)

    def status(self, timeout=20.0):
        """Asks memcheck on the console: (passes, pages, errors)."""
        self.write('status\n')
        match = self.expect(r'memcheck status pass=(\d+) pages=(\d+) errors=(\d+)', timeout)
        return tuple(int(x) for x in match.groups())

    def assert_well(self):
        """No wrong page, no complaint of the guest's kernel."""
        bad = [line for _, line in self.lines() if UNWELL.search(line)]
        assert not bad, 'the guest is not well: %s' % bad[:10]
        wrong = [r for r in self.reports() if r[3]]
        assert not wrong, 'memcheck found errors: %s' % wrong[:3]


class DebianPair(Pair):
    """A Pair whose guest is Debian with memcheck over `mb` MiB of its memory, one worker a vCPU. console: that of a guest
    which runs already, at the machine given as source. async_pf: with KVM's asynchronous page faults a kernel worker
    waits for a program's page, and the guest's kernel does something else meanwhile, or idles; without them the vCPU
    itself waits, always."""

    def __init__(self, mb=64, memory='192M', cpus=2, parameters='', passes=1, console=None, async_pf=False, **more):
        if not async_pf and not ARM64:
            parameters += ' no-kvmapf'
        # A vCPU that waits for a page for 20 s looks to the guest like one that is stuck, which it is. Tests cut links for about as
        # long, and look for anything that the guest's kernel complains of.
        parameters += ' watchdog_thresh=60'
        options = dict(more.pop('source_options', None) or {}, kernel=guest_file('vmlinuz'),
                       options=words('memcheck.mb=%d memcheck.workers=%d memcheck.random=1 %s'
                                     % (mb, cpus, parameters)))
        self.passes = passes
        self._running = console
        super().__init__(memory=memory, cpus=cpus, source_options=options, **more)

    def greet(self, fill):
        """The guest has booted, and verified each of its pages once."""
        if self._running:
            self.guest = self._running
            return
        self.guest = Console(self.source)
        self.stack.callback(self.guest.close)
        self.ready = self.guest.wait_ready()
        if fill:
            self.guest.wait_passes(self.passes)

    def arrived(self):
        """The console at the destination."""
        if self._arrived is None or self._arrived[0] is not self.destination:
            self._arrived = (self.destination, Console(self.destination))
            self.stack.callback(self._arrived[1].close)
        return self._arrived[1]

    def assert_sound(self, passes=2, timeout=60.0):
        """The guest at the destination goes over its memory `passes` times more and finds no error, its console
        answers, and the source does not run."""
        console = self.arrived()
        with contextlib.suppress(QmpTimeout):
            console.write('\n')         # what was half received at switchover ends here
        last = console.wait_passes(passes, timeout)
        assert last[3] == 0
        assert console.status()[2] == 0
        console.assert_well()
        assert self.source.status() == 'postmigrate'
        assert self.running() == ['destination']
        return last

# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Two machines and what lies between them.

    with Pair(link=True) as pair:                   # over a veth pair that can be cut
        pair.guest.fill()
        pair.start(bandwidth=1 << 20)               # migrate; returns when the guest has switched over
        pair.link.down(); pair.wait_paused()
        pair.link.up(); pair.recover(bandwidth=0)
        pair.wait_completed()
        assert pair.arrived().verify()['errors'] == 0

transport: 'tcp' and 'unix' on this host, 'fd' (three socket pairs); link: over a Link; proxy: through a Proxy.
"""

import contextlib
import os
import socket

from harness import kvm
from harness.net import Link
from harness.proxy import Proxy
from harness.vm import Postern, QmpClosed, bare_guest
from harness.waiting import scale, seconds, wait_for

LINK_TIMEOUT_MS = 5000      # how long silence is a lost link, unstretched: a busy machine must not look like a cut
HURRY_MS = 150              # once it has been cut


def free_port():
    """A TCP port of the loopback that nobody listens at now."""
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return sock.getsockname()[1]


class Pair:
    """A source with a running guest and a destination that waits for it. source, destination: Postern machines;
    guest: the source's Bare. Keywords that are not named here go to both machines."""

    def __init__(self, link=False, proxy=False, transport='tcp', source=None, destination=None, fill=True,
                 rewrite=None, link_timeout_ms=LINK_TIMEOUT_MS, source_options=None, destination_options=None, **both):
        self.stack = contextlib.ExitStack()
        self.link = self.proxy = None
        self.transport = transport
        self.link_timeout_ms = link_timeout_ms
        self.ports = 0
        self.guest = None
        self._arrived = None
        self._fds = []
        try:
            if link:
                self.link = self.stack.enter_context(self.new_link())
            source_args = dict(both, **(source_options or {}))
            if link:
                source_args['netns'] = self.link.a.name
            if transport == 'fd':
                self._fds = [socket.socketpair() for _ in range(3)]
                source_args['pass_fds'] = [a.fileno() for a, _ in self._fds]
            self.source = source or self.stack.enter_context(Postern('src', **source_args))
            if destination is not None:
                self.destination = destination
            else:
                self.destination = self.new_destination(**dict(both, **(destination_options or {})))
            if proxy:
                self.proxy = self.stack.enter_context(Proxy('unix:' + self.destination.path('migrate'), rewrite))
            self.greet(fill)
            self.set_link_timeout()
        except BaseException:
            self.stack.close()
            raise

    def __enter__(self):
        self.stack.__enter__()
        return self

    def __exit__(self, *exc):
        for sockets in self._fds:
            for sock in sockets:
                sock.close()
        try:
            if not any(exc):
                self.check_direct_accesses()
        except BaseException as e:
            self.stack.__exit__(type(e), e, e.__traceback__)
            raise
        return self.stack.__exit__(*exc)

    def new_link(self):     # pylint: disable=no-self-use
        """What lies between the machines."""
        return Link()

    def check_direct_accesses(self):
        """No thread of those that still live has touched a missing page itself; of all others the log tells, which is looked at when
        the process ends. By a client of its own: the shared one may have been left in the middle of something."""
        for vm in (self.source, self.destination):
            if isinstance(vm, Postern) and vm.is_alive():
                with contextlib.suppress(QmpClosed):    # on its way out
                    direct = vm.qmp().command('query-postern-faults')['counters']['direct-accesses']
                    assert not direct, '%s: %d direct accesses to missing pages: %s' % (vm.name, direct, vm.log()[-2000:])

    def greet(self, fill):
        """Connects to the source's guest. What runs another kind of guest overrides this, and arrived()."""
        self.guest = self.source.bare(ready=True)
        if fill:
            self.guest.fill(seconds(60))

    def new_destination(self, **options):
        """One more machine that waits (for a destination that has died); becomes pair.destination."""
        if self.link:
            options['netns'] = self.link.b.name
        if self._fds:
            options['pass_fds'] = [b.fileno() for _, b in self._fds]
        self.destination = self.stack.enter_context(Postern.incoming('dst', **options))
        return self.destination

    def set_link_timeout(self, ms=None):
        """On both sides, as far as they live, stretched; None: what the pair was made with."""
        ms = ms or self.link_timeout_ms
        for vm in (self.source, self.destination):
            if vm.is_alive():
                vm.command('migrate-set-parameters', x_postern_link_timeout=int(ms * scale()))

    def bandwidth(self, bytes_per_second):
        """The bulk's limit, at the source; 0: none."""
        self.source.command('migrate-set-parameters', max_postcopy_bandwidth=bytes_per_second)

    def uris(self):
        """(where the destination listens, where the source connects): anew for each attempt."""
        self.ports += 1
        if self.proxy:
            path = self.destination.path('migrate%s' % (self.ports if self.ports > 1 else ''))
            self.proxy.target = (socket.AF_UNIX, path)
            return 'unix:' + path, self.proxy.uri
        if self.link:
            uri = 'tcp:%s:%d' % (self.link.b.address, 4400 + self.ports)
            return uri, uri
        if self.transport == 'fd' and self.ports == 1:
            return tuple('fd:' + ','.join(str(s[i].fileno()) for s in self._fds) for i in (1, 0))
        if self.transport == 'unix':
            uri = 'unix:' + self.destination.path('migrate%d' % self.ports)
        else:
            uri = 'tcp:127.0.0.1:%d' % free_port()
        return uri, uri

    # the course of a migration

    def begin(self, bandwidth=None):
        """Listens and connects; does not wait for anything."""
        if bandwidth is not None:
            self.bandwidth(bandwidth)
        listen, connect = self.uris()
        self.destination.command('migrate-incoming', uri=listen)
        self.source.command('migrate', uri=connect)

    def start(self, bandwidth=None, timeout=20.0):
        """begin(), and waits until the destination is in postcopy (or done)."""
        self.begin(bandwidth)
        self.wait_switched(timeout)

    def wait_switched(self, timeout=20.0):
        """Until the guest belongs to the destination and both sides know it."""
        for vm in (self.destination, self.source):
            vm.wait_migration('postcopy-active', 'postcopy-paused', 'completed', timeout=timeout)

    @contextlib.contextmanager
    def hurry(self):
        """The link has been cut: lets both sides notice it soon."""
        self.set_link_timeout(HURRY_MS)
        yield
        self.set_link_timeout()

    def wait_paused(self, timeout=20.0):
        """The link has been cut: until both sides have noticed."""
        with self.hurry():
            for vm in (self.source, self.destination):
                vm.wait_migration('postcopy-paused', timeout=timeout)

    def recover(self, bandwidth=None, wait=True, timeout=20.0):
        """migrate-recover and migrate with resume; both sides are paused. wait: until they go on."""
        if bandwidth is not None:
            self.bandwidth(bandwidth)
        if self.proxy:
            self.proxy.restore()
        listen, connect = self.uris()
        self.destination.command('migrate-recover', uri=listen)
        self.source.command('migrate', uri=connect, resume=True)
        if wait:
            wait_for(lambda: self.destination.migration_status() != 'postcopy-paused'
                     or self.source.migration_status() == 'postcopy-paused', timeout)
            for vm in (self.source, self.destination):
                vm.wait_migration('postcopy-active', 'completed', timeout=timeout, but=('failed', 'postcopy-paused'))

    def wait_completed(self, timeout=60.0):
        """Until both sides say completed."""
        for vm in (self.destination, self.source):
            vm.wait_migration('completed', timeout=timeout)

    def finish(self, timeout=60.0):
        """Lifts the bulk's limit and waits for the end."""
        self.bandwidth(0)
        self.wait_completed(timeout)

    # looking at it

    def arrived(self):
        """The guest, spoken to at the destination. A reply that was under way at switchover may be lost: it
        resynchronises with a mark."""
        if self._arrived is None or self._arrived[0] is not self.destination:
            self._arrived = (self.destination, bare_guest.Bare(self.destination.serial()))
            self.stack.callback(self._arrived[1].close)
        return self._arrived[1]

    def running(self):
        """Which of the two say that they run the guest."""
        return [name for name, vm in (('source', self.source), ('destination', self.destination))
                if vm.is_alive() and vm.command('query-status')['running']]

    def wait_all_waiting(self, cpus=None, timeout=20.0, since_ms=50):
        """Until every vCPU of the destination has waited for the same missing page for so long. Returns {vCPU: entry}."""
        want = cpus if cpus is not None else set(range(len(self.destination.command('query-cpus-fast'))))

        def all_wait():
            now = self.destination.waiting_cpus()
            if set(now) >= want and all(now[c]['since-us'] > since_ms * 1000 for c in want):
                return now
            return None
        return wait_for(all_wait, timeout, lambda: 'vCPUs waiting: %s\n%s\n%s'
                        % (self.destination.waiting_cpus(), self.destination.faults(), self.destination.stacks()),
                        every=min(0.005, since_ms / 4000))


def have_build():
    """Why nothing can be run, or None."""
    from harness.vm import bare_elf, program    # pylint: disable=import-outside-toplevel
    for path in (program(),) if kvm.bare_reason() else (program(), bare_elf()):
        if not os.path.exists(path):
            return '%s is not built' % path
    return None

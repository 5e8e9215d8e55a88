# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Where things listen and how they connect, for all that has an address: QMP, gdb, migrations, disks over the network. In network
namespaces of the tests' own."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess

import pytest

from harness.disks import need
from harness.lan import socket_in
from harness.net import Link, ip
from harness.vm import Postern, program
from harness.waiting import seconds, wait_for

PORT = 4567
LOOPBACKS = ['127.0.0.1', '::1']
# What listens, and how a machine is told to.
LISTENERS = {
    'qmp': lambda address: {'options': ['--qmp', address]},
    'gdb': lambda address: {'gdb': address},
    'incoming': lambda address: {'kernel': None, 'incoming': address},
}

pytestmark = pytest.mark.usefixtures('needs_link')


def listening(netns, port=PORT):
    """Addresses at which somebody listens in a namespace: 'A' of IPv4, '[A]' of IPv6."""
    said = subprocess.run(['ip', 'netns', 'exec', netns, 'ss', '-Hltn', 'sport = %d' % port], stdout=subprocess.PIPE, text=True,
                          timeout=seconds(20), check=True).stdout
    return {line.split()[3].rsplit(':', 1)[0] for line in said.splitlines()}


def connects(netns, host, port=PORT):
    """Does somebody let a client in there?"""
    with socket_in(netns, socket.AF_INET6 if ':' in host else socket.AF_INET) as sock:
        sock.settimeout(seconds(10))
        try:
            sock.connect((host, port))
            return True
        except ConnectionRefusedError:
            return False


@pytest.fixture(name='link')
def link_fixture():
    with Link() as link:
        yield link


@pytest.mark.parametrize('what', LISTENERS)
@pytest.mark.parametrize('host', ['', 'localhost'])
def test_the_loopback_is_of_both_families_and_nothing_else(link, what, host):
    with Postern(memory='64M', netns=link.a.name, **LISTENERS[what]('tcp:%s:%d' % (host, PORT))):
        assert listening(link.a.name) == {'127.0.0.1', '[::1]'}
        assert [connects(link.a.name, at) for at in LOOPBACKS] == [True, True]
        assert not connects(link.a.name, link.a.address)
        assert not connects(link.b.name, link.a.address)


@pytest.mark.parametrize('what', LISTENERS)
def test_a_star_is_every_address(link, what):
    with Postern(memory='64M', netns=link.a.name, **LISTENERS[what]('tcp:*:%d' % PORT)):
        assert [connects(link.a.name, at) for at in LOOPBACKS + [link.a.address]] == [True, True, True]
        assert connects(link.b.name, link.a.address)


@pytest.mark.parametrize('what', LISTENERS)
def test_an_address_is_that_address(link, what):
    with Postern(memory='64M', netns=link.a.name, **LISTENERS[what]('tcp:%s:%d' % (link.a.address, PORT))):
        assert listening(link.a.name) == {link.a.address}
        assert connects(link.b.name, link.a.address)


@pytest.mark.parametrize('what', LISTENERS)
def test_without_ipv6_the_loopback_is_the_one_that_is_left(link, what):
    ip('netns', 'exec', link.a.name, 'sysctl', '-qw', 'net.ipv6.conf.all.disable_ipv6=1')
    for host in ('', 'localhost', '*'):
        with Postern(memory='64M', netns=link.a.name, **LISTENERS[what]('tcp:%s:%d' % (host, PORT))):
            assert connects(link.a.name, '127.0.0.1')


@pytest.mark.parametrize('what', LISTENERS)
def test_port_0_is_one_port_at_both(link, what):
    with Postern(memory='64M', netns=link.a.name, **LISTENERS[what]('tcp::0')) as vm:
        said = subprocess.run(['ip', 'netns', 'exec', link.a.name, 'ss', '-Hltnp'], stdout=subprocess.PIPE, text=True,
                              timeout=seconds(20), check=True).stdout
        at = [line.split()[3].rsplit(':', 1) for line in said.splitlines() if 'pid=%d,' % vm.pid in line]
        assert {host for host, _ in at} == {'127.0.0.1', '[::1]'} and len({port for _, port in at}) == 1, said


def test_a_port_that_is_taken_at_one_of_them_is_an_error(link):
    with Postern(memory='64M', netns=link.a.name, gdb='tcp:127.0.0.1:%d' % PORT):
        second = Postern(memory='64M', netns=link.a.name, gdb='tcp:localhost:%d' % PORT, wait=False)
        with second:
            assert second.wait_exit(20) == 1
            assert '127.0.0.1 port %d: Address already in use' % PORT in second.log(), second.log()


# ---- names ----

@pytest.fixture(name='named')
def named_fixture(link):
    """A link whose first side knows the other as `two`, first at an address where nothing ever answers: link.black. `dark` is there alone."""
    etc = pathlib.Path('/etc/netns') / link.a.name
    etc.mkdir(parents=True)
    try:
        # As near as the other one, else a resolver would have that first; and at no station, without being asked after.
        link.black = link.b.address[:-1] + '3'
        ip('-n', link.a.name, 'neighbour', 'add', link.black, 'lladdr', '02:00:00:00:00:99', 'dev', link.a.interface, 'nud', 'permanent')
        (etc / 'hosts').write_text('127.0.0.1 localhost\n::1 localhost\n%s two dark\n%s two\n' % (link.black, link.b.address))
        (etc / 'resolv.conf').write_text('nameserver %s\noptions timeout:30 attempts:1\n' % link.black)
        (etc / 'nsswitch.conf').write_text('hosts: files dns\n')
        yield link
    finally:
        shutil.rmtree(etc)
        try:
            etc.parent.rmdir()
        except OSError:
            pass


def first_of(netns, name):
    """The address that the resolver has first."""
    return subprocess.run(['ip', 'netns', 'exec', netns, 'getent', 'ahosts', name], stdout=subprocess.PIPE, text=True,
                          timeout=seconds(20), check=True).stdout.split()[0]


@pytest.mark.parametrize('link_timeout', [600, 5000])
def test_a_migration_to_a_name_whose_first_address_is_a_black_hole(named, link_timeout):
    assert first_of(named.a.name, 'two') == named.black
    with Postern(memory='64M', netns=named.a.name, options=['--link-timeout', str(link_timeout)]) as source, \
            Postern.incoming(uri='tcp:%s:%d' % (named.b.address, PORT), memory='64M', netns=named.b.name) as destination:
        source.bare(ready=True)
        source.command('migrate', uri='tcp:two:%d' % PORT)
        destination.wait_migration('completed')
        source.wait_migration('completed')


def test_an_error_has_every_address_that_was_tried(named):
    with Postern(memory='64M', netns=named.a.name, options=['--link-timeout', '600']) as vm:
        vm.bare(ready=True)
        vm.command('migrate', uri='tcp:two:%d' % PORT)
        vm.wait_migration('failed')
        error = vm.command('query-migrate')['error-desc']
        assert '%s: Connection refused' % named.b.address in error and '%s: no answer within ' % named.black in error, error
        assert vm.command('query-status')['status'] == 'running'


def test_a_name_server_that_is_silent_holds_nothing_up(named):
    """A look-up that nobody can interrupt: the monitor answers, a cancel ends it, and so does SIGTERM."""
    with Postern(memory='64M', netns=named.a.name, options=['--link-timeout', '600000']) as vm:
        vm.bare(ready=True)
        vm.command('migrate', uri='tcp:unheard.example:%d' % PORT)
        ms, _ = vm.q.timed('query-status')
        assert ms < 1000
        vm.command('migrate_cancel')
        vm.wait_migration('cancelled')
        vm.command('migrate', uri='tcp:unheard.example:%d' % PORT)
        code, _ = vm.end(signal.SIGTERM)
        assert code == 0


def test_sigterm_ends_the_wait_for_a_name_to_listen_at(named):
    vm = Postern(memory='64M', netns=named.a.name, gdb='tcp:unheard.example:%d' % PORT, wait=False)
    with vm:
        wait_for(lambda: 'lookup' in [thread.name for thread in vm.threads()], 20, 'no look-up')
        vm.process.send_signal(signal.SIGTERM)
        assert vm.wait_exit(20) == 1
        assert 'interrupted' in vm.log(), vm.log()


def test_postern_ctl_reaches_such_a_name(named):
    with Postern(memory='64M', netns=named.b.name, options=['--qmp', 'tcp:%s:%d' % (named.b.address, PORT)]):
        def ctl(name):
            return subprocess.run(['ip', 'netns', 'exec', named.a.name, program(), 'ctl', '--qmp', 'tcp:%s:%d' % (name, PORT),
                                   '--timeout', '5', 'status'], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                  timeout=seconds(30), check=False)
        done = ctl('two')
        assert done.returncode == 0 and 'running' in done.stdout, done.stdout
        done = ctl('dark')
        assert done.returncode and '%s: no answer within' % named.black in done.stdout, done.stdout
class Nbd:
    """An NBD server of a disk at the other side, at its address or at this one."""

    def __init__(self, link, directory, address=None):
        need('nbdkit', 'nbdkit')
        path = os.path.join(str(directory), 'disk')
        with open(path, 'wb') as file:
            file.truncate(16 << 20)
        self.words = ['ip', 'netns', 'exec', link.b.name, 'nbdkit', '-f', '-i', address or link.b.address, '-p', str(PORT), 'file', path]
        self.netns = link.b.name
        self.process = None

    def __enter__(self):
        self.process = subprocess.Popen(self.words, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: listening(self.netns), 20, 'nbdkit does not listen')
        return self

    def __exit__(self, *exc):
        self.process.kill()
        self.process.wait(seconds(10))


def test_a_disk_at_a_name_whose_first_address_is_a_black_hole(named, tmp_path):
    """At the start, and when the server comes back."""
    nbd = Nbd(named, tmp_path)
    with nbd:
        vm = Postern(memory='64M', netns=named.a.name, options=['--disk', 'nbd://two:%d' % PORT])
    with vm:
        wait_for(lambda: 'is away' in vm.log(), 20, 'the disk is not away')
        with nbd:
            wait_for(lambda: 'is back' in vm.log(), 30, 'the disk is not back')


def test_a_server_that_says_nothing_is_not_in_the_way_of_the_next(named, tmp_path):
    """It lets clients in; of one name, it is the first."""
    well = named.b.address[:-1] + '4'
    ip('-n', named.b.name, 'address', 'add', well + '/24', 'dev', named.b.interface)
    hosts = pathlib.Path('/etc/netns') / named.a.name / 'hosts'
    hosts.write_text('%s both\n%s both\n' % (named.b.address, well))
    with socket_in(named.b.name, socket.AF_INET) as mute, Nbd(named, tmp_path, well):
        mute.bind((named.b.address, PORT))
        mute.listen(4)
        assert first_of(named.a.name, 'both') == named.b.address
        with Postern(memory='64M', netns=named.a.name, options=['--disk', 'nbd://both:%d' % PORT], wait=False) as vm:
            wait_for(lambda: os.path.exists(vm.path('qmp')), 40, 'it does not start')
            assert vm.command('query-status')['status'] == 'running'


def test_a_disk_that_is_nowhere_says_where_it_was_looked_for(named):
    vm = Postern(memory='64M', netns=named.a.name, options=['--disk', 'nbd://two:%d' % PORT], wait=False)
    with vm:
        assert vm.wait_exit(30) == 1
        said = vm.log()
        assert '%s: Connection refused' % named.b.address in said and '%s: no answer within ' % named.black in said, said

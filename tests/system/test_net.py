# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A network device's back end as a part of the process: what is wrong is said, a child ends with its machine. Frames and guests:
tests/unit/device/test_net.c and tests/lab/test_net.py."""

import os
import pathlib
import shutil
import signal
import socket
import tempfile

import pytest

from harness.lan import socket_in
from harness.net import Link, ip, reason
from harness.vm import Postern, bare_elf, run_postern
from harness.waiting import wait_for

# A passt that says how it was started, answers every frame with itself, and ends when its socket does.
PASST = '''#!/bin/sh
ls /proc/$$/fd > $0.fds
echo "$@" > $0.words
tr '\\0' '\\n' < /proc/$$/environ > $0.environ
while read -r line; do echo "$line"; done < /proc/$$/status > $0.status
echo $$ > $0.pid.new; mv $0.pid.new $0.pid
exec cat <&3 >&3
'''


def program(directory, text):
    """A program called passt, for anybody to run, since it is nobody's; it may write beside itself."""
    directory.chmod(0o777)
    path = directory / 'passt'
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def place():
    """A directory that others may enter."""
    with tempfile.TemporaryDirectory(prefix='postern-test-') as name:
        yield pathlib.Path(name)


@pytest.fixture
def passt(place):
    """Where a program of that name is, first in PATH."""
    return program(place, PASST)


def environment(path):
    """Ours, with that directory before others in PATH."""
    return dict(os.environ, PATH='%s:%s' % (path, os.environ['PATH']))


def started(passt):
    """The child's process number, once it runs."""
    pid = passt.with_name('passt.pid')
    wait_for(pid.exists, 10, 'passt is not started')
    return int(pid.read_text())


def is_gone(pid):
    """Does no process have that number, or one that has ended?"""
    try:
        with open('/proc/%d/stat' % pid, encoding='ascii') as f:
            return f.read().rsplit(')', 1)[1].split()[0] == 'Z'
    except OSError:
        return True


@pytest.mark.parametrize('text, words', [
    ('bridge=br0', 'allowed are tap=NAME, passt'),
    ('tap=postern-none', 'no such interface (ip tuntap add postern-none'),
    ('tap=lo', 'is no tap'),
    ('passt=/nonexistent/socket', '/nonexistent/socket: No such file'),
    ('fd=99', 'descriptor 99'),
    ('passt,forward=tcp:22;reboot:22', 'forward=tcp|udp:'),
    ('passt,dns=127.0.0.53', 'own loopback'),
    ('passt,dns=::1', 'own loopback'),
    ('tap=x,mac=01:00:00:00:00:01', 'of no group'),
])
def test_what_is_wrong_is_said(text, words):
    code, said = run_postern('run', '--kernel', bare_elf(), '--memory', '64M', '--serial', 'null', '--net', text)
    assert code in (1, 2) and words in said and '--net' in said, said


def test_a_passt_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    code, said = run_postern('run', '--kernel', bare_elf(), '--memory', '64M', '--serial', 'null', '--net', 'passt')
    assert code == 1 and 'apt install passt' in said, said


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_passt_ends_with_its_machine(passt, number):
    """It is started with its socket and nothing else of ours, and with the forwards as they were asked for."""
    with Postern(memory='64M', env=environment(passt.parent),
                 options=['--net', 'passt,forward=tcp:127.0.0.1/8080:80,forward=udp:53']) as vm:
        child = started(passt)
        assert passt.with_name('passt.words').read_text().split() == [
            '--foreground', '--quiet', '--fd', '3', '--no-map-gw', '-t', '127.0.0.1/8080:80', '-u', '127.0.0.1/53']
        # The shell has one more open, this script, from 10 on.
        assert [fd for fd in passt.with_name('passt.fds').read_text().split() if int(fd) < 10] == ['0', '1', '2', '3']
        assert os.getpgid(child) != os.getpgid(vm.pid)
        code, _ = vm.end(number)
        assert code == (0 if number == signal.SIGTERM else -signal.SIGKILL)
        wait_for(lambda: is_gone(child), 10, 'passt outlives its machine')


def test_passt_has_few_rights(passt):
    """Our environment may hold secrets, and what we may do is not for who reads what comes from the network."""
    with Postern(memory='64M', env=dict(environment(passt.parent), SECRET_TOKEN='x'), options=['--net', 'passt']):
        started(passt)
        names = {line.split('=')[0] for line in passt.with_name('passt.environ').read_text().split('\n') if line}
        assert names == {'PATH', 'LC_ALL'}, names
        status = dict(line.split(':', 1) for line in passt.with_name('passt.status').read_text().splitlines())
        assert status['NoNewPrivs'].split() == ['1']
        assert all(int(status[name], 16) == 0 for name in ('CapPrm', 'CapEff', 'CapAmb', 'SigBlk', 'SigIgn')), status
        assert '0' not in status['Uid'].split(), status


def test_a_passt_that_ends_is_reaped(passt):
    """However soon after its socket it ends, and whether or not the guest runs."""
    for stopped in (False, True) * 4:
        with Postern(memory='64M', env=environment(passt.parent), options=['--net', 'passt']) as vm:
            child = started(passt)
            if stopped:
                vm.command('stop')
            os.kill(child, signal.SIGKILL)
            wait_for(lambda: not os.path.exists('/proc/%d' % child), 10, 'a zombie stays')
            vm.kill()
        passt.with_name('passt.pid').unlink()


@pytest.mark.parametrize('words, warned', [('passt', True), ('passt,dns=192.0.2.7', False)])
def test_who_names_a_name_server_is_not_told_to(place, words, warned):
    """Debian 12's passt says that it found none of the host's also where it is told of one."""
    program(place, '#!/bin/sh\necho "Couldn\'t get any nameserver address" >&2\nexec cat <&3 >&3\n')
    with Postern(memory='64M', options=['--net', words], env=environment(place)) as vm:
        assert ('is told of no name server' in vm.log()) == warned, vm.log()


def refused(directory, *words):
    """A start that fails; what it says."""
    code, said = run_postern('run', '--kernel', bare_elf(), '--memory', '64M', '--serial', 'null', '--net', *words,
                             env=environment(directory))
    assert code == 1, said
    return said


def test_a_passt_that_dies_at_once_ends_the_start(place):
    """With what it said, of which syslog's part is nobody's matter."""
    program(place, '#!/bin/sh\necho "Failed to send 5 bytes to syslog" >&2\necho "Failed to bind it, exiting" >&2\nexit 1\n')
    said = refused(place, 'passt,forward=tcp:8080')
    assert '--net: passt ended with status 1: Failed to bind it, exiting' in said, said


def test_a_port_that_is_taken_ends_the_start():
    if not shutil.which('passt'):
        pytest.skip('passt is not installed: apt install passt')
    if reason():
        pytest.skip(reason())
    with Link() as link:
        ip('-n', link.a.name, 'route', 'add', 'default', 'via', link.b.address)
        with Postern(memory='64M', netns=link.a.name, options=['--net', 'passt,forward=tcp:8080:80']) as vm:
            vm.bare(ready=True)
            second = Postern(memory='64M', netns=link.a.name, options=['--net', 'passt,forward=tcp:8080:80'], wait=False)
            with second:
                assert second.wait_exit(20) == 1
                said = second.log()
                assert 'passt ended with status 1: ' in said and "Failed to bind any port for '-t 127.0.0.1/8080:80'" in said, said


def test_a_forward_from_an_ipv6_address():
    """In brackets, as in every other address; passt itself takes none."""
    if not shutil.which('passt'):
        pytest.skip('passt is not installed: apt install passt')
    if reason():
        pytest.skip(reason())
    with Link() as link:
        ip('-n', link.a.name, 'route', 'add', 'default', 'via', link.b.address)
        ip('-n', link.a.name, 'address', 'add', '2001:db8::2/64', 'dev', link.a.interface, 'nodad')
        ip('-n', link.a.name, 'route', 'add', 'default', 'via', '2001:db8::1', 'dev', link.a.interface)
        with Postern(memory='64M', netns=link.a.name, options=['--net', 'passt,forward=tcp:[::1]/8080:80']):
            with socket_in(link.a.name, socket.AF_INET6) as at, socket_in(link.a.name, socket.AF_INET) as elsewhere:
                at.settimeout(10)
                at.connect(('::1', 8080))
                with pytest.raises(ConnectionRefusedError):
                    elsewhere.connect(('127.0.0.1', 8080))


def test_sigterm_ends_the_wait_for_a_passt(place):
    """One that never answers."""
    program(place, '#!/bin/sh\necho $$ > $0.pid.new; mv $0.pid.new $0.pid\nexec sleep 100\n')
    with Postern(memory='64M', env=environment(place), options=['--net', 'passt'], wait=False) as vm:
        child = started(place / 'passt')
        code, _ = vm.end(signal.SIGTERM)
        assert code not in (None, -signal.SIGKILL)
        wait_for(lambda: is_gone(child), 10, 'passt outlives its machine')


def test_a_machine_outlives_its_passt(passt):
    with Postern(memory='64M', env=environment(passt.parent), options=['--net', 'passt']) as vm:
        os.kill(started(passt), signal.SIGKILL)
        wait_for(lambda: "the guest's link is down" in vm.log(), 10, vm.log)
        vm.bare(ready=True)
        assert vm.status() == 'running'


def test_a_descriptor_is_inherited():
    """A stream socket, as passt's; the other end sees the machine's end."""
    here, there = socket.socketpair()
    with here, Postern(memory='64M', pass_fds=[there.fileno()], options=['--net', 'fd=%d' % there.fileno()]) as vm:
        there.close()
        vm.bare(ready=True)
        here.settimeout(10)
        vm.kill()
        assert here.recv(1) == b''

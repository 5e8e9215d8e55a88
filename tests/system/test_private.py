# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""What a machine keeps to itself: sockets that its owner alone may connect to, guest memory that is in no core dump, files that lie where
they were asked for and nowhere else, a pid file that is not taken over."""

import os
import stat

import pytest

from harness.migration import Pair
from harness.vm import Postern, bare_elf, run_postern
from harness.waiting import wait_for

MIB = 1 << 20


def mappings(pid):
    """[(bytes, VmFlags)] of a process."""
    out = []
    size = 0
    with open('/proc/%d/smaps' % pid, encoding='utf-8') as smaps:
        for line in smaps:
            if line.startswith('Size:'):
                size = int(line.split()[1]) * 1024
            elif line.startswith('VmFlags:'):
                out.append((size, line.split()[1:]))
    return out


def dumped(vm, at_least):
    """Bytes of large mappings that a core dump would have."""
    large = [(size, flags) for size, flags in mappings(vm.pid) if size >= at_least]
    assert large, 'no mapping has %d bytes' % at_least
    return sum(size for size, flags in large if 'dd' not in flags and 'wr' in flags)


def fit_for_huge_pages(vm):
    """[(bytes, VmFlags)] of the mappings that are, once there is more than guest memory."""
    huge = [(size, flags) for size, flags in mappings(vm.pid) if 'hg' in flags]
    return huge if len(huge) > 1 else None


def test_guest_memory_is_in_no_core_dump():
    with Postern(memory='128M') as vm:
        assert dumped(vm, 128 * MIB) == 0
    with Postern(memory='128M', options=['--dump-guest-core']) as vm:
        assert dumped(vm, 128 * MIB) >= 128 * MIB


def test_memory_that_arrives_is_in_no_core_dump():
    """Guest memory, and where a migration receives it: mappings of 2 MiB that are fit for huge pages."""
    with Pair() as pair:
        pair.start(bandwidth=1 * MIB)
        vm = pair.destination
        assert dumped(vm, 128 * MIB) == 0
        huge = wait_for(lambda: fit_for_huge_pages(vm), 10)
        assert len(huge) > 1
        assert not [size for size, flags in huge if 'dd' not in flags]
        pair.hurry()
        pair.finish()


def mode(path):
    """Of a file, not of what it leads to."""
    return stat.S_IMODE(os.lstat(path).st_mode)


def test_every_unix_socket_is_its_owners(tmp_path):
    """Whatever the umask, and from the moment it has a name: the mode is the socket's before."""
    console, vsock, incoming = tmp_path / 'console', tmp_path / 'vsock', tmp_path / 'incoming'
    old = os.umask(0)
    try:
        with Postern.incoming(uri='unix:%s' % incoming, gdb=True, memory='128M', options=[
                '--console', 'unix:%s' % console, '--vsock', 'cid=3,socket=%s' % vsock]) as vm:
            run = os.path.join(vm.runtime_dir, vm.name)
            sockets = [vm.path('qmp'), vm.path('gdb'), vm.path('serial'), console, vsock, incoming, os.path.join(run, 'qmp')]
            assert {str(path): oct(mode(path)) for path in sockets} == {str(path): '0o600' for path in sockets}
    finally:
        os.umask(old)


WRITERS = ['--pid-file', '--log-file', '--serial', '--console']


def words(option, path):
    """An option that writes to a file."""
    return [option, ('file:%s' if option in ('--serial', '--console') else '%s') % path]


def run_bare(*more):
    """A machine that is to end before it runs, with what it said."""
    serial = [] if '--serial' in more else ['--serial', 'null']
    return run_postern('run', '--kernel', bare_elf(), '--memory', '64M', *serial, *more)


@pytest.mark.parametrize('option', WRITERS)
def test_a_link_is_not_followed(tmp_path, option):
    precious, link = tmp_path / 'precious', tmp_path / 'link'
    precious.write_text('precious')
    link.symlink_to(precious)
    code, said = run_bare(*words(option, link))
    assert code in (1, 2) and str(link) in said and 'symbolic link' in said, said
    assert precious.read_text() == 'precious' and link.is_symlink()


@pytest.mark.parametrize('option', WRITERS)
def test_a_directory_that_everybody_rules_is_refused(tmp_path, option):
    where = tmp_path / 'open'
    where.mkdir()
    where.chmod(0o777)
    code, said = run_bare(*words(option, where / 'file'))
    assert code in (1, 2) and str(where / 'file') in said, said
    assert not list(where.iterdir())


def test_a_pid_file_is_not_taken_over(tmp_path):
    path = tmp_path / 'pid'
    path.write_text('1\n')      # of one that was killed: nobody has it
    with Postern(memory='64M', options=['--pid-file', str(path)]) as vm:
        wait_for(lambda: path.read_text() == '%d\n' % vm.pid, 10, 'no pid file')
        code, said = run_bare('--pid-file', str(path))
        assert code == 1 and str(path) in said and str(vm.pid) in said, said
        assert path.read_text() == '%d\n' % vm.pid
        vm.command('query-status')
    assert not path.exists()


def test_a_pid_file_of_another_is_left_alone(tmp_path):
    """One that somebody has put in its place is not removed at the end."""
    path = tmp_path / 'pid'
    with Postern(memory='64M', options=['--pid-file', str(path)]) as vm:
        wait_for(lambda: path.exists() and path.read_text(), 10, 'no pid file')
        path.unlink()
        path.write_text('another')
        vm.command('query-status')
    assert path.read_text() == 'another'

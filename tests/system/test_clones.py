# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Machines out of one image that share its pages: each finds its own words, whatever the others write, and however they end."""

import contextlib
import os
import re
import signal
import socket
import subprocess

import pytest

from harness.vm import Postern, program, run_postern
from harness.waiting import seconds, wait_for

MIB = 1 << 20
MEMORY_MIB = 32


@pytest.fixture(scope='module', name='image')
def image_fixture(tmp_path_factory):
    """A guest with all its memory filled, saved, and gone."""
    images = tmp_path_factory.mktemp('images')
    for name in ('web', 'other'):
        with Postern(memory='%dM' % MEMORY_MIB, cpus=1) as vm:
            guest = vm.bare(ready=True)
            guest.fill()
            vm.command('stop')
            vm.save(images / name)
            vm.command('quit')
            assert vm.wait_exit(10) == 0
    return images / 'web'


@pytest.fixture(name='env')
def env_fixture(tmp_path):
    """Where shares are, for all of a test's machines."""
    run = tmp_path / 'run'
    run.mkdir(mode=0o700)
    return dict(os.environ, POSTERN_RUNTIME_DIR=str(run))


def clone(image, env, name, share='s', options=(), **more):
    return Postern.restored(image, name, env=env, options=['--share', share, *options], **more)


def verify(vm):
    """Every word of it."""
    guest = vm.bare()
    guest.quiet(seconds(30))
    assert guest.first_error()['errors'] == 0
    found = guest.verify(seconds(120))
    assert found['errors'] == 0, found
    assert found['pages'] > 0


def shared_bytes(vm):
    """Of the memfd, what there is in memory."""
    for fd in os.listdir('/proc/%d/fd' % vm.pid):
        path = '/proc/%d/fd/%s' % (vm.pid, fd)
        with contextlib.suppress(OSError):
            if 'postern-image' in os.readlink(path):
                return os.stat(path).st_blocks * 512
    raise AssertionError('no memfd')


def keeper(env, share='s'):
    """Its process id, or None."""
    found = subprocess.run(['pgrep', '-f', 'share-keeper %s/.shares/%s ' % (env['POSTERN_RUNTIME_DIR'], share)],
                           stdout=subprocess.PIPE, text=True, check=False).stdout.split()
    return int(found[0]) if found else None


def guid(vm):
    return vm.command('query-vm-generation-id')['guid']


def test_clones_have_the_pages_once_and_write_their_own(image, env):
    with clone(image, env, 'a') as a, clone(image, env, 'b') as b:
        verify(a)
        there = shared_bytes(a)
        assert there > MEMORY_MIB * MIB * 3 // 4
        urgent = b.faults()['source']['urgent-pages']
        verify(b)
        # The other one has brought all that the image has data for.
        assert b.faults()['source']['urgent-pages'] - urgent < 64
        assert shared_bytes(b) == there
        for vm in (a, b):
            vm.bare().limit(256)
            vm.bare().walk('w')
        for vm in (a, b):
            vm.bare().wait_stats(lambda s: s['touches'] > 1000)
        for vm in (a, b):
            verify(vm)
        assert guid(a) != guid(b)
    with clone(image, env, 'c') as c:
        verify(c)


def test_a_clone_is_saved_by_what_it_has_written(image, env):
    with clone(image, env, 'a') as a, clone(image, env, 'b') as b:
        verify(a)       # brings all of it
        guest = b.bare()
        guest.limit(64)
        guest.walk('w')
        guest.wait_stats(lambda s: s['touches'] > 500)
        # It has never asked for most of what it has written: its bytes say nothing of that.
        job = b.save(image.parent / 'child')
        assert job['kept-pages'] > job['total-pages'] * 3 // 4
        assert 0 < job['data-pages'] < 1024
        guest.quiet(seconds(30))
    with Postern.restored(image.parent / 'child') as alone:
        verify(alone)


def test_a_clone_that_is_killed_harms_no_other(image, env):
    with clone(image, env, 'b') as b:
        for _ in range(5):
            with clone(image, env, 'a') as a:
                a.bare().walk('c')
                os.kill(a.pid, signal.SIGKILL)
                a.wait_exit(10)
        verify(b)


def test_a_keeper_that_is_killed_is_replaced(image, env):
    with clone(image, env, 'a') as a:
        verify(a)
        was = wait_for(lambda: keeper(env), 10)
        os.kill(was, signal.SIGKILL)
        wait_for(lambda: keeper(env) not in (None, was), 10)
        with clone(image, env, 'b') as b:
            assert shared_bytes(b) == shared_bytes(a)
            verify(b)
    # And it goes, some time after the last of them.
    wait_for(lambda: keeper(env) is None, 20)


def test_what_cannot_be_shared_is_refused(image, env):
    with clone(image, env, 'a'):
        code, output = run_postern('run', '--restore', image.parent / 'other', '--share', 's', '--serial', 'null', env=env)
        assert code == 1 and 'another image' in output
    for words in (['--share', 's'], ['--restore', str(image), '--share', '../s'], ['--restore', str(image), '--share', '']):
        code, output = run_postern('run', '--kernel', '/dev/null', *words, env=env)
        assert code == 2 and '--share' in output


def test_postern_clone_runs_many_and_ends_them(image, env, tmp_path):
    child = subprocess.Popen([program(), 'clone', str(image), '--count', '3', '--name', 'c', '--', '--qmp', 'unix:%s/qmp-%%i' % tmp_path],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    try:
        assert re.fullmatch(r'3 machines run after [0-9.]+ ms\n', child.stdout.readline())
        listed = subprocess.run([program(), 'ctl', 'list'], stdout=subprocess.PIPE, text=True, check=True, env=env).stdout
        assert re.findall(r'^(c-\d) +\d+ +running', listed, re.M) == ['c-0', 'c-1', 'c-2']
        assert sorted(p.name for p in tmp_path.glob('qmp-*')) == ['qmp-0', 'qmp-1', 'qmp-2']
        # One that ends does not end the others; nor does one that is killed, but it is told.
        subprocess.run([program(), 'ctl', '--name', 'c-1', 'quit'], check=True, env=env, stdout=subprocess.DEVNULL)
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0, child.stderr.read()
    finally:
        child.kill()
        child.communicate()
    wait_for(lambda: not list(tmp_path.glob('qmp-*')), 10)


@pytest.fixture(name='wired', scope='module')
def wired_fixture(tmp_path_factory):
    """A guest with a network device and a socket device, saved, and gone."""
    directory = tmp_path_factory.mktemp('wired')
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, its, Postern(memory='16M', cpus=1, pass_fds=[its.fileno()], options=[
            '--net', 'fd=%d,mac=02:00:00:00:00:01' % its.fileno(), '--vsock', 'cid=9,socket=%s/vsock' % directory]) as vm:
        vm.bare(ready=True)
        vm.command('stop')
        vm.save(directory / 'web')
        vm.command('quit')
        assert vm.wait_exit(10) == 0
    return directory / 'web'


MAC = re.compile(r'virtio-net0: its MAC address is ([0-9a-f:]{17}) from now on')


def macs_of(wired, env, *words, net='fd=%d', count=2):
    """The addresses of clones, in their order, as far as they were given any."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, its:
        place = env['POSTERN_RUNTIME_DIR']
        child = subprocess.Popen([program(), 'clone', str(wired), '--count', str(count), *words, '--', '--net', net % its.fileno(), '--vsock',
                                  'cid=40,socket=%s/vsock-%%i' % place, '--log-level', 'info', '--log-file', place + '/log-%i'],
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, pass_fds=[its.fileno()])
        assert 'machines run after' in child.stdout.readline(), child.communicate()[1]
        child.terminate()
        child.communicate(timeout=seconds(20))
    logs = []
    for i in range(count):
        path = '%s/log-%d' % (place, i)
        with open(path, encoding='utf-8') as file:
            logs.append(file.read())
        os.unlink(path)
    return [mac for log in logs for mac in MAC.findall(log)]


def test_clones_have_mac_addresses_of_their_own(wired, env):
    named = macs_of(wired, env, '--name', 'web')
    assert len(set(named)) == 2 and all(mac[1] in '26ae' for mac in named), named
    # A name's is always the same; without one it is no other clone's.
    assert macs_of(wired, env, '--name', 'web') == named
    nameless = macs_of(wired, env) + macs_of(wired, env)
    assert len(set(nameless + named)) == 6
    # What is said goes over it.
    assert macs_of(wired, env, net='fd=%d,mac=02:00:00:00:01:%%i%%i') == ['02:00:00:00:01:00', '02:00:00:00:01:11']


def test_a_restored_machine_has_the_mac_address_that_it_is_given(wired):
    for words, found in ((',mac=02:00:00:00:00:07', ['02:00:00:00:00:07']), ('', [])):
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with ours, its, Postern.restored(wired, pass_fds=[its.fileno()], options=[
                '--net', 'fd=%d%s' % (its.fileno(), words), '--vsock', 'cid=9,socket=%s/vsock' % wired.parent]) as vm:
            assert MAC.findall(vm.log()) == found
            assert 'keeps the MAC address' not in vm.log()


def test_clones_have_cids_of_their_own(wired, env):
    """The second one's would be none that is possible: it says which it was given."""
    place = env['POSTERN_RUNTIME_DIR']
    for cid, said in (('4294967294', 'cid=4294967295,'), ('x', 'cid=x,'), ('x%i', 'cid=x1,')):
        code, output = run_postern('clone', wired, '--count', '2', '--', '--vsock=cid=%s,socket=%s/v-%%i' % (cid, place), '--net', 'fd=99',
                                   env=env)
        assert code == 1 and said in output, output
    for words in (['--vsock', 'cid=5,socket=/v'], ['--vsock=cid=5,socket=/v']):
        code, output = run_postern('clone', wired, '--count', '2', '--', *words, env=env)
        assert code == 2 and '%i' in output, output


@pytest.mark.parametrize('words', [[], ['--count', '0'], ['--count', '2', '--', '--share', 'x'], ['--count', 'two'],
                                   ['--count', '2', '--name', '.x'], ['--count', '2', 'more']])
def test_postern_clone_says_what_is_wrong(words, image, env):
    code, output = run_postern('clone', image, *words, env=env)
    assert code == 2 and 'postern clone: ' in output

# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""postern ctl: what people type."""

import json
import os
import pty
import select
import signal
import socket
import time

import pytest

from harness.ctl import Ctl, server
from harness.migration import Pair, free_port
from harness.vm import Postern, sanitized
from harness.waiting import seconds, wait_for

MIB = 1 << 20
GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'


@pytest.fixture(scope='module')
def shared():
    """One running machine for tests that leave it as they found it."""
    with Postern(memory='64M') as vm:
        vm.bare(ready=True)
        vm.ctl = Ctl(vm.runtime_dir)
        yield vm


def uri():
    return 'tcp:127.0.0.1:%d' % free_port()


def hears(follower, vm):
    """Until the follower of events has said something of a stop or cont."""
    def reported():
        vm.command('stop')
        vm.command('cont')
        return select.select([follower.stdout], [], [], 0.1)[0]
    wait_for(reported, 10)


# ---- one machine ----

def test_the_only_machine_needs_no_name(shared):
    said = shared.ctl('status')
    assert said.code == 0 and said.err == '', said
    facts = dict(line.split(maxsplit=1) for line in said.out.splitlines())
    assert facts == {'name': shared.name, 'status': 'running', 'vcpus': '2', 'memory': '64.0 MiB', 'migration': 'none'}


def test_list_shows_who_there_is(shared, tmp_path):
    said = shared.ctl('list')
    assert said.code == 0
    assert said.out.split() == [shared.name, str(shared.pid), 'running', 'migration', 'none']
    entry, = json.loads(shared.ctl('list', '--json').out)
    assert (entry['name'], entry['pid'], entry['status']['status']) == (shared.name, shared.pid, 'running')
    assert shared.ctl('list', '--names').out == shared.name + '\n'
    assert Ctl(tmp_path)('list') == (0, '', '')


def test_stop_and_cont_do_what_they_say(shared):
    assert shared.ctl('stop') == (0, '', '')
    assert shared.status() == 'paused'
    assert json.loads(shared.ctl('status', '--json').out)['query-status']['status'] == 'paused'
    assert shared.ctl('cont', '--json') == (0, '{}\n', '')
    assert shared.status() == 'running'


def test_a_machine_is_found_by_its_socket(shared, tmp_path):
    nobody = Ctl(tmp_path)
    for address in (shared.path('qmp'), 'unix:' + shared.path('qmp')):
        assert 'running' in nobody('--qmp', address, 'status').out


def test_refusals_are_told_and_counted_as_such(shared):
    for words in (['pause-migration'], ['incoming', uri()], ['recover', uri()], ['migrate', 'pigeon:post'],
                  ['migrate', uri(), '--resume']):
        said = shared.ctl(*words)
        assert said.code == 1 and said.out == '' and said.err.startswith('postern ctl: '), (words, said)
    assert 'pigeon' in shared.ctl('migrate', 'pigeon:post').err


def test_a_migration_to_nobody_fails_and_the_guest_stays(shared):
    said = shared.ctl('migrate', uri())
    assert said.code == 1 and 'failed' in said.err and 'the guest stays here' in said.err, said
    assert shared.status() == 'running'


def test_nobody_there_is_no_refusal(shared, tmp_path):
    for said in (shared.ctl('--name', 'nobody', 'status'), Ctl(tmp_path)('status'),
                 shared.ctl('--qmp', tmp_path / 'none', 'stop'), shared.ctl('--qmp', uri(), 'stop')):
        assert said.code == 3 and said.out == '' and said.err, said


@pytest.mark.parametrize('words', [[], ['fly'], ['stop', 'it'], ['migrate'], ['qmp'], ['qmp', 'x'], ['qmp', '[]'],
                                   ['status', '--resume'], ['stop', '--names'], ['--timeout', '0', 'stop'],
                                   ['--bandwidth', 'x', 'migrate', 'y'], ['--name', '../x', 'stop'], ['--what', 'stop'],
                                   ['list', '--name', 'x'], ['--name', 'x', '--qmp', 'y', 'stop'], ['stop', '--name']],
                         ids=' '.join)
def test_bad_usage_has_a_code_and_a_line_of_its_own(shared, words):
    said = shared.ctl(*words)
    assert said.code == 2 and said.out == '' and len(said.err.splitlines()) == 1, said


def test_raw_requests_get_raw_replies(shared):
    said = shared.ctl('qmp', '{"execute": "query-name"}')
    assert said.code == 0 and json.loads(said.out) == {'return': {'name': shared.name}}
    said = shared.ctl('qmp', '{"execute": "query-name", "id": ["a", null]}')
    assert json.loads(said.out)['id'] == ['a', None]
    said = shared.ctl('qmp', '{"execute": "fly"}')
    assert said.code == 1 and json.loads(said.out)['error']['class'] == 'CommandNotFound' and 'fly' in said.err


def test_faults_are_shown(shared):
    said = shared.ctl('faults')
    assert said.code == 0 and 'pages missing' in said.out and 'latency' in said.out and 'way-out' in said.out
    assert json.loads(shared.ctl('faults', '--json').out) == shared.faults()


def test_events_are_followed_until_a_signal(shared):
    with shared.ctl.start('events') as child:
        hears(child, shared)
        shared.command('stop')      # at least these two are still to come
        shared.command('cont')
        lines = [child.stdout.readline().split() for _ in range(3)]
        assert {tuple(line[1:]) for line in lines} == {('RESUME',), ('STOP',)}
        assert [line[0] for line in lines] == sorted(line[0] for line in lines) and lines[0][0].endswith('Z')
        child.send_signal(signal.SIGINT)
        assert child.wait(seconds(10)) == 0


def test_which_of_two_has_to_be_said(tmp_path):
    env = dict(os.environ, POSTERN_RUNTIME_DIR=str(tmp_path / 'run'))
    ctl = Ctl(tmp_path / 'run')
    with Postern('a', memory='64M', env=env) as a, Postern('b', memory='64M', env=env) as b:
        said = ctl('status')
        assert said.code == 2 and a.name in said.err and b.name in said.err, said
        assert ctl('stop', '-n', b.name).code == 0
        assert (a.status(), b.status()) == ('running', 'paused')
        assert [line.split()[0] for line in ctl('list').out.splitlines()] == [a.name, b.name]


def test_quit_returns_when_the_name_is_free(tmp_path):
    env = dict(os.environ, POSTERN_RUNTIME_DIR=str(tmp_path / 'run'))
    ctl = Ctl(tmp_path / 'run')
    with Postern(memory='64M', env=env) as vm:
        with ctl.start('events') as child:
            hears(child, vm)
            assert ctl('quit') == (0, '', '')
            assert os.listdir(tmp_path / 'run') == []
            assert 'SHUTDOWN guest=false reason=host-qmp-quit' in child.communicate(timeout=seconds(10))[0]
            assert child.returncode == 0
        assert vm.wait_exit() == 0


def test_powerdown_and_reset_reach_the_machine(shared):
    q = shared.qmp()
    assert shared.ctl('powerdown').code == 0
    q.wait_event('POWERDOWN')
    assert shared.ctl('reset').code == 0
    q.wait_event('RESET')
    shared.bare().wait_ready(seconds(20))


# ---- migration ----

@pytest.fixture
def pair(tmp_path):
    """Two machines that share their names' directory; pair.ctl, and .src and .dst as words for it."""
    with Pair(memory='128M', env=dict(os.environ, POSTERN_RUNTIME_DIR=str(tmp_path / 'run'))) as p:
        p.ctl = Ctl(tmp_path / 'run')
        p.src, p.dst = ('--name', p.source.name), ('--name', p.destination.name)
        p.guest.walk('c')
        yield p


def migration_of(pair, who):
    """query-migrate's status, by ctl."""
    return json.loads(pair.ctl(*who, 'status', '--json').out)['query-migrate']['status']


def assert_sound(guest):
    guest.quiet(seconds(30))
    assert guest.first_error(seconds(10))['errors'] == 0
    assert guest.verify(seconds(120))['errors'] == 0


def test_a_migration_with_a_cut_by_ctl_alone(pair):
    where = uri()
    assert pair.ctl(*pair.dst, 'incoming', where, '--detach') == (0, '', '')
    with pair.ctl.start(*pair.src, 'migrate', where, '--bandwidth', '1M') as follower:
        wait_for(lambda: migration_of(pair, pair.dst) == 'postcopy-active', 20)
        assert pair.ctl(*pair.src, 'pause-migration').code == 0
        out, err = follower.communicate(timeout=seconds(20))
    assert follower.returncode == 1 and out == '', (out, err)
    assert 'postcopy-active, from here' in err and 'the link is lost' in err and 'postern ctl recover URI' in err
    wait_for(lambda: migration_of(pair, pair.dst) == 'postcopy-paused', 20)
    said = pair.ctl(*pair.dst, 'status')
    assert 'migration  postcopy-paused, to here' in said.out and 'error      ' in said.out, said.out
    again = uri()
    assert pair.ctl(*pair.dst, 'recover', again, '--detach') == (0, '', '')
    said = pair.ctl(*pair.src, 'migrate', again, '--resume', '--bandwidth', '0')
    assert said.code == 0 and said.out.startswith('migrated: 128.0 MiB in '), said
    wait_for(lambda: migration_of(pair, pair.dst) == 'completed', 20)
    assert 'recovered once' in pair.ctl(*pair.dst, 'status').out
    assert 'postmigrate' in pair.ctl(*pair.src, 'status').out
    assert_sound(pair.arrived())


def test_the_destination_follows_what_comes_and_what_comes_again(pair):
    """incoming until the link is cut, then recover until all is there; neither takes the beginning for the end."""
    where, again = uri(), uri()
    with pair.ctl.start(*pair.dst, 'incoming', where) as follower:
        assert follower.stderr.readline().split(',')[0].strip() in ('none', 'setup')
        assert pair.ctl(*pair.src, 'migrate', where, '--detach', '--bandwidth', '1M').code == 0
        wait_for(lambda: migration_of(pair, pair.dst) == 'postcopy-active', 20)
        assert pair.ctl(*pair.dst, 'pause-migration').code == 0
        out, err = follower.communicate(timeout=seconds(20))
    assert (follower.returncode, out) == (1, ''), (out, err)
    assert 'postcopy-active, to here' in err and 'recover URI here' in err and '--resume at the source' in err, err
    wait_for(lambda: migration_of(pair, pair.src) == 'postcopy-paused', 20)
    with pair.ctl.start(*pair.dst, 'recover', again) as follower:
        assert follower.stderr.readline().startswith('postcopy-paused, to here')
        assert pair.ctl(*pair.src, 'migrate', again, '--resume', '--bandwidth', '0').code == 0
        out, err = follower.communicate(timeout=seconds(20))
    assert follower.returncode == 0 and out.startswith('arrived: 128.0 MiB in '), (out, err)
    assert_sound(pair.arrived())


def test_a_follower_at_the_destination_can_be_interrupted(pair):
    with pair.ctl.start(*pair.dst, 'incoming', uri()) as follower:
        assert follower.stderr.readline().split(',')[0].strip() in ('none', 'setup')
        follower.send_signal(signal.SIGINT)
        out, err = follower.communicate(timeout=seconds(10))
    assert (follower.returncode, out) == (130, '') and 'goes on waiting' in err, err
    assert pair.destination.status() == 'inmigrate'


def test_an_interrupted_follower_leaves_the_migration_alone(pair):
    where = uri()
    pair.ctl(*pair.dst, 'incoming', where, '--detach')
    with pair.ctl.start(*pair.src, 'migrate', where, '--bandwidth', '1M') as follower:
        line = ''
        while not line.startswith('postcopy-active'):
            line = follower.stderr.readline()
            assert line, 'it has ended'
        follower.send_signal(signal.SIGINT)
        out, err = follower.communicate(timeout=seconds(10))
    assert (follower.returncode, out) == (130, '') and 'the migration goes on' in err, err
    assert migration_of(pair, pair.src) == 'postcopy-active'
    assert pair.ctl(*pair.src, 'cancel').code == 1      # too late, says the machine
    pair.finish()
    assert_sound(pair.arrived())


def test_a_cancel_that_ends_nothing_says_so(pair):
    assert pair.ctl(*pair.src, 'cancel') == (0, '', 'nothing to cancel: there is no migration\n')
    where = uri()
    pair.ctl(*pair.dst, 'incoming', where, '--detach')
    assert pair.ctl(*pair.src, 'migrate', where).code == 0
    assert pair.ctl(*pair.src, 'cancel') == (0, '', 'nothing to cancel: the migration is over (completed)\n')


def test_a_detached_migration_returns_at_once(pair):
    where = uri()
    pair.ctl(*pair.dst, 'incoming', where, '--detach')
    assert pair.ctl(*pair.src, 'migrate', where, '--detach', '--bandwidth', '1M') == (0, '', '')
    assert migration_of(pair, pair.src) != 'completed'
    pair.wait_switched()
    pair.finish()


def test_a_terminal_sees_progress_in_one_line(pair):
    where = uri()
    pair.ctl(*pair.dst, 'incoming', where, '--detach')
    master, slave = pty.openpty()
    try:
        with pair.ctl.start(*pair.src, 'migrate', where, '--bandwidth', '8M', '--json', stderr=slave) as follower:
            text = b''
            while text.count(b'of 128.0 MiB left, ') < 3:
                text += os.read(master, 4096)
            pair.bandwidth(0)
            out, _ = follower.communicate(timeout=seconds(30))
    finally:
        os.close(master)
        os.close(slave)
    assert follower.returncode == 0 and json.loads(out)['status'] == 'completed'
    assert b'\n' not in text and text.count(b'\r\033[K') >= 3


# ---- servers that are not to be trusted ----

def _silent(client):
    client.recv(1)


def _close(client):
    client.close()


def _greet_and_close(client):
    client.sendall(GREETING)


def _garbage(client):
    client.sendall(b'HTTP/1.1 400 Bad Request\r\n\r\n')
    client.recv(1)


def _array(client):
    client.sendall(b'[1, 2]\r\n')
    client.recv(1)


def _drip(client):
    for byte in GREETING[:-10] * 1000:
        client.sendall(bytes([byte]))
        time.sleep(0.05)


def _endless(client):
    client.sendall(b'{"QMP": "')
    while True:
        client.sendall(b'x' * 65536)


def _deep(client):
    client.sendall(b'{"QMP":' + b'[' * 100000)
    client.recv(1)


def _flood(client):
    client.sendall(GREETING)
    while True:
        client.sendall(b'{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}\r\n' * 100)


def _blanks(client):
    while True:
        client.sendall(b'\r\n' * 10000)


def _wrong_id(client):
    client.sendall(GREETING)
    client.recv(4096)
    client.sendall(b'{"return": {}, "id": 77}\r\n')
    client.recv(1)


def _half(client):
    client.sendall(GREETING)
    client.recv(4096)
    client.sendall(b'{"return": {}, "id')


@pytest.mark.parametrize('serve', [_silent, _close, _greet_and_close, _garbage, _array, _drip, _endless, _deep, _flood,
                                   _blanks, _wrong_id, _half], ids=lambda f: f.__name__[1:])
def test_a_server_that_talks_nonsense_is_left_in_time(tmp_path, serve):
    with server(tmp_path / 'qmp', serve) as address:
        began = time.monotonic()
        said = Ctl(tmp_path)('--qmp', address, '--timeout', '1', 'status', memory=None if sanitized() else 256 * MIB)
        assert said.code == 3 and said.out == '' and len(said.err.splitlines()) == 1, said
        assert str(tmp_path) in said.err, said.err
        assert time.monotonic() - began < seconds(4)


def test_a_server_that_accepts_nobody_is_left_in_time(tmp_path):
    with socket.socket(socket.AF_UNIX) as full:
        full.bind(str(tmp_path / 'qmp'))
        full.listen(0)
        waiting = []
        try:
            for _ in range(4):      # until its queue is full
                waiting.append(socket.socket(socket.AF_UNIX))
                waiting[-1].setblocking(False)
                waiting[-1].connect_ex(str(tmp_path / 'qmp'))
            said = Ctl(tmp_path)('--qmp', tmp_path / 'qmp', '--timeout', '1', 'stop', timeout=10)
        finally:
            for sock in waiting:
                sock.close()
        assert said.code == 3, said


def test_a_frozen_machine_is_told_from_one_that_is_gone():
    with Postern(memory='64M') as vm:
        ctl = Ctl(vm.runtime_dir)
        vm.send_signal(signal.SIGSTOP)
        try:
            said = ctl('--timeout', '1', 'stop')
            assert said.code == 3 and 'no answer in time' in said.err, said
            said = ctl('--timeout', '1', 'list')
            assert said.code == 3 and vm.name in said.out and 'no answer' in said.out
        finally:
            vm.send_signal(signal.SIGCONT)
        assert ctl('status').code == 0


def test_no_control_character_reaches_the_terminal(tmp_path):
    def serve(client):
        client.sendall(GREETING)
        lines = client.makefile('rb')
        for line in lines:
            request = json.loads(line)
            evil = '\x1b]0;x\x07\x7f\x9b31m'
            answers = {'query-cpus-fast': [], 'query-name': {'name': evil}}
            answer = {'id': request['id'], 'return': answers.get(request['execute'], {'status': evil, 'error-desc': evil})}
            if request['execute'] == 'stop':
                answer = {'id': request['id'], 'error': {'class': evil, 'desc': evil}}
            client.sendall(json.dumps(answer).encode() + b'\n')

    with server(tmp_path / 'qmp', serve) as address:
        ctl = Ctl(tmp_path)
        for words, code in ((['status'], 0), (['status', '--json'], 0), (['faults'], 0), (['stop'], 1)):
            said = ctl('--qmp', address, *words)
            assert said.code == code, said
            text = said.out + said.err
            assert not [c for c in text if c != '\n' and (ord(c) < 0x20 or 0x7f <= ord(c) < 0xa0)], repr(text)


def test_a_server_that_answers_with_other_types_is_survived(tmp_path):
    def serve(client):
        client.sendall(GREETING)
        for line in client.makefile('rb'):
            request = json.loads(line)
            answer = answers.pop(0) if answers and request['execute'] != 'qmp_capabilities' else {}
            client.sendall(json.dumps({'id': request['id'], 'return': answer}).encode() + b'\n')

    for shape in (5, 'x', [], [[]], {'vcpus': 5, 'pages': [], 'latency': {'histogram': [{'le-us': 'x', 'count': -1}, 7]}},
                  {'ram': 7, 'postern': 'x', 'status': []}, {'counters': {'a' * 30: 'x'}, 'vcpus': [5, {}]}, None):
        answers = [shape] * 5
        with server(tmp_path / 'qmp', serve) as address:
            for words in (['status'], ['faults']):
                said = Ctl(tmp_path)('--qmp', address, *words)
                assert said.code == 0, (shape, said)
        os.unlink(tmp_path / 'qmp')

# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""A machine and its controls, without any migration."""

import json
import os
import signal
import socket
import time

import pytest

from harness.qmp import QmpError
from harness.vm import Postern, bare_elf, run_postern, sanitized
from harness.waiting import seconds, wait_for


@pytest.fixture(scope='module')
def shared():
    """One running machine for tests that leave it as they found it."""
    with Postern(memory='64M') as vm:
        vm.bare(ready=True)
        yield vm


def test_guest_boots_and_its_memory_is_sound():
    with Postern(memory='256M', cpus=2) as vm:
        guest = vm.bare()
        info = guest.wait_ready(seconds(20))
        assert info['cpus'] == 2
        assert guest.fill(seconds(60)) == info['pages'] > 60000
        guest.walk('c')
        guest.wait_stats(lambda s: s['cpu0'] > 1000 and s['cpu1'] > 1000, seconds(20))
        guest.quiet(seconds(20))
        assert guest.verify(seconds(60))['errors'] == 0
        assert guest.first_error()['errors'] == 0
        guest.corrupt(17)
        bad = guest.verify(seconds(60))
        assert (bad['bad'], bad['first']) == (1, 17), 'the test of the test'


@pytest.mark.parametrize('cpus', [1, 4])
def test_guest_sees_its_shape(cpus):
    with Postern(memory='128M', cpus=cpus) as vm:
        info = vm.bare().wait_ready(seconds(20))
        assert info['cpus'] == cpus
        assert len(vm.command('query-cpus-fast')) == cpus


def test_queries_have_the_shape_that_clients_know(shared):
    q = shared.qmp()
    assert q.greeting['QMP']['capabilities'] == ['oob']
    assert set(q.greeting['QMP']['version']['qemu']) == {'major', 'minor', 'micro'}
    status = q.command('query-status')
    assert (status['running'], status['status']) == (True, 'running')
    assert q.command('query-kvm') == {'enabled': True, 'present': True}
    assert q.command('query-name') == {'name': shared.name}
    names = {c['name'] for c in q.command('query-commands')}
    assert {'stop', 'cont', 'quit', 'migrate', 'query-migrate', 'migrate-recover', 'query-postern-faults'} <= names
    cpus = q.command('query-cpus-fast')
    tids = {t.tid for t in shared.threads()}
    assert [c['cpu-index'] for c in cpus] == [0, 1]
    assert {c['thread-id'] for c in cpus} <= tids
    assert q.command('query-migrate')['status'] == 'none'
    faults = q.command('query-postern-faults')
    assert faults['vcpus'] == [] and faults['pages']['missing'] == 0
    assert faults['way-out'] in ('kernel', 'eject')


def test_stop_and_cont_are_obeyed_and_told(shared):
    q, other = shared.qmp(), shared.qmp()
    guest = shared.bare()
    for _ in range(3):
        q.command('stop')
        assert q.command('query-status') == {'running': False, 'singlestep': False, 'status': 'paused'}
        for client in (q, other):
            client.wait_event('STOP')
        guest.send('b77\n')
        q.command('stop')               # once more is fine, and is no second event
        q.command('cont')
        guest.expect(r'B mark=77 .*', seconds(5))
        for client in (q, other):
            client.wait_event('RESUME')
            assert not [e for e in client.poll_events() if e['event'] in ('STOP', 'RESUME')]
    assert shared.status() == 'running'


def test_a_stopped_guest_does_nothing(shared):
    guest = shared.bare()
    guest.heartbeat(True, period_us=1000)
    guest.wait_beats(3, seconds(5))
    shared.command('stop')
    cpu = shared.cpu_seconds()
    began = time.monotonic()
    guest.sock.settimeout(0.3)
    total = 0
    try:                                # what was on its way may still come, then silence
        while time.monotonic() - began < 5:
            total += len(guest.sock.recv(65536))
        pytest.fail('a stopped guest goes on beating')
    except socket.timeout:
        pass
    guest.sock.settimeout(None)
    guest._buf = b''                    # a line may have been cut
    spent = (shared.cpu_seconds() - cpu) / (time.monotonic() - began)
    shared.command('cont')
    guest.wait_beats(3, seconds(5))
    guest.heartbeat(False)
    assert spent < 0.5, 'a stopped machine burns %.0f %% of a processor' % (spent * 100)


def test_many_clients_are_served_side_by_side(shared):
    clients = [shared.qmp() for _ in range(20)]
    for i, client in enumerate(clients):
        client.ident = client.send('query-status' if i % 2 else 'query-cpus-fast')
    for client in reversed(clients):
        assert client.reply(client.ident)
    for client in clients:
        client.close()
    before = shared.fds()
    for _ in range(50):
        shared.qmp().close()
    wait_for(lambda: shared.fds() <= before, 5, 'clients that left keep their descriptors')


def test_a_client_that_does_not_read_holds_nobody_up(shared):
    slow, quick = shared.qmp(), shared.qmp()
    request = b'{"execute": "query-commands"}\r\n' * 100
    slow.sock.setblocking(False)
    sent = 0
    worst = 0.0
    end = time.monotonic() + seconds(15)
    try:
        while time.monotonic() < end and sent < 40000:
            try:
                slow.sock.send(request)
                sent += 100
            except BlockingIOError:
                pass
            ms, status = quick.timed('query-status', 5)
            worst = max(worst, ms)
            assert status['running']
    except (BrokenPipeError, ConnectionResetError):
        pass                            # dropped, as it may be
    print('slowest reply to the other client: %.1f ms after %d unread requests' % (worst, sent))
    rss = shared.rss()
    assert rss < (64 + 150) << 20 or sanitized(), 'an unread client holds %d MiB' % (rss >> 20)
    slow.close()
    quick.command('query-status')


def test_out_of_band_execution_is_offered_and_checked(shared):
    plain, oob = shared.qmp(), shared.qmp(oob=True)
    with pytest.raises(QmpError, match='(?i)oob|exec-oob'):
        plain.execute('migrate-pause', oob=True)
    with pytest.raises(QmpError) as e:
        oob.execute('migrate-pause', oob=True)          # taken; there is just no migration
    assert 'OOB' not in e.value.desc
    with pytest.raises(QmpError, match='does not support OOB'):
        oob.execute('query-status', oob=True)


@pytest.mark.parametrize('text, says', [
    (b'{"execute": }\n', 'JSON parse error'),
    (b'{"execute": "query-status"]\n', 'JSON parse error'),
    (b'hello\n', 'JSON parse error'),
    (b'\xff\xfe\xff', 'JSON parse error'),
    (b'[1, 2]\n', 'object'),
    (b'"text"\n', 'object'),
    (b'{}\n', "lacks member 'execute'"),
    (b'{"execute": 5}\n', 'string'),
    (b'{"execute": "query-status", "extra": 1}\n', 'extra'),
    (b'{"execute": "no-such-thing"}\n', 'has not been found'),
    (b'{"execute": "query-status", "arguments": {"a": 1}}\n', "'a' is unexpected"),
    (b'{"execute": "query-status", "arguments": []}\n', 'object'),
    (b'{"execute": "migrate", "arguments": {}}\n', "'uri' is missing"),
    (b'{"execute": "migrate", "arguments": {"uri": 5}}\n', 'string'),
    (b'{"execute": "migrate-set-parameters", "arguments": {"max-postcopy-bandwidth": -1}}\n', ''),
    (b'{"execute": "migrate-set-parameters", "arguments": {"x-postern-link-timeout": 99}}\n', '100'),
    (b'{"execute": "migrate-set-capabilities", "arguments": {"capabilities": [{"capability": "xyz", "state": true}]}}\n',
     'xyz'),
    (b'{"execute": "query-status", "execute": "stop"}\n', 'JSON parse error'),
])
def test_bad_requests_get_an_error_and_the_connection_goes_on(shared, text, says):
    q = shared.qmp()
    q.send_raw(text)
    error = q.raw_reply()['error']
    assert says.lower() in error['desc'].lower(), error
    assert q.command('query-status')['running']
    q.close()


def test_deep_and_endless_requests_are_refused_in_bounded_memory(shared):
    before = shared.rss()
    q = shared.qmp()
    q.send_raw(b'[' * 5000 + b'\n')
    assert 'error' in q.raw_reply()
    for _ in range(24):
        q.send_raw(b'{"execute": "' + b'x' * (1 << 20))
        q.send_raw(b'\n')
    q.send_raw(b'\n"}\n')
    q.poll_events()
    q.close()
    q = shared.qmp()
    q.command('query-status')
    assert shared.rss() - before < 64 << 20 or sanitized()


def test_commands_wait_for_negotiation(shared):
    q = shared.qmp(negotiate=False)
    with pytest.raises(QmpError) as e:
        q.command('query-status')
    assert e.value.kind == 'CommandNotFound'
    q.command('qmp_capabilities')
    assert q.command('query-status')['running']
    with pytest.raises(QmpError):
        q.command('qmp_capabilities')


def test_a_request_may_come_in_pieces(shared):
    q = shared.qmp()
    for byte in b'{"execute":"query-status","id":{"a":[1,"\\u00e9"]}}':
        q.send_raw(bytes([byte]))
    reply = q._message(time.monotonic() + seconds(5))
    assert reply['id'] == {'a': [1, '\u00e9']} and reply['return']['running']


def test_quit_answers_first_then_ends():
    with Postern(memory='64M') as vm:
        vm.bare(ready=True)
        q = vm.qmp()
        q.command('quit')
        event = q.wait_event('SHUTDOWN')
        assert event['data'] == {'guest': False, 'reason': 'host-qmp-quit'}
        q.wait_closed()
        assert vm.wait_exit() == 0
        assert not os.path.exists(vm.path('qmp')), 'the socket stays behind'


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_in_good_order(number):
    with Postern(memory='64M') as vm:
        vm.bare(ready=True)
        q = vm.qmp()
        code, ms = vm.end(number, 2.0)
        print('%s to exit: %.1f ms' % (number.name, ms))
        assert code == 0
        assert q.wait_event('SHUTDOWN')['data'] == {'guest': False, 'reason': 'host-signal'}


def test_sigkill_leaves_nothing():
    with Postern(memory='64M') as vm:
        vm.bare(ready=True)
        print('SIGKILL to gone: %.1f ms' % vm.kill(2.0))
        assert not os.path.exists('/proc/%d' % vm.pid)


def test_system_reset_starts_the_guest_anew():
    with Postern(memory='64M') as vm:
        guest = vm.bare(ready=True)
        guest.fill(seconds(60))
        assert guest.verify(seconds(60))['errors'] == 0
        guest.limit(100)
        q = vm.qmp()
        q.command('system_reset')
        assert q.wait_event('RESET')['data']['guest'] is False
        assert vm.status() == 'running'
        info = guest.wait_ready(seconds(20))
        assert info['pages'] == info['total'], 'the guest remembers what it was told before the reset'


def test_reset_of_a_stopped_machine_leaves_it_stopped():
    with Postern(memory='64M') as vm:
        guest = vm.bare(ready=True)
        vm.command('stop')
        vm.command('system_reset')
        assert not vm.command('query-status')['running']
        vm.command('cont')
        guest.wait_ready(seconds(20))


def test_powerdown_is_told_and_the_guest_decides():
    with Postern(memory='64M') as vm:
        guest = vm.bare(ready=True)
        q = vm.qmp()
        q.command('system_powerdown')
        q.wait_event('POWERDOWN')
        guest.mark(seconds(5))          # the bare guest knows no ACPI and goes on
        assert vm.status() == 'running'


def test_no_resource_grows_over_many_stops():
    with Postern(memory='64M') as vm:
        vm.bare(ready=True)
        q = vm.qmp()

        def rounds(n):
            for _ in range(n):
                q.command('stop')
                q.command('cont')
            q.poll_events()
        rounds(50)
        before = vm.resources()
        rounds(400)
        after = vm.resources()
        assert after['fds'] == before['fds'] and after['threads'] == before['threads']
        assert after['rss'] - before['rss'] < 4 << 20 or sanitized()


# ---- the command line ----

def _elf(path, change):
    with open(bare_elf(), 'rb') as f:
        data = bytearray(f.read())
    change(data)
    with open(path, 'wb') as f:
        f.write(data)
    return str(path)


def _cut(data):
    del data[100:]


def _far(data):
    """Its segments lie at 1 TiB."""
    phoff = int.from_bytes(data[32:40], 'little')
    for i in range(int.from_bytes(data[56:58], 'little')):
        at = phoff + 56 * i
        if data[at:at + 4] == b'\1\0\0\0':
            data[at + 24:at + 32] = (1 << 40).to_bytes(8, 'little')


def _huge(data):
    """A segment has 2^63 bytes in the file."""
    phoff = int.from_bytes(data[32:40], 'little')
    data[phoff + 32:phoff + 40] = (1 << 63).to_bytes(8, 'little')


def _phnum(data):
    data[56:58] = b'\xff\xff'


@pytest.mark.parametrize('change', [_cut, _far, _huge, _phnum], ids=lambda f: f.__name__[1:])
def test_a_damaged_elf_kernel_is_refused_by_name(tmp_path, change):
    path = _elf(tmp_path / 'kernel.elf', change)
    code, text = run_postern('run', '--memory', '64M', '--kernel', path)
    assert code > 0, text
    assert path in text or 'kernel' in text.lower()


@pytest.mark.parametrize('data', [b'', b'\x7fELF', b'MZ' + bytes(600), bytes(4096), b'#!/bin/sh\n'],
                         ids=['empty', 'elf', 'mz', 'zeros', 'script'])
def test_a_file_that_is_no_kernel_is_refused_by_name(tmp_path, data):
    path = tmp_path / 'kernel'
    path.write_bytes(data)
    code, text = run_postern('run', '--memory', '64M', '--kernel', path)
    assert code > 0 and str(path) in text, text


BAD_OPTIONS = [
    (['--kernel', '/nonexistent/kernel'], '/nonexistent/kernel'),
    (['--kernel', '/'], '/'),
    (['--memory', '0', '--kernel', 'BARE'], 'memory'),
    (['--memory', '1M', '--kernel', 'BARE'], 'memory'),
    (['--memory', '3M', '--kernel', 'BARE'], 'memory'),
    (['--memory', '-64M', '--kernel', 'BARE'], 'memory'),
    (['--memory', '64X', '--kernel', 'BARE'], 'memory'),
    (['--memory', '1025G', '--kernel', 'BARE'], 'memory'),
    (['--memory', '99999999999999999999G', '--kernel', 'BARE'], 'memory'),
    (['--cpus', '0', '--kernel', 'BARE'], 'cpus'),
    (['--cpus', '-1', '--kernel', 'BARE'], 'cpus'),
    (['--cpus', '100000', '--kernel', 'BARE'], 'cpus'),
    (['--cpus', 'two', '--kernel', 'BARE'], 'cpus'),
    (['--kernel', 'BARE', '--no-such-option'], 'no-such-option'),
    (['--kernel', 'BARE', 'stray'], 'stray'),
    (['--kernel', 'BARE', '--way-out', 'window'], 'way-out'),
    (['--kernel', 'BARE', '--serial', 'smoke:signal'], 'serial'),
    (['--kernel', 'BARE', '--qmp', 'nonsense'], 'qmp'),
    (['--kernel', 'BARE', '--qmp', 'unix:/nonexistent/dir/qmp'], '/nonexistent/dir/qmp'),
    (['--kernel', 'BARE', '--qmp', 'unix:/tmp/' + 'x' * 200], 'qmp'),
    (['--kernel', 'BARE', '--gdb', 'tcp:127.0.0.1:notaport'], 'gdb'),
    (['--memory', '64M'], 'kernel'),
    (['--incoming', 'pigeon:post'], 'pigeon'),
    (['--incoming', 'fd:99'], '99'),
    (['--incoming', 'tcp:127.0.0.1:0'], '--secret-file'),
    (['--incoming', 'tcp:127.0.0.1:0'], '--insecure'),
    (['--incoming', 'defer', '--secret-file', '/nonexistent/secret'], '/nonexistent/secret'),
    (['--incoming', 'defer', '--secret-file', '/dev/null'], 'no regular file'),
    (['--incoming', 'defer', '--secret-file', '/etc/passwd'], 'chmod 600'),
    (['--incoming', 'defer', '--secret-file', 'x', '--insecure'], 'only one'),
]


@pytest.mark.parametrize('options, says', BAD_OPTIONS, ids=[' '.join(o)[:50] for o, _ in BAD_OPTIONS])
def test_bad_options_end_it_with_a_reason(options, says):
    words = [bare_elf() if w == 'BARE' else w for w in options]
    code, text = run_postern('run', *words)
    assert code in (1, 2), (code, text)
    assert says in text, text
    assert len(text.strip().splitlines()) <= 4, 'a reason, not a lecture: ' + text


def test_a_socket_in_use_is_not_stolen_and_a_stale_one_is_replaced():
    with Postern(memory='64M') as vm:
        code, text = run_postern('run', '--memory', '64M', '--kernel', bare_elf(), '--qmp', 'unix:' + vm.path('qmp'))
        assert code > 0 and vm.path('qmp') in text, text
        assert vm.status() == 'running'
        path = vm.path('stale')
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        sock.close()
        with Postern(memory='64M', options=['--qmp', 'unix:' + path]) as second:
            second.assert_alive()
            assert os.stat(path).st_mode & 0o777 == 0o600


def test_help_and_version_say_what_there_is():
    code, text = run_postern('--version')
    assert code == 0 and 'postern' in text
    code, text = run_postern('run', '--help')
    assert code == 0
    for option in ('--memory', '--cpus', '--kernel', '--qmp', '--serial', '--incoming', '--way-out', '--gdb'):
        assert option in text
    assert run_postern('no-such-subcommand')[0] > 0
    assert run_postern()[0] > 0


def test_doctor_knows_this_host():
    code, text = run_postern('doctor')
    assert code == 0, text
    assert 'way out' in text.lower() or 'way-out' in text.lower(), text


def test_json_of_every_query_is_valid_utf8(shared):
    q = shared.qmp()
    names = [c['name'] for c in q.command('query-commands') if c['name'].startswith('query-')]
    names.remove('query-balloon')       # as in QEMU, an error where there is none
    for name in names:
        json.dumps(q.command(name))


def test_a_client_that_hangs_up_in_the_middle_harms_nobody(shared):
    for _ in range(20):
        q = shared.qmp()
        q.send_raw(b'{"execute": "query-cpus-fast"}{"execute": "query-co')
        q.close()
    assert shared.status() == 'running'
    q = shared.qmp()
    q.sock.shutdown(socket.SHUT_WR)
    q.wait_closed()

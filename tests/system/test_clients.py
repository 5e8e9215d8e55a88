# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""QMP as QEMU's own clients speak it: byte for byte what they send, and what they must find in the answers.

  qmp-shell, qemu.qmp   QEMU's Python package: compact JSON, no newline, `oob` enabled, ids such as "__qmp#00000"; the shell's typed
                        commands go without an id; `qmp-shell -H` uses human-monitor-command alone
  qmp.py                its predecessor of QEMU 6 and before: blanks after ':' and ',', no ids
  libvirt               ids such as "libvirt-7", "\\r\\n" after each; a migration as its driver does one
  people                socat, nc: blanks, tabs and newlines anywhere
"""

import json
import re
import select
import socket
import time

import pytest

from harness.migration import Pair, free_port
from harness.qmp import connect
from harness.vm import Postern
from harness.waiting import seconds, wait_for


class Wire:
    """Bytes to a QMP socket, lines from it. The greeting has been read."""

    def __init__(self, vm):
        self._sock = connect('unix:' + vm.path('qmp'))
        self._data = b''
        self.events = []
        self.greeting = self.line()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._sock.close()

    def send(self, data):
        self._sock.sendall(data)

    def line(self):
        """The next line, which must be one whole object that ends in CR LF."""
        end = time.monotonic() + seconds(10)
        while b'\n' not in self._data:
            assert select.select([self._sock], [], [], max(0, end - time.monotonic()))[0], 'no line: %r' % self._data
            more = self._sock.recv(1 << 16)
            assert more, 'closed'
            self._data += more
        line, self._data = self._data.split(b'\n', 1)
        assert line.endswith(b'\r') and b'\r' not in line[:-1], line
        return json.loads(line)

    def reply(self):
        """The next line that is no event; those are kept."""
        while True:
            message = self.line()
            if 'event' not in message:
                return message
            self.events.append(message)

    def ask(self, data):
        self.send(data)
        return self.reply()

    def wait_event(self, name, **data):
        """The next event of that name and data, among those kept and those to come."""
        while True:
            for i, event in enumerate(self.events):
                if event['event'] == name and data.items() <= event.get('data', {}).items():
                    return self.events.pop(i)
            message = self.line()
            assert 'event' in message, message
            self.events.append(message)

    def close_for_writing(self):
        self._sock.shutdown(socket.SHUT_WR)


@pytest.fixture(scope='module')
def shared():
    with Postern(memory='64M') as vm:
        vm.bare(ready=True)
        yield vm


@pytest.fixture
def wire(shared):
    with Wire(shared) as client:
        yield client


# ---- QEMU's Python package ----

def python_greeting(wire):
    """What qemu.qmp checks of the greeting, and its negotiation."""
    hello = wire.greeting['QMP']
    assert isinstance(hello['version'], dict) and isinstance(hello['capabilities'], list)
    assert {'major', 'minor', 'micro'} <= set(hello['version']['qemu']), 'the shell prints these'
    enable = ',"arguments":{"enable":["oob"]}' if 'oob' in hello['capabilities'] else ',"arguments":{}'
    reply = wire.ask(b'{"execute":"qmp_capabilities"%s}' % enable.encode())
    assert 'return' in reply and 'error' not in reply, reply


def test_qmp_shell_completes_and_carries_out(wire):
    python_greeting(wire)
    reply = wire.ask(b'{"execute":"query-commands","id":"__qmp#00000"}')
    assert reply['id'] == '__qmp#00000' and all(isinstance(c['name'], str) for c in reply['return'])
    names = [c['name'] for c in reply['return']]
    assert len(names) == len(set(names)) and {'stop', 'query-status', 'migrate', 'query-chardev'} <= set(names)
    for line, want in ((b'{"execute":"stop","arguments":{}}', {'return': {}}),
                       (b'{"execute":"query-status","arguments":{}}',
                        {'return': {'running': False, 'singlestep': False, 'status': 'paused'}}),
                       (b'{"execute":"cont","arguments":{}}', {'return': {}}),
                       (b'{"execute":"migrate-set-parameters","arguments":{"max-bandwidth":1048576}}', {'return': {}}),
                       (b'{"execute":"query-block-jobs","arguments":{}}', {'error': {
                           'class': 'CommandNotFound', 'desc': 'The command query-block-jobs has not been found'}}),
                       (b'{"execute":"transaction","arguments":{"actions":[{"type":"abort","data":{}}]}}', {'error': {
                           'class': 'CommandNotFound', 'desc': 'The command transaction has not been found'}})):
        assert wire.ask(line) == want
    assert {e['event'] for e in wire.events} == {'STOP', 'RESUME'}
    for event in wire.events:
        assert set(event) == {'timestamp', 'event'} and set(event['timestamp']) == {'seconds', 'microseconds'}


def test_qemu_qmp_with_many_under_way_and_out_of_band(wire):
    """An asynchronous client sends before it has its answers; they are told apart by their ids."""
    python_greeting(wire)
    wire.send(b''.join(b'{"execute":"query-status","id":"__qmp#%05d"}' % i for i in range(50)))
    assert {wire.reply()['id'] for _ in range(50)} == {'__qmp#%05d' % i for i in range(50)}
    reply = wire.ask(b'{"exec-oob":"migrate-pause","id":"__qmp#00050"}')
    assert reply['id'] == '__qmp#00050' and reply['error']['class'] == 'GenericError'
    assert isinstance(reply['error']['desc'], str)


def human(wire, line, cpu=0):
    """As qmp-shell -H sends it."""
    return wire.ask(('{"execute":"human-monitor-command","arguments":{"command-line":"%s","cpu-index":%d}}' % (
        line, cpu)).encode())


def test_qmp_shell_for_people_starts_and_answers(wire, shared):
    """-H: completion is made of the words of help and info."""
    python_greeting(wire)
    names = [line.split()[0] for line in human(wire, 'help')['return'].split('\r\n') if line]
    infos = [line.split()[1] for line in human(wire, 'info')['return'].split('\r\n') if line]
    assert {'info', 'stop', 'cont', 'quit', 'system_reset'} <= set(names) and {'status', 'cpus', 'migrate'} <= set(infos)
    assert human(wire, 'stop') == {'return': ''} and shared.status() == 'paused'
    assert human(wire, 'info   status ') == {'return': 'VM status: paused\r\n'}
    assert human(wire, 'cont') == {'return': ''}
    assert human(wire, 'info status') == {'return': 'VM status: running\r\n'}
    assert re.match(r'7\.2\.0 \(postern \S+\)\r\n$', human(wire, 'info version', 1)['return'])
    cpus = human(wire, 'info cpus')['return'].splitlines()
    assert [re.sub(r'\d+$', 'N', line) for line in cpus] == ['* CPU #0: thread_id=N', '  CPU #1: thread_id=N']
    assert {int(line.split('=')[1]) for line in cpus} <= {t.tid for t in shared.threads()}
    for name in infos:
        assert 'return' in human(wire, 'info ' + name)
    assert human(wire, 'drive_add 0 x') == {'return': "unknown command: 'drive_add 0 x'\r\n"}
    assert human(wire, 'migrate_cancel') == {'return': ''}
    assert human(wire, '') == {'return': ''}
    assert human(wire, 'info status', 2)['error']['desc'] == "Parameter 'cpu-index' expects a CPU number"


def test_hmp_quit_ends_it():
    with Postern(memory='64M') as vm, Wire(vm) as wire:
        python_greeting(wire)
        assert human(wire, 'quit') == {'return': ''}
        wire.wait_event('SHUTDOWN', guest=False)
        assert vm.wait_exit() == 0


def test_the_python_client_of_old(wire):
    assert wire.ask(b'{"execute": "qmp_capabilities"}') == {'return': {}}
    assert wire.ask(b'{"execute": "query-status"}')['return']['status'] == 'running'
    assert wire.ask(b'{"execute": "query-migrate", "arguments": {}}')['return']['status'] == 'none'


def test_people_with_socat(wire):
    """Whatever stands between, before and after; several in one packet; a character at a time."""
    assert wire.ask(b'\n\n\t { "execute"\n:\r\n"qmp_capabilities" , "arguments" : { } }\n') == {'return': {}}
    wire.send(b'{"execute":"query-name"}{"execute":"query-kvm"}\r\n\r\n  {"execute":"query-uuid"}   ')
    replies = [wire.reply()['return'] for _ in range(3)]
    assert set(replies[0]) == {'name'} and replies[1] == {'enabled': True, 'present': True} and set(replies[2]) == {'UUID'}
    for byte in b'{"execute":"query-status","id":{"a":[1,null]}}':
        wire.send(bytes([byte]))
    assert wire.reply()['id'] == {'a': [1, None]}
    wire.send(b'{"execute":"query-status"}')
    wire.close_for_writing()        # as `echo ... | nc -N`


# ---- libvirt ----

class Libvirt(Wire):
    """libvirt's monitor: a number in each id, CR LF at the end of each."""

    def __init__(self, vm):
        super().__init__(vm)
        self._n = 0
        assert isinstance(self.greeting['QMP'], dict)
        assert self.call('qmp_capabilities') == {}

    def call(self, name, **arguments):
        """The result; an error is raised as AssertionError with its class and text."""
        self._n += 1
        message = {'execute': name}
        if arguments:
            message['arguments'] = arguments
        message['id'] = 'libvirt-%d' % self._n
        reply = self.ask(json.dumps(message, separators=(',', ':')).encode() + b'\r\n')
        assert reply['id'] == message['id'], reply
        assert 'return' in reply, '%(class)s: %(desc)s' % reply.get('error', {})
        return reply['return']

    def begin(self):
        """What its driver asks a machine that it has just connected to; what it cannot do without."""
        version = self.call('query-version')
        assert {'major', 'minor', 'micro'} <= set(version['qemu']) and isinstance(version['package'], str)
        names = {c['name'] for c in self.call('query-commands')}
        assert self.call('query-target')['arch'] == 'x86_64'
        assert self.call('query-kvm') == {'enabled': True, 'present': True}
        machines = self.call('query-machines')
        assert [m['name'] for m in machines if m.get('is-default')] == ['postern'] and machines[0]['cpu-max'] >= 1
        assert isinstance(self.call('query-name').get('name', ''), str)
        assert re.match(r'[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$', self.call('query-uuid')['UUID'])
        for chardev in self.call('query-chardev'):
            assert isinstance(chardev['label'], str) and isinstance(chardev['filename'], str)
            assert isinstance(chardev['frontend-open'], bool)
        for cpu in self.call('query-cpus-fast'):
            assert cpu['cpu-index'] >= 0 and cpu['thread-id'] > 0 and cpu['qom-path'].startswith('/machine/')
        assert self.call('query-iothreads') == [] and self.call('query-memory-size-summary')['base-memory'] > 0
        status = self.call('query-status')
        assert isinstance(status['running'], bool) and isinstance(status['status'], str)
        return names

    def prepare_migration(self):
        """Capabilities and parameters: it sets each of its own that is offered, with postcopy asked for (virsh migrate --postcopy),
        and parameters that it was told of."""
        known = {'xbzrle', 'auto-converge', 'rdma-pin-all', 'postcopy-ram', 'compress', 'pause-before-switchover',
                 'late-block-activate', 'multifd', 'dirty-bitmaps', 'return-path', 'zero-copy-send', 'postcopy-preempt'}
        wanted = {'postcopy-ram', 'return-path', 'postcopy-preempt', 'pause-before-switchover', 'late-block-activate'}
        offered = [c['capability'] for c in self.call('query-migrate-capabilities')]
        assert 'postcopy-ram' in offered and 'events' in offered
        assert not {'pause-before-switchover', 'late-block-activate'} & set(offered), 'it would switch them on unasked'
        self.call('migrate-set-capabilities', capabilities=[{'capability': 'events', 'state': True}])
        self.call('migrate-set-capabilities', capabilities=[
            {'capability': c, 'state': c in wanted} for c in offered if c in known])
        parameters = self.call('query-migrate-parameters')
        self.call('migrate-set-parameters', **{
            name: parameters[name] for name in ('max-bandwidth', 'downtime-limit', 'max-postcopy-bandwidth')})
        return parameters


def check_progress(migrate):
    """What its driver must find in query-migrate."""
    status = migrate['status']
    assert status in ('setup', 'active', 'device', 'postcopy-active', 'completed'), migrate
    if status != 'setup':
        for key in ('transferred', 'remaining', 'total', 'normal', 'normal-bytes', 'duplicate', 'page-size'):
            assert isinstance(migrate['ram'][key], int), (key, migrate)
        assert migrate['ram']['total'] > 0 and isinstance(migrate['total-time'], int)
    return status


def test_libvirts_machine(shared):
    with Libvirt(shared) as virsh:
        names = virsh.begin()
        assert {'stop', 'cont', 'system_powerdown', 'migrate', 'migrate_cancel', 'query-migrate'} <= names
        virsh.call('stop')
        virsh.wait_event('STOP')
        assert virsh.call('query-status')['status'] == 'paused'
        virsh.call('cont')
        virsh.wait_event('RESUME')
        virsh.call('system_powerdown')
        virsh.wait_event('POWERDOWN')
        for name in ('query-qmp-schema', 'qom-list', 'query-balloon', 'device_add', 'query-block'):
            if name not in names:
                with pytest.raises(AssertionError, match='CommandNotFound'):
                    virsh.call(name)


def test_libvirts_migration():
    """virsh migrate --live --postcopy, both sides' monitors, to the end."""
    with Pair(memory='64M') as pair, Libvirt(pair.source) as here, Libvirt(pair.destination) as there:
        pair.guest.walk('c')
        here.begin()
        there.begin()
        there.prepare_migration()
        where = 'tcp:127.0.0.1:%d' % free_port()
        there.call('migrate-incoming', uri=where)
        parameters = here.prepare_migration()
        here.call('migrate-set-parameters', **{'max-postcopy-bandwidth': 8 << 20})
        here.call('migrate', detach=True, resume=False, uri=where)
        seen = []

        def over():
            seen.append(check_progress(here.call('query-migrate')))
            return seen[-1] == 'completed'
        wait_for(over, 30, lambda: seen[-5:])
        here.wait_event('STOP')
        here.wait_event('MIGRATION', status='completed')
        there.wait_event('RESUME')
        there.wait_event('MIGRATION', status='completed')
        here.call('migrate-set-parameters', **{
            name: parameters[name] for name in ('max-bandwidth', 'downtime-limit', 'max-postcopy-bandwidth')})
        assert here.call('query-status')['status'] == 'postmigrate'
        assert there.call('query-status')['status'] == 'running'
        here.call('quit')
        here.wait_event('SHUTDOWN')
        assert pair.source.wait_exit() == 0
        guest = pair.arrived()
        guest.quiet(seconds(20))
        assert guest.verify(seconds(60))['errors'] == 0


def test_libvirt_without_postcopy_is_told_so(shared):
    """virsh migrate --live alone: it sets postcopy-ram to false, and shows the machine's words."""
    with Libvirt(shared) as virsh:
        with pytest.raises(AssertionError, match='always on: postcopy is how postern migrates'):
            virsh.call('migrate-set-capabilities', capabilities=[{'capability': 'postcopy-ram', 'state': False}])


def test_libvirt_cancels(shared):
    """A destination that never answers; then migrate_cancel, polled to its end, and the guest runs on."""
    with socket.socket() as silent, Libvirt(shared) as virsh:
        silent.bind(('127.0.0.1', 0))
        silent.listen(1)
        virsh.call('migrate', detach=True, resume=False, uri='tcp:127.0.0.1:%d' % silent.getsockname()[1])
        assert virsh.call('query-migrate')['status'] in ('setup', 'active')
        virsh.call('migrate_cancel')
        wait_for(lambda: virsh.call('query-migrate')['status'] == 'cancelled', 20)
        virsh.wait_event('MIGRATION', status='cancelled')
        assert virsh.call('query-status')['status'] == 'running'

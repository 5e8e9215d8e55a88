# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""What is kept of a lab that is lost (lab/lost.py, lab/watch.py), with a process
in QEMU's place and a monitor that is made up. Boots no lab."""
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading

import pytest

from harness import lab as inside
from harness.waiting import wait_for

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(TOP / 'lab'))

import cache  # noqa: E402
import host  # noqa: E402
import lost  # noqa: E402
import watch  # noqa: E402
from monitor import Monitor  # noqa: E402

REGISTERS = 'CPU#0\nRAX=0000000000000001\nCPU#1\nRAX=0000000000000002\n'
STUCK = 'watchdog: BUG: soft lockup - CPU#1 stuck for 26s!\n'


class Qemu:
    """A monitor's socket: notes what is asked, and says what it is told to."""

    def __init__(self, path):
        self.asked, self.running, self.clients = [], True, []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(4)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self.clients.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with contextlib.suppress(OSError, ValueError):
            self.send(client, {'QMP': {}})
            for line in client.makefile('rb'):
                request = json.loads(line)
                self.asked.append(request.get('arguments', {}).get(
                    'command-line') or request['execute'])
                self.send(client, {'event': 'RTC_CHANGE'})      # what nobody waits for
                answers = {'query-status': {'running': self.running},
                    'human-monitor-command': REGISTERS}
                self.send(client, {'return': answers.get(request['execute'], {})})

    @staticmethod
    def send(client, message):
        client.sendall(json.dumps(message).encode() + b'\r\n')

    def event(self, name):
        for client in self.clients:
            with contextlib.suppress(OSError):
                self.send(client, {'event': name})

    def close(self):
        self.listener.close()
        for client in self.clients:
            client.close()


class Lab(host.Lab):
    """A lab whose QEMU only sleeps, and whose agent is a function."""

    def __init__(self, path):
        process = subprocess.Popen(['sleep', '1000'])
        super().__init__(
    path, {
        'pid': process.pid, 'born': host.process_born(
            process.pid), 'token': 'secret', 'start': 0}, process)
        self.executed = []

    def execute(self, argv, *_, **__):
        self.executed.append(argv)
        return 0

    def get(self, inside, outside, timeout=300):
        pathlib.Path(outside).write_text('the guest says\n')

    def says(self, text):
        with open(self.path / 'console', 'a', encoding='ascii') as file:
            file.write(text)


@pytest.fixture(name='lab')
def lab_fixture(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(watch, 'EVERY_S', 0.02)
    monkeypatch.setattr(lost, 'BETWEEN_S', 0)
    (tmp_path / 'lab').mkdir()
    lab = Lab(tmp_path / 'lab')
    lab.says('Linux\n')
    yield lab
    lab.process.kill()
    lab.process.wait()


@pytest.fixture(name='qemu')
def qemu_fixture(lab):
    with contextlib.ExitStack() as stack:
        both = {name: Qemu(lab.path / name) for name in ('monitor', 'events')}
        for one in both.values():
            stack.callback(one.close)
        yield both


def kept():
    """What there is: [{name: content}]"""
    place = cache.cache_dir() / 'lost'
    return [{file.name: file.read_text() for file in one.iterdir()}
                                       for one in sorted(place.iterdir())] if place.exists() else []


def ended(lab):
    return lab.process.wait(30) == -signal.SIGKILL


def test_a_lab_that_shuts_down_is_kept_with_its_registers_and_then_ended(lab, qemu, capsys):
    with watch.Watch(lab) as watching:
        wait_for(lambda: qemu['events'].asked, 10)
        lab.says('Kernel panic\n')
        qemu['events'].event('SHUTDOWN')
        assert ended(lab)
    assert watching.lost and not watching.stuck
    one, = kept()
    assert one['registers'].count(REGISTERS) == lost.SAMPLES and 'Kernel panic' in one['console']
    assert 'secret' not in one['why']
    place, = (cache.cache_dir() / 'lost').iterdir()
    assert str(place) in capsys.readouterr().err
    assert place.stat().st_mode & 0o777 == 0o700


def test_one_that_has_shut_down_before_it_is_watched(lab, qemu):
    qemu['events'].running = False
    with watch.Watch(lab) as watching:
        assert ended(lab)
    assert watching.lost and len(kept()) == 1


def test_a_lab_that_is_stuck_is_kept_and_ended(lab, qemu):
    lab.says(STUCK)                     # of before
    with watch.Watch(lab) as watching:
        wait_for(lambda: qemu['events'].asked, 10)
        lab.says(STUCK)
        assert lab.alive() and not kept()
        lab.says(STUCK)
        assert ended(lab)
    assert watching.stuck and REGISTERS in kept()[0]['registers']


def test_nothing_is_kept_of_a_lab_that_is_well(lab, qemu):
    with watch.Watch(lab) as watching:
        wait_for(lambda: qemu['events'].asked, 10)
        lab.says('all is well\n')
    assert lab.alive() and not watching.lost and not kept() and not qemu['monitor'].asked


@pytest.mark.usefixtures('qemu')
@pytest.mark.parametrize('emulation', [False, True])
def test_the_state_is_kept_when_what_runs_inside_has_lost_a_guest(lab, monkeypatch, emulation):
    monkeypatch.setattr(watch, 'host_in_guest', lambda samples: emulation and REGISTERS in samples)
    lab.says('LAB-KEEP g0_0 of before\n')
    with watch.Watch(lab) as watching:
        lab.says('LAB-KEEP g1_1 no GUEST-READY\n')
        wait_for(lambda: lab.executed, 10)
    (shell, _, told), = lab.executed
    assert shell == 'sh' and told.endswith(' /run/lab-keep/g1_1.done') and told.startswith('echo emulation >') == emulation
    assert lab.alive() and not watching.lost
    one, = kept()
    assert one['guest'] == 'the guest says\n' and 'no GUEST-READY' in one['why'] and REGISTERS in one['registers']


@pytest.mark.usefixtures('qemu')
def test_what_is_kept_is_bounded(lab, monkeypatch):
    monkeypatch.setattr(lost, 'FILE_MOST', 10000)
    monkeypatch.setattr(lost, 'HEAD', 100)
    lab.says('first\n' + 'x' * 50000 + '\nlast\n')
    for number in range(lost.KEPT_MOST + 3):
        assert lost.keep(lab, 'number %d' % number)
    all_kept = kept()
    assert len(all_kept) == lost.KEPT_MOST and 'number %d' % (
        lost.KEPT_MOST + 2) in all_kept[-1]['why']
    console = all_kept[-1]['console']
    assert len(console) <= 10000 and console.endswith(
        'last\n') and 'first' in console and 'left out' in console


def test_requests_are_bounded(lab, qemu):
    with watch.Watch(lab):
        wait_for(lambda: qemu['events'].asked, 10)
        for number in range(2 * watch.ASKED_MOST):
            lab.says('LAB-KEEP n%d again\n' % number)
        wait_for(lambda: len(lab.executed) == watch.ASKED_MOST, 10)
    assert len(kept()) == watch.ASKED_MOST


def test_without_a_monitor_the_console_is_kept(lab):
    lab.says('the end\n')
    assert lost.keep(lab, 'QEMU has gone')
    assert 'no (more) registers' in kept()[0]['registers'] and 'the end' in kept()[0]['console']


def test_a_monitor_that_does_not_answer_holds_nothing_up(lab, monkeypatch):
    monkeypatch.setattr('monitor.PATIENCE_S', 0.05)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(lab.path / 'monitor'))
        deaf.listen(1)
        assert lost.keep(lab, 'deaf')
    assert 'no (more) registers' in kept()[0]['registers']


@pytest.mark.parametrize('command', ['stop', 'cont', 'system_reset', 'info status'])
@pytest.mark.usefixtures('qemu')
def test_no_lab_is_asked_to_do_anything(lab, command):
    """An exit request delivers a guest's interrupt twice (lab/README.md)."""
    with Monitor(lab.path) as monitor, pytest.raises(AssertionError):
        monitor.ask(command)


def test_the_emulators_processors_have_threads_of_their_own():
    """thread=single asks them to leave their loop all the time."""
    text = (TOP / 'lab/host.py').read_text('utf-8')
    assert text.count('"-accel"') == text.count('"-accel", "tcg,thread=multi"') == 1


def test_a_guest_that_is_lost_is_shown_to_the_outside(tmp_path, monkeypatch):
    console, place = tmp_path / 'console', tmp_path / 'keep'
    console.touch()
    monkeypatch.setattr(inside, 'CONSOLE', str(console))
    monkeypatch.setattr(inside, 'PLACE', place)
    monkeypatch.setenv('POSTERN_LAB', '1')

    def outside():
        name, why = wait_for(lambda: watch.ASKED.findall(console.read_text()), 10)[0]
        assert (place / name).read_text() == 'its console' and why == 'no answer'
        (place / (name + '.done')).touch()
    thread = threading.Thread(target=outside)
    thread.start()
    with pytest.raises(AssertionError, match='no answer'), inside.kept_when_lost(lambda: 'its console'):
        raise AssertionError('no answer\nand more')
    thread.join(20)
    assert len(list(place.iterdir())) == 2


def test_elsewhere_nobody_is_asked(tmp_path, monkeypatch):
    monkeypatch.delenv('POSTERN_LAB', raising=False)
    monkeypatch.setattr(inside, 'CONSOLE', str(tmp_path / 'console'))
    with pytest.raises(AssertionError), inside.kept_when_lost(str):
        raise AssertionError('no answer')
    assert not os.listdir(tmp_path)

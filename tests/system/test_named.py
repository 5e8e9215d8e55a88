# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Machines by name: where their sockets are, who may have a name."""

import json
import os
import signal
import stat
import subprocess

from harness.gdbremote import GdbRemote
from harness.qmp import Qmp
from harness.vm import Postern, bare_elf, program, run_postern
from harness.waiting import seconds


def run_beside(vm, *words):
    """`postern run` to its end, with the names of `vm`; (exit code, output)."""
    done = subprocess.run([program(), 'run', '--memory', '64M', *words], stdin=subprocess.DEVNULL,
                          env=dict(os.environ, POSTERN_RUNTIME_DIR=vm.runtime_dir), stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=seconds(20), check=False)
    return done.returncode, done.stdout.decode()


def test_a_named_machine_has_a_directory_for_its_owner_alone():
    with Postern(memory='64M', gdb='auto') as vm:
        vm.bare(ready=True)
        place = os.path.join(vm.runtime_dir, vm.name)
        for path in (vm.runtime_dir, place):
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
        assert sorted(os.listdir(place)) == ['gdb', 'pid', 'qmp']
        with open(os.path.join(place, 'pid'), encoding='ascii') as f:
            assert int(f.read()) == vm.pid
        with Qmp(os.path.join(place, 'qmp')) as q:
            assert q.command('query-name') == {'name': vm.name}
            assert q.command('query-status')['running']
        GdbRemote('unix:' + os.path.join(place, 'gdb')).close()
        vm.end(signal.SIGTERM)
        assert os.listdir(vm.runtime_dir) == []


def test_a_name_that_lives_is_refused_and_not_disturbed():
    with Postern(memory='64M') as vm:
        vm.bare(ready=True)
        code, text = run_beside(vm, '--kernel', bare_elf(), '--name', vm.name)
        assert code == 1 and vm.name in text and 'process %d' % vm.pid in text, text
        with Qmp(os.path.join(vm.runtime_dir, vm.name, 'qmp')) as q:
            assert q.command('query-status')['running']


def test_a_dead_machines_name_is_taken_over(tmp_path):
    env = dict(os.environ, POSTERN_RUNTIME_DIR=str(tmp_path / 'run'))
    with Postern(memory='64M', env=env, options=['--name', 'web'], gdb='auto') as vm:
        vm.kill()
        assert sorted(os.listdir(tmp_path / 'run/web')) == ['gdb', 'pid', 'qmp']
        with Postern(memory='64M', env=env, options=['--name', 'web'], gdb='auto') as second:
            assert second.command('query-name') == {'name': 'web'}
            with Qmp(str(tmp_path / 'run/web/qmp')) as q:
                assert q.command('query-status')['running']
        assert os.listdir(tmp_path / 'run') == []


def test_a_name_that_is_none_is_a_usage_error():
    for name in ('../x', 'a/b', '', '.', '-x', 'x' * 49):
        code, text = run_postern('run', '--kernel', bare_elf(), '--name=' + name)
        assert code == 2 and '--name' in text, text
    code, text = run_postern('run', '--kernel', bare_elf(), '--gdb', 'auto')
    assert code == 2 and '--name' in text, text


def test_a_machine_from_a_file(tmp_path):
    """The command line goes over it."""
    path = tmp_path / 'web.json'
    path.write_text(json.dumps({'name': 'web', 'memory': '128M', 'cpus': 4, 'paused': True,
                                'qmp': 'unix:%s' % (tmp_path / 'unused')}))
    with Postern(memory='64M', options=['--config', str(path)]) as vm:
        assert vm.status() == 'prelaunch'
        assert len(vm.command('query-cpus-fast')) == 2
        assert vm.command('query-name') == {'name': vm.name}
        vm.command('cont')
        assert vm.bare().wait_ready(seconds(20))['cpus'] == 2
        assert not (tmp_path / 'unused').exists()
    path.write_text('{"kernel": "%s",\n "paused": 1}' % bare_elf())
    code, text = run_postern('run', '--config', path)
    assert code == 2 and text == 'postern run: %s:2: "paused": true or false is needed\n' % path

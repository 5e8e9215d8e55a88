# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""The log: as text and as JSON, on standard error and in a file."""

import datetime
import json
import os
import signal

from harness.vm import Postern, run_postern

LEVELS = {'error', 'warning', 'info', 'debug'}
AREAS = {'base', 'memory', 'source', 'kvm', 'arch', 'device', 'machine', 'migrate', 'control', 'cli'}


def facts(text):
    """The log's lines, each checked."""
    out = []
    for line in text.splitlines():
        fact = json.loads(line)
        assert set(fact) == {'time', 'level', 'area', 'message'}, line
        assert fact['level'] in LEVELS and fact['area'] in AREAS and fact['message'], line
        when = datetime.datetime.strptime(fact['time'], '%Y-%m-%dT%H:%M:%S.%fZ')
        assert abs(datetime.datetime.utcnow() - when) < datetime.timedelta(minutes=10), line
        out.append(fact)
    return out


def test_every_line_is_an_object():
    with Postern(memory='64M', gdb=True, options=['--log-format', 'json']) as vm:
        vm.command('stop')
        vm.command('cont')
        vm.end(signal.SIGTERM)
        said = facts(vm.log())
    times = [fact['time'] for fact in said]
    assert times == sorted(times)
    assert {'control', 'machine'} <= {fact['area'] for fact in said}
    assert [f for f in said if f['level'] == 'info' and f['message'] == 'run state: paused' and f['area'] == 'machine']


def test_what_a_path_holds_cannot_break_a_line(tmp_path):
    """Errors at the end are lines as well."""
    evil = b'no"such\\kernel\n\x1b[31m\xff\xc3\xbc'
    path = os.path.join(os.fsencode(tmp_path), evil)
    code, text = run_postern('run', '--log-format', 'json', '--kernel', os.fsdecode(path))
    assert code in (1, 2), text
    fact, = facts(text)
    assert fact['level'] == 'error' and 'no"such\\kernel\n\x1b[31m\ufffdü' in fact['message'], fact
    code, text = run_postern('run', '--kernel', os.fsdecode(path))
    assert code in (1, 2) and len(text.splitlines()) == 1 and '\x1b' not in text, text


def test_bad_options_are_lines_too():
    code, text = run_postern('run', '--log-format', 'json', '--cpus', '999', '--kernel', 'x')
    assert code == 2 and '--cpus 999' in facts(text)[0]['message'] and len(facts(text)) == 1
    code, text = run_postern('run', '--log-format', 'xml')
    assert code == 2 and 'text and json' in text and len(text.splitlines()) == 1


def test_a_file_gets_the_lines_and_keeps_what_it_had(tmp_path):
    path = tmp_path / 'log'
    path.write_text('before\n', encoding='ascii')
    for word in ('text', 'json'):
        with Postern(memory='64M', options=['--log-file', str(path), '--log-format', word]) as vm:
            vm.command('query-status')
            vm.end(signal.SIGTERM)
            assert vm.log() == ''
    first, *lines = path.read_text(encoding='utf-8').splitlines()
    assert first == 'before'
    as_json = [line for line in lines if line.startswith('{')]
    as_text = [line for line in lines if not line.startswith('{')]
    assert len(facts('\n'.join(as_json))) == len(as_text) > 2
    for line in as_text:
        when, level, message = line.split(' ', 2)
        datetime.datetime.strptime(when, '%Y-%m-%dT%H:%M:%S.%fZ')
        assert level[:-1] in LEVELS and level[-1] == ':' and message


def test_an_error_at_the_start_is_told_in_both_places(tmp_path):
    path = tmp_path / 'log'
    code, text = run_postern('run', '--log-file', path, '--kernel', tmp_path / 'none')
    assert code in (1, 2) and 'none' in text
    assert 'error: ' in path.read_text() and 'none' in path.read_text()
    code, text = run_postern('run', '--log-file', tmp_path / 'no' / 'log', '--kernel', 'x')
    assert code == 2 and '--log-file' in text and 'No such file' in text


def test_a_file_may_be_truncated_at_any_time(tmp_path):
    path = tmp_path / 'log'
    with Postern(memory='64M', options=['--log-file', str(path)]) as vm:
        vm.command('stop')
        os.truncate(path, 0)
        vm.command('cont')
        assert path.read_bytes()[:2] == b'20', 'it goes on at the beginning'

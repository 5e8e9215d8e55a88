# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""What tools/test does with a test that fails (tools/again.py): once more, alone, and never silently."""
import json
import pathlib
import subprocess
import sys

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(TOP / 'tools'))

import again  # noqa: E402

TESTS = '''
import pathlib
import pytest

@pytest.fixture
def ends_badly():
    yield
    assert not 'left behind'

def test_good(): pass
def test_skipped(): pytest.skip('a reason')
def test_bad(): assert False
@pytest.mark.parametrize('how', ['a-b[c]'])
def test_unsteady(how):
    seen = pathlib.Path(__file__).with_name('seen')
    first = not seen.exists()
    seen.touch()
    assert not first
def test_good_until_its_end(ends_badly): pass
'''


@pytest.fixture(name='pytest_of')
def _pytest_of(tmp_path):
    """run(words): what a pytest below tmp_path reports."""
    (tmp_path / 'system').mkdir()
    (tmp_path / 'system/test_made_up.py').write_text(TESTS, 'utf-8')
    (tmp_path / 'pytest.ini').write_text('[pytest]\n', 'utf-8')
    report = tmp_path / 'report.xml'

    def run(words):
        report.unlink(missing_ok=True)
        subprocess.run([sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '--rootdir', tmp_path, f'--junitxml={report}', *words],
                       cwd=tmp_path, check=False, stdout=subprocess.DEVNULL)
        return again.read_junit(report, tmp_path)
    return run


def test_what_fails_runs_once_more_and_is_named(tmp_path, pytest_of, capsys):
    file = '%s::' % (tmp_path / 'system/test_made_up.py')
    first = pytest_of([tmp_path])
    assert dict(first) == {file + 'test_good': 'PASSED', file + 'test_skipped': 'SKIPPED', file + 'test_bad': 'FAILED',
                           file + 'test_unsteady[a-b[c]]': 'FAILED', file + 'test_good_until_its_end': 'FAILED'}
    results, unsteady = again.once_more('system', first, pytest_of)
    assert unsteady == [file + 'test_unsteady[a-b[c]]']
    assert dict(results) == dict(first, **{unsteady[0]: 'PASSED'})
    said = capsys.readouterr().out
    assert all(file + name in said for name in ('test_bad', 'test_unsteady', 'test_good_until_its_end')) and 'test_good\n' not in said


def test_what_is_broken_is_not_tried_again():
    results = [('test%d' % i, 'FAILED') for i in range(again.MOST + 1)]
    assert again.once_more('system', results, pytest.fail) == (results, [])
    assert again.once_more('system', [], pytest.fail) == ([], [])
    assert again.once_more('system', [('test', 'PASSED'), ('other', 'SKIPPED')], pytest.fail)[1] == []


def test_a_second_run_that_says_nothing_or_skips_changes_nothing():
    results = [('test', 'FAILED'), ('other', 'TIMEOUT')]
    assert again.once_more('unit', results, lambda names: [('other', 'SKIPPED')]) == (results, [])


def test_no_report_is_no_result(tmp_path):
    assert again.read_junit(tmp_path / 'none', tmp_path) == []
    (tmp_path / 'half').write_text('<testsuite><testcase', 'utf-8')
    assert again.read_junit(tmp_path / 'half', tmp_path) == []
    assert again.read_meson(tmp_path / 'none') == [] == again.read_meson(tmp_path / 'half')


@pytest.mark.parametrize('text', ['==1==ERROR: AddressSanitizer: heap-use-after-free on address', 'WARNING: ThreadSanitizer: data race (pid=1)',
                                  'page.c:3:4: runtime error: left shift of 1 by 33 places'])
@pytest.mark.parametrize('where', ['stdout', 'stderr'])
def test_what_a_sanitizer_reported_is_not_tried_again(tmp_path, text, where):
    log = tmp_path / 'testlog.json'
    log.write_text(''.join(json.dumps(dict({'name': 'postern:unit / ' + name, 'result': result}, **more)) + '\n' for name, result, more in (
        ('base log', 'OK', {where: 'fine'}), ('migrate peer', 'FAIL', {where: 'x\n%s\ny' % text}), ('page wait', 'TIMEOUT', {}))), 'utf-8')
    results = again.read_meson(log)
    assert dict(results) == {'base log': 'PASSED', 'migrate peer': again.REPORTED, 'page wait': 'TIMEOUT'}
    assert again.once_more('unit', results, lambda names: [(name, 'PASSED') for name in names])[1] == ['page wait']

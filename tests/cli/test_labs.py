# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""tools/labs.py, with labs that are made up: what is run again when one dies or a test fails in it, and what counts then."""

import os
import sys

import pytest

from harness.vm import ROOT

sys.path[:0] = [os.path.join(ROOT, 'tools'), os.path.join(ROOT, 'lab')]

import labs  # noqa: E402
import lost  # noqa: E402

A, B, C = ('tests/lab/test_%s.py' % name for name in 'abc')
LAB_DIED = 125


class Script:
    """Stands for labs: for each its exit code and lines; notes which files each was given."""

    def __init__(self, *runs):
        self.runs = list(runs)
        self.given = []

    def __call__(self, _name, _command, files):
        self.given.append(list(files))
        seen = labs.Run()
        seen.code, lines = self.runs.pop(0)
        for line in lines:
            seen.line(line)
        return seen

    def outcomes(self, *files):
        """What comes of it."""
        return labs.Labs('lab', [], self).run_until_passed(files)


def report(file, test, word=''):
    """pytest -v's line; without a word the test has begun and that is all."""
    return '%s::%s %s' % (file[len('tests/'):], test, word and word + '   [ 50%]')


def test_a_lab_that_lives_is_the_only_one():
    script = Script((0, [report(A, 'test_x', 'PASSED'), report(B, 'test_y[1 2]', 'SKIPPED (no reason)'), 'other words', '']))
    assert script.outcomes(A, B) == {(A, 'test_x'): labs.PASSED, (B, 'test_y[1 2]'): labs.SKIPPED}
    assert script.given == [[A, B]]


def test_a_lab_that_dies_is_replaced_from_the_file_on_in_which_it_died():
    script = Script((LAB_DIED, [report(A, 'test_x', 'PASSED'), report(B, 'test_y', 'PASSED'), report(B, 'test_z')]),
                    (0, [report(B, 'test_y', 'PASSED'), report(B, 'test_z', 'PASSED'), report(C, 'test_w', 'PASSED')]))
    assert set(script.outcomes(A, B, C).values()) == {labs.PASSED}
    assert script.given == [[A, B, C], [B, C]]


def test_what_failed_in_a_lab_that_died_later_does_not_count():
    script = Script((LAB_DIED, [report(A, 'test_x', 'FAILED'), report(A, 'test_y')]), (0, [report(A, 'test_x', 'PASSED')]))
    assert script.outcomes(A) == {(A, 'test_x'): labs.PASSED}


def test_what_fails_runs_again_with_its_file_and_has_failed_if_it_always_does():
    first = (1, [report(A, 'test_x', 'PASSED'), report(B, 'test_y', 'FAILED'), report(C, 'test_z', 'FAILED')])
    second = (1, [report(B, 'test_y', 'PASSED'), report(C, 'test_z', 'FAILED')])
    script = Script(first, second, *[(1, [report(C, 'test_z', 'FAILED')])] * (labs.TRIES - 2))
    assert script.outcomes(A, B, C) == {(A, 'test_x'): labs.PASSED, (B, 'test_y'): labs.PASSED, (C, 'test_z'): labs.FAILED}
    assert script.given == [[A, B, C], [B, C]] + [[C]] * (labs.TRIES - 2)


def test_what_passes_the_last_time_has_passed():
    failed, passed = (1, [report(A, 'test_x', 'FAILED')]), (0, [report(A, 'test_x', 'PASSED')])
    assert Script(*[failed] * (labs.TRIES - 1), passed).outcomes(A) == {(A, 'test_x'): labs.PASSED}


def test_what_passed_once_has_passed_and_what_it_did_afterwards_is_said(capsys):
    first = (1, [report(A, 'test_x', 'FAILED'), report(A, 'test_y', 'PASSED')])
    second = (1, [report(A, 'test_x', 'PASSED'), report(A, 'test_y', 'FAILED')])
    assert set(Script(first, second).outcomes(A).values()) == {labs.PASSED}
    assert 'passed before, and did not at try 2' in capsys.readouterr().out


def test_a_failure_that_is_seen_only_when_it_runs_again_is_one():
    first, again = (1, [report(A, 'test_x', 'FAILED')]), (1, [report(A, 'test_x', 'PASSED'), report(A, 'test_y', 'FAILED')])
    assert Script(first, *[again] * (labs.TRIES - 1)).outcomes(A)[A, 'test_y'] == labs.FAILED


def test_what_the_emulation_lost_runs_again_and_counts_as_lost_if_it_always_is():
    lost = (0, [report(A, 'test_x', 'XFAIL (the emulation has lost the guest)'), report(A, 'test_y', 'PASSED')])
    assert Script(lost, (0, [report(A, 'test_x', 'PASSED')])).outcomes(A)[A, 'test_x'] == labs.PASSED
    assert Script(*[lost] * labs.TRIES).outcomes(A) == {(A, 'test_x'): labs.LOST, (A, 'test_y'): labs.PASSED}
    failed = (1, [report(A, 'test_x', 'FAILED')])
    assert Script(*[lost] * (labs.TRIES - 1), failed).outcomes(A)[A, 'test_x'] == labs.LOST
    assert Script(lost, *[failed] * (labs.TRIES - 1)).outcomes(A)[A, 'test_x'] == labs.FAILED


def test_a_failure_that_does_not_run_again_has_failed():
    other = (0, [report(A, 'test_y', 'PASSED')])
    assert Script((1, [report(A, 'test_x', 'FAILED')]), *[other] * (labs.TRIES - 1)).outcomes(A)[A, 'test_x'] == labs.FAILED


def test_an_error_at_the_end_of_a_test_that_passed_is_a_failure():
    error = (1, [report(A, 'test_x', 'PASSED'), report(A, 'test_x', 'ERROR')])
    assert Script(*[error] * labs.TRIES).outcomes(A) == {(A, 'test_x'): labs.FAILED}


def test_labs_that_all_die_are_a_failure_in_the_end():
    script = Script(*[(LAB_DIED, [])] * labs.LABS_MOST)
    outcomes = script.outcomes(A, B)
    assert labs.FAILED in outcomes.values() and labs.PASSED not in outcomes.values()
    assert len(script.given) == labs.LABS_MOST


@pytest.mark.parametrize('code, lines', [(0, []), (1, [report(A, 'test_x', 'PASSED')]), (1, [])])
def test_an_end_that_contradicts_what_was_seen_is_a_failure(code, lines):
    assert labs.FAILED in Script(*[(code, lines)] * labs.TRIES).outcomes(A).values()


def test_no_kernel_is_said_as_such():
    with pytest.raises(labs.NoKernel):
        Script((labs.NO_KERNEL, [])).outcomes(A)


def registers(*samples):
    """info registers -a, some times; samples: CR2 of each processor."""
    return ''.join('---- 09:14:2%d\n%s\n' % (i, ''.join('\nCPU#%d\nRAX=0 RBX=0\nCR0=80050033 CR2=%016x CR3=0\n' % it for it in enumerate(sample)))
                   for i, sample in enumerate(samples))


def test_a_guest_with_its_hosts_registers_is_the_emulations_fault():
    bad, well, other = 0xffffffffc054edcc, 0x7f60234ee950, 0xffffffffc0abc000
    assert lost.host_in_guest(registers(*[(well, bad)] * lost.SAMPLES))
    assert not lost.host_in_guest(registers(*[(well, well)] * lost.SAMPLES))
    assert not lost.host_in_guest(registers(*[(well, bad)] * (lost.SAMPLES - 1)))
    assert not lost.host_in_guest(registers((well, bad), (bad, well), (well, other)))
    assert not lost.host_in_guest(registers((0, 0xffffffff81182682), *[(0, 0xffff888003800000)] * (lost.SAMPLES - 1)))
    assert not lost.host_in_guest('---- no (more) registers: gone\n')


def test_each_file_has_labs_of_its_own():
    runs = {A: [(LAB_DIED, []), (0, [report(A, 'test_x', 'PASSED')])], B: [(0, [report(B, 'test_y', 'SKIPPED')])],
            C: [(1, [report(C, 'test_z', 'FAILED')])] * labs.TRIES}
    scripts = {file: Script(*of_file) for file, of_file in runs.items()}
    outcomes = labs.side_by_side('lab', [], [A, B, C], lambda name, command, files: scripts[files[0]](name, command, files))
    assert outcomes == {(A, 'test_x'): labs.PASSED, (B, 'test_y'): labs.SKIPPED, (C, 'test_z'): labs.FAILED}
    assert [len(script.given) for script in scripts.values()] == [2, 1, labs.TRIES]


def test_no_kernel_is_said_as_such_by_many():
    with pytest.raises(labs.NoKernel):
        labs.side_by_side('lab', [], [A, B], Script(*[(labs.NO_KERNEL, [])] * 2))

# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""tools/labs.py, with labs that are made up: what is run again when one dies or a test fails in it, and what counts then."""

import os
import sys

import pytest

from harness.vm import ROOT

sys.path.insert(0, os.path.join(ROOT, 'tools'))

import labs  # noqa: E402

A, B, C = ('tests/lab/test_%s.py' % name for name in 'abc')
LAB_DIED = 125


class Script:
    """Stands for labs: for each its exit code and lines; notes which files each was given."""

    def __init__(self, *runs):
        self.runs = list(runs)
        self.given = []

    def __call__(self, _command, files):
        self.given.append(list(files))
        seen = labs.Run()
        seen.code, lines = self.runs.pop(0)
        for line in lines:
            seen.line(line)
        return seen

    def outcomes(self, *files):
        """What comes of it."""
        return labs.Labs('lab', [], self).run_twice_if_need_be(files)


def told(file, test, word=''):
    """pytest -v's line; without a word the test has begun and that is all."""
    return '%s::%s %s' % (file[len('tests/'):], test, word and word + '   [ 50%]')


def test_a_lab_that_lives_is_the_only_one():
    script = Script((0, [told(A, 'test_x', 'PASSED'), told(B, 'test_y[1 2]', 'SKIPPED (no reason)'), 'other words', '']))
    assert script.outcomes(A, B) == {(A, 'test_x'): labs.PASSED, (B, 'test_y[1 2]'): labs.SKIPPED}
    assert script.given == [[A, B]]


def test_a_lab_that_dies_is_replaced_from_the_file_on_in_which_it_died():
    script = Script((LAB_DIED, [told(A, 'test_x', 'PASSED'), told(B, 'test_y', 'PASSED'), told(B, 'test_z')]),
                    (0, [told(B, 'test_y', 'PASSED'), told(B, 'test_z', 'PASSED'), told(C, 'test_w', 'PASSED')]))
    assert set(script.outcomes(A, B, C).values()) == {labs.PASSED}
    assert script.given == [[A, B, C], [B, C]]


def test_what_failed_in_a_lab_that_died_later_does_not_count():
    script = Script((LAB_DIED, [told(A, 'test_x', 'FAILED'), told(A, 'test_y')]), (0, [told(A, 'test_x', 'PASSED')]))
    assert script.outcomes(A) == {(A, 'test_x'): labs.PASSED}


def test_what_fails_runs_once_more_with_its_file_and_has_failed_if_it_fails_again():
    script = Script((1, [told(A, 'test_x', 'PASSED'), told(B, 'test_y', 'FAILED'), told(C, 'test_z', 'FAILED')]),
                    (1, [told(B, 'test_y', 'PASSED'), told(C, 'test_z', 'FAILED')]))
    assert script.outcomes(A, B, C) == {(A, 'test_x'): labs.PASSED, (B, 'test_y'): labs.PASSED, (C, 'test_z'): labs.FAILED}
    assert script.given == [[A, B, C], [B, C]]


def test_what_fails_the_second_time_only_has_failed():
    script = Script((1, [told(A, 'test_x', 'FAILED'), told(A, 'test_y', 'PASSED')]),
                    (1, [told(A, 'test_x', 'PASSED'), told(A, 'test_y', 'FAILED')]))
    assert script.outcomes(A) == {(A, 'test_x'): labs.PASSED, (A, 'test_y'): labs.FAILED}


def test_a_failure_that_does_not_run_again_has_failed():
    script = Script((1, [told(A, 'test_x', 'FAILED')]), (0, [told(A, 'test_y', 'PASSED')]))
    assert script.outcomes(A)[A, 'test_x'] == labs.FAILED


def test_an_error_at_the_end_of_a_test_that_passed_is_a_failure():
    script = Script((1, [told(A, 'test_x', 'PASSED'), told(A, 'test_x', 'ERROR')]), (1, [told(A, 'test_x', 'PASSED'), told(A, 'test_x', 'ERROR')]))
    assert script.outcomes(A) == {(A, 'test_x'): labs.FAILED}


def test_labs_that_all_die_are_a_failure_in_the_end():
    script = Script(*[(LAB_DIED, [])] * labs.LABS_MOST)
    outcomes = script.outcomes(A, B)
    assert labs.FAILED in outcomes.values() and labs.PASSED not in outcomes.values()
    assert len(script.given) == labs.LABS_MOST


@pytest.mark.parametrize('code, lines', [(0, []), (1, [told(A, 'test_x', 'PASSED')]), (1, [])])
def test_an_end_that_contradicts_what_was_seen_is_a_failure(code, lines):
    assert labs.FAILED in Script((code, lines), (code, lines)).outcomes(A).values()


def test_no_kernel_is_said_as_such():
    with pytest.raises(labs.NoKernel):
        Script((labs.NO_KERNEL, [])).outcomes(A)

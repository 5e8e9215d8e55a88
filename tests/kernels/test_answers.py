# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""stop, a second client, SIGINT and a debugger, asked of QEMU and of postern while their guest waits for a page: without the module
and, where the kernel needs it, with it. Each measurement is a row of the report; an answer that does not come is one too, and is what
is expected of QEMU on kernels without interruptible guest faults."""

import pytest

import asking

HANG_S = 5      # real seconds, after which it hangs


def expected(vmm, interruptible):
    """Is there an answer? postern has a way out of its own."""
    return interruptible or vmm == 'postern'


def measure(vmm, test):
    """One pair, one question."""
    with asking.PAIRS[vmm]() as pair:
        pair.strand()
        answer = asking.ask(test, pair, HANG_S)
        if vmm == 'postern':
            pair.destination.kill()     # it is stopped, or gone, or still waits: the test is over
        return answer


@pytest.mark.parametrize('test', asking.TESTS)
@pytest.mark.parametrize('vmm', asking.PAIRS)
def test_without_module(vmm, test, note, interruptible):
    answer = measure(vmm, test)
    note(vmm, False, test, answer)
    assert answer.answered == expected(vmm, interruptible)


@pytest.mark.parametrize('test', asking.TESTS)
@pytest.mark.parametrize('vmm', asking.PAIRS)
def test_with_module(vmm, test, note, loaded):
    answer = measure(vmm, test)
    note(vmm, True, test, answer)
    assert answer.answered
    assert loaded.stats()['cuts'] > 0

# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Runs pytest in labs, each file in labs of its own, some side by side, in as many as it takes for every test to have had one that lived.

The emulation beneath a lab has faults of its own (lab/README.md): now and then its kernel dies, or goes astray for a while. Neither says
anything of postern. So:

  - a lab has one processor, since most of those faults come when one processor of the emulation has another do something; what that
    costs in time comes back by running as many labs as the machine has processors, LABS_AT_A_TIME at most;
  - a lab that dies is replaced: the file whose test ran then runs in a new one;
  - a file in which a test failed, or its guest was lost (its kernel says that a processor is stuck, or the registers prove that it is:
    tests/harness/lab.py; pytest's XFAIL), runs again, in a new lab, TRIES times in all. What passes in one of them has passed; of the
    rest what was lost at least as often as it failed counts as skipped. What became of each is said.

Each is said as it happens, and at most LABS_MOST labs are taken for a file.
"""
import collections
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parent.parent
LABS_MOST = 6
LABS_AT_A_TIME = 2
PROCESSORS = 1          # of each
TRIES = 4
TIMEOUT_S = 1500        # of all that runs in one lab
NO_KERNEL = 77
OVER = (0, 1)           # pytest's: it came to its end, all passed or some failed

PASSED, FAILED, SKIPPED, LOST = 'passed', 'failed', 'skipped', 'lost'
OUTCOMES = {'PASSED': PASSED, 'FAILED': FAILED, 'ERROR': FAILED, 'SKIPPED': SKIPPED, 'XFAIL': LOST, 'XPASS': FAILED}
NOT_WELL = (FAILED, LOST)
STARTED = re.compile(r'^(?:tests/)?(lab/test_\w+\.py)::(\S.*?)(?: +(%s)(?: .*)?)?$' % '|'.join(OUTCOMES))


class NoKernel(Exception):
    """This machine's mirrors do not have the lab's kernel."""


class Run:
    """What one lab saw: code; outcomes {(file, test): outcome}; at, the file of the test that began last."""

    def __init__(self):
        self.code = None
        self.outcomes = {}
        self.at = None

    def line(self, text):
        """A line of pytest -v: a test's name when it begins, its outcome on the same line when it ends."""
        found = STARTED.match(text.rstrip())
        if not found:
            return
        file, test, word = found.groups()
        self.at = 'tests/' + file
        # an error at the end of a test that passed comes as a second line
        if word and self.outcomes.get((self.at, test)) != FAILED:
            self.outcomes[self.at, test] = OUTCOMES[word]


def show(name, text):
    """A line of one lab, among those of others; whole, and with the lab's name."""
    sys.stdout.write('%s| %s\n' % (name, text.rstrip('\n')))
    sys.stdout.flush()


def run_once(name, command, files):
    """Runs `command files`, shows what it prints, and returns a Run."""
    command = [str(word) for word in (*command, *files)]
    show(name, '$ ' + ' '.join(command))
    seen = Run()
    with subprocess.Popen(command, cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace') as child:
        for text in child.stdout:
            show(name, text)
            seen.line(text)
    seen.code = child.returncode
    return seen


class Labs:
    """Labs of one kernel, one after the other. command: what runs pytest in one lab, to which files are added."""

    def __init__(self, name, command, once=run_once):
        self.name = name
        self.command = command
        self.once = once
        self.taken = 0

    def run(self, files):
        """The outcomes of all tests of the files; a file that no lab brought to its end has one, failed. NoKernel."""
        outcomes, todo = {}, list(files)
        while todo and self.taken < LABS_MOST:
            self.taken += 1
            seen = self.once(self.name, self.command, todo)
            if seen.code == NO_KERNEL:
                raise NoKernel
            outcomes.update(seen.outcomes)
            if seen.code in OVER:
                if seen.code and FAILED not in seen.outcomes.values() or not seen.outcomes:
                    outcomes[todo[0], 'pytest itself'] = FAILED
                return outcomes
            at = seen.at if seen.at in todo else todo[0]
            todo = todo[todo.index(at):]
            # what the file's tests did before the lab died is for nothing: they may build on one another
            outcomes = {key: outcome for key, outcome in outcomes.items() if key[0] not in todo}
            show(self.name, 'the lab ended with %s in %s; on from there in a new one' % (seen.code, at))
        outcomes.update({(file, 'no lab lived long enough'): FAILED for file in todo})
        return outcomes

    def run_until_passed(self, files):
        """As run(); the files in which a test failed run again, TRIES times in all. What passed once has passed."""
        outcomes = self.run(files)
        bad = collections.Counter((key, outcome) for key, outcome in outcomes.items())
        for number in range(2, TRIES + 1):
            again = [key for key, outcome in outcomes.items() if outcome in NOT_WELL]
            if not again or self.taken >= LABS_MOST:
                break
            self.say('failed; once more in a new lab', [key for key in again if outcomes[key] == FAILED])
            self.say('lost to the emulation; once more in a new lab', [key for key in again if outcomes[key] == LOST])
            seen = self.run(sorted({file for file, _ in again}))
            new = [key for key, outcome in seen.items() if outcome in NOT_WELL and key not in again]
            self.say('passed before, and did not at try %d beside what ran again' % number, [key for key in new if key in outcomes])
            outcomes.update({key: seen[key] for key in new if key not in outcomes})
            outcomes.update({key: seen[key] for key in again if key in seen})
            bad.update(seen.items())
            self.say('passed at try %d' % number, [key for key in again if outcomes[key] == PASSED])
        for key, outcome in outcomes.items():
            if outcome in NOT_WELL:
                outcomes[key] = LOST if bad[key, LOST] >= bad[key, FAILED] else FAILED
        self.say('skipped, since its guest was lost', [key for key, outcome in outcomes.items() if outcome == LOST])
        return outcomes

    def say(self, what, tests):
        """Names tests, if there are any."""
        if tests:
            show(self.name, '\n    '.join([what + ':', *('%s::%s' % key for key in tests)]))


def side_by_side(name, command, files, once=run_once):
    """The outcomes of all tests of the files, each file in labs of its own, {(file, test): outcome}. NoKernel."""
    def run_file(file):
        return Labs('%s %s' % (name, pathlib.Path(file).stem[len('test_'):]), command, once).run_until_passed([file])
    at_a_time = min(LABS_AT_A_TIME, len(os.sched_getaffinity(0)))
    with concurrent.futures.ThreadPoolExecutor(at_a_time) as pool:
        outcomes = {}
        for one in pool.map(run_file, files):
            outcomes.update(one)
        return outcomes

# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""What failed runs once more, with nothing beside it: tests that wait for conditions on a machine that does other things as well fail
now and then for no fault of what they test, and one among a thousand should not hide what the others say.

Nothing is hidden by it either: what passes at the second try is named. What fails twice has failed, and so has all that failed if it is
more than MOST tests: then something is broken, not unsteady. A unit test that a sanitizer stopped does not run again, since a race that
is seen once is there.
"""
import json
import re
import xml.etree.ElementTree

MOST = 8        # of tests that run once more
GOOD = ('PASSED', 'SKIPPED')
REPORTED = 'REPORTED'
# What ASan, UBSan, TSan and LeakSanitizer begin their reports with.
SANITIZER = re.compile(r'(?:ERROR|WARNING): \w+Sanitizer|runtime error: ')


def read_junit(path, tests):
    """[(FILE::TEST, outcome)] of a JUnit report of pytest's, whose files are below the directory tests; [] if there is none."""
    try:
        cases = list(xml.etree.ElementTree.parse(path).iter('testcase'))
    except (OSError, xml.etree.ElementTree.ParseError) as error:
        print(f'no report: {error}')
        return []
    results = {}
    for case in cases:
        wrong = any(case.find(tag) is not None for tag in ('failure', 'error'))
        name = '%s::%s' % (tests / (case.get('classname', '').replace('.', '/') + '.py'), case.get('name'))
        outcome = 'FAILED' if wrong else 'SKIPPED' if case.find('skipped') is not None else 'PASSED'
        # an error at the end of a test comes as a second case
        results[name] = outcome if results.get(name, 'PASSED') == 'PASSED' else results[name]
    return list(results.items())


def read_meson(path):
    """[(test, outcome)] of meson's log, a JSON object a line: its JUnit report does not say that a test ran out of time. [] if there is
    none."""
    names = {'OK': 'PASSED', 'EXPECTEDFAIL': 'PASSED', 'SKIP': 'SKIPPED'}
    results = []
    try:
        for line in path.read_text('utf-8').splitlines():
            test = json.loads(line)
            outcome = names.get(test['result'], test['result'])
            if outcome not in GOOD and SANITIZER.search('%s\n%s' % (test.get('stdout'), test.get('stderr'))):
                outcome = REPORTED
            # its name is `SUITE / TEST`
            results.append((test['name'].rpartition(' / ')[2], outcome))
    except (OSError, ValueError, KeyError) as error:
        print(f'no report: {error}')
        return []
    return results


def once_more(what, results, run):
    """Has run(names) run what failed of results, [(name, outcome)], once more: the results after that, and the names that passed then."""
    failed = [name for name, outcome in results if outcome not in (*GOOD, REPORTED)]
    if not 0 < len(failed) <= MOST:
        return results, []
    print('\n    '.join([f'-- {what}: failed; once more, alone:', *failed]), flush=True)
    second = dict(run(failed))
    passed = [name for name in failed if second.get(name) == 'PASSED']
    return [(name, 'PASSED' if name in passed else outcome) for name, outcome in results], passed

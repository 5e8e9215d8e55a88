# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""What postern finds out about a stock kernel, and its memory's own tests on that kernel."""

import glob
import os
import re
import subprocess

import pytest

from harness.machine import ARM64
from harness.vm import Postern, build_dir, run_postern
from harness.waiting import seconds, wait_for

UNITS = sorted(p for area in ('memory', 'kvm') + (('arch', 'base', 'source', 'device', 'machine') if ARM64 else ()) for p in glob.glob(os.path.join(build_dir(), 'tests/unit', area, 'test_*'))
               if os.path.isfile(p) and os.access(p, os.X_OK))


@pytest.mark.parametrize('program', UNITS or [None], ids=lambda p: os.path.basename(p or 'none'))
def test_unit(program):
    if not program:
        pytest.skip('no unit tests built: cmocka is missing')
    done = subprocess.run([program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace',
                          timeout=seconds(60), check=False)
    print(done.stdout)
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r'\[  PASSED  \] [1-9]', done.stdout), 'nothing was tested: ' + done.stdout[-500:]


def test_doctor_names_the_way_out_that_this_kernel_has(expected_way_out):
    code, text = run_postern('doctor')
    assert code == 0, text
    line = re.search(r'^\S+ +way-out +(.*)$', text, re.M)
    assert line, text
    assert line[1].startswith(expected_way_out + ':'), text
    assert re.search(r'^good +stock-kernel ', text, re.M), text


def test_auto_takes_what_doctor_says(expected_way_out):
    with Postern.incoming(memory='64M') as vm:
        # It is found while the machine already starts.
        wait_for(lambda: 'way out of a wait for a page: ' in vm.log(), 20)
        wait_for(lambda: vm.faults()['way-out'] == expected_way_out, 20)

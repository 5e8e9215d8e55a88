# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""No file or socket of a name that can be foreseen in a directory that
everybody writes to: whoever makes it first, or a link of that name, decides
what it is."""
import pathlib
import re
import shutil
import subprocess

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
SHARED = re.compile(r'''(?:/tmp|/var/tmp|/dev/shm)/[^\s"'`)]*''')
# Files whose names are only read as names, and what runs in a lab or a guest of the test's own.
NAMES_ONLY = {'tests/unit/device/test_chardev.c', 'tests/unit/device/test_disk_config.c',
              'tests/harness/proxy.py'}
WITHIN = ('tests/lab/', 'lab/root/', 'lab/guest/', 'lab/test_lab.py')
ALONE = {
    ('tests/system/test_control.py', '/tmp/'),                  # too long a name
    ('tests/unit/control/test_qmp.c', '/tmp/x,wait=on'),        # refused
    # how the name begins that was found there
    ('tests/cli/test_image.py', '/tmp/postern-image.'),
    # in the lab
    ('tools/demo', '/tmp/rows.json'), ('tools/demo', '/tmp/rows.json:'),
    ('tools/kernels', '/tmp/kernels:%s'), ('tools/kernels', '/tmp/kernels'),
    ('tools/kernels', '/tmp/kernels/rows'), ('tools/kernels', '/tmp/kernels/junit.xml'),
}


def files():
    if not shutil.which('git') or not (TOP / '.git').exists():
        pytest.skip('needs git, and its checkout')
    listing = subprocess.run(['git', '-C', TOP, 'ls-files', '-z'],
                             stdout=subprocess.PIPE, check=True)
    for name in listing.stdout.decode().split('\0'):
        path = TOP / name
        if name and path.is_file() and not name.endswith('.md') and path != pathlib.Path(__file__).resolve():
            yield name, path.read_text('utf-8', 'replace')


def test_no_name_in_a_shared_directory_can_be_foreseen():
    found = []
    for name, text in files():
        if name in NAMES_ONLY or name.startswith(WITHIN):
            continue
        found += [(name, word) for word in SHARED.findall(text)
                  if 'XXXXXX' not in word and (name, word) not in ALONE]
    assert not found


def test_no_function_that_only_thinks_up_a_name():
    found = [name for name, text in files()
             if re.search(r'\b(tmpnam|tempnam|tempfile\.mktemp)\(', text)]
    assert not found


def test_shell_scripts_make_no_names_of_their_number():
    found = [name for name, text in files()
             if text.startswith('#!/bin/') and re.search(r'[\w.]\$\$', text)]
    assert not found

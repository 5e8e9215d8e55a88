# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""What a tool needs is looked for before it does anything that takes long
(tools/targets)."""
import pathlib
import subprocess

SETUP = pathlib.Path(__file__).resolve().parent / 'setup'


def check(target):
    """Ends the program, naming every missing package at once, unless all are there."""
    done = subprocess.run([SETUP, '--check', target], stdin=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit('%s: %s' % (target, done.stderr.strip()))

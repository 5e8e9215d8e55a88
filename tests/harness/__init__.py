# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""What tests, demo and benchmarks share to run postern and look at it from outside.

    qmp         a QMP client            vm          postern (and QEMU) processes
    net         a link to cut           proxy       a proxy that cuts at a chosen frame
    migration   pairs of machines       gdbremote   gdb's protocol, and gdb itself
    report      percentiles, tables     kvm         what this host can run
    watch       the guest runs once     debian      the lab's Debian guest
    waiting     bounded waits

Only Python's standard library. Every wait has a deadline; POSTERN_TIME_SCALE stretches all of them.
"""

# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""What this host can run. Each function returns a reason why not, or None."""

import fcntl
import os
import platform

KVM_GET_API_VERSION = 0xae00
KVM_CREATE_VM = 0xae01


def kvm_reason():
    """Is there a KVM that we may use?"""
    try:
        fd = os.open('/dev/kvm', os.O_RDWR | os.O_CLOEXEC)
    except OSError as e:
        return '/dev/kvm: %s' % e.strerror
    try:
        if fcntl.ioctl(fd, KVM_GET_API_VERSION, 0) != 12:
            return '/dev/kvm: not the KVM interface'
        os.close(fcntl.ioctl(fd, KVM_CREATE_VM, 0))
    except OSError as e:
        return '/dev/kvm: cannot create a VM: %s' % e.strerror
    finally:
        os.close(fd)
    return None


def bare_reason():
    """Is this a machine for the bare guest?"""
    return None if platform.machine() == 'x86_64' else 'the bare guest is for x86-64'


def uffd_reason():
    """May we use userfaultfd for faults of the kernel's making?"""
    if os.geteuid() == 0 or os.access('/dev/userfaultfd', os.R_OK | os.W_OK):
        return None
    try:
        with open('/proc/sys/vm/unprivileged_userfaultfd') as f:
            if f.read().strip() == '1':
                return None
    except OSError as e:
        return 'userfaultfd: %s' % e.strerror
    return 'userfaultfd: not root, no /dev/userfaultfd, vm.unprivileged_userfaultfd is 0'


def interruptible_reason():
    """Does this kernel let a signal end a guest's wait for a page (Linux 6.2 on x86)?"""
    major, minor = (int(x) for x in platform.release().split('.')[:2])
    if platform.machine() != 'x86_64':
        return 'Linux has interruptible guest faults on x86 only'
    if (major, minor) < (6, 2):
        return 'Linux %d.%d has no interruptible guest faults' % (major, minor)
    return None

# SPDX-License-Identifier: Apache-2.0
# Copyright The postern authors
"""Builds what the lab boots: kernel, initramfs, root image, and the guest's kernel and initramfs.

Everything comes from Debian packages, by the mirrors that this machine's own apt is set up with, and
from the files beside this one. Two steps, each cached under a hash of all that it depends on:

    root-HASH/root.tar          the user land, by mmdebstrap
    KERNEL-HASH/                what a lab boots:
        vmlinuz initramfs       of the lab
        root.img                ext4: the user land, the kernel's modules, /lab, /guest
        guest/                  vmlinuz, vmlinux, initrd: a copy of the lab's /guest
        release                 the kernel's release, such as 6.1.0-1-cloud-amd64
        arch                    Debian's name of the architecture
"""

import lzma
import os
import pathlib
import shutil
import stat
import struct
import subprocess
import tempfile
import typing

from cache import LabError, cache_dir, cache_prune, cached, digest, say
from needs import DEPMOD, MKE2FS, program, require_packages

HERE = pathlib.Path(__file__).resolve().parent
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
ROOT_SUITE = "bookworm"
SUITES = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie"}  # whose cloud kernel is of that series
GUEST_KERNEL = "6.1"

# Not built into Debian's kernels, in the order to load them: ACPI's power button; virtio's bus and devices.
GUEST_MODULES = ("button", "virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci",
                 "virtio_blk", "virtio-rng", "failover", "net_failover", "virtio_net", "virtio_console",
                 "virtio_balloon", "vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport")
GUEST_PROGRAMS = ("memcheck", "vsock")  # each of one file in guest/


class Arch(typing.NamedTuple):
    """What differs from one architecture of labs to the other. Its name is Debian's."""
    name: str
    machine: str            # as uname says it
    qemu: tuple             # the program and its machine
    qemu_package: str
    kernel: str             # the package whose dependency is the kernel
    cmdline: str            # of the lab's kernel
    cc: str                 # for the guest's programs
    cc_package: str
    guest_modules: tuple    # not built into Debian's kernels, in the order to load them


# no_timer_check: on a busy machine the emulated timer may miss the kernel's test of it, which then panics
ARCHES = {arch.name: arch for arch in (
    Arch("amd64", "x86_64", ("qemu-system-x86_64", "-M", "q35", "-cpu", "max,-cx16"), "qemu-system-x86",
         "linux-image-cloud-amd64", "console=ttyS0 tsc=reliable no_timer_check", "gcc", "gcc", GUEST_MODULES),
    # pauth-impdef: the architected algorithm is many times slower to emulate
    Arch("arm64", "aarch64", ("qemu-system-aarch64", "-M", "virt,virtualization=on,gic-version=3", "-cpu",
                              "max,pauth-impdef=on,sve=off"), "qemu-system-arm",
         "linux-image-cloud-arm64", "console=ttyAMA0", "aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu", ()),
)}
NATIVE = next((arch.name for arch in ARCHES.values() if arch.machine == os.uname().machine), "amd64")
DEFAULT_ARCH = "amd64"
DRIVERS = ("virtio_pci", "virtio_blk")  # what the root disk needs

class KernelMissing(LabError):
    """The kernel asked for cannot be had from this machine's mirrors."""


def run(argv, log, **options):
    """Runs a program with its output in the log; an error carries the log's end."""
    with open(log, "ab") as out:
        out.write(("+ " + " ".join(map(str, argv)) + "\n").encode())
        out.flush()
        code = subprocess.run(argv, stdin=options.pop("stdin", subprocess.DEVNULL), stdout=out,
                              stderr=out, check=False, **options).returncode
    if code:
        tail = pathlib.Path(log).read_text("utf-8", "replace").splitlines()[-15:]
        raise LabError("%s failed with %d:\n    %s" % (argv[0], code, "\n    ".join(tail)))


def as_root():
    """What a command starts with to see itself, and its files, as root's."""
    return [] if os.geteuid() == 0 else [program("unshare"), "--map-root-user"]


def in_root(root, *argv):
    return as_root() + [program("chroot", "/usr/sbin/chroot"), root] + list(argv)


# ---- where packages come from

def debian_sources(suite, arch=DEFAULT_ARCH):
    """sources.list for a Debian release, out of the Debian entries of this machine's apt."""
    listing = subprocess.run(
        ["apt-get", "indextargets", "--format",
         "$(ORIGIN)|$(REPO_URI)|$(CODENAME)|$(COMPONENT)", "Created-By: Packages"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False, text=True).stdout
    options = "arch=" + arch + (" signed-by=" + KEYRING if os.path.exists(KEYRING) else "")
    lines = []
    for line in listing.splitlines():
        origin, uri, codename, component = (line.split("|") + [""] * 4)[:4]
        if origin != "Debian" or component != "main":
            continue
        host_suite, dash, pocket = codename.partition("-")
        if not host_suite.isalpha() or pocket not in ("", "updates", "security"):
            continue
        entry = "deb [%s] %s %s main" % (options, uri, suite + dash + pocket)
        if entry not in lines:
            lines.append(entry)
    if not lines:
        raise LabError("apt knows no Debian mirror; set one up and run apt-get update")
    return "\n".join(lines) + "\n"


class Apt:
    """apt with a state of its own, for the packages of one Debian release."""

    def __init__(self, suite, work, log, arch=DEFAULT_ARCH):
        self.log = log
        self.work = work / ("apt-%s-%s" % (suite, arch))
        for name in ("state/lists/partial", "cache/archives/partial", "parts"):
            (self.work / name).mkdir(parents=True)
        (self.work / "status").touch()
        (self.work / "sources.list").write_text(debian_sources(suite, arch), "ascii")
        options = {"Dir::State": "state", "Dir::State::status": "status", "Dir::Cache": "cache",
                   "Dir::Etc::SourceList": "sources.list", "Dir::Etc::SourceParts": "parts"}
        self.options = ["-o", "APT::Sandbox::User=", "-o", "APT::Architecture=" + arch, "-o", "APT::Architectures=" + arch,
                        "-o", "Acquire::Languages=none", "-o", "Acquire::Retries=3",
                        # hooks of this machine's set-up are not for this private state
                        "-o", "APT::Update::Post-Invoke-Success::=true",
                        "-o", "APT::Update::Error-Mode=any"]
        for key, value in options.items():
            self.options += ["-o", "%s=%s" % (key, self.work / value)]
        run(["apt-get"] + self.options + ["update"], log)

    def depends(self, package):
        text = subprocess.run(["apt-cache"] + self.options + ["depends", "--important", package],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False,
                              text=True).stdout
        return [line.split()[-1] for line in text.splitlines() if "Depends:" in line]

    def names(self, prefix):
        """All packages whose names begin so."""
        return subprocess.run(["apt-cache"] + self.options + ["pkgnames", prefix], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, check=False, text=True).stdout.split()

    def unpack(self, packages, target):
        """Downloads packages, without what they depend on, and unpacks them into a directory."""
        store = self.work / "deb"
        store.mkdir(exist_ok=True)
        run(["apt-get"] + self.options + ["download"] + packages, self.log, cwd=store)
        for package in store.glob("*.deb"):
            run(["dpkg-deb", "-x", package, target], self.log)
            package.unlink()


def kernel_unpack(series, arch, work, log):
    """Unpacks the cloud kernel of a series. Returns where, and its release."""
    target = work / ("kernel-" + series)
    try:
        apt = Apt(SUITES[series], work, log, arch.name)
        names = [name for name in apt.depends(arch.kernel)
                 if name.startswith("linux-image-" + series + ".")]
        if not names:
            raise LabError("%s of %s is not of the %s series" % (arch.kernel, SUITES[series], series))
        apt.unpack(names[:1], target)
        image = next((target / "boot").glob("vmlinuz-*"), None)
        if not image:
            raise LabError("%s has no boot/vmlinuz" % names[0])
    except LabError as error:
        raise KernelMissing("Debian's %s kernel for %s cannot be had from this machine's mirrors: %s" %
                            (series, arch.name, error)) from error
    return target, image.name[len("vmlinuz-"):]


def modules_dir(tree, release):
    """A kernel package's modules are in lib or in usr/lib, by release of Debian."""
    for name in ("usr/lib/modules", "lib/modules"):
        if (tree / name / release).is_dir():
            return tree / name / release
    raise LabError("no modules of %s in %s" % (release, tree))


def modules_decompress(modules):
    """Emulated, decompression costs more than reading."""
    for path in modules.rglob("*.ko.xz"):
        path.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
        path.unlink()


# ---- images

def cpio_write(path, entries):
    """Writes an initramfs (cpio, "newc", see initramfs buffer format in the kernel's documentation).
    Entries are (name, mode, data); not compressed, which would cost more than it saves."""
    with open(path, "wb") as out:
        def put(number, name, mode, data):
            raw = name.encode() + b"\0"
            fields = (number, mode, 0, 0, 2 if stat.S_ISDIR(mode) else 1, 0, len(data), 0, 0, 0, 0,
                      len(raw), 0)
            head = b"070701" + b"".join(b"%08X" % field for field in fields) + raw
            out.write(head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4))
        for number, (name, mode, data) in enumerate(entries, 1):
            put(number, name, mode, data)
        put(0, "TRAILER!!!", 0, b"")


def entry_file(name, path):
    return (name, stat.S_IFREG | 0o755, pathlib.Path(path).read_bytes())


def entry_dirs(*names):
    return [(name, stat.S_IFDIR | 0o755, b"") for name in names]


def busybox_of(root):
    for name in ("usr/bin/busybox", "bin/busybox"):
        if (root / name).is_file():
            return root / name
    raise LabError("the root image has no busybox")


def modules_closure(modules):
    """The drivers and what they depend on, in the order to load them, by depmod's list."""
    needs = {}  # "kernel/a/b.ko: kernel/c.ko kernel/d.ko", the one to load first comes last
    for line in (modules / "modules.dep").read_text("ascii").splitlines():
        path, _, others = line.partition(":")
        needs[os.path.basename(path)] = [path] + others.split()
    order = []
    for name in DRIVERS:
        for path in reversed(needs.get(name + ".ko", [])):  # none: it is built in
            if modules / path not in order:
                order.append(modules / path)
    return order


def lab_initramfs(path, root, modules):
    entries = entry_dirs("bin", "dev", "m", "r") + [
        entry_file("bin/busybox", busybox_of(root)), entry_file("init", HERE / "root/initramfs-init")]
    order = []
    for module in modules_closure(modules):
        order.append(module.name)
        entries.append(entry_file("m/" + module.name, module))
    entries.append(("m/order", stat.S_IFREG | 0o644, ("\n".join(order) + "\n").encode()))
    cpio_write(path, entries)


def vmlinux_extract(image, target, root):
    """Writes the ELF file inside of a bzImage, when its compression is known: the payload's place
    and length stand in the boot header (x86 boot protocol 2.08), four bytes of size follow it."""
    tools = {b"\x02!L\x18": "lz4", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zX": "xz", b"\x1f\x8b": "gzip"}
    at, length = struct.unpack_from("<II", image, 0x248)
    at += ((image[0x1f1] or 4) + 1) * 512
    payload = image[at:at + length - 4]
    for magic, tool in tools.items():
        if payload.startswith(magic):
            with tempfile.TemporaryFile() as file, open(target, "wb") as out:
                file.write(payload)
                file.seek(0)
                code = subprocess.run(in_root(root, tool, "-dc"), stdin=file, stdout=out,
                                      stderr=subprocess.DEVNULL, check=False).returncode
            with open(target, "rb") as file:
                if code == 0 and file.read(4) == b"\x7fELF":
                    return
            target.unlink()
    say("no vmlinux could be taken out of the guest's kernel; its vmlinuz is there")


def module_read(modules, name):
    """A module's content, decompressed."""
    for path in modules.rglob(name + ".ko*"):
        data = path.read_bytes()
        return lzma.decompress(data) if path.suffix == ".xz" else data
    raise LabError("no module %s in %s" % (name, modules))


def guest_build(target, root, kernel, release, modules, arch, work, log):
    target.mkdir()
    image = (kernel / "boot" / ("vmlinuz-" + release)).read_bytes()
    (target / "vmlinuz").write_bytes(image)
    if arch.name == "amd64":
        vmlinux_extract(image, target / "vmlinux", root)
    for name in GUEST_PROGRAMS:
        run([arch.cc, "-std=gnu17", "-O2", "-Wall", "-static", "-pthread", "-s", "-o", work / name,
             HERE / "guest" / (name + ".c")], log)
    cpio_write(target / "initrd",
               entry_dirs("bin", "dev", "m", "proc", "sys", "tmp") +
               [entry_file("bin/busybox", busybox_of(root)), entry_file("init", HERE / "guest/init")] +
               [entry_file("bin/" + name, work / name) for name in GUEST_PROGRAMS] +
               [("m/%02d-%s.ko" % (number, name), stat.S_IFREG | 0o644, module_read(modules, name))
                for number, name in enumerate(arch.guest_modules)])


def busybox_applets(root, arch, work, log):
    """What the root image's busybox can do, said by one that runs here."""
    busybox = busybox_of(root)
    if arch.name != NATIVE:
        native = work / "native"
        Apt(ROOT_SUITE, work, log, NATIVE).unpack(["busybox-static"], native)
        busybox = busybox_of(native)
    return subprocess.run([busybox, "--list-full"], stdout=subprocess.PIPE, check=True, text=True).stdout.split()


def root_finish(root, arch, work, log):
    """What the packages' own scripts would do; none of them has run."""
    files = {
        "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        "etc/group": "root:x:0:\ntty:x:5:\nkvm:x:106:\nnogroup:x:65534:\n",
        "etc/hosts": "127.0.0.1 localhost lab\n::1 localhost\n",
        "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
        "etc/hostname": "lab\n",
    }
    for name, text in files.items():
        (root / name).write_text(text, "ascii")
    for name, to in {"bin/sh": "bash", "usr/bin/awk": "gawk"}.items():
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to(to)
    for name in ("doc", "man", "locale", "info"):
        shutil.rmtree(root / "usr/share" / name, ignore_errors=True)
    for name in ("lab", "postern", "guest", "root", "tmp", "run", "proc", "sys", "dev",
                 "usr/local/bin"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in busybox_applets(root, arch, work, log):  # only what nothing better provides
        base = os.path.basename(name)
        if not any(os.path.lexists(root / where / base)
                   for where in ("bin", "sbin", "usr/bin", "usr/sbin")):
            (root / "usr/local/bin" / base).symlink_to("/usr/bin/busybox")
    # python under emulation should not have to compile; what this machine's makes of it is the same for all architectures
    libraries = sorted(root.glob("usr/lib/python3*"))
    run([program("/usr/bin/python3", "python3"), "-m", "compileall", "-q", "-s", root, "-p", "/", *libraries], log)


def root_tar_build(target, arch, packages, log):
    sources = debian_sources(ROOT_SUITE, arch.name)
    list_file = target / "sources.list"
    list_file.write_text(sources, "ascii")
    run(["mmdebstrap", "--variant=extract", "--architectures=" + arch.name,
         "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
         "--include=" + ",".join(packages), ROOT_SUITE, target / "root.tar", list_file], log)


def image_build(target, series, arch, root_tar, work, log):
    root = work / "root"
    root.mkdir()
    run(as_root() + ["tar", "-C", root, "--no-same-owner", "--exclude=./dev/*", "-xf", root_tar],
        log)
    kernel, release = kernel_unpack(series, arch, work, log)
    guest_kernel, guest_release = kernel, release
    if series != GUEST_KERNEL:
        guest_kernel, guest_release = kernel_unpack(GUEST_KERNEL, arch, work, log)
    root_finish(root, arch, work, log)

    modules = root / "usr/lib/modules" / release
    modules.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(modules_dir(kernel, release), modules)
    modules_decompress(modules)
    run([program(*DEPMOD), "-b", root, release], log)

    guest_modules = modules if series == GUEST_KERNEL else modules_dir(guest_kernel, guest_release)
    guest_build(target / "guest", root, guest_kernel, guest_release, guest_modules, arch, work, log)
    for path in (target / "guest").iterdir():
        shutil.copy(path, root / "guest")
    for name in ("rc", "agent.py"):
        shutil.copy(HERE / "root" / name, root / "lab" / name)
    (root / "lab/rc").chmod(0o755)

    lab_initramfs(target / "initramfs", root, modules)
    shutil.copy(kernel / "boot" / ("vmlinuz-" + release), target / "vmlinuz")
    used = sum(path.lstat().st_size + 4096 for path in root.rglob("*"))
    size = (used + used // 4 + (256 << 20)) >> 20
    run(as_root() + [program(*MKE2FS), "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0",
                     "-d", root, target / "root.img", "%dM" % size], log)
    (target / "release").write_text(release + "\n", "ascii")
    (target / "arch").write_text(arch.name + "\n", "ascii")


def root_packages(extra):
    lines = (HERE / "root/packages").read_text("ascii").splitlines()
    return [line for line in lines if line and not line.startswith("#")] + sorted(extra)


def image_get(series, extra=(), fresh=False, arch=DEFAULT_ARCH):
    """The directory of the image for a kernel series of an architecture, with extra packages; built when needed."""
    if series not in SUITES:
        raise LabError("no such kernel: %s (there are %s)" % (series, ", ".join(SUITES)))
    recipe = pathlib.Path(__file__)
    arch = ARCHES[arch]
    packages = root_packages(extra)
    root_name = "root-" + digest(recipe, arch.name, *packages)
    files = [recipe, HERE / "root/initramfs-init", HERE / "root/rc", HERE / "root/agent.py",
             HERE / "guest/init", *(HERE / "guest" / (name + ".c") for name in GUEST_PROGRAMS)]
    image_name = "image-%s-%s" % (series, digest(series, arch.name, *packages, *files))
    if fresh:
        for name in (root_name, image_name):
            shutil.rmtree(cache_dir() / name, ignore_errors=True)
    if not (cache_dir() / image_name).is_dir():
        require_packages(arch)
        cache_prune()

    def build(target, work, log):
        root = cached(root_name, lambda t, w, l: root_tar_build(t, arch, packages, l))
        image_build(target, series, arch, root / "root.tar", work, log)

    return cached(image_name, build)

"""Attempts on the kernel: sysctls, mounts, namespaces, modules, keys and other calls."""

from __future__ import annotations

import array
import mmap
import os
import stat

from frame import CODE, KERNEL, WRITE, Targets, attempt, either, given, in_a_child, opens, reaches, syscall

_NEW_NAMESPACES = {"mount": 0x00020000, "user": 0x10000000, "net": 0x40000000, "process": 0x20000000}
"""linux/sched.h"""


@attempt(CODE)
def core_pattern(_: Targets) -> str:
    """Write kernel.core_pattern."""
    return opens("/proc/sys/kernel/core_pattern")


@attempt(CODE)
def modprobe(_: Targets) -> str:
    """Write kernel.modprobe."""
    return opens("/proc/sys/kernel/modprobe")


@attempt(CODE)
def uevent_helper(_: Targets) -> str:
    """Write the kernel's helper programs (uevent_helper, binfmt_misc, release_agent)."""
    return either(
        lambda: opens("/sys/kernel/uevent_helper"),
        lambda: opens("/proc/sys/fs/binfmt_misc/register"),
        lambda: opens("/proc/sys/kernel/poweroff_cmd"),
    )


@attempt(WRITE)
def other_sysctls(_: Targets) -> str:
    """Write other sysctls."""
    return either(
        lambda: opens("/proc/sys/net/ipv4/ip_forward"),
        lambda: opens("/proc/sys/vm/overcommit_memory"),
        lambda: opens("/proc/sys/kernel/panic"),
        lambda: opens("/proc/sys/net/core/somaxconn"),
    )


@attempt(WRITE)
def sysrq(_: Targets) -> str:
    """Write /proc/sysrq-trigger."""
    return opens("/proc/sysrq-trigger")


@attempt(WRITE)
def sysfs(_: Targets) -> str:
    """Write /sys."""
    return either(
        lambda: opens("/sys/power/state"),
        lambda: opens("/sys/kernel/mm/transparent_hugepage/enabled"),
        lambda: opens("/sys/module/nf_conntrack/parameters/hashsize"),
    )


@attempt(WRITE)
def control_groups(_: Targets) -> str:
    """Write the control groups."""
    return either(
        lambda: opens("/sys/fs/cgroup/cgroup.procs"), lambda: opens("/sys/fs/cgroup/system.slice/cgroup.procs")
    )


@attempt(CODE)
def mounts(_: Targets) -> str:
    """Mount a file system."""
    return either(
        lambda: reaches("mount", b"none", b"/mnt-attempt", b"tmpfs", 0, None),
        lambda: reaches("fsopen", b"tmpfs", 0),
        lambda: reaches("open_tree", -100, b"/", 1),
    )


@attempt(WRITE)
def remount(_: Targets) -> str:
    """Make a mount writable."""
    return either(
        lambda: reaches("mount", None, b"/", None, 0x1020, None),  # MS_REMOUNT | MS_BIND
        lambda: reaches("mount_setattr", -100, b"/", 0, None, 0),
    )


@attempt(WRITE)
def unmount(_: Targets) -> str:
    """Unmount what covers the host, or change the root."""
    return either(
        lambda: reaches("umount2", b"/nowhere-attempt", 2),
        lambda: reaches("pivot_root", b"/nowhere-attempt", b"/nowhere-attempt"),
        lambda: reaches("chroot", b"/nowhere-attempt"),
    )


@attempt(CODE)
def new_namespaces(_: Targets) -> str:
    """Make a namespace (unshare, clone3)."""
    arguments = array.array("Q", [_NEW_NAMESPACES["user"], 0, 0, 0, 17, 0, 0, 0]).tobytes()
    return in_a_child(
        lambda: either(
            *((lambda flag=flag: f"unshare: {syscall('unshare', flag)}") for flag in _NEW_NAMESPACES.values()),
            lambda: f"clone3: {syscall('clone3', arguments, len(arguments))}",
        )
    )


@attempt(CODE)
def new_kernel(_: Targets) -> str:
    """Load another kernel, or reboot."""
    return either(
        lambda: reaches("kexec_load", 0, 17, None, -1),
        lambda: reaches("kexec_file_load", -1, -1, 0, None, 0),
        lambda: reaches("reboot", 0, 0, 0, None),
    )


@attempt(CODE)
def modules(_: Targets) -> str:
    """Load or remove a module."""
    return either(
        lambda: reaches("finit_module", -1, b"", 0),
        lambda: reaches("init_module", None, 0, b""),
        lambda: reaches("delete_module", b"nothing-attempt", 0),
    )


@attempt(KERNEL)
def bpf(_: Targets) -> str:
    """Call bpf."""
    return reaches("bpf", 9999, None, 0)


@attempt(KERNEL)
def perf(targets: Targets) -> str:
    """Measure another process (perf_event_open)."""
    return reaches("perf_event_open", None, given(targets.root), -1, -1, 0)


@attempt(KERNEL)
def keys(_: Targets) -> str:
    """Use root's keyring."""
    return either(
        lambda: reaches("keyctl", 0, -4, 0),  # KEYCTL_GET_KEYRING_ID of the user keyring
        lambda: reaches("add_key", b"user", b"attempt", b"x", 1, -2),
        lambda: reaches("request_key", b"user", b"attempt", None, 0),
    )


@attempt(KERNEL)
def page_faults(_: Targets) -> str:
    """Handle page faults (userfaultfd)."""
    return reaches("userfaultfd", 1)


@attempt(KERNEL)
def asynchronous(_: Targets) -> str:
    """Do asynchronous I/O, which no filter of system calls sees (io_uring, io_setup)."""
    return either(lambda: reaches("io_uring_setup", 1, None), lambda: reaches("io_setup", 1, None))


@attempt(CODE)
def group(_: Targets) -> str:
    """Take the group or the groups of root."""
    return in_a_child(
        lambda: either(
            lambda: f"setresgid: {syscall('setresgid', 0, 0, 0)}", lambda: f"setgroups: {syscall('setgroups', 0, None)}"
        )
    )


@attempt(KERNEL)
def identity(_: Targets) -> str:
    """Call any function that changes users or groups."""
    return reaches("setgid", os.getgid())


@attempt(CODE)
def capabilities(_: Targets) -> str:
    """Take capabilities (capset)."""
    header, data = (
        array.array("I", [0x20080522, 0]).tobytes(),
        array.array("I", [1 << 21, 1 << 21, 0, 0, 0, 0]).tobytes(),
    )
    return in_a_child(lambda: f"capset: {syscall('capset', header, data)}")


@attempt(CODE)
def handles(_: Targets) -> str:
    """Open files by handle, past every mount (open_by_handle_at)."""
    return reaches("open_by_handle_at", os.open("/", os.O_RDONLY), None, 0)


@attempt(CODE)
def devices(_: Targets) -> str:
    """Make a device node, or use ports."""
    return either(
        lambda: f"mknod: {syscall('mknod', b'/tmp/attempt-device', stat.S_IFBLK | 0o600, 0x800)}",
        lambda: reaches("iopl", 3),
    )


@attempt(KERNEL)
def host_settings(_: Targets) -> str:
    """Set the clock or the host's name, swap, account or set quotas."""
    return either(
        lambda: reaches("settimeofday", 1, None),
        lambda: reaches("sethostname", None, -1),
        lambda: reaches("swapon", b"/nowhere-attempt", 0),
        lambda: reaches("acct", b"/nowhere-attempt"),
        lambda: reaches("quotactl", -1, None, 0, None),
    )


@attempt(KERNEL)
def kernel_log(_: Targets) -> str:
    """Clear the kernel log."""
    return either(lambda: reaches("syslog", 5, None, 0), lambda: opens("/dev/kmsg"))


@attempt(KERNEL)
def writable_code(_: Targets) -> str:
    """Map memory that is writable and executable."""
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    return "mapped"

"""The cage: what this process gives up for good before it reads a stranger's bytes.

Landlock (files, TCP ports, signals), seccomp (system calls), resource limits, no capabilities, no new privileges, no
core dumps, death with the parent. Nothing here needs root; each part is found out on the running kernel and reported.
"""

import ctypes
import os
import resource
import signal
import stat
import time
from contextlib import ExitStack
from dataclasses import dataclass

from streams import seccomp
from streams.job import SandboxMode

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38

# asm-generic/unistd.h; the same number on every architecture
_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_ADD_RULE = 445
_LANDLOCK_RESTRICT_SELF = 446

# linux/landlock.h
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_RULE_NET_PORT = 2
_ACCESS_FS_WRITE_FILE = 1 << 1
_ACCESS_FS_READ_FILE = 1 << 2
_ACCESS_FS_READ_DIR = 1 << 3
_ACCESS_FS_REMOVE_FILE = 1 << 5
_ACCESS_FS_MAKE_REG = 1 << 8
_ACCESS_FS_TRUNCATE = 1 << 14
_ACCESS_FS_IOCTL_DEV = 1 << 15
_ACCESS_FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15}
_ACCESS_FS_BITS_SINCE_5 = 16
_ACCESS_NET_BIND_TCP = 1 << 0
_ACCESS_NET_CONNECT_TCP = 1 << 1
_SCOPE_ABSTRACT_UNIX_SOCKET = 1 << 0
_SCOPE_SIGNAL = 1 << 1
_ABI_WITH_NETWORK = 4
_ABI_WITH_SCOPES = 6

_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h

_THREADS_END_SECONDS = 0.2
_LARGEST_FILE_BYTES = 8 << 30  # of what a driver keeps: compiled models, memory with a name

_libc = ctypes.CDLL(None, use_errno=True)


class SandboxUnavailable(Exception):
    """Raised by `enter` in mode `require`: the kernel cannot give the whole cage. The process must not read media."""


@dataclass(frozen=True, slots=True)
class CagePolicy:
    """What the caged process keeps.

    `connect_port` is the only TCP port it may connect to; None means no sockets at all. `readable_paths` are files
    and folders that it may open for reading; with none, no path can be opened and no code be loaded. The limits are
    those of its address space in bytes and of its open descriptors.

    `drives_devices` is for a process whose driver opens devices and speaks to them as it likes: it may make all system
    calls but those that start processes, make connections, or only an intruder asks for. `writable_paths` are then the
    files and folders that it may write to.
    """

    connect_port: int | None
    readable_paths: tuple[str, ...]
    memory_limit_bytes: int
    open_files: int
    mode: SandboxMode
    drives_devices: bool = False
    writable_paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CageReport:
    """What is in force.

    `landlock_abi` is 0 without Landlock. `limits_network` says that only the port of the policy, or nothing, can be
    reached. `missing` names what the kernel did not give, of `landlock`, `seccomp`, `network`, `signals`.
    """

    landlock_abi: int
    has_seccomp: bool
    limits_network: bool
    missing: tuple[str, ...]


def enter(policy: CagePolicy) -> CageReport:
    """Put the current process into the cage; there is no way back.

    Call it before any thread is started: Landlock binds the calling thread and what comes from it. Raises
    `SandboxUnavailable` in mode `require` if a part is missing; in mode `prefer` the report names the part; in mode
    `off` only the resource limits are set.
    """
    _limit_resources(policy)
    if policy.mode is SandboxMode.OFF:
        return _report(policy, landlock_abi=0, has_seccomp=False)
    abi = landlock_abi()
    if not _is_single_threaded():
        if policy.mode is SandboxMode.REQUIRE:
            raise SandboxUnavailable("the sandbox cannot hold a process that already runs several threads")
        abi = 0
    _require(policy, _report(policy, landlock_abi=abi, has_seccomp=seccomp.is_supported()))
    die_with_parent()
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    abi = _enter_landlock(policy, abi)
    _drop_capabilities()
    report = _report(policy, landlock_abi=abi, has_seccomp=_enter_seccomp(policy))
    _require(policy, report)
    return report


def landlock_abi() -> int:
    """Return the version of Landlock's interface on this kernel, 0 without it."""
    try:
        return _syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(_CREATE_RULESET_VERSION))
    except OSError:  # not built in, not enabled at boot, or denied by a container's own filter
        return 0


def die_with_parent() -> None:
    """Have the kernel send SIGKILL to this process when the thread that made it ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _report(policy: CagePolicy, *, landlock_abi: int, has_seccomp: bool) -> CageReport:
    # Without seccomp UDP is open: Landlock knows TCP alone. With it, no port means no socket.
    limits_network = has_seccomp and (policy.connect_port is None or landlock_abi >= _ABI_WITH_NETWORK)
    missing = []
    if landlock_abi == 0:
        missing.append("landlock")
    if not has_seccomp:
        missing.append("seccomp")
    if not limits_network:
        missing.append("network")
    if not has_seccomp and landlock_abi < _ABI_WITH_SCOPES:
        missing.append("signals")
    return CageReport(landlock_abi, has_seccomp, limits_network, tuple(missing))


def _require(policy: CagePolicy, report: CageReport) -> None:
    if policy.mode is SandboxMode.REQUIRE and report.missing:
        raise SandboxUnavailable(
            f"this machine cannot give the whole sandbox (missing: {', '.join(report.missing)}): "
            "use Linux 6.7 or newer with Landlock on x86_64, or set `sandbox: prefer`"
        )


def _limit_resources(policy: CagePolicy) -> None:
    limits = {
        resource.RLIMIT_AS: policy.memory_limit_bytes,
        resource.RLIMIT_NOFILE: policy.open_files,
        resource.RLIMIT_FSIZE: _LARGEST_FILE_BYTES if policy.drives_devices else 0,
        resource.RLIMIT_CORE: 0,
    }
    for what, wanted in limits.items():
        _, hard = resource.getrlimit(what)
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(what, (limit, limit))


def _is_single_threaded() -> bool:
    """Say whether this is the only thread; one that was just joined may need a moment to leave the kernel's list."""
    deadline = time.monotonic() + _THREADS_END_SECONDS
    while len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208 - no pathlib in the cage
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


class _RulesetAttributes(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


class _NetPort(ctypes.Structure):
    _fields_ = (("access", ctypes.c_uint64), ("port", ctypes.c_uint64))


def _enter_landlock(policy: CagePolicy, abi: int) -> int:
    """Deny everything that Landlock of this ABI knows, but for the policy's paths and port; return the ABI in force.

    Raises `OSError` if one of the paths cannot be opened.
    """
    if abi == 0:
        return 0
    with ExitStack() as opened:
        paths = []
        for path in (*policy.readable_paths, *policy.writable_paths):
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            opened.callback(os.close, descriptor)
            more = _write_access(descriptor, abi) if path in policy.writable_paths else 0
            paths.append((descriptor, _read_access(descriptor) | more))
        try:
            ruleset = _create_ruleset(abi)
            opened.callback(os.close, ruleset)
            for descriptor, access in paths:
                _add_rule(ruleset, _RULE_PATH_BENEATH, _PathBeneath(access, descriptor))
            if abi >= _ABI_WITH_NETWORK and policy.connect_port is not None:
                _add_rule(ruleset, _RULE_NET_PORT, _NetPort(_ACCESS_NET_CONNECT_TCP, policy.connect_port))
            _syscall(_LANDLOCK_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint(0))
        except OSError:  # the version could be asked for and the rest was denied: a container's filter
            return 0
    return abi


def _create_ruleset(abi: int) -> int:
    attributes = _RulesetAttributes((1 << _ACCESS_FS_BITS.get(abi, _ACCESS_FS_BITS_SINCE_5)) - 1)
    size = _RulesetAttributes.net.offset
    if abi >= _ABI_WITH_NETWORK:
        attributes.net = _ACCESS_NET_BIND_TCP | _ACCESS_NET_CONNECT_TCP
        size = _RulesetAttributes.scoped.offset
    if abi >= _ABI_WITH_SCOPES:
        attributes.scoped = _SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL
        size = ctypes.sizeof(_RulesetAttributes)
    return _syscall(_LANDLOCK_CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(size), ctypes.c_uint(0))


def _read_access(descriptor: int) -> int:
    is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
    return _ACCESS_FS_READ_FILE | (_ACCESS_FS_READ_DIR if is_folder else 0)


def _write_access(descriptor: int, abi: int) -> int:
    """Writing to what is there; in a folder also making and removing files; asking devices what only drivers know."""
    access = (
        _ACCESS_FS_WRITE_FILE | (_ACCESS_FS_TRUNCATE if abi >= 3 else 0) | (_ACCESS_FS_IOCTL_DEV if abi >= 5 else 0)
    )
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        access |= _ACCESS_FS_REMOVE_FILE | _ACCESS_FS_MAKE_REG
    return access


def _add_rule(ruleset: int, kind: int, attributes: ctypes.Structure) -> None:
    _syscall(_LANDLOCK_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(kind), ctypes.byref(attributes), ctypes.c_uint(0))


def _enter_seccomp(policy: CagePolicy) -> bool:
    if not seccomp.is_supported():
        return False
    if policy.drives_devices:
        program = seccomp.build_for_devices(pid=os.getpid())
    else:
        program = seccomp.build(
            may_connect=policy.connect_port is not None,
            may_read_paths=bool(policy.readable_paths),
            pid=os.getpid(),
        )
    try:
        seccomp.install(program)
    except OSError:  # a kernel without CONFIG_SECCOMP_FILTER
        return False
    return True


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def _drop_capabilities() -> None:
    """Give up root's powers where the service runs as root; without any this does nothing."""
    nothing = (ctypes.c_uint32 * 6)()
    _libc.capset(ctypes.byref(_CapabilityHeader(_CAPABILITY_VERSION_3, 0)), ctypes.byref(nothing))


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        _raise_errno()


def _syscall(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        _raise_errno()
    return result


def _raise_errno() -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))

"""The cage's system-call filter: a classic BPF program, assembled here, for x86_64.

What is not named is refused with EPERM; what only an intruder asks for ends the process. A filter sees numbers, not
what pointers point to: ports and paths are Landlock's part (`streams.sandbox`).
"""

import ctypes
import errno
import os
import struct
from collections.abc import Iterable

Instruction = tuple[int, int, int, int]
"""One `struct sock_filter`: code, jump if true, jump if false, constant (linux/filter.h)."""

# linux/bpf_common.h: class | size or operation | mode or source
_LOAD_WORD = 0x20
_JUMP_IF_EQUAL = 0x15
_JUMP_IF_AT_LEAST = 0x35
_AND = 0x54
_RETURN = 0x06

# linux/seccomp.h
ALLOW = 0x7FFF0000
KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000
REFUSE = _ERRNO | errno.EPERM
UNKNOWN = _ERRNO | errno.ENOSYS
_SET_MODE_FILTER = 1
_FILTER_FLAG_TSYNC = 1

# struct seccomp_data { int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6]; }, little endian
_NUMBER_OFFSET = 0
_ARCH_OFFSET = 4
_ARGUMENTS_OFFSET = 16

_AUDIT_ARCH_X86_64 = 0xC000003E  # linux/audit.h
_X32_BIT = 0x40000000  # asm/unistd.h: __X32_SYSCALL_BIT

_AF_INET, _AF_INET6, _SOCK_STREAM, _IPPROTO_TCP = 2, 10, 1, 6
_SOCKET_TYPE_MASK = 0xF  # linux/net.h: the rest are SOCK_CLOEXEC and SOCK_NONBLOCK
_MSG_FASTOPEN = 0x20000000  # linux/socket.h: connects without connect()
_CLONE_THREAD = 0x00010000  # linux/sched.h
_CLONE_NEW_NAMESPACES = 0x7E020000  # linux/sched.h: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_RLIMIT_AS = 9  # asm-generic/resource.h
_PROT_EXEC = 4  # asm-generic/mman-common.h
_OPEN_FOR_WRITING = 0o3 | 0o100 | 0o1000  # asm-generic/fcntl.h: O_ACCMODE, O_CREAT, O_TRUNC
_AT_EMPTY_PATH = 0x1000  # linux/fcntl.h
_FCNTL_COMMANDS = (0, 1, 2, 3, 4, 1030)  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC
_IOCTL_COMMANDS = (0x541B, 0x5421, 0x5450, 0x5451)  # asm-generic/ioctls.h: FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
_PRCTL_OPTIONS = (3, 15, 16, 0x53564D41)  # linux/prctl.h: PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME, PR_SET_VMA

CALLS = {  # arch/x86/entry/syscalls/syscall_64.tbl
    "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8, "mmap": 9,
    "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15,
    "ioctl": 16, "pread64": 17, "readv": 19, "writev": 20, "access": 21, "select": 23, "sched_yield": 24,
    "mremap": 25, "madvise": 28, "dup": 32, "dup2": 33, "nanosleep": 35, "getpid": 39, "socket": 41, "connect": 42,
    "sendto": 44, "recvfrom": 45, "sendmsg": 46, "recvmsg": 47, "shutdown": 48, "bind": 49, "listen": 50,
    "getsockname": 51, "getpeername": 52, "setsockopt": 54, "getsockopt": 55, "clone": 56, "fork": 57, "vfork": 58,
    "execve": 59, "exit": 60, "kill": 62, "uname": 63, "fcntl": 72, "getcwd": 79, "readlink": 89, "gettimeofday": 96,
    "getrlimit": 97, "getrusage": 98, "sysinfo": 99, "times": 100, "ptrace": 101, "getuid": 102, "getgid": 104,
    "geteuid": 107, "getegid": 108, "getppid": 110, "rt_sigqueueinfo": 129, "sigaltstack": 131, "pivot_root": 155,
    "prctl": 157, "chroot": 161, "mount": 165, "umount2": 166, "init_module": 175, "delete_module": 176,
    "gettid": 186, "tkill": 200, "time": 201, "futex": 202, "sched_getaffinity": 204, "getdents64": 217,
    "set_tid_address": 218, "restart_syscall": 219, "fadvise64": 221, "clock_gettime": 228, "clock_getres": 229,
    "clock_nanosleep": 230, "exit_group": 231, "epoll_wait": 232, "epoll_ctl": 233, "tgkill": 234, "kexec_load": 246,
    "add_key": 248, "request_key": 249, "keyctl": 250, "openat": 257, "newfstatat": 262, "readlinkat": 267,
    "faccessat": 269, "pselect6": 270, "ppoll": 271, "unshare": 272, "set_robust_list": 273, "epoll_pwait": 281,
    "eventfd2": 290, "epoll_create1": 291, "dup3": 292, "pipe2": 293, "rt_tgsigqueueinfo": 297,
    "perf_event_open": 298, "prlimit64": 302, "open_by_handle_at": 304, "setns": 308, "getcpu": 309,
    "process_vm_readv": 310, "process_vm_writev": 311, "finit_module": 313, "seccomp": 317, "getrandom": 318,
    "kexec_file_load": 320, "bpf": 321, "execveat": 322, "userfaultfd": 323, "membarrier": 324, "statx": 332,
    "rseq": 334, "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "clone3": 435, "pidfd_getfd": 438, "faccessat2": 439,
    "futex_waitv": 449,
}  # fmt: skip

_ALLOWED = (
    "read", "write", "close", "fstat", "poll", "lseek", "munmap", "brk", "rt_sigaction", "rt_sigprocmask",
    "rt_sigreturn", "pread64", "readv", "writev", "select", "sched_yield", "mremap", "madvise", "dup", "dup2", "dup3",
    "nanosleep", "getpid", "recvfrom", "recvmsg", "shutdown", "getsockname", "getpeername", "getsockopt", "exit",
    "uname", "gettimeofday", "getrlimit", "getrusage", "sysinfo", "times", "getuid", "getgid", "geteuid", "getegid",
    "getppid", "sigaltstack", "gettid", "time", "futex", "sched_getaffinity", "set_tid_address", "restart_syscall",
    "fadvise64", "clock_gettime", "clock_getres", "clock_nanosleep", "exit_group", "epoll_wait", "epoll_ctl",
    "pselect6", "ppoll", "set_robust_list", "epoll_pwait", "eventfd2", "epoll_create1", "pipe2", "getcpu",
    "getrandom", "membarrier", "rseq", "futex_waitv",
)  # fmt: skip

_ALLOWED_WITH_PATHS = (
    "stat", "lstat", "access", "getcwd", "readlink", "getdents64", "newfstatat", "readlinkat", "faccessat", "statx",
    "faccessat2", "mmap", "mprotect",
)  # fmt: skip

_ALLOWED_WITH_NETWORK = ("connect", "setsockopt")

_KILLED = (
    "execve", "execveat", "fork", "vfork", "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "bpf",
    "io_uring_setup", "io_uring_enter", "io_uring_register", "userfaultfd", "perf_event_open", "keyctl", "add_key",
    "request_key", "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "mount",
    "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "fsopen", "unshare", "setns", "open_by_handle_at",
    "bind", "listen",
)  # fmt: skip

_REFUSED_TO_DRIVERS = (
    "execve", "execveat", "fork", "vfork", "socket", "connect", "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo",
    "pidfd_send_signal",
)  # fmt: skip
"""A driver may try some of these (to load a kernel module, to ask a daemon) and does without."""


def is_supported() -> bool:
    """Say whether the numbers in this file are those of the running machine."""
    return os.uname().machine == "x86_64" and ctypes.sizeof(ctypes.c_void_p) == 8


def build(*, may_connect: bool, may_read_paths: bool, pid: int) -> list[Instruction]:
    """Return the filter for the process `pid`.

    `may_connect` lets TCP sockets be made and connected; without it a socket ends the process. `may_read_paths` lets
    paths be opened for reading and new code be mapped (shared libraries); without it neither is possible.
    """
    return [
        _load(_ARCH_OFFSET),
        *_unless_equal(_AUDIT_ARCH_X86_64, [_return(KILL_PROCESS)]),
        _load(_NUMBER_OFFSET),
        (_JUMP_IF_AT_LEAST, 0, 1, _X32_BIT),
        _return(KILL_PROCESS),
        *_plain(["clone3"], UNKNOWN),  # its flags lie behind a pointer; glibc then takes clone
        *_process_rules(pid),
        *_descriptor_rules(),
        *(_network_rules() if may_connect else _plain(["socket", "connect"], KILL_PROCESS)),
        *(_path_rules() if may_read_paths else _no_path_rules()),
        *_plain(_ALLOWED, ALLOW),
        *_plain(_KILLED, KILL_PROCESS),
        _return(REFUSE),
    ]


def build_for_devices(*, pid: int) -> list[Instruction]:
    """Return the filter for the process `pid` that drives devices: which calls its driver needs nobody promises.

    So it may make any but those that start processes, signal others, make connections, or only an intruder asks for.
    """
    own = _only(_argument(0), [pid])
    threads = _only(_argument(0), [_CLONE_THREAD], mask=_CLONE_THREAD | _CLONE_NEW_NAMESPACES)
    return [
        _load(_ARCH_OFFSET),
        *_unless_equal(_AUDIT_ARCH_X86_64, [_return(KILL_PROCESS)]),
        _load(_NUMBER_OFFSET),
        (_JUMP_IF_AT_LEAST, 0, 1, _X32_BIT),
        _return(KILL_PROCESS),
        *_plain(["clone3"], UNKNOWN),
        *_rule("clone", threads),
        *_rule("tgkill", own),
        *_rule("kill", own),
        *_plain(_REFUSED_TO_DRIVERS, REFUSE),
        *_plain([name for name in _KILLED if name not in _REFUSED_TO_DRIVERS], KILL_PROCESS),
        _return(ALLOW),
    ]


def install(program: list[Instruction]) -> None:
    """Put this process, all its threads, under `program` for good; needs no_new_privs; raises `OSError`."""
    code = b"".join(struct.pack("<HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = _FilterProgram(len(program), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(
        ctypes.c_long(CALLS["seccomp"]),
        ctypes.c_uint(_SET_MODE_FILTER),
        ctypes.c_uint(_FILTER_FLAG_TSYNC),
        ctypes.byref(header),
    )
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")


class _FilterProgram(ctypes.Structure):
    """`struct sock_fprog` (linux/filter.h)."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _process_rules(pid: int) -> list[Instruction]:
    """Threads but no processes, signals and limits of oneself alone, a thread's name and nothing else by prctl."""
    return [
        *_rule(
            "clone",
            _only(_argument(0), [_CLONE_THREAD], mask=_CLONE_THREAD | _CLONE_NEW_NAMESPACES, otherwise=KILL_PROCESS),
        ),
        *_rule("tgkill", _only(_argument(0), [pid])),
        *_rule("kill", _only(_argument(0), [pid])),
        *_rule(
            "prlimit64",
            [
                *_only(_argument(0), [0, pid]),
                # How much memory it takes it may limit further, and let go up to the hard limit again.
                _load(_argument(1)),
                (_JUMP_IF_EQUAL, 0, 1, _RLIMIT_AS),
                _return(ALLOW),
                *_only(_argument(2), [0]),
                *_only(_argument(2) + 4, [0]),
            ],
        ),
        *_rule("prctl", _only(_argument(0), _PRCTL_OPTIONS)),
    ]


def _descriptor_rules() -> list[Instruction]:
    """Open descriptors may be used, not turned into senders of signals, terminal injectors or new connections."""
    no_address = [*_only(_argument(4), [0]), *_only(_argument(4) + 4, [0])]
    return [
        *_rule("fcntl", _only(_argument(1), _FCNTL_COMMANDS)),
        *_rule("ioctl", _only(_argument(1), _IOCTL_COMMANDS)),
        *_rule("sendto", [*_only(_argument(3), [0], mask=_MSG_FASTOPEN), *no_address]),
        *_rule("sendmsg", _only(_argument(2), [0], mask=_MSG_FASTOPEN)),
    ]


def _network_rules() -> list[Instruction]:
    """TCP over IPv4 and IPv6. The C library's resolver asks for others (netlink, UDP): refused, not killed.

    The protocol is checked because Landlock's port rules do not cover MPTCP and SCTP, which are stream sockets too.
    """
    tcp = [
        *_only(_argument(0), [_AF_INET, _AF_INET6]),
        *_only(_argument(1), [_SOCK_STREAM], mask=_SOCKET_TYPE_MASK),
        *_only(_argument(2), [0, _IPPROTO_TCP]),
    ]
    return [*_rule("socket", tcp), *_plain(_ALLOWED_WITH_NETWORK, ALLOW)]


def _path_rules() -> list[Instruction]:
    """Opening for reading; which paths is Landlock's part."""
    return [
        *_rule("open", _only(_argument(1), [0], mask=_OPEN_FOR_WRITING)),
        *_rule("openat", _only(_argument(2), [0], mask=_OPEN_FOR_WRITING)),
        *_plain(_ALLOWED_WITH_PATHS, ALLOW),
    ]


def _no_path_rules() -> list[Instruction]:
    """No paths; no new code, since nothing can be loaded; `newfstatat` as the C library's fstat uses it."""
    return [
        *_rule("mmap", _only(_argument(2), [0], mask=_PROT_EXEC)),
        *_rule("mprotect", _only(_argument(2), [0], mask=_PROT_EXEC)),
        *_rule("newfstatat", _only(_argument(3), [_AT_EMPTY_PATH], mask=_AT_EMPTY_PATH)),
    ]


def _load(offset: int) -> Instruction:
    return (_LOAD_WORD, 0, 0, offset)


def _return(action: int) -> Instruction:
    return (_RETURN, 0, 0, action)


def _argument(index: int) -> int:
    """Offset of the low half of a call's argument; the high half is 4 further. `int` arguments have only the low."""
    return _ARGUMENTS_OFFSET + 8 * index


def _unless_equal(value: int, body: list[Instruction]) -> list[Instruction]:
    return [(_JUMP_IF_EQUAL, len(body), 0, value), *body]


def _plain(names: Iterable[str], action: int) -> list[Instruction]:
    """For calls whose arguments do not matter; expects the call's number in the accumulator."""
    return [step for name in names for step in ((_JUMP_IF_EQUAL, 0, 1, CALLS[name]), _return(action))]


def _rule(name: str, checks: list[Instruction]) -> list[Instruction]:
    """Allow a call that passes `checks`; they overwrite the accumulator, so a rule always returns."""
    body = [*checks, _return(ALLOW)]
    return [(_JUMP_IF_EQUAL, 0, len(body), CALLS[name]), *body]


def _only(offset: int, values: Iterable[int], *, mask: int = 0xFFFFFFFF, otherwise: int = REFUSE) -> list[Instruction]:
    """Go on if the word at `offset`, under `mask`, is one of `values`; else end with `otherwise`."""
    wanted = list(values)
    tests = [(_JUMP_IF_EQUAL, len(wanted) - index, 0, value) for index, value in enumerate(wanted)]
    return [_load(offset), (_AND, 0, 0, mask), *tests, _return(otherwise)]

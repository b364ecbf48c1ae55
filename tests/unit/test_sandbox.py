"""The cage's rules, without entering it: the filter is run by a small interpreter, the report is pure."""

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams import sandbox, seccomp
from streams.job import SandboxMode
from streams.sandbox import CagePolicy, SandboxUnavailable
from streams.seccomp import ALLOW, CALLS, KILL_PROCESS, REFUSE, UNKNOWN, Instruction

PID = 4711
X86_64 = 0xC000003E
I386 = 0x40000003
AARCH64 = 0xC00000B7

FILE = seccomp.build(may_connect=False, may_read_paths=False, pid=PID)
NETWORK = seccomp.build(may_connect=True, may_read_paths=False, pid=PID)
PATHS = seccomp.build(may_connect=False, may_read_paths=True, pid=PID)
FILTERS = [FILE, NETWORK, PATHS]

numbers = st.integers(0, 2**32 - 1)
arguments = st.tuples(*(st.integers(0, 2**64 - 1),) * 6)


def run(program: list[Instruction], number: int, *values: int, arch: int = X86_64) -> int:
    """Interpret the program as the kernel does (networking/filter.rst) for one call; return its verdict."""
    words = {0: number, 4: arch}
    for index in range(6):
        value = values[index] % 2**64 if index < len(values) else 0
        words[16 + 8 * index] = value & 0xFFFFFFFF
        words[20 + 8 * index] = value >> 32
    accumulator = position = 0
    while True:
        code, jump_true, jump_false, constant = program[position]
        position += 1
        match code:
            case 0x20:
                accumulator = words[constant]
            case 0x54:
                accumulator &= constant
            case 0x15:
                position += jump_true if accumulator == constant else jump_false
            case 0x35:
                position += jump_true if accumulator >= constant else jump_false
            case 0x06:
                return constant
            case _:
                pytest.fail(f"unknown instruction {code:#x}")


def verdict(program: list[Instruction], name: str, *values: int) -> int:
    return run(program, CALLS[name], *values)


@given(st.sampled_from(FILTERS), numbers, arguments)
def test_every_call_ends_in_a_verdict(program: list[Instruction], number: int, values: tuple[int, ...]) -> None:
    """Whatever is called, the filter ends and says one of four things."""
    assert run(program, number, *values) in {ALLOW, REFUSE, UNKNOWN, KILL_PROCESS}


@given(st.sampled_from(FILTERS), st.integers(0, 600).filter(lambda number: number not in CALLS.values()), arguments)
def test_what_is_not_named_is_refused(program: list[Instruction], number: int, values: tuple[int, ...]) -> None:
    """A call that the cage does not know, of today or of a later kernel, is refused."""
    assert run(program, number, *values) == REFUSE


@given(st.sampled_from(FILTERS), st.integers(0, 600), arguments, st.sampled_from([I386, AARCH64, 0]))
def test_other_architectures_end_the_process(
    program: list[Instruction], number: int, values: tuple[int, ...], arch: int
) -> None:
    """A call through another architecture's entry, where numbers mean other things, is deadly."""
    assert run(program, number, *values, arch=arch) == KILL_PROCESS
    assert run(program, number | 0x40000000, *values) == KILL_PROCESS


@pytest.mark.parametrize("program", FILTERS, ids=["file", "network", "paths"])
@pytest.mark.parametrize(
    "name",
    ["execve", "execveat", "fork", "vfork", "ptrace", "process_vm_readv", "bpf", "io_uring_setup", "mount", "bind"],
)
def test_what_only_an_intruder_calls_is_deadly(program: list[Instruction], name: str) -> None:
    """Some calls no decoder makes: whoever makes one is ended."""
    assert verdict(program, name) == KILL_PROCESS


def test_threads_may_start_and_processes_may_not() -> None:
    """`clone` is for threads in the same namespaces; `clone3` hides its flags and is reported as unknown."""
    thread = 0x003D0F00  # what the C library's pthread_create passes

    assert verdict(FILE, "clone", thread) == ALLOW
    assert verdict(FILE, "clone", 17) == KILL_PROCESS
    assert verdict(FILE, "clone", thread | 0x10000000) == KILL_PROCESS
    assert verdict(FILE, "clone3") == UNKNOWN


@given(st.integers(0, 2**32 - 1))
def test_signals_reach_nobody_else(pid: int) -> None:
    """Signals go to the own process alone, as `abort` sends them."""
    wanted = ALLOW if pid == PID else REFUSE

    assert verdict(FILE, "kill", pid, 9) == wanted
    assert verdict(FILE, "tgkill", pid, pid, 9) == wanted
    assert verdict(FILE, "kill", 2**64 - 1, 9) == REFUSE


@given(st.integers(0, 50), st.integers(0, 2**12 - 1), st.integers(0, 300))
def test_sockets_are_tcp_or_none(domain: int, kind: int, protocol: int) -> None:
    """With a port only TCP sockets can be made, blocking or not; without one a socket is deadly."""
    is_tcp = domain in {2, 10} and kind & 0xF == 1 and protocol in {0, 6}

    assert verdict(NETWORK, "socket", domain, kind, protocol) == (ALLOW if is_tcp else REFUSE)
    assert verdict(FILE, "socket", domain, kind, protocol) == KILL_PROCESS
    assert verdict(FILE, "connect", 3) == KILL_PROCESS


def test_sending_opens_no_connection() -> None:
    """`sendto` to an address and fast open would connect where Landlock does not look."""
    assert verdict(NETWORK, "sendto", 3, 0, 0, 0x4000, 0) == ALLOW
    assert verdict(NETWORK, "sendto", 3, 0, 0, 0x20000000, 0) == REFUSE
    assert verdict(NETWORK, "sendto", 3, 0, 0, 0, 1 << 40) == REFUSE
    assert verdict(NETWORK, "sendmsg", 3, 0, 0x20004000) == REFUSE


def test_limits_can_be_read_and_not_set() -> None:
    """`prlimit64` answers about oneself and changes nothing but how much memory one takes oneself."""
    assert verdict(FILE, "prlimit64", 0, 9, 0x1000) == ALLOW
    assert verdict(FILE, "prlimit64", 1, 9, 0x1000) == REFUSE
    assert verdict(FILE, "prlimit64", 0, 7, 0) == ALLOW
    assert verdict(FILE, "prlimit64", PID, 7, 0) == ALLOW
    assert verdict(FILE, "prlimit64", 1, 7, 0) == REFUSE
    assert verdict(FILE, "prlimit64", 0, 7, 0x7FFF00000000) == REFUSE
    assert verdict(FILE, "prlimit64", 0, 7, 0x1000) == REFUSE


def test_paths_open_for_reading_where_there_are_paths() -> None:
    """Opening is refused without paths, and opening for writing always."""
    writing = os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_TMPFILE | os.O_RDWR

    assert verdict(FILE, "openat", 0, 0, os.O_RDONLY) == REFUSE
    assert verdict(PATHS, "openat", 0, 0, os.O_RDONLY | os.O_CLOEXEC) == ALLOW
    assert {verdict(PATHS, "openat", 0, 0, flags) for flags in writing} == {REFUSE}
    assert {verdict(PATHS, "open", 0, flags) for flags in writing} == {REFUSE}


def test_no_new_code_where_nothing_can_be_loaded() -> None:
    """Without paths memory is never executable; with paths shared libraries may be mapped."""
    read_exec = 5

    assert verdict(FILE, "mmap", 0, 4096, 3) == ALLOW
    assert verdict(FILE, "mmap", 0, 4096, read_exec) == REFUSE
    assert verdict(NETWORK, "mprotect", 0, 4096, read_exec) == REFUSE
    assert verdict(PATHS, "mmap", 0, 4096, read_exec) == ALLOW


def test_program_fits_the_kernel() -> None:
    """The kernel takes up to 4096 instructions with jumps of up to 255."""
    for program in FILTERS:
        assert len(program) <= 4096
        assert all(max(jump_true, jump_false) <= 255 for _, jump_true, jump_false, _ in program)


def test_every_number_stands_once() -> None:
    """No two names share a number, and every rule speaks of a call that has one."""
    assert len(set(CALLS.values())) == len(CALLS)
    assert set(seccomp._ALLOWED).isdisjoint(seccomp._KILLED)


def policy(*, port: int | None = None, mode: SandboxMode = SandboxMode.REQUIRE) -> CagePolicy:
    return CagePolicy(port, (), 1 << 31, 32, mode)


@pytest.mark.parametrize(
    ("port", "abi", "has_seccomp", "missing"),
    [
        (None, 7, True, ()),
        (1935, 7, True, ()),
        (1935, 4, True, ()),
        (None, 2, True, ()),
        (1935, 2, True, ("network",)),
        (None, 0, True, ("landlock",)),
        (1935, 0, True, ("landlock", "network")),
        (1935, 7, False, ("seccomp", "network")),
        (None, 4, False, ("seccomp", "network", "signals")),
        (None, 0, False, ("landlock", "seccomp", "network", "signals")),
    ],
)
def test_report_names_what_is_missing(
    port: int | None, abi: int, missing: tuple[str, ...], *, has_seccomp: bool
) -> None:
    """What an older kernel or another machine does not give is said by name."""
    report = sandbox._report(policy(port=port), landlock_abi=abi, has_seccomp=has_seccomp)

    assert report.missing == missing
    assert report.limits_network == ("network" not in missing)


def test_required_cage_is_whole_or_refused() -> None:
    """In mode `require` a missing part is an error that names it and the remedy; in mode `prefer` it is none."""
    report = sandbox._report(policy(port=1935), landlock_abi=2, has_seccomp=True)

    with pytest.raises(SandboxUnavailable, match=r"missing: network.*sandbox: prefer"):
        sandbox._require(policy(port=1935), report)
    sandbox._require(policy(port=1935, mode=SandboxMode.PREFER), report)


def test_filter_refuses_with_permission_denied() -> None:
    """What is refused looks to the program like any missing permission, what is unknown like an older kernel."""
    assert REFUSE & 0xFFFF == errno.EPERM
    assert UNKNOWN & 0xFFFF == errno.ENOSYS


@pytest.mark.parametrize("call", ["execve", "fork", "vfork", "socket", "connect", "pidfd_send_signal", "tkill"])
def test_who_drives_devices_starts_nothing_and_speaks_to_nobody(call: str) -> None:
    """A driver that asks for it is refused and goes on; whatever else it needs, devices above all, it may do."""
    program = seccomp.build_for_devices(pid=PID)

    assert verdict(program, call) == REFUSE
    assert verdict(program, "clone", 0x00010000) == ALLOW
    assert verdict(program, "clone", 17) == REFUSE
    assert verdict(program, "kill", PID) == ALLOW
    assert verdict(program, "kill", 1) == REFUSE
    assert verdict(program, "ioctl", 7, 0xC0104600) == ALLOW
    assert verdict(program, "ptrace") == verdict(program, "bpf") == verdict(program, "mount") == KILL_PROCESS
    assert run(program, CALLS["read"], arch=I386) == KILL_PROCESS

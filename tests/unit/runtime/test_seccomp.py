"""The compiled filter, executed by a small interpreter of classic BPF."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from buildkit_py.runtime import seccomp, seccomp_policy

ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x00050001, 0x00050026
ARCH = {"x86_64": 0xC000003E, "i386": 0x40000003, "x32": 0xC000003E}
TABLES = json.loads(Path(seccomp.__file__).with_name("syscall_numbers.json").read_bytes())[
    "tables"
]


def judge(arch: int, number: int, *arguments: int) -> int:
    data = struct.pack("=IIQ6Q", number, arch, 0, *arguments, *(0,) * (6 - len(arguments)))
    program = list(struct.iter_unpack("=HBBI", seccomp.default_filter("x86_64")))
    accumulator = at = 0
    while True:
        code, true, false, k = program[at]
        at += 1
        match code:
            case 0x20:
                accumulator = struct.unpack_from("=I", data, k)[0]
            case 0x05:
                at += k
            case 0x15:
                at += true if accumulator == k else false
            case 0x35:
                at += true if accumulator >= k else false
            case 0x45:
                at += true if accumulator & k else false
            case 0x06:
                return k
            case _:
                raise AssertionError(code)


@pytest.mark.parametrize("table", ["x86_64", "i386", "x32"])
def test_every_call_of_every_table_is_judged_by_the_policy(table: str) -> None:
    special = {"clone", "clone3", "personality", "socket"}
    allowed = seccomp_policy.ALLOWED | seccomp_policy.BY_ARCHITECTURE[table]
    last = max(number for name, number in TABLES[table].items() if name in allowed)
    for name, number in TABLES[table].items():
        if name not in special:
            refused = EPERM if number < last else ENOSYS
            assert judge(ARCH[table], number) == (ALLOW if name in allowed else refused), name


@pytest.mark.parametrize("table", ["x86_64", "i386", "x32"])
def test_a_call_newer_than_the_policy_is_not_there(table: str) -> None:
    """As with runc: a library falls back from ENOSYS, and fails at EPERM."""
    numbers = TABLES[table]
    last = max(numbers[name] for name in seccomp_policy.ALLOWED if name in numbers)
    assert judge(ARCH[table], last) == ALLOW
    for number in (last + 1, last + 500):
        assert judge(ARCH[table], number) == ENOSYS
    between = set(range(min(numbers.values()), last)) - set(numbers.values())
    assert {judge(ARCH[table], number) for number in between} == {EPERM}


def test_other_architectures_are_refused() -> None:
    assert judge(0xC00000B7, 1) == EPERM


def test_arguments_decide_where_the_policy_says_so() -> None:
    calls = TABLES["x86_64"]
    arch = ARCH["x86_64"]
    assert judge(arch, calls["clone"], 0x00010F00) == ALLOW
    assert judge(arch, calls["clone"], 0x10000000) == EPERM
    assert judge(arch, calls["clone3"]) == ENOSYS
    assert judge(arch, calls["personality"], 0xFFFFFFFF) == ALLOW
    assert judge(arch, calls["personality"], 0x0040000) == EPERM
    assert judge(arch, calls["personality"], 1 << 32) == EPERM
    for family, verdict in ((1, ALLOW), (2, ALLOW), (17, ALLOW), (38, EPERM), (40, EPERM)):
        assert judge(arch, calls["socket"], family) == verdict

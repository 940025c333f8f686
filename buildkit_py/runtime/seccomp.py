"""Compiles the seccomp policy to a classic BPF program, for each architecture that may call.

Our own compiler, not libseccomp's: it needs no library, its program is half as long (a balanced
tree over ranges of numbers instead of a chain), and compiling takes under a millisecond.

A program checks the architecture, then walks a tree of `number >= k` jumps down to a leaf, which
allows, refuses with an error number, or looks at an argument first. A call that is newer than any
in the policy is "not there", as runc says it: libraries then fall back to an older one, which they
do not when it is forbidden.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TypeAlias

from buildkit_py.runtime import seccomp_policy as policy

Instruction: TypeAlias = tuple[int, int, int, int]  # code, jump if true, jump if false, k
Program: TypeAlias = list[Instruction]

_LOAD, _JUMP, _JUMP_EQUAL, _JUMP_GE, _JUMP_SET, _RETURN = 0x20, 0x05, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF_0000, 0x0005_0000
_NR_OFFSET, _ARCH_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16
_EPERM, _ENOSYS = 1, 38
_AUDIT = {
    "x86_64": (0xC000_003E, ("x86_64", "x32")),
    "i386": (0x4000_0003, ("i386",)),
    "aarch64": (0xC000_00B7, ("aarch64",)),
}
_FIRST_NUMBER = {"x32": 0x4000_0000}
_NATIVE = {"x86_64": ("x86_64", "i386"), "aarch64": ("aarch64",)}


@cache
def default_filter(machine: str | None = None, *, one_owner: bool = False) -> bytes:
    """The filter for this machine's binaries, b"" where no table of its calls is known.

    With `one_owner` changes of owner and groups succeed and do nothing: in a user namespace that
    maps one id there is no other owner to give, and package managers insist.
    """
    architectures = _NATIVE.get(machine or os.uname().machine)
    if architectures is None:
        return b""
    tables = _tables()
    program: Program = [(_LOAD, 0, 0, _ARCH_OFFSET)]
    for name in architectures:
        audit, numbers = _AUDIT[name]
        segments: list[tuple[int, Program]] = []
        for table in numbers:
            rules = _rules(table, tables[table])
            if one_owner:
                pretended = policy.OWNERS & tables[table].keys()
                rules |= {tables[table][name]: [_refuse(0)] for name in pretended}
            segments += _segments(rules, _FIRST_NUMBER.get(table, 0))
        body = [(_LOAD, 0, 0, _NR_OFFSET), *_tree(segments)]
        program += [(_JUMP_EQUAL, 1, 0, audit), (_JUMP, 0, 0, len(body)), *body]
    program.append(_refuse())
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _tables() -> Mapping[str, Mapping[str, int]]:
    file = Path(__file__).with_name("syscall_numbers.json")
    tables: dict[str, dict[str, int]] = json.loads(file.read_bytes())["tables"]
    return tables


# ------------------------------------------------------------------ leaves
def _allow() -> Instruction:
    return (_RETURN, 0, 0, _ALLOW)


def _refuse(number: int = _EPERM) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | number)


def _low(argument: int) -> Instruction:
    return (_LOAD, 0, 0, _ARGUMENTS_OFFSET + 8 * argument)


def _high(argument: int) -> Instruction:
    return (_LOAD, 0, 0, _ARGUMENTS_OFFSET + 8 * argument + 4)


def _one_of(argument: int, values: Sequence[int]) -> Program:
    """Allow if the whole 64-bit argument is one of `values` (each below 2**32)."""
    out: Program = [_high(argument), (_JUMP_EQUAL, 1, 0, 0), _refuse(), _low(argument)]
    for value in values:
        out += [(_JUMP_EQUAL, 0, 1, value), _allow()]
    return [*out, _refuse()]


def _no_flag_of(argument: int, mask: int) -> Program:
    return [_low(argument), (_JUMP_SET, 0, 1, mask), _refuse(), _allow()]


def _rules(table: str, numbers: Mapping[str, int]) -> dict[int, Program]:
    """What to do for each call number that is not simply refused."""
    allowed = policy.ALLOWED | policy.BY_ARCHITECTURE[table]
    rules = {number: [_allow()] for name, number in numbers.items() if name in allowed}
    families = [n for n in policy.SOCKET_FAMILIES if n not in policy.SOCKET_FAMILIES_REFUSED]
    special: dict[str, Callable[[], Program]] = {
        "clone": lambda: _no_flag_of(0, policy.CLONE_FORBIDDEN_FLAGS),
        "personality": lambda: _one_of(0, policy.PERSONALITIES),
        "socket": lambda: _one_of(0, families),
    }
    for name, make in special.items():
        if name in numbers:
            rules[numbers[name]] = make()
    for name, errno in policy.ERRNO_BY_NAME.items():
        if name in numbers:
            rules[numbers[name]] = [_refuse(errno)]
    return rules


# ------------------------------------------------------------------ the tree
def _segments(rules: Mapping[int, Program], first: int) -> list[tuple[int, Program]]:
    """Ranges of numbers with equal leaves, as (first number, leaf), from `first` on."""
    segments: list[tuple[int, Program]] = [(first, [_refuse()])]
    last = max(rules)
    for number in sorted(rules):
        leaf = rules[number]
        if segments[-1][0] == number:
            segments.pop()
        if not segments or segments[-1][1] != leaf:
            segments.append((number, leaf))
        if number + 1 not in rules:
            segments.append((number + 1, [_refuse(_ENOSYS if number == last else _EPERM)]))
    return segments


def _tree(segments: Sequence[tuple[int, Program]]) -> Program:
    if len(segments) == 1:
        return list(segments[0][1])
    middle = len(segments) // 2
    left, right = _tree(segments[:middle]), _tree(segments[middle:])
    pivot = segments[middle][0]
    if len(left) <= 0xFF:  # jump offsets are bytes
        return [(_JUMP_GE, len(left), 0, pivot), *left, *right]
    return [(_JUMP_GE, 0, 1, pivot), (_JUMP, 0, 0, len(left)), *left, *right]

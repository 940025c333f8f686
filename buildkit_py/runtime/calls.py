"""A child that makes a list of system calls, the last of them execve, and runs no Python.

A forked Python is dear: its page tables are copied, then each page that it writes to (and Python
writes to whatever it looks at), and at exec all of it is given up again: several milliseconds of
processor time for each step. So the server makes its children as posix_spawn(3) does, sharing the
memory (CLONE_VM). Such a child cannot run the interpreter, which is the parent's. All it runs is
the loop below, over a list that the server has written into the shared memory: a call's number,
six arguments, and the set of error numbers that do not end the list. The call's result replaces
its number.

The child has descriptors, directories and signal actions of its own. Nothing but the list is
written to, and after exec the memory is shared no more.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the part of signal that needs no enum
import ctypes
import errno
import mmap
import os
import struct

from buildkit_py.runtime.syscalls import SyscallError

_CODE = {
    "x86_64": (
        "f30f1efa"  # endbr64
        "4889fb"  # mov rbx, rdi             rbx: the list, which begins with where it is
        "4c8b23"  # mov r12, [rbx]           r12: the entry
        "4c8923"  # again: mov [rbx], r12
        "498b0424"  # mov rax, [r12]         number
        "498b7c2408"  # mov rdi, [r12+8]     arguments
        "498b742410"  # mov rsi, [r12+16]
        "498b542418"  # mov rdx, [r12+24]
        "4d8b542420"  # mov r10, [r12+32]
        "4d8b442428"  # mov r8, [r12+40]
        "4d8b4c2430"  # mov r9, [r12+48]
        "0f05"  # syscall
        "49890424"  # mov [r12], rax         result
        "483d00f0ffff"  # cmp rax, -4096
        "7614"  # jbe next                   no error
        "48f7d8"  # neg rax
        "4883f83f"  # cmp rax, 63
        "7711"  # ja failed
        "498b542438"  # mov rdx, [r12+56]    errors that do not matter
        "480fa3c2"  # bt rdx, rax
        "7306"  # jnc failed
        "4983c440"  # next: add r12, 64
        "ebb3"  # jmp again
        "bf7d000000"  # failed: mov edi, 125
        "b8e7000000"  # mov eax, 231         exit_group
        "0f05"  # syscall
        "0f0b"  # ud2
    ),
}
_NUMBERS = {
    "x86_64": {
        "capset": 126,
        "chdir": 80,
        "close": 3,
        "close_range": 436,
        "dup2": 33,
        "execve": 59,
        "exit_group": 231,
        "fcntl": 72,
        "mkdir": 83,
        "mknod": 133,
        "mount": 165,
        "open": 2,
        "prctl": 157,
        "recvmsg": 47,
        "rt_sigaction": 13,
        "rt_sigprocmask": 14,
        "seccomp": 317,
        "setgroups": 116,
        "setresgid": 119,
        "setresuid": 117,
        "setsid": 112,
        "symlink": 88,
        "umask": 95,
        "write": 1,
    },
}
_CLONE_VM, _SIGCHLD = 0x100, 17
_ENTRY = struct.Struct("=8Q")
_WORD = struct.Struct("=Q")
_HEAD = 64
_STACK = 1024  # libc's clone() leaves two words on it
_ALL = (1 << 64) - 1
FAILED = 125
"""What a child exits with whose list has come to an error, or to its end."""
ANY = _ALL
"""As `tolerate`: no error ends the list."""

_libc = ctypes.CDLL(None, use_errno=True)
_loop: list[int] = []


def tolerating(*numbers: int) -> int:
    """The set of these error numbers."""
    return sum(1 << number for number in numbers)


class CallList:
    """Calls with their arguments, and a word for each of what it was about.

    `add` takes numbers, and bytes whose address is passed (with a NUL behind them).
    """

    def __init__(self) -> None:
        self.entries = bytearray()
        self.labels: list[tuple[str, str, str]] = []
        self._kept: list[object] = []
        self._numbers = _NUMBERS[os.uname().machine]

    def add(
        self,
        name: str,
        *arguments: int | bytes,
        tolerate: int = 0,
        stage: str = "process",
        path: str = "",
    ) -> None:
        """One more call."""
        values = [
            self.keep(item) if isinstance(item, bytes) else item & _ALL for item in arguments
        ]
        values += [0] * (6 - len(values))
        self.entries += _ENTRY.pack(self._numbers[name], *values, tolerate)
        self.labels.append((stage, name, path))

    def append(self, other: CallList) -> None:
        """All calls of another list."""
        self.entries += other.entries
        self.labels += other.labels
        self._kept.append(other)

    def keep(self, data: bytes) -> int:
        """The address of a copy that lives as long as the list."""
        buffer = ctypes.create_string_buffer(data)
        self._kept.append(buffer)
        return ctypes.addressof(buffer)

    def strings(self, items: list[bytes]) -> int:
        """The address of an array of strings, as execve takes it."""
        if any(b"\0" in item for item in items):
            raise ValueError("an argument or a variable has a NUL byte")
        address = self.keep(b"\0".join(items))
        pointers = []
        for item in items:
            pointers.append(address)
            address += len(item) + 1
        return self.keep(struct.pack(f"={len(pointers) + 1}Q", *pointers, 0))


class Child:
    """A process that works on a list. `extend` puts more behind it, while the child waits.

    Keep it until the process has ended.
    """

    def __init__(self, first: CallList, space: int, flags: int) -> None:
        """Start it; `space` is the number of further calls that will fit. Raises OSError."""
        size = _HEAD + len(first.entries) + (space + 1) * _ENTRY.size
        self.lists = [first]
        self._memory = ctypes.create_string_buffer(size + _STACK)
        self._base = ctypes.addressof(self._memory)
        self._room = size
        self._end = _HEAD
        self.extend(first)
        _WORD.pack_into(self._memory, 0, self._base + _HEAD)
        stack = (self._base + size + _STACK) & ~15
        self.pid: int = _libc.clone(
            ctypes.c_void_p(_loop_address()),
            ctypes.c_void_p(stack),
            ctypes.c_int(_CLONE_VM | _SIGCHLD | flags),
            ctypes.c_void_p(self._base),
        )
        if self.pid < 0:
            raise SyscallError("clone", ctypes.get_errno())
        self.pidfd = self._handle()

    def _handle(self) -> int:
        try:
            return os.pidfd_open(self.pid)
        except OSError:
            os.kill(self.pid, _signal.SIGKILL)
            os.waitpid(self.pid, 0)  # or it would go on with memory that is given to others
            raise

    def extend(self, calls: CallList) -> None:
        """Put calls in the place of the end, and the end behind them."""
        entries = calls.entries + _exit()
        if self._end + len(entries) > self._room:
            raise SyscallError("clone", errno.E2BIG)
        ctypes.memmove(self._base + self._end, bytes(entries), len(entries))
        self._end += len(calls.entries)
        if calls not in self.lists:
            self.lists.append(calls)

    def outcome(self) -> list[tuple[int, tuple[str, str, str]]]:
        """The results so far with their labels; the last is the call that it came to.

        A call that has not returned (execve, which has succeeded) still has its number.
        """
        at = (_WORD.unpack_from(self._memory, 0)[0] - self._base - _HEAD) // _ENTRY.size
        labels = [label for calls in self.lists for label in calls.labels]
        labels.append(("exec", "exit_group", ""))
        results = []
        for number in range(at + 1):
            (value,) = _WORD.unpack_from(self._memory, _HEAD + number * _ENTRY.size)
            results.append((value - (1 << 64) if value >> 63 else value, labels[number]))
        return results


def _exit() -> bytes:
    return _ENTRY.pack(_NUMBERS[os.uname().machine]["exit_group"], FAILED, *[0] * 6)


def available() -> bool:
    """Whether the loop is known for this machine, and memory may be made executable."""
    try:
        return _loop_address() != 0
    except OSError:
        return False


def _loop_address() -> int:
    if not _loop:
        code = _CODE.get(os.uname().machine)
        _loop.append(_place(bytes.fromhex(code)) if code else 0)
    return _loop[0]


def _place(code: bytes) -> int:
    """Executable memory, no longer writable, with this code."""
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))  # which keeps the page mapped
    _pages.append(page)
    readable = mmap.PROT_READ | mmap.PROT_EXEC
    if _libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), readable):
        raise SyscallError("mprotect", ctypes.get_errno())
    return address


_pages: list[mmap.mmap] = []

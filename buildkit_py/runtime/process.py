"""The last part of a step: a process with its user, limits and privileges, and exec.

The order matters, and is checked by the kernel: a seccomp filter without no_new_privs needs
CAP_SYS_ADMIN, so it comes before the capabilities are cut; the parent-death signal is cleared by
a change of credentials, so it comes last.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the part of signal that needs no enum
import errno
import fcntl
import os
import resource
import select
import stat
import struct

from buildkit_py.runtime import syscalls as sc
from buildkit_py.runtime.users import Identity, resolve_user
from buildkit_py.runtime.wire import send

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Iterable

    from buildkit_py.runtime.spec import WireProcess, WireSpec

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
IGNORED_SIGNALS = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT)
"""By the server; the interpreter ignores two more."""
CHANGED_SIGNALS = (*IGNORED_SIGNALS, _signal.SIGPIPE, _signal.SIGXFSZ)
_USER_FILE_LIMIT = 16 << 20
_TIOCSCTTY = 0x540E

NEXT_CANDIDATE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES)
"""After these errors of execve the next directory of PATH is tried."""

_OWN_FILES = 64

_BOUNDING: list[bool] = []
_DROPPED: list[int] = []


class StepError(Exception):
    """A step that cannot start: what was being done, and why it failed."""

    def __init__(self, stage: str, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.stage = stage
        self.number = number


def become_process(spec: WireSpec, reply: _socket.socket, stdio: list[int], alive: int) -> None:
    """Take on the process's identity and execute it. Returns only by an exception."""
    process = spec["process"]
    identity = find_identity(process)
    environment = make_environment(process, identity)
    _limit(process)
    enter_working_directory(process["cwd"])
    os.setsid()
    if process["tty"]:
        stdio = _open_terminal(reply, stdio)
    _take_stdio(stdio, identity.uid)
    restore_signals(CHANGED_SIGNALS)
    os.umask(0o022)
    _privileges(spec, identity)
    # Whoever started us must outlive us: its end of the pipe closes when it dies.
    sc.prctl(sc.PR_SET_PDEATHSIG, _signal.SIGKILL)
    poll = select.poll()
    poll.register(alive, select.POLLIN)
    if poll.poll(0):
        os._exit(1)
    if process["init"]:
        _become_reaper(reply)
    _limit_files(process)
    _execute(process["arguments"], environment)


def find_identity(process: WireProcess) -> Identity:
    """Who USER is, by the files of the root that we are in. Raises UnknownUser."""
    passwd, group = _read_user_file("/etc/passwd"), _read_user_file("/etc/group")
    return resolve_user(process["user"], passwd, group, tuple(process["extra_groups"]))


def _read_user_file(path: str) -> str:
    """The text of a regular file of the image; anything else there counts as absent."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        st = os.fstat(fd)
        if not stat.S_ISREG(st.st_mode) or st.st_size > _USER_FILE_LIMIT:
            return ""
        chunks = []
        while chunk := os.read(fd, 1 << 16):
            chunks.append(chunk)
        return b"".join(chunks).decode("utf-8", "surrogateescape")
    finally:
        os.close(fd)


def make_environment(process: WireProcess, identity: Identity) -> dict[str, str]:
    """The variables, HOME among them."""
    environment: dict[str, str] = {}
    for entry in process["env"]:
        name, _, value = entry.partition("=")
        environment[name] = value
    if not environment.get("HOME"):
        environment["HOME"] = identity.home
    return environment


def _limit(process: WireProcess) -> None:
    for number, *wanted in process["rlimits"]:
        least = _OWN_FILES if number == resource.RLIMIT_NOFILE else 0
        soft, hard = (limit if limit < 0 else max(limit, least) for limit in wanted)
        try:
            resource.setrlimit(number, (soft, hard))
        except (OSError, ValueError) as error:
            current = resource.getrlimit(number)[1]
            if current != resource.RLIM_INFINITY and not 0 <= hard <= current:
                # Raising needs CAP_SYS_RESOURCE, which even root may lack: as far as allowed.
                resource.setrlimit(number, (min(soft, current) if soft >= 0 else current, current))
                continue
            raise StepError("limits", f"cannot set resource limit {number}: {error}") from error


def _limit_files(process: WireProcess) -> None:
    """A number of files that we would not get along with ourselves, set at the last moment."""
    for number, soft, hard in process["rlimits"]:
        if number == resource.RLIMIT_NOFILE and 0 <= soft < _OWN_FILES:
            current = resource.getrlimit(number)[1]
            resource.setrlimit(number, (soft, hard if 0 <= hard < _OWN_FILES else current))


def enter_working_directory(cwd: str) -> None:
    """Go there; it is made where it is missing. Raises StepError."""
    try:
        os.makedirs(cwd, 0o755, exist_ok=True)
        os.chdir(cwd)
        if not os.getcwd().startswith("/"):  # through /proc/self/fd to where no path leads
            raise StepError("cwd", f"working directory {cwd} is outside of the root")
    except OSError as error:
        raise no_directory(cwd, error.errno or 0) from error


def no_directory(cwd: str, number: int) -> StepError:
    """Why the step cannot start there."""
    return StepError(
        "cwd", f"cannot change to working directory {cwd}: {os.strerror(number)}", number
    )


def _open_terminal(reply: _socket.socket, stdio: list[int]) -> list[int]:
    """A terminal of the sandbox's own devpts; its master side goes to the parent."""
    master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(master, 0x40045431, struct.pack("i", 0))  # TIOCSPTLCK
    number = struct.unpack("i", fcntl.ioctl(master, 0x80045430, b"\0" * 4))[0]  # TIOCGPTN
    slave = os.open(f"/dev/pts/{number}", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    send(reply, ("terminal",), (master,))
    os.close(master)
    fcntl.ioctl(slave, _TIOCSCTTY, 0)
    del stdio
    return [slave, slave, slave]


def _take_stdio(stdio: list[int], uid: int) -> None:
    """Make these fds 0, 1 and 2, owned by the user; nothing else survives exec."""
    safe = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in stdio[:3]]
    for number, fd in enumerate(safe):
        os.dup2(fd, number, inheritable=True)
        if is_null(number):
            own = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            os.dup2(own, number, inheritable=True)
            os.close(own)
            continue
        hand_over(number, uid)
    try:
        sc.close_range_cloexec(3)
    except OSError:
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2:
                try:
                    os.set_inheritable(int(name), False)
                except OSError:
                    continue


def is_null(fd: int) -> bool:
    """The host's /dev/null, which would be within reach of chmod through /proc/self/fd."""
    st = os.fstat(fd)
    return stat.S_ISCHR(st.st_mode) and st.st_rdev == os.makedev(1, 3)


def hand_over(fd: int, uid: int) -> None:
    """Let a stream belong to the step's user, who may want to open it again by its path."""
    st = os.fstat(fd)
    if uid and st.st_uid != uid and _is_ours(st):
        try:
            os.fchown(fd, uid, -1)
        except OSError:
            pass  # a pipe of another user stays his


def _is_ours(st: os.stat_result) -> bool:
    """Pipes and terminals; a file or device that output goes to keeps its owner."""
    if stat.S_ISCHR(st.st_mode):
        return 136 <= os.major(st.st_rdev) <= 143  # pseudo-terminals
    return stat.S_ISFIFO(st.st_mode)


def restore_signals(numbers: Iterable[int]) -> None:
    """Give signals their default action again, and block none."""
    for number in numbers:
        try:
            _signal.signal(number, _signal.SIG_DFL)
        except (OSError, ValueError):
            _restore_by_kernel(number)
    sc.unblock_signals()


def _restore_by_kernel(number: int) -> None:
    """Two signals are libc's own, which whoever started us may yet ignore; two never change."""
    try:
        sc.default_action(number)
    except OSError:
        pass


def _privileges(spec: WireSpec, identity: Identity) -> None:
    process = spec["process"]
    if process["no_new_privileges"]:
        sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1)
    kept = drop_bounding_set(process["capabilities"])
    filtered = bool(spec["seccomp"])
    if filtered:
        _set_filter(spec)
    _change_user(identity)
    if identity.uid == 0:
        sc.capset(kept, kept, 0)
    else:
        sc.capset(0, 0, 0)
    try:
        sc.prctl(sc.PR_CAP_AMBIENT, sc.PR_CAP_AMBIENT_CLEAR_ALL)
    except OSError:
        pass  # kernels before 4.3 have no ambient set


def drop_bounding_set(wanted: int) -> int:
    """Give up, for good, all capabilities but these; the set that is left. Twice is no harm."""
    if _DROPPED[:1] == [wanted]:
        return _DROPPED[1]
    kept, dropped = capabilities_of(wanted)
    for number in dropped:
        try:
            sc.prctl(sc.PR_CAPBSET_DROP, number)
        except OSError as error:
            if error.errno != errno.EPERM:  # without CAP_SETPCAP (chroot mode)
                raise
            kept &= (1 << number) - 1
            break
    _DROPPED[:] = [wanted, kept]
    return kept


def capabilities_of(wanted: int) -> tuple[int, list[int]]:
    """Those of a wanted set that can be had here, and the numbers of those to give up."""
    kept, dropped = 0, []
    for number, present in enumerate(_bounding_set()):
        if not wanted >> number & 1:
            dropped.append(number)
        elif present:
            kept |= 1 << number
    return kept, dropped


def _bounding_set() -> tuple[bool, ...]:
    """Whether each capability of this kernel can be had here. Asked once, by the server."""
    if not _BOUNDING:
        last = sc.last_capability()
        _BOUNDING.extend(sc.prctl(sc.PR_CAPBSET_READ, number) == 1 for number in range(last + 1))
    return tuple(_BOUNDING)


def look_around() -> None:
    """Find out, before any fork, what does not change from step to step."""
    _bounding_set()


def _set_filter(spec: WireSpec) -> None:
    try:
        sc.seccomp_set_filter(spec["seccomp"])
    except sc.SyscallError as error:
        # A chroot in a container without CAP_SYS_ADMIN: the container's own filter stands, and
        # no_new_privs, which would allow ours, would take sudo and the like from the step.
        if spec["namespaces"] or error.errno != errno.EACCES:
            raise


def _change_user(identity: Identity) -> None:
    try:
        os.setgroups(identity.groups)
    except OSError as error:
        # A namespace that maps one id only forbids setgroups, and has no other group to offer.
        if error.errno != errno.EPERM:
            raise StepError(
                "user", f"cannot set groups: {error.strerror}", error.errno or 0
            ) from error
    try:
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
    except OSError as error:
        raise no_user(identity, error.errno or 0) from error


def no_user(identity: Identity, number: int) -> StepError:
    """Why the step cannot run as that user."""
    why = os.strerror(number)
    if number == errno.EINVAL:
        why = "only one id is mapped in this user namespace"
    return StepError("user", f"cannot become user {identity.uid}:{identity.gid}: {why}", number)


def _become_reaper(reply: _socket.socket) -> None:
    """Fork; the parent side stays as PID 1, passes signals on and reaps until the child ends."""
    child = os.fork()
    if child == 0:
        return
    reply.close()
    # We are still the host's Python: its memory and its file must be out of the step's reach.
    sc.prctl(sc.PR_SET_DUMPABLE, 0)
    for number in (1, 2, 3, 10, 12, 15, 18, 28):
        _signal.signal(number, lambda signum, _frame: os.kill(child, signum))
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _execute(arguments: list[str], environment: dict[str, str]) -> None:
    errors = []
    for candidate in candidates_of(arguments, environment):
        try:
            os.execve(candidate, arguments, environment)
        except OSError as error:
            errors.append(error.errno or 0)
            if errors[-1] not in NEXT_CANDIDATE:
                break
    raise exec_failure(arguments[0], errors, exists=os.path.lexists(arguments[0]))


def candidates_of(arguments: list[str], environment: dict[str, str]) -> list[str]:
    """The paths at which the program may be, in order. Raises StepError."""
    name = arguments[0] if arguments else ""
    if not name:
        raise StepError("exec", "no command given", errno.ENOENT)
    if "/" in name:
        return [name]
    path = environment.get("PATH", _DEFAULT_PATH)
    return [f"{part or '.'}/{name}" for part in path.split(":")]


def exec_failure(name: str, errors: list[int], *, exists: bool) -> StepError:
    """Why none of the candidates could be executed; `exists` says whether that path is there."""
    telling = [number for number in errors if number not in {errno.ENOENT, errno.ENOTDIR}]
    number = telling[-1] if telling else errno.ENOENT
    if number == errno.ENOENT:
        if "/" not in name:
            return StepError("exec", f'exec: "{name}": executable file not found in $PATH', number)
        missing = "its interpreter or loader is missing in the image"
        why = missing if exists else "no such file or directory"
    elif number == errno.ENOEXEC:
        why = "exec format error"
    else:
        why = os.strerror(number).lower()
    return StepError("exec", f'exec "{name}": {why}', number)

"""The child that stands by: what any step needs is made ahead of it, while nobody waits.

It has its namespaces, /proc, /sys and /dev with their masks, and the usual bounding set, and waits
for a request on the server's own socket. A step that needs something else goes back to the server.
"""

from __future__ import annotations

import _socket
import marshal
import os

from buildkit_py.runtime import syscalls as sc
from buildkit_py.runtime.attach import file_tree, mask
from buildkit_py.runtime.defaults import DEFAULT_CAPABILITIES, MASKED_PATHS, READONLY_PATHS
from buildkit_py.runtime.process import drop_bounding_set
from buildkit_py.runtime.rootfs import (
    DEV_OPTIONS,
    fill_dev,
    mount_scratch,
    mount_sys,
    new_proc,
)
from buildkit_py.runtime.step import STEP_NAMESPACES, run_step, tell_of_start
from buildkit_py.runtime.targets import Stubs, make_target
from buildkit_py.runtime.users import resolve_user
from buildkit_py.runtime.wire import TAKEN, decode, receive, send_rights

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildkit_py.runtime.spec import WireSpec


def stand_by(control: _socket.socket, channel: _socket.socket, scratch: str, alive: int) -> None:
    """Prepare, wait for a request, tell the server so, and become the step."""
    sc.unshare(STEP_NAMESPACES)
    prepare(scratch)
    drop_bounding_set(DEFAULT_CAPABILITIES)
    rehearse(scratch)
    received = receive(control)
    control.close()
    if received is None:
        os._exit(0)
    data, fds = received
    spec = decode(data, fds)
    if not fits(spec):
        send_rights(channel, data, fds)
        os._exit(0)
    send_rights(channel, TAKEN + os.fsencode("\n".join(spec["cgroups"])), fds[:1])
    channel.close()
    run_step(spec, _socket.socket(fileno=fds[0]), fds[1:], alive, prepared=True)


def fits(spec: WireSpec) -> bool:
    """Whether a step can be given to a child that `prepare` has made ready."""
    return (
        not spec["privileged"]
        and spec["process"]["capabilities"] == DEFAULT_CAPABILITIES
        and tuple(spec["masked_paths"]) == MASKED_PATHS
        and tuple(spec["readonly_paths"]) == READONLY_PATHS
    )


def prepare(scratch: str) -> None:
    """Mount beside the root to come what every unprivileged step has, and the scratch itself.

    It needs the step's pid and ipc namespaces, but nothing of its spec. A step with a network of
    its own does not use this /sys, which shows the host's.
    """
    mount_scratch(scratch)
    for name in ("proc", "dev", "sys"):
        os.mkdir(f"{scratch}/{name}", 0o755)
    new_proc(f"{scratch}/proc")
    flags = sc.MS_NOSUID | sc.MS_NODEV
    sc.mount("tmpfs", f"{scratch}/dev", "tmpfs", flags, DEV_OPTIONS)
    dev = os.open(f"{scratch}/dev", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fill_dev(dev, scratch)
    os.close(dev)
    mount_sys(os.open(f"{scratch}/sys", os.O_PATH | os.O_CLOEXEC), sc.MS_RDONLY)
    mask(scratch, MASKED_PATHS, READONLY_PATHS)


def rehearse(scratch: str) -> None:
    """Go through what a step will do, as far as that leaves nothing behind.

    A forked process copies each page of memory that it writes to, and Python writes to whatever
    it looks at (counts of references): so they are copied now.
    """
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    mount = {"content": b"-" * 9000, "uid": 0, "gid": 0, "mode": 0o644, "readonly": True}
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    send_rights(ours, marshal.dumps(mount), [null])
    received = receive(theirs)
    assert received is not None
    os.close(received[1][0])
    os.close(null)
    mount = dict(decode(*received))
    tell_of_start(ours)
    ours.close()
    theirs.close()
    os.close(file_tree("rehearsal", mount, scratch))  # type: ignore[arg-type]  # a part of one
    root = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stubs = Stubs()
    for target in ("/files/rehearsal", "/files/etc/hosts"):
        os.close(make_target(root, target, directory=False, stubs=stubs))
    stubs.finish(root)
    os.close(root)
    resolve_user("user:1", "root:x:0:0::/:/bin/sh\nuser:x:1:1::/:/bin/sh\n", "user:x:1:user\n")

"""Run as root or as an ordinary user: the escape probe in a sandbox of ours. Prints JSON."""

from __future__ import annotations

import json
import os
import struct
import sys
import threading
from pathlib import Path

from buildkit_py.runtime import syscalls as sc
from buildkit_py.runtime.idmap import enter_user_namespace

SYSTEM_PYTHON = "/usr/bin/python3"
LEFT_BEHIND = "31536333"


def forbid_pivot() -> None:
    """As docker's filter does, even to those who may mount."""
    number = {"x86_64": 155, "aarch64": 41}[os.uname().machine]
    instructions = (
        (0x20, 0, 0, 0),  # the call's number
        (0x15, 0, 1, number),
        (0x06, 0, 0, 0x0005_0001),  # EPERM
        (0x06, 0, 0, 0x7FFF_0000),
    )
    sc.seccomp_set_filter(b"".join(struct.pack("=HBBI", *item) for item in instructions))


def main() -> None:
    base = Path(sys.argv[1])
    host_pid = os.getpid()
    ranged = None if os.getuid() == 0 else enter_user_namespace()
    if "no-pivot" in sys.argv[3:]:
        forbid_pivot()
    from buildkit_py.runtime.namespaces import NamespaceExecutor
    from buildkit_py.runtime.seccomp import default_filter
    from buildkit_py.runtime.spec import FileMount
    from tests.sandbox import escape_probe
    from tests.sandbox.harness import Rig, host_tools_spec

    streams: dict[int, bytes] = {1: b"", 2: b""}

    def collect(stream: int, data: bytes) -> None:
        streams[stream] += data

    script = FileMount(target="/probe.py", content=Path(escape_probe.__file__).read_bytes())
    one_owner = ranged is False
    with NamespaceExecutor() as executor:
        spec = host_tools_spec(
            base,
            *(SYSTEM_PYTHON, "/probe.py", os.fspath(base / "secret"), str(host_pid)),
            mounts=(script,),
            seccomp=default_filter(one_owner=one_owner),
        )
        status = executor.run(spec, on_output=collect, cancelled=threading.Event(), timeout=60)
    if status.code:
        raise SystemExit(streams[2].decode())
    out = {"ranged": ranged, "tries": json.loads(streams[1])}
    with Rig(base / "state", Path(sys.argv[2])) as rig:
        rig.run(f"(trap '' HUP TERM; setsid sleep {LEFT_BEHIND} >/held &) ; sleep 0.1").ok()
    print(json.dumps(out))


if __name__ == "__main__":
    main()

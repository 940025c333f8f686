"""Run as an ordinary user: enters a user namespace, then runs steps there. Prints JSON."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from buildkit_py.runtime.idmap import enter_user_namespace


def main() -> None:
    base = Path(sys.argv[1])
    ranged = enter_user_namespace()
    from tests.sandbox.harness import Rig

    out: dict[str, object] = {"ranged": ranged, "uid": os.getuid()}
    with Rig(base / "state", Path(sys.argv[2])) as rig:
        rig.native = len(sys.argv) > 3

        def step(name: str, command: str, **op: object) -> int | None:
            done = rig.run(command, **op)  # type: ignore[arg-type]
            error = None if done.error is None else done.error.message
            out[name] = {"output": done.output, "error": error}
            return done.snapshot

        top = step("write", "id -u; echo hi >/x; rm /etc/group; rm -rf /tmp; mkdir /tmp; ls /dev")
        step("read", "cat /x; ls /etc", parent=top)
        step("user", "id; touch /tmp/f", user="bob")
        step("chown", "touch /x && chown 1000:10 /x && stat -c '%u %g' /x")
        step("network", "ls /sys/class/net", network="none")
        step("bomb", "for i in $(seq 60); do sleep 1 & done; wait", resources=("pids=20",))
        step("disk", "dd if=/dev/zero of=/big bs=1M count=3000", resources=("disk=20m",))
        step("caps", "grep -E 'CapEff|Seccomp:' /proc/self/status")
        if top is not None:
            found = rig.directory(top)
            out["layer"] = sorted(str(p.relative_to(found)) for p in found.rglob("*"))
            tmp = found / "tmp"
            out["opaque"] = [n for n in os.listxattr(tmp) if n.endswith("overlay.opaque")]
    print(json.dumps(out))


if __name__ == "__main__":
    main()

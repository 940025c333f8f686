"""pybuild inside a container without privileges, as docker and podman start them, by runc."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from buildkit_py.runtime.spec import MASKED_PATHS, READONLY_PATHS
from tests.conftest import PROJECT, example_images

pytestmark = [pytest.mark.root, pytest.mark.requires("runc")]
CAPABILITIES = [
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW"
        " SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP"
    ).split()
]
# What docker's policy has only for CAP_SYS_ADMIN.
DENIED = (
    "bpf fanotify_init fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree"
    " perf_event_open pivot_root quotactl setdomainname sethostname setns umount umount2 unshare"
).split()
NEW_USER = 0x1000_0000
SCRIPT = """\
import json, subprocess, sys
words = [sys.executable, "-m", "buildkit_py"]
def run(*more):
    done = subprocess.run([*words, *more], capture_output=True, text=True)
    return {"code": done.returncode, "out": done.stdout, "err": done.stderr}
with open("/box/root.tar", "rb") as file:
    subprocess.run([*words, "import", "-", "base"], stdin=file, check=True, capture_output=True)
out = {
    "doctor": run("system", "doctor", "--format=json"),
    "build": run("build", "--progress=plain", "-t", "made", "/box/context"),
    "run": run("run", "--rm", "made", "/bin/busybox", "cat", "/x"),
    "save": run("save", "-o", "/box/made.tar", "made"),
}
print(json.dumps(out))
"""
DOCKERFILE = """\
FROM base
ENV PATH=/bin
RUN id -u; echo from run >/x; chown 1:2 /x; rm -r /var
COPY file /
USER 1000
RUN cat /file; id -u
"""


def spec(folder: Path, *, filtered: bool) -> dict[str, Any]:
    """The bundle's config: docker's defaults on the host's /usr, read-only."""
    subprocess.run(["runc", "spec"], cwd=folder, check=True)
    config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
    process = config["process"]
    process["terminal"] = False
    process["args"] = [sys.executable, "-c", SCRIPT]
    process["env"] = [
        f"PYTHONPATH={PROJECT}",
        "PATH=/usr/bin:/usr/sbin",
        "PYBUILD_ROOT=/box/state",
        "PYTHONDONTWRITEBYTECODE=1",
    ]
    process["cwd"] = "/"
    process.pop("rlimits", None)
    process["noNewPrivileges"] = False
    sets = ("bounding", "effective", "permitted")
    process["capabilities"] = {name: [*CAPABILITIES] for name in sets}
    config["root"] = {"path": "rootfs", "readonly": False}
    folders = {"/usr", "/etc", os.fspath(PROJECT), sys.prefix, sys.base_prefix}
    config["mounts"] += [
        {"destination": name, "source": name, "type": "bind", "options": ["rbind", "ro"]}
        for name in sorted(folders)
    ]
    work = {"destination": "/box", "source": os.fspath(folder / "work"), "type": "bind"}
    config["mounts"].append(work | {"options": ["rbind", "rw"]})
    linux = config["linux"]
    linux["namespaces"] = [item for item in linux["namespaces"] if item["type"] != "network"]
    linux["maskedPaths"] = list(MASKED_PATHS)
    linux["readonlyPaths"] = list(READONLY_PATHS)
    if filtered:
        linux["seccomp"] = policy()
    return config


def policy() -> dict[str, Any]:
    new_user = {"index": 0, "value": NEW_USER, "valueTwo": NEW_USER, "op": "SCMP_CMP_MASKED_EQ"}
    refused = {"action": "SCMP_ACT_ERRNO", "errnoRet": 1}
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": DENIED, **refused},
            {"names": ["clone"], "args": [new_user], **refused},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        ],
    }


@pytest.fixture
def bundle(tmp_path: Path, busybox_program: Path) -> Path:
    root = tmp_path / "rootfs"
    for name in ("box", "proc", "sys", "dev", "tmp"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    for name in ("bin", "sbin", "lib", "lib64"):
        if Path("/", name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")
    context = tmp_path / "work/context"
    context.mkdir(parents=True)
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "file").write_text("from context\n")
    tar: bytes = example_images().busybox_tar(os.fspath(busybox_program))
    (tmp_path / "work/root.tar").write_bytes(tar)
    return tmp_path


def run_inside(bundle: Path, *, filtered: bool, admin: bool = False) -> dict[str, Any]:
    config = spec(bundle, filtered=filtered)
    if admin:  # then docker's policy allows all that it denied, but for one
        for names in config["process"]["capabilities"].values():
            names.append("CAP_SYS_ADMIN")
        refused = {"names": ["pivot_root"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}
        config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [refused]}
    (bundle / "config.json").write_text(json.dumps(config))
    done = subprocess.run(
        ["runc", "run", f"pybuild-test-{os.getpid()}-{filtered}"],
        cwd=bundle,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        pytest.fail(done.stderr[-2000:])
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


def check_build(answers: dict[str, Any]) -> None:
    build = answers["build"]
    assert build["code"] == 0, build["err"]
    lines = [line.split()[-1] for line in build["err"].splitlines() if line.startswith("#")]
    assert {"0", "context", "1000"} <= set(lines)
    assert answers["run"]["out"] == "from run\n", answers["run"]["err"]
    assert answers["save"]["code"] == 0


def test_with_dockers_filter_steps_run_in_a_chroot(bundle: Path) -> None:
    answers = run_inside(bundle, filtered=True)
    found = json.loads(answers["doctor"]["out"])
    assert found["mode"] == "chroot"
    advice = {item["name"]: item["remedy"] for item in found["findings"]}
    assert "seccomp=unconfined" in advice["namespaces"]
    check_build(answers)


def test_without_a_filter_steps_have_namespaces(bundle: Path) -> None:
    answers = run_inside(bundle, filtered=False)
    found = json.loads(answers["doctor"]["out"])
    assert found["mode"] == "rootless"
    check_build(answers)
    remedies = {item["name"]: item["remedy"] for item in found["findings"]}
    assert "systempaths=unconfined" in remedies["/proc of a step"]


def test_with_the_right_to_mount_but_not_to_pivot_steps_have_namespaces(bundle: Path) -> None:
    answers = run_inside(bundle, filtered=False, admin=True)
    assert json.loads(answers["doctor"]["out"])["mode"] == "root"
    check_build(answers)

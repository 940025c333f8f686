"""A state root on an overlay, as in a container without a volume: no overlay mount, no devices."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Pybuild

pytestmark = [pytest.mark.root, pytest.mark.sandbox, pytest.mark.requires("overlay")]
DOCKERFILE = """\
FROM busybox
RUN rm /bin/wget && mkdir -p /d/below && touch /d/a
RUN rm -rf /d && mkdir /d && touch /d/b
RUN test ! -e /bin/wget && test ! -e /d/a && mv /d /e && touch /d
COPY --from=busybox /bin/busybox /bin/wget
"""
# Without any capability but these root has no trusted attributes and makes no namespace.
CHROOT = "-all,+sys_chroot,+chown,+fowner,+dac_override,+mknod,+setuid,+setgid,+kill,+setfcap"


@pytest.mark.parametrize("limits", ["+all", CHROOT], ids=["all capabilities", "chroot"])
def test_deletions_are_recorded_all_the_same(
    limits: str, busybox: Pybuild, context: Callable[..., Path], tmp_path: Path
) -> None:
    directory = context(DOCKERFILE)
    busybox("save", "-o", tmp_path / "image.tar", "busybox")
    expected = busybox("build", "-q", directory).stdout.strip()
    outer = tmp_path / "outer"
    outer.mkdir()
    program = f"{sys.executable} -m buildkit_py"
    limited = "" if limits == "+all" else f"setpriv --bounding-set={limits} --inh-caps=-all "
    script = (
        f"cd {outer} && mount -t tmpfs none . && mkdir l u w m\n"
        "mount -t overlay overlay -o lowerdir=l,upperdir=u,workdir=w m || exit 9\n"
        "export PYBUILD_ROOT=$PWD/m/state\n"
        f"{limited}{program} load -q -i {tmp_path}/image.tar >&2\n"
        f"{limited}{program} build -q -t made {directory}\n"
        f"{limited}{program} inspect --format '{{{{json .RootFS.Layers}}}}' made\n"
        f"{limited}{program} system check >&2\n"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        env=busybox.variables(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    image, layers = done.stdout.splitlines()[-2:]
    assert image == expected, done.stderr
    assert len(json.loads(layers)) == 5

"""`RUN --device`: what a CDI specification gives to a step, and who allows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from buildkit_py.graph import Device
from buildkit_py.runtime import cdi
from tests.sandbox.harness import Rig

pytestmark = [pytest.mark.sandbox, pytest.mark.requires("overlay")]


@pytest.fixture(autouse=True)
def specification(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cdi"
    folder.mkdir()
    library = tmp_path / "library"
    library.write_text("driver\n")
    one = {
        "deviceNodes": [{"path": "/dev/one", "hostPath": "/dev/zero"}],
        "env": ["ONE=1"],
        "mounts": [{"hostPath": str(library), "containerPath": "/usr/lib/one", "options": ["ro"]}],
    }
    text = {
        "cdiVersion": "0.6.0",
        "kind": "test.org/dev",
        "devices": [
            {"name": "one", "containerEdits": one},
            {"name": "hooked", "containerEdits": {"hooks": [{"path": "/bin/true"}]}},
        ],
        "containerEdits": {"env": ["ALL=yes"]},
    }
    (folder / "test.json").write_text(json.dumps(text))
    (folder / "broken.json").write_text("{")
    defaults = ((str(folder),),)
    monkeypatch.setattr(cdi.find_devices, "__defaults__", defaults)


LOOK = "head -c 3 /dev/one | wc -c; echo $ONE $ALL; cat /usr/lib/one; echo >/usr/lib/one; true"


@pytest.mark.parametrize("name", ["test.org/dev=one", "test.org/dev=*", "test.org/dev", "dev"])
def test_a_step_gets_nodes_variables_and_mounts(rig: Rig, name: str) -> None:
    if name.endswith("*"):
        error = rig.run("true", devices=(Device(name=name),)).error
        assert error is not None
        assert "needs hooks" in error.message
        return
    done = rig.run(LOOK, devices=(Device(name=name),)).ok()
    assert done.output.startswith("3\n1 yes\ndriver\n")
    left = sorted(path.name for path in rig.directory(done.snapshot).rglob("*"))
    assert left == []


def test_a_missing_device_is_an_error_only_if_required(rig: Rig) -> None:
    rig.run("test ! -e /dev/one", devices=(Device(name="test.org/dev=two"),)).ok()
    error = rig.run("true", devices=(Device(name="test.org/dev=two", required=True),)).error
    assert error is not None
    assert "is not registered" in error.message


@pytest.mark.parametrize(
    ("allowed", "works"),
    [
        ((), False),
        (("network.host",), False),
        (("device=test.org/dev=two",), False),
        (("device",), True),
        (("device=test.org/dev=one",), True),
        (("device=test.org/dev",), True),
    ],
)
def test_devices_have_to_be_allowed(rig: Rig, allowed: tuple[str, ...], works: bool) -> None:
    rig.settings["entitlements"] = frozenset(allowed)
    error = rig.run("true", devices=(Device(name="test.org/dev=one"),)).error
    assert (error is None) is works
    if error is not None:
        assert error.message == "device test.org/dev=one is not allowed"
        assert error.hint == "build with --allow device"


YAML = """\
cdiVersion: "0.6.0"
kind: test.org/yam
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - {path: /dev/yam, hostPath: /dev/zero}
    env: [YAM=early]
"""


@pytest.mark.parametrize("suffix", ["yaml", "yml"])
def test_specifications_may_be_yaml_and_a_later_folder_counts(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    later = tmp_path / "later"
    later.mkdir()
    (tmp_path / "cdi" / f"a.{suffix}").write_text(YAML)
    (later / f"b.{suffix}").write_text(YAML.replace("early", "late"))
    (later / "other.txt").write_text("kind: [")
    defaults = ((str(tmp_path / "cdi"), str(later)),)
    monkeypatch.setattr(cdi.find_devices, "__defaults__", defaults)
    done = rig.run("head -c 3 /dev/yam | wc -c; echo $YAM", devices=(Device(name="yam=0"),)).ok()
    assert done.output == "3\nlate\n"


def test_a_file_that_cannot_be_read_is_named_where_a_device_is_missing(
    rig: Rig, tmp_path: Path
) -> None:
    (tmp_path / "cdi" / "bad.yaml").write_text("kind: [\n")
    error = rig.run("true", devices=(Device(name="test.org/two", required=True),)).error
    assert error is not None
    assert "bad.yaml" in str(error.hint)
    assert "broken.json" in str(error.hint)

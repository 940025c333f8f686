"""Networks of a step's own: the bridge as root, a user-mode stack, and what is left of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from buildkit_py.errors import PybuildError, UnsupportedHost
from buildkit_py.runtime.connect import BridgeNetwork, Network, UserModeNetwork, open_network
from buildkit_py.runtime.executor import RunHooks
from tests.sandbox.harness import Rig

pytestmark = [pytest.mark.sandbox, pytest.mark.requires("overlay")]
PROJECT = Path(__file__).resolve().parents[2]
ADDRESS = "cat /proc/net/route /proc/net/fib_trie"


@pytest.fixture
def bridge() -> Iterator[BridgeNetwork]:
    if os.geteuid() != 0:
        pytest.skip("only root makes bridges")
    with closing(BridgeNetwork()) as network:
        yield network


def links() -> set[str]:
    return {name for _index, name in socket.if_nameindex()}


def rules() -> str:
    commands = (["iptables-save"], ["nft", "list", "ruleset"])
    out = ""
    for command in commands:
        try:
            out += subprocess.run(command, capture_output=True, text=True, check=False).stdout
        except FileNotFoundError:
            continue
    return out


def connected(rig: Rig, network: Network) -> Rig:
    rig.settings = {"network": "bridge", "connect": network.hooks, "dns": network.servers}
    return rig


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


@pytest.mark.requires("iptables")
def test_a_step_on_the_bridge_has_an_address_and_a_way_out(
    rig: Rig, bridge: BridgeNetwork
) -> None:
    out = connected(rig, bridge).run(f"ls /sys/class/net; {ADDRESS}").ok().output
    assert {"eth0", "lo"} < set(out.split())
    assert "00000000" in out.split("eth0", 2)[2].split()[0], "no default route"
    assert "10.231." in out
    assert bridge.name in links()
    assert bridge.name in rules()
    bridge.close()
    assert bridge.name not in links()
    assert bridge.name not in rules()


@pytest.mark.requires("iptables")
def test_a_step_reaches_the_host_by_the_bridge(
    rig: Rig, bridge: BridgeNetwork, tmp_path: Path
) -> None:
    with Rig(tmp_path / "second", rig.busybox) as other:
        connected(rig, bridge).run("true").ok()
        gateway = f"10.231.{bridge.name.removeprefix('pybuild')}.1"
        with socket.create_server((gateway, 0)) as server:
            port = server.getsockname()[1]
            server.settimeout(20)
            talk = threading.Thread(target=greet, args=(server,))
            talk.start()
            done = connected(other, bridge).run(
                ["/bin/busybox", "nc", gateway, str(port)], network="default"
            )
            talk.join()
    assert done.ok().output == "hello\n"


@pytest.mark.requires("iptables")
def test_host_gateway_is_an_address_of_the_host_that_the_bridge_leads_to(
    rig: Rig, bridge: BridgeNetwork
) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        server.settimeout(20)
        talk = threading.Thread(target=greet, args=(server,))
        talk.start()
        done = connected(rig, bridge).run(
            f"busybox nc gw {port}", network="default", extra_hosts=(("gw", "host-gateway"),)
        )
        talk.join()
    assert done.ok().output == "hello\n"


def greet(server: socket.socket) -> None:
    client, _address = server.accept()
    with client:
        client.sendall(b"hello\n")


@pytest.mark.requires("iptables")
def test_two_builds_have_two_bridges(rig: Rig, bridge: BridgeNetwork) -> None:
    connected(rig, bridge).run("true").ok()
    with closing(BridgeNetwork()) as second:
        connected(rig, second).run("true").ok()
        assert bridge.name != second.name
        assert {bridge.name, second.name} <= links()
    assert bridge.name in links()
    assert second.name not in links()


@pytest.mark.requires("iptables")
@pytest.mark.root
def test_a_killed_build_leaves_no_bridge_and_no_rule() -> None:
    code = (
        "import os, subprocess, sys, time\n"
        "from buildkit_py.runtime.connect import BridgeNetwork\n"
        "step = subprocess.Popen(['unshare', '-n', 'cat'], stdin=subprocess.PIPE)\n"
        "while os.readlink(f'/proc/{step.pid}/ns/net') == os.readlink('/proc/self/ns/net'):\n"
        "    time.sleep(0.01)\n"
        "network = BridgeNetwork()\n"
        "network.hooks().connect(step.pid)\n"
        "print(network.name, flush=True); time.sleep(600)\n"
    )
    build = subprocess.Popen(
        [sys.executable, "-c", code], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    with build:
        assert build.stdout is not None
        made = build.stdout.readline().strip()
        was_there = made in links()
        build.send_signal(signal.SIGKILL)
    assert was_there
    wait_until(lambda: made not in links())
    wait_until(lambda: made not in rules())


def test_a_step_whose_network_cannot_be_made_does_not_run(rig: Rig) -> None:
    def refuse(_pid: int) -> None:
        raise UnsupportedHost("no network today")

    ended: list[bool] = []
    hooks = RunHooks(connect=refuse, disconnect=lambda: ended.append(True))
    rig.settings = {"network": "bridge", "connect": lambda: hooks}
    done = rig.run("echo ran")
    assert isinstance(done.error, PybuildError)
    assert done.error.message == "no network today"
    assert done.output == ""
    assert ended == [True]


@pytest.mark.requires("slirp4netns")
def test_a_user_mode_stack_serves_a_step_and_ends_with_it(rig: Rig) -> None:
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        with pytest.raises(UnsupportedHost, match="/dev/net/tun"):
            open_network(rootless=True)
        return
    network = UserModeNetwork()
    network._pasta = None  # it gives up being root of the host, and with that its way in
    out = connected(rig, network).run(f"ls /sys/class/net; {ADDRESS}").ok().output
    assert "lo" in out.split()[:2]
    assert "00000000" in out, "no default route"
    assert not slirp_processes()


def slirp_processes() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        parent = int((path.parent / "stat").read_text().rpartition(")")[2].split()[1])
        if parent == os.getpid() and words[0].endswith((b"slirp4netns", b"pasta")):
            found.append(words[0].decode())
    return found

"""The config of a stage while it grows: whole at any moment, without a copy for each."""

from __future__ import annotations

import tracemalloc

from buildkit_py.oci.config import ContainerConfig
from buildkit_py.oci.growing import GrowingConfig

START = ContainerConfig(
    env=("PATH=/bin", "PATH=/sbin", "BARE"), labels={"a": "1"}, exposed_ports=("9/tcp",), user="u"
)


def test_what_nothing_touches_stays_as_the_base_had_it() -> None:
    growing = GrowingConfig(START)
    growing.add_labels({"b": "2"})
    assert growing.whole == ContainerConfig(
        env=START.env, labels={"a": "1", "b": "2"}, exposed_ports=("9/tcp",), user="u"
    )


def test_a_moment_shows_the_config_as_it_was_then() -> None:
    growing = GrowingConfig(START)
    growing.set_env("X", "1")
    growing.add_ports(["80/tcp", "8/tcp"])
    then = growing.moment()
    before = growing.whole
    growing.set_env("PATH", "/other")
    growing.add_volumes(["/v"])
    growing.add_trigger("RUN true")
    growing.set_fields(user="", cmd=("sh",))
    later = growing.moment(since=then.end)
    assert then.config == before
    assert then.config.exposed_ports == ("8/tcp", "80/tcp", "9/tcp")
    assert later.config.env == ("PATH=/other", "BARE=", "X=1")
    assert (later.config.volumes, later.config.on_build) == (("/v",), ("RUN true",))
    assert (later.config.user, later.config.cmd) == ("", ("sh",))


def test_a_moment_knows_what_it_has_added_and_the_first_what_it_began_with() -> None:
    growing = GrowingConfig(START)
    first = growing.moment()
    growing.set_env("TOKEN", "secret")
    second = growing.moment(since=first.end)
    assert first.written["User"] == "u"
    assert second.written == {"Env": [("TOKEN", "secret")]}
    growing.add_labels({"l": "v"})
    third = growing.moment(since=second.end)
    assert third.written == {"Labels": [{"l": "v"}]}


def test_equal_trails_are_equal_changes_of_equal_starts() -> None:
    def trail(start: ContainerConfig, value: str) -> str:
        growing = GrowingConfig(start)
        growing.set_env("A", value)
        growing.set_fields(user="me")
        return growing.trail

    other = ContainerConfig(user="other")
    trails = [trail(START, "1"), trail(START, "1"), trail(START, "2"), trail(other, "1")]
    assert trails[0] == trails[1]
    assert len(set(trails)) == 3


def test_thousands_of_moments_take_no_copies() -> None:
    tracemalloc.start()
    growing = GrowingConfig(START)
    moments = []
    for number in range(20_000):
        growing.set_env(f"V{number}", "value")
        moments.append(growing.moment(since=number))
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(moments[-1].config.env) == 20_002
    assert used < 40_000_000  # a copy for each would be 1.6 GB of references alone

from __future__ import annotations

import pytest

from buildkit_py.errors import DockerfileErrors, InvalidArgument, UnsetVariable
from buildkit_py.graph import MakeDirectory, Owner
from buildkit_py.oci.config import HealthCheck
from tests.stage import file_op, history, instructions, lowered


def message_of(text: str) -> str:
    with pytest.raises(DockerfileErrors) as caught:
        instructions(text)
    return caught.value.message


# ------------------------------------------------------------------ history
@pytest.mark.parametrize(
    ("text", "created_by"),
    [
        ('ENV k=v k2="a b"', "ENV k=v k2=a b"),
        ("ENV k a  b", "ENV k=a  b"),
        ("LABEL a.b=c 'd e'=f", "LABEL a.b=c d e=f"),
        ("ARG k=v k2", "ARG k=v k2"),
        ('CMD ["a", "b c"]', 'CMD ["a" "b c"]'),
        ('CMD a "b"', 'CMD ["/bin/sh" "-c" "a \\"b\\""]'),
        ("CMD []", "CMD []"),
        ("ENTRYPOINT a", 'ENTRYPOINT ["/bin/sh" "-c" "a"]'),
        ("EXPOSE 2375 1234/UDP", "EXPOSE [1234/udp 2375/tcp]"),
        ("VOLUME /a /b", "VOLUME [/a /b]"),
        ('VOLUME ["/a b"]', "VOLUME [/a b]"),
        ("USER x:y", "USER x:y"),
        ("STOPSIGNAL SIGQUIT", "STOPSIGNAL SIGQUIT"),
        ('SHELL ["/bin/bash", "-c"]', "SHELL [/bin/bash -c]"),
        ("MAINTAINER A B <c>", "MAINTAINER A B <c>"),
        (
            "HEALTHCHECK --interval=5m --timeout=3s CMD curl",
            (
                "HEALTHCHECK {Test:[CMD-SHELL curl] Interval:5m0s Timeout:3s StartPeriod:0s"
                " StartInterval:0s Retries:0}"
            ),
        ),
        (
            'HEALTHCHECK --start-period=1h1.5s --start-interval=20ms --retries=3 CMD ["a", "b"]',
            (
                "HEALTHCHECK {Test:[CMD a b] Interval:0s Timeout:0s StartPeriod:1h0m1.5s"
                " StartInterval:20ms Retries:3}"
            ),
        ),
        (
            "HEALTHCHECK none",
            (
                "HEALTHCHECK {Test:[NONE] Interval:0s Timeout:0s StartPeriod:0s StartInterval:0s"
                " Retries:0}"
            ),
        ),
        ("WORKDIR /", "WORKDIR /"),
    ],
)
def test_each_history_entry_is_written_as_buildkit_does(text: str, created_by: str) -> None:
    stage = lowered(text)
    assert history(stage) == [created_by]
    assert stage.history[0].empty_layer
    assert stage.history[0].comment == "buildkit.dockerfile.v0"


def test_onbuild_has_no_history() -> None:
    stage = lowered("ONBUILD  run <<E\nx\nE\nONBUILD ENV a=$b")
    assert history(stage) == []
    assert stage.config.on_build == ("run <<E\nx\nE", "ENV a=$b")


# ------------------------------------------------------------------ CMD and ENTRYPOINT
def test_entrypoint_drops_a_cmd_that_it_inherits_only() -> None:
    assert lowered("ENTRYPOINT x\nCMD y").config.cmd == ("/bin/sh", "-c", "y")
    assert lowered("CMD y\nENTRYPOINT x").config.cmd == ("/bin/sh", "-c", "y")
    inherited = lowered("CMD y")
    inherited.cmd_set = False
    assert lowered("ENTRYPOINT x", inherited).config.cmd is None


def test_an_empty_entrypoint_is_stored_as_none() -> None:
    assert lowered("ENTRYPOINT x\nENTRYPOINT []").config.entrypoint is None


def test_cmd_sets_args_escaped() -> None:
    assert lowered("CMD x").config.args_escaped


# ------------------------------------------------------------------ ENV and LABEL
def test_env_replaces_in_place_and_appends() -> None:
    assert lowered("ENV a=1 b=2\nENV c=3 a=4").config.env[1:] == ("a=4", "b=2", "c=3")


def test_one_instruction_sees_the_environment_before_it() -> None:
    assert lowered("ENV a=1\nENV a=2 b=$a").config.env_map()["b"] == "1"


def test_the_legacy_form_takes_the_rest_of_the_line() -> None:
    assert lowered("ENV ONE TWO= THREE=world").config.env_map()["ONE"] == "TWO= THREE=world"


def test_keys_expand_too() -> None:
    stage = lowered("ENV k=name\nENV $k=v\nLABEL $k=w")
    assert stage.config.env_map()["name"] == "v"
    assert stage.config.labels == {"name": "w"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ENV", "ENV requires at least one argument"),
        ("ENV a", "ENV must have two arguments"),
        ("LABEL a", "LABEL must have two arguments"),
        (
            "ENV a=b c",
            'Syntax error - can\'t find = in "c". Must be of the form: name=value',
        ),
        ("ENV =b", "ENV names can not be blank"),
        ("LABEL a=b =c", "LABEL names can not be blank"),
        ("ARG", "ARG requires at least one argument"),
        ("ARG =b", "ARG names can not be blank"),
        ("USER", "USER requires exactly one argument"),
        ("WORKDIR", "WORKDIR requires exactly one argument"),
        ("STOPSIGNAL", "STOPSIGNAL requires exactly one argument"),
        ("MAINTAINER", "MAINTAINER requires exactly one argument"),
        ("EXPOSE", "EXPOSE requires at least one argument"),
        ("VOLUME", "VOLUME requires at least one argument"),
        ("VOLUME []", "VOLUME requires at least one argument"),
        ('VOLUME ["/a", " "]', "VOLUME specified can not be an empty string"),
        ("SHELL", "SHELL requires at least one argument"),
        ("SHELL []", "SHELL requires at least one argument"),
        ("SHELL /bin/sh", "SHELL requires the arguments to be in JSON form"),
        ("HEALTHCHECK", "HEALTHCHECK requires at least one argument"),
        ("HEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments"),
        ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK RUN x", 'Unknown type "RUN" in HEALTHCHECK (try CMD)'),
        (
            "HEALTHCHECK --interval=1us CMD x",
            'Interval "interval" cannot be less than 1ms',
        ),
        ("HEALTHCHECK --interval=5 CMD x", 'time: missing unit in duration "5"'),
        ("HEALTHCHECK --timeout=5x CMD x", 'time: unknown unit "x" in duration "5x"'),
        ("HEALTHCHECK --timeout=x CMD x", 'time: invalid duration "x"'),
        ("HEALTHCHECK --retries=-1 CMD x", "--retries cannot be negative (-1)"),
        ("HEALTHCHECK --retries=a CMD x", 'strconv.ParseInt: parsing "a": invalid syntax'),
        ("ONBUILD", "ONBUILD requires at least one argument"),
        ("ONBUILD onbuild RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        (
            "ONBUILD CMD [1]",
            "when using JSON array syntax, arrays must be comprised of strings only",
        ),
        ("ONBUILD env A", "ENV must have two arguments"),
        (
            "ONBUILD LABEL a=1 b",
            'Syntax error - can\'t find = in "b". Must be of the form: name=value',
        ),
        ("ONBUILD maintainer x", "MAINTAINER isn't allowed as an ONBUILD trigger"),
    ],
)
def test_each_wrong_form_has_its_text(text: str, message: str) -> None:
    assert message_of(text) == message


# ------------------------------------------------------------------ ARG
def test_a_build_arg_wins_over_the_default_and_the_global() -> None:
    stage = lowered(
        "ARG a=own\nARG b=own\nARG c\nARG d\nARG e=",
        build_args={"a": "given"},
        global_args={"b": "global", "c": "global", "d": None},
    )
    assert stage.args == {"a": "given", "b": "own", "c": "global", "d": None, "e": ""}
    assert history(stage) == ["ARG a=given", "ARG b=own", "ARG c=global", "ARG d", "ARG e="]
    assert "d" not in stage.env
    assert stage.env["e"] == ""


def test_arg_never_reaches_the_config() -> None:
    assert lowered("ARG a=1").config.env == lowered("").config.env


def test_a_default_that_is_replaced_is_not_evaluated() -> None:
    text = "ARG B=${A:?needed}"
    assert lowered(text, build_args={"B": "x"}).args == {"B": "x"}
    with pytest.raises(UnsetVariable, match="A: needed") as caught:
        lowered(text)
    assert caught.value.span is not None
    assert caught.value.span.start.column == 7


def test_defaults_see_the_names_before_them() -> None:
    assert lowered('ARG a="x y" b=$a').args == {"a": "x y", "b": "x y"}


def test_a_doc_comment_describes_its_name() -> None:
    item = instructions("# version what to build\nARG version other")[0]
    assert item.description("version") == "what to build"
    assert item.description("other") == ""


# ------------------------------------------------------------------ EXPOSE
@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("80", ("80/tcp",)),
        ("80/TCP 81/sctp", ("80/tcp", "81/sctp")),
        ("7000-7002", ("7000/tcp", "7001/tcp", "7002/tcp")),
        ("127.0.0.1:80:8080", ("8080/tcp",)),
        ("8000:80", ("80/tcp",)),
        ("[::1]:80:8080/udp", ("8080/udp",)),
        ("8000-8010:80", ("80/tcp",)),
    ],
)
def test_expose_adds_one_key_a_port(text: str, ports: tuple[str, ...]) -> None:
    assert lowered(f"EXPOSE {text}").config.exposed_ports == ports


def test_expose_expands_into_several_words() -> None:
    stage = lowered('ARG P="3000 4000/udp"\nEXPOSE $P\nEXPOSE 80')
    assert stage.config.exposed_ports == ("3000/tcp", "4000/udp", "80/tcp")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("80/foo", 'invalid port: "80/foo": invalid proto: foo'),
        ("a", "invalid containerPort: a"),
        ("65536", "invalid containerPort: 65536"),
        ("9-8", "invalid containerPort: 9-8"),
        ("x:80", "invalid hostPort: x"),
        ("1.2.3:1:80", "invalid IP address: 1.2.3"),
        ("1-3:80-81", "invalid ranges specified for container and host Ports: 80-81 and 1-3"),
        ("/tcp", 'invalid port: "/tcp": no port specified'),
    ],
)
def test_each_wrong_port_has_its_text(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        lowered(f"EXPOSE {text}")
    assert caught.value.message == message


# ------------------------------------------------------------------ others
def test_user_is_stored_as_written_after_expansion() -> None:
    assert lowered("ENV U=me\nUSER $U:staff").config.user == "me:staff"


def test_workdir_joins_and_makes_the_directory_as_the_current_user() -> None:
    stage = lowered("USER me:staff\nWORKDIR /a/\nWORKDIR b/../c/")
    assert stage.config.working_dir == "/a/c"
    assert file_op(stage).actions == (
        MakeDirectory(path="/a/c", owner=Owner(user="me", group="staff")),
    )
    assert history(stage)[-1] == "WORKDIR /a/c"
    assert not stage.history[-1].empty_layer


def test_workdir_takes_the_epoch() -> None:
    (action,) = file_op(lowered("WORKDIR /a", epoch=5)).actions
    assert isinstance(action, MakeDirectory)
    assert action.mtime == 5


def test_volumes_merge() -> None:
    assert lowered("ENV v=/b\nVOLUME /c $v\nVOLUME /a").config.volumes == ("/a", "/b", "/c")


def test_a_volume_that_expands_to_nothing_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="VOLUME specified can not be an empty string"):
        lowered("VOLUME $none")


@pytest.mark.parametrize("signal", ["SIGTERM", "term", "SIGRTMIN+3", "RTMAX-1", "9", "SIGRTMIN"])
def test_a_known_signal_is_stored_as_written(signal: str) -> None:
    assert lowered(f"STOPSIGNAL {signal}").config.stop_signal == signal


@pytest.mark.parametrize("signal", ["SIGNOPE", "0", "", "RTMIN+16", "1x"])
def test_an_unknown_signal_is_refused(signal: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid signal: "):
        lowered(f'ENV s="{signal}"\nSTOPSIGNAL $s')


def test_a_health_check_is_stored_in_nanoseconds() -> None:
    assert lowered("HEALTHCHECK --interval=1m30s --retries=2 CMD x y").config.healthcheck == (
        HealthCheck(test=("CMD-SHELL", "x y"), interval=90_000_000_000, retries=2)
    )


def test_maintainer_sets_the_author() -> None:
    assert lowered("MAINTAINER me").author == "me"


def test_labels_merge() -> None:
    assert lowered("LABEL a=1 b=2\nLABEL b=3").config.labels == {"a": "1", "b": "3"}


@pytest.mark.parametrize(
    "body",
    ["COPY a", "HEALTHCHECK foo", "NOPE x", "ENV =1", "COPY --nope a b", "RUN", "CMD ['a']"],
)
def test_the_rest_of_a_trigger_is_checked_when_it_fires(body: str) -> None:
    assert lowered(f"ONBUILD {body}").config.on_build == (body,)


def test_flags_of_stopsignal_are_dropped() -> None:
    assert lowered("STOPSIGNAL --x=1 9").config.stop_signal == "9"


def test_bytes_that_are_no_text_are_kept_for_run_and_marked_in_arrays() -> None:
    stage = lowered('ENV a=\udcff\nCMD ["\udcff"]')
    assert stage.config.env[-1] == "a=\udcff"
    assert stage.config.cmd == ("\ufffd",)


def test_env_after_arg_and_arg_after_env_win_by_position() -> None:
    stage = lowered("ENV X=e\nARG X=v\nENV Y=$X\nRUN x")
    assert stage.config.env[1:] == ("X=e", "Y=v")
    assert history(stage)[-1] == "RUN |1 X=v /bin/sh -c x # buildkit"
    stage = lowered("ARG X=v\nENV X=e\nENV Y=$X\nRUN x")
    assert stage.config.env[1:] == ("X=e", "Y=e")
    assert history(stage)[-1] == "RUN |1 X=e /bin/sh -c x # buildkit"

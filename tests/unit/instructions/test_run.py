from __future__ import annotations

import pytest

from buildkit_py.errors import DockerfileErrors, InvalidFlag, PlanError
from buildkit_py.graph import (
    BindMount,
    CacheMount,
    Device,
    ExecMount,
    SecretMount,
    SshMount,
    TmpfsMount,
)
from buildkit_py.instructions.run import Run
from tests.stage import CONTEXT, OTHER, exec_op, history, instructions, lowered


def mount(value: str, **inputs: object) -> ExecMount:
    (found,) = exec_op(lowered(f"RUN --mount={value} x", **inputs)).mounts
    return found


# ------------------------------------------------------------------ command
def test_the_shell_form_runs_through_the_shell() -> None:
    stage = lowered("RUN echo hi")
    assert exec_op(stage).arguments == ("/bin/sh", "-c", "echo hi")
    assert history(stage) == ["RUN /bin/sh -c echo hi # buildkit"]


def test_the_exec_form_runs_as_it_is() -> None:
    stage = lowered('RUN ["ls", "-l"]')
    assert exec_op(stage).arguments == ("ls", "-l")
    assert history(stage) == ["RUN ls -l # buildkit"]


def test_shell_changes_later_runs() -> None:
    stage = lowered('SHELL ["/bin/bash", "-ec"]\nRUN x')
    assert exec_op(stage).arguments == ("/bin/bash", "-ec", "x")


def test_the_command_is_not_expanded() -> None:
    assert exec_op(lowered("ENV a=b\nRUN echo $a")).arguments[-1] == "echo $a"


def test_declared_arguments_stand_before_the_command_in_history() -> None:
    stage = lowered("ARG B=2\nARG A=1\nARG B=3\nARG none\nRUN x")
    assert history(stage)[-1] == "RUN |3 B=3 A=1 none= /bin/sh -c x # buildkit"
    assert exec_op(stage).env[1:] == ("A=1", "B=3")


def test_a_sole_here_document_is_the_shells_text() -> None:
    stage = lowered("RUN <<-EOF\n\techo a\n\techo $b\nEOF")
    assert exec_op(stage).arguments == ("/bin/sh", "-c", "echo a\necho $b\n")
    assert stage.root is not None
    assert stage.root.options.name == "[stage 1/9] RUN <<-EOF (echo a...)"


def test_a_here_document_with_a_shebang_becomes_a_file() -> None:
    stage = lowered("RUN <<-EOF\n\t#!/bin/awk -f\n\tBEGIN {}\nEOF")
    assert exec_op(stage).arguments == ("/bin/sh", "-c", "/dev/pipes/EOF")
    assert exec_op(stage).heredocs == (("EOF", "#!/bin/awk -f\nBEGIN {}\n"),)


def test_with_more_words_the_shell_gets_the_documents() -> None:
    stage = lowered("RUN <<-A cat | 3<<B sh\n\ta\nA\nb\nB")
    assert exec_op(stage).arguments[-1] == "<<-A cat | 3<<B sh\n\ta\nA\nb\nB"
    assert exec_op(stage).heredocs == ()


def test_secret_variables_are_masked_in_the_name() -> None:
    stage = lowered("ENV a=1\nRUN --mount=type=secret,id=t,env=TOKEN echo $TOKEN $a $no '$a'")
    assert stage.root is not None
    assert stage.root.options.name.endswith("echo **** 1 $no '$a'")


# ------------------------------------------------------------------ flags
def test_network_security_and_devices_reach_the_op() -> None:
    op = exec_op(
        lowered(
            "RUN --network=host --security=insecure --device=vendor/class=x,required --device=y z",
            entitlements=frozenset({"network.host", "security.insecure"}),
        )
    )
    assert (op.network, op.security) == ("host", "insecure")
    assert op.devices == (Device(name="vendor/class=x", required=True), Device(name="y"))


@pytest.mark.parametrize(
    ("flag", "name"),
    [("--network=host", "network.host"), ("--security=insecure", "security.insecure")],
)
def test_a_missing_entitlement_is_an_error(flag: str, name: str) -> None:
    with pytest.raises(PlanError, match=f"{name} is not allowed"):
        lowered(f"RUN {flag} x")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--network=hots", 'invalid network mode "hots" (did you mean host?)'),
        ("--security=x", 'security "x" is not valid'),
    ],
)
def test_a_wrong_value_is_refused(flag: str, message: str) -> None:
    with pytest.raises(DockerfileErrors) as caught:
        instructions(f"RUN {flag} x")
    assert caught.value.message == message


def test_proxies_are_passed_beside_the_environment() -> None:
    op = exec_op(lowered("RUN x", proxy_env={"http_proxy": "p"}))
    assert op.proxy_env == ("http_proxy=p",)
    assert not any("proxy" in entry for entry in op.env)


# ------------------------------------------------------------------ mounts
def test_bind_is_the_default_and_reads_the_context() -> None:
    stage = lowered("WORKDIR /w\nRUN --mount=target=x,source=a/../b x")
    assert exec_op(stage).mounts == (BindMount(target="/w/x", input=1, source="/b"),)
    assert stage.root is not None
    assert stage.root.inputs[1] is CONTEXT


def test_bind_from_a_stage_and_writable() -> None:
    stage = lowered("RUN --mount=type=bind,from=other,dst=/x,rw x")
    assert exec_op(stage).mounts == (BindMount(target="/x", input=1, writable=True),)
    assert stage.root is not None
    assert stage.root.inputs[1] is OTHER


def test_the_order_in_which_mounts_are_written_is_no_part_of_a_step() -> None:
    trees = ["type=bind,target=/b", "type=cache,target=/a", "type=bind,from=other,target=/c/d"]
    trees += ["type=tmpfs,target=/c"]
    secrets = ["type=secret,id=x", "type=secret,id=a"]
    one, other = (
        lowered("RUN " + " ".join(f"--mount={item}" for item in [*mounts, *secrets]) + " x")
        for mounts in (trees, trees[::-1])
    )
    assert exec_op(one) == exec_op(other)
    assert one.root is not None
    assert other.root is not None
    assert one.root.inputs == other.root.inputs
    assert one.root.inputs[1:] == (CONTEXT, OTHER)
    targets = [getattr(item, "target", None) for item in exec_op(one).mounts]
    assert targets == ["/a", "/b", "/c", "/c/d", "/run/secrets/x", "/run/secrets/a"]


def test_bind_from_an_argument() -> None:
    stage = lowered("ARG S=other\nRUN --mount=from=$S,target=/x x")
    assert stage.root is not None
    assert stage.root.inputs[1] is OTHER


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("type=cache,target=/c/", CacheMount(target="/c", id="/c")),
        (
            "type=cache,target=/c,id=n,sharing=locked,ro,mode=0700,uid=1,gid=2",
            CacheMount(
                target="/c", id="n", sharing="locked", readonly=True, mode=0o700, uid=1, gid=2
            ),
        ),
        (
            "type=cache,target=/c,from=other,source=s",
            CacheMount(target="/c", id="/c", input=1, source="/s"),
        ),
        ("type=cache,target=/c,from=scratch", CacheMount(target="/c", id="/c")),
        ("type=tmpfs,target=/t", TmpfsMount(target="/t")),
        ("type=tmpfs,target=/t,size=128m", TmpfsMount(target="/t", size=128 << 20)),
        ("type=secret,id=a/tok", SecretMount(id="a/tok", target="/run/secrets/tok")),
        ("type=secret,src=tok", SecretMount(id="tok", target="/run/secrets/tok")),
        ("type=secret,target=/a/b", SecretMount(id="b", target="/a/b")),
        ("type=secret,id=t,env=T", SecretMount(id="t", target=None, env="T")),
        (
            "type=secret,id=t,env=T,target=/x,required,mode=0440,uid=5,gid=6",
            SecretMount(id="t", target="/x", env="T", required=True, mode=0o440, uid=5, gid=6),
        ),
        ("type=ssh", SshMount(id="default", target="/run/buildkit/ssh_agent.0")),
        (
            "type=ssh,id=k,required=true,target=s,mode=0666",
            SshMount(id="k", target="/s", required=True, mode=0o666),
        ),
        ("TYPE=TMPFS,Target=/t", TmpfsMount(target="/t")),
        ('"type=tmpfs","target=/a,b"', TmpfsMount(target="/a,b")),
    ],
)
def test_each_mount_type_has_its_defaults(value: str, expected: ExecMount) -> None:
    quoted = f"'{value}'" if '"' in value else value
    assert mount(quoted) == expected


def test_the_second_agent_socket_has_the_next_number() -> None:
    found = exec_op(lowered("RUN --mount=type=ssh --mount=type=ssh,id=b x")).mounts
    assert [item.target for item in found] == [
        "/run/buildkit/ssh_agent.0",
        "/run/buildkit/ssh_agent.1",
    ]


def test_the_cache_namespace_is_part_of_the_id() -> None:
    found = mount("type=cache,target=/c", cache_namespace="ns")
    assert isinstance(found, CacheMount)
    assert found.id == "ns//c"


def test_values_expand() -> None:
    (found,) = exec_op(lowered("ARG ID=i T=tmpfs\nRUN --mount=type=$T,target=/x/${ID} x")).mounts
    assert found == TmpfsMount(target="/x/i")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("typ=tmpfs", "unexpected key 'typ' in 'typ=tmpfs' (did you mean type?)"),
        ("type=tmp", 'unsupported mount type "tmp" (did you mean tmpfs?)'),
        ("type=zzzzz", 'unsupported mount type "zzzzz"'),
        (
            "type=cache,target=/c,sharing=shred",
            'unsupported sharing value "shred" (did you mean shared?)',
        ),
        ("target", "invalid field 'target' must be a key=value pair"),
        ("required,type=secret,id=a", "unexpected key 'required' for mount type 'bind'"),
        ("size=1m,type=tmpfs,target=/t", "unexpected key 'size' for mount type 'bind'"),
        ("type=cache,target=/c,size=1", "unexpected key 'size' for mount type 'cache'"),
        ("type=tmpfs,target=/t,size=x", "invalid value for size: x"),
        ("target=/x,mode=0644", 'mode not allowed for "bind" type mounts'),
        ("type=tmpfs,target=/x,uid=1", 'uid not allowed for "tmpfs" type mounts'),
        ("target=/x,gid=1", 'gid not allowed for "bind" type mounts'),
        ("type=cache,target=/x,mode=9", "invalid value 9 for mode"),
        ("type=cache,target=/x,uid=-1", "invalid value -1 for uid"),
        ("target=/x,ro=maybe", "invalid value for ro: maybe"),
        ("target=/x,sharing=locked", "invalid cache sharing set for bind mount"),
        ("type=secret", "invalid secret mount. one of source, target required"),
        ("type=secret,id=a,source=b", "both source and id can't be set"),
        ("type=secret,id=a,from=b", "secret mount should not have a from"),
        ("type=secret,id=a,sharing=locked", "secret mount should not define sharing"),
        ("type=ssh,source=b", "ssh does not support source"),
    ],
)
def test_each_wrong_mount_has_its_text(value: str, message: str) -> None:
    with pytest.raises(InvalidFlag) as caught:
        lowered(f"RUN --mount={value} x")
    assert caught.value.message == message
    assert caught.value.span is not None
    assert (caught.value.span.start.line, caught.value.span.start.column) == (2, 5)


@pytest.mark.parametrize("value", ["typ=tmpfs", "type=tmp,target=/x", "target"])
def test_a_wrong_mount_is_no_error_while_parsing(value: str) -> None:
    assert len(instructions(f"RUN --mount={value} x")) == 1


def test_what_a_secret_cannot_be_taken_from_is_not_looked_for() -> None:
    found = instructions("RUN --mount=type=secret,id=a,from=image x")[0]
    assert isinstance(found, Run)
    assert found.mounts[0].from_ == ""


@pytest.mark.parametrize(
    ("value", "message"),
    [("", "failed to parse csv mounts: EOF"), ("'target=/x,\"a'", "failed to parse csv mounts:")],
)
def test_a_mount_that_is_no_record_is_refused_while_parsing(value: str, message: str) -> None:
    with pytest.raises(DockerfileErrors) as caught:
        instructions(f"RUN --mount={value} x")
    assert caught.value.message.startswith(message)


def test_a_mount_without_target_stands_at_the_working_directory() -> None:
    found = exec_op(lowered("WORKDIR /w\nRUN --mount=type=tmpfs x")).mounts
    assert found == (TmpfsMount(target="/w"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("RUN --mount=target=/ x", 'invalid mount target "/"'),
        ("RUN --mount=type=cache x", 'invalid mount target "/"'),
        ("RUN --mount=type=secret,id=a,target=/ x", 'invalid mount target "/"'),
        ("RUN --mount=type=ssh,target=/. x", 'invalid mount target "/"'),
        ("RUN --mount=type=secret,id=a,from=b x", "secret mount should not have a from"),
        ("ARG T=nope\nRUN --mount=type=$T,target=/x x", 'unsupported mount type "nope"'),
    ],
)
def test_what_only_shows_after_expansion_is_refused_then(text: str, message: str) -> None:
    with pytest.raises(InvalidFlag) as caught:
        lowered(text)
    assert caught.value.message == message

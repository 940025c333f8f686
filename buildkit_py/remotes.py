"""URLs of ADD, contexts and named contexts; git ones as `…#ref:subdir` or `…?key=value`."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import parse_qsl, unquote, urlsplit

from buildkit_py.errors import UsageError
from buildkit_py.graph import GitOp

_SCP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*@[A-Za-z0-9][A-Za-z0-9.-]*:(?!//)[^?#]+")
_SCHEMES = frozenset({"git", "ssh"})
_WEB = frozenset({"http", "https"})
_HOSTED = "github.com/"
_COMMIT = re.compile(r"[0-9a-f]{7,64}\Z")
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True", ""})
_FLAGS = frozenset({"keep-git-dir", "submodules", "fetch-by-commit"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


def is_git_url(text: str, *, context: bool = False) -> bool:
    """Whether a source is a git repository. `github.com/…` is one only as a build `context`."""
    if text.startswith(_HOSTED):
        return context
    if "://" not in text:
        return _SCP.match(text) is not None
    scheme = text.partition("://")[0].lower()
    if scheme in _WEB:
        return urlsplit(text).path.endswith(".git")
    return scheme in _SCHEMES


def is_web_url(text: str) -> bool:
    """Whether a source is an http or https URL."""
    return text.partition("://")[0].lower() in _WEB and "://" in text


def web_filename(url: str) -> str | None:
    """The file name that a URL's path ends in, `%xx` decoded. None for what is no URL."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return None
    name = posixpath.basename(posixpath.normpath(unquote(parts.path, errors="surrogateescape")))
    if not host or "\0" in name:
        return None
    return name if name not in {"", ".", ".."} else "__unnamed__"


def parse_git_url(
    text: str, *, keep_git_dir: bool | None = None, checksum: str | None = None
) -> GitOp:
    """Decode a git URL; the arguments are what flags said. Raises UsageError."""
    text = f"https://{text}" if text.startswith(_HOSTED) else text
    remote, _, fragment = text.partition("#")
    remote, _, query = remote.partition("?")
    ref, _, subdir = fragment.partition(":")
    values = _query(query)
    ref = _one_ref(ref, values)
    subdir = _agree("subdir", subdir, values.get("subdir", ""))
    commit = _agree("checksum", values.get("commit", ""), values.get("checksum", ""))
    if commit and checksum and commit != checksum:
        raise UsageError(f'checksum mismatch "{checksum}" != "{commit}"')
    commit = commit or checksum or ""
    if commit and not _COMMIT.match(commit):
        raise UsageError(f"invalid git checksum {commit!r}", hint="expected a commit's hex digits")
    if values.get("mtime", "checkout") not in {"checkout", "commit"}:
        raise UsageError(f'invalid mtime "{values["mtime"]}"', hint="use checkout or commit")
    _check_remote(remote, ref)
    keep = _flag(values, "keep-git-dir", default=bool(keep_git_dir))
    if keep_git_dir is not None and keep != keep_git_dir:
        raise UsageError("inconsistent keep-git-dir configuration")
    return GitOp(
        remote=remote,
        ref=ref,
        subdir=_clean(subdir),
        keep_git_dir=keep,
        submodules=_flag(values, "submodules", default=True),
        checksum=commit or None,
        commit_mtime=values.get("mtime") == "commit",
        fetch_by_commit=_flag(values, "fetch-by-commit", default=False),
    )


def _query(query: str) -> dict[str, str]:
    known = "ref tag branch commit checksum subdir keep-git-dir submodules mtime fetch-by-commit"
    out: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in known.split():
            raise UsageError(f'unexpected query "{key}"', hint=f"known: {known}")
        if key in out:
            raise UsageError(f'query "{key}" has multiple values')
        if not value and key not in _FLAGS:
            raise UsageError(f'query "{key}" has no value')
        out[key] = value
    return out


def _one_ref(fragment: str, values: dict[str, str]) -> str:
    if values.get("branch") and values.get("tag"):
        raise UsageError("branch conflicts with tag")
    ref = _agree("ref", fragment, values.get("ref", ""))
    for key, prefix in (("branch", "refs/heads/"), ("tag", "refs/tags/")):
        if values.get(key):
            if ref and ref not in {values[key], prefix + values[key]}:
                raise UsageError(f'ref conflicts: "{ref}" vs "{values[key]}"')
            return prefix + values[key].removeprefix(prefix)
    return ref


def _agree(what: str, first: str, second: str) -> str:
    if first and second and first != second:
        raise UsageError(f'{what} conflicts: "{first}" vs "{second}"')
    return first or second


def _flag(values: dict[str, str], key: str, *, default: bool) -> bool:
    if key not in values:
        return default
    if values[key] in _TRUE:
        return True
    if values[key] in _FALSE:
        return False
    raise UsageError(f'invalid value "{values[key]}" for {key}', hint="use true or false")


def _check_remote(remote: str, ref: str) -> None:
    # both become arguments of a program, so neither may look like an option
    if remote.startswith("-") or "::" in remote.partition("://")[0] or not remote.isprintable():
        raise UsageError(f"invalid git repository {remote!r}")
    bad = ref.startswith("-") or ".." in ref or not ref.isprintable()
    if bad or any(c in ref for c in " ~^:?*[\\"):
        raise UsageError(f"invalid git ref {ref!r}")


def _clean(subdir: str) -> str:
    """A path below the repository's root; `..` stops there."""
    parts: list[str] = []
    for part in subdir.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in {"", "."}:
            parts.append(part)
    return "/".join(parts)

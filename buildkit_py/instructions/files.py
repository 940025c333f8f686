"""What COPY and ADD share: sources and destination, and their lowering to a FileOp."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from buildkit_py.errors import InvalidArgument, SyntaxProblem, UsageError
from buildkit_py.expansion import ExpansionError
from buildkit_py.graph import (
    CopyFiles,
    FileAction,
    FileOp,
    HttpOp,
    MakeFile,
    MergeOp,
    Owner,
    Vertex,
)
from buildkit_py.heredocs import Heredoc, parse_marker
from buildkit_py.instructions.base import display_text
from buildkit_py.instructions.ownership import check_linked_owner, check_mode, parse_owner
from buildkit_py.lines import LogicalLine
from buildkit_py.remotes import is_git_url, is_web_url, parse_git_url, web_filename

if TYPE_CHECKING:
    from collections.abc import Sequence

    from buildkit_py.expansion import Expander
    from buildkit_py.stage_builder import StageBuilder
    from buildkit_py.syntax import Arguments

_DANGLING = re.compile(r"\d*<<-?\Z")
_CHECKSUM = re.compile(r"(?:sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """Sources that are files or URLs, here-documents, and the destination."""

    sources: tuple[str, ...]
    destination: str
    documents: tuple[Heredoc, ...] = ()


def parse_paths(arguments: Arguments) -> Paths:
    """Split the operands; every source that is a marker takes its body. Raises SyntaxProblem."""
    keyword = arguments.line.keyword.upper()
    operands = _join_markers(arguments.operands) if arguments.json is None else arguments.operands
    if len(operands) < 2:
        raise SyntaxProblem(
            f"{keyword} requires at least two arguments, but only one was provided."
            " Destination could not be determined",
            span=arguments.operands_span,
        )
    *sources, destination = operands
    if _marker(destination) is not None:
        raise SyntaxProblem(
            f"{keyword} cannot accept a heredoc as a destination",
            span=arguments.line.find(destination),
        )
    bodies = {heredoc.name: heredoc for heredoc in arguments.heredocs}
    files: list[str] = []
    documents: list[Heredoc] = []
    for source in sources:
        marker = _marker(source)
        if marker is None:
            files.append(source)
        else:
            documents.append(bodies.get(marker.name, marker))
    return Paths(sources=tuple(files), destination=destination, documents=tuple(documents))


def _marker(word: str) -> Heredoc | None:
    try:
        return parse_marker(word) if "<<" in word else None
    except ExpansionError:
        return None


def _join_markers(words: Sequence[str]) -> tuple[str, ...]:
    """`<< EOF` is one word, as it is for the line splitter."""
    out: list[str] = []
    for word in words:
        if out and "<<" in out[-1] and _DANGLING.match(out[-1]):
            out[-1] += f" {word}"
        else:
            out.append(word)
    return tuple(out)


def expand_paths(paths: Paths, expander: Expander) -> Paths:
    """Sources, destination, and the bodies whose markers are not quoted."""
    return Paths(
        sources=tuple(expander.word(source) for source in paths.sources),
        destination=expander.word(paths.destination),
        documents=tuple(_expanded_document(item, expander) for item in paths.documents),
    )


def _expanded_document(document: Heredoc, expander: Expander) -> Heredoc:
    body = document.content
    if document.expand:
        body = expander.heredoc(body)
    return Heredoc(name=document.name, body=body, expand=False, descriptor=document.descriptor)


# ------------------------------------------------------------------ values
def document_name(document: Heredoc, line: LogicalLine) -> str:
    """The file name that a here-document gets: one path component. Raises InvalidArgument."""
    name = document.name.lstrip("/")
    if not name or "/" in name or "\0" in name or name in {".", ".."}:
        raise InvalidArgument(
            f'"{document.name}" cannot name the file of a heredoc', span=line.find(document.name)
        )
    return name


def contains_wildcards(path: str) -> bool:
    """Whether a path holds unescaped pattern characters (`*`, `?`, `[`)."""
    escaped = False
    for character in path:
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character in "*?[":
            return True
    return False


def clean(path: str) -> str:
    """An absolute path in normal form; `..` stops at the root."""
    return "/" + posixpath.normpath("/" + path).lstrip("/")


# ------------------------------------------------------------------ lowering
@dataclass(frozen=True, slots=True, kw_only=True)
class FileTransfer:
    """A COPY or ADD, expanded, with everything that its lowering needs."""

    keyword: str
    line: LogicalLine
    paths: Paths
    source: Vertex | None  # what local sources are taken from
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()
    keep_owner: bool = False
    unpack_local: bool = False
    unpack_remote: bool = False
    keep_git_dir: bool | None = None
    checksum: str = ""

    @property
    def is_add(self) -> bool:
        """ADD takes URLs and repositories."""
        return self.keyword == "ADD"


@dataclass(slots=True)
class _Builder:
    """Collects actions and the inputs that they name by index."""

    transfer: FileTransfer
    stage: StageBuilder
    name: str
    owner: Owner | None
    mode: str | None
    destination: str
    directory: bool
    inputs: list[Vertex | None]
    actions: list[FileAction] = field(default_factory=list)


def lower_transfer(transfer: FileTransfer, stage: StageBuilder) -> None:
    """Make the FileOp (and with --link the MergeOp), and the history entry."""
    line = transfer.line
    mode = check_mode(transfer.chmod, line.find(transfer.chmod))
    _check_checksum(transfer)
    linked = transfer.link and not transfer.chmod
    owner = parse_owner(transfer.chown)
    if linked and owner is not None:
        check_linked_owner(owner, line.find(transfer.chown))
    written = transfer.paths.destination
    destination = clean(written if written.startswith("/") else f"{stage.workdir}/{written}")
    text = display_text(line.text, stage.env, escape=stage.inputs.escape)
    builder = _Builder(
        transfer=transfer,
        stage=stage,
        name=text,
        owner=owner,
        mode=mode,
        destination=destination,
        directory=written in {"", "."} or written.endswith(("/", "/.")),
        inputs=[None if linked else stage.root],
    )
    for source in transfer.paths.sources:
        _add_source(builder, source)
    for document in transfer.paths.documents:
        builder.actions.append(_make_file(builder, document))
    _warn_of_plain_destination(builder)
    op = FileOp(actions=tuple(builder.actions))
    inputs = tuple(builder.inputs)
    if linked and stage.root is not None:
        layer = stage.add(op, inputs, text=text, span=line.span)
        root = stage.add_internal(
            MergeOp(), (stage.root, layer), name=f"LINK {text}", text=text, span=line.span
        )
    else:
        root = stage.add(op, inputs, text=text, span=line.span)
    stage.commit_layer(root, _history(transfer))


def _history(transfer: FileTransfer) -> str:
    parts = [transfer.keyword]
    if transfer.parents:
        parts.append("--parents")
    if transfer.chown:
        parts.append(f"--chown={transfer.chown}")
    if transfer.chmod:
        parts.append(f"--chmod={transfer.chmod}")
    parts += transfer.paths.sources
    parts += [f"<<{document.name}" for document in transfer.paths.documents]
    return " ".join([*parts, transfer.paths.destination, "# buildkit"])


def _check_checksum(transfer: FileTransfer) -> None:
    if not transfer.checksum:
        return
    span = transfer.line.find("--checksum")
    if len(transfer.paths.sources) != 1:
        raise InvalidArgument("checksum can't be specified for multiple sources", span=span)
    source = transfer.paths.sources[0]
    if is_git_url(source):
        return
    if not is_web_url(source):
        raise InvalidArgument("checksum requires HTTP(S) or Git sources", span=span)
    if not _CHECKSUM.match(transfer.checksum):
        raise InvalidArgument(
            f"invalid checksum digest format: {transfer.checksum}",
            span=span,
            hint="expected sha256:<64 hex digits>",
        )


def _add_source(builder: _Builder, source: str) -> None:
    transfer = builder.transfer
    if is_git_url(source):
        if not transfer.is_add:
            raise _no_remote(builder, source, "a git ref")
        builder.actions.append(_git(builder, source))
    elif is_web_url(source):
        if not transfer.is_add:
            raise _no_remote(builder, source, "a URL")
        builder.actions.append(_download(builder, source))
    else:
        builder.actions.append(_local(builder, source))


def _no_remote(builder: _Builder, source: str, what: str) -> InvalidArgument:
    return InvalidArgument(
        f"source can't be {what} for COPY",
        span=builder.transfer.line.find(source),
        hint="ADD takes remote sources",
    )


def _local(builder: _Builder, source: str) -> CopyFiles:
    transfer = builder.transfer
    pivot, separator, below = source.partition("/./")
    pivoted = transfer.parents and bool(separator)
    path = clean(f"{pivot}/{below}" if pivoted else source)
    return CopyFiles(
        input=_input(builder, transfer.source),
        source=path,
        destination=builder.destination,
        wildcard=contains_wildcards(path),
        directory_destination=builder.directory,
        owner=builder.owner,
        mode=builder.mode,
        keep_owner=transfer.keep_owner,
        unpack=transfer.unpack_local,
        parents=transfer.parents,
        parents_pivot=clean(pivot) if pivoted else "",
        exclude=transfer.exclude,
        follow_destination_links=builder.inputs[0] is not None or not transfer.link,
        mtime=builder.stage.inputs.epoch,
    )


def _remote(builder: _Builder, vertex: Vertex, source: str, *, unpack: bool) -> CopyFiles:
    return CopyFiles(
        input=_input(builder, vertex),
        source=source,
        destination=builder.destination,
        directory_destination=builder.directory,
        owner=builder.owner,
        mode=builder.mode,
        unpack=unpack,
        exclude=builder.transfer.exclude,
        follow_destination_links=builder.inputs[0] is not None or not builder.transfer.link,
        mtime=builder.stage.inputs.epoch,
    )


def _git(builder: _Builder, source: str) -> CopyFiles:
    transfer = builder.transfer
    span = transfer.line.find(source)
    try:
        op = parse_git_url(
            source, keep_git_dir=transfer.keep_git_dir, checksum=transfer.checksum or None
        )
    except UsageError as error:
        raise InvalidArgument(error.message, span=span, hint=error.hint) from None
    vertex = builder.stage.add_internal(op, (), name=builder.name, text=builder.name, span=span)
    return _remote(builder, vertex, "/", unpack=False)


def _download(builder: _Builder, source: str) -> CopyFiles:
    transfer = builder.transfer
    span = transfer.line.find(source)
    filename = web_filename(source)
    if filename is None:
        raise InvalidArgument(f"invalid URL {source!r}", span=span)
    op = HttpOp(url=source, filename=filename, checksum=transfer.checksum or None)
    vertex = builder.stage.add_internal(op, (), name=builder.name, text=builder.name, span=span)
    return _remote(builder, vertex, f"/{filename}", unpack=transfer.unpack_remote)


def _make_file(builder: _Builder, document: Heredoc) -> MakeFile:
    destination = builder.destination
    if builder.directory and not destination.endswith("/"):
        destination += "/"
    return MakeFile(
        destination=destination,
        name=document_name(document, builder.transfer.line),
        content=document.body,
        mode=builder.mode,
        owner=builder.owner,
        mtime=builder.stage.inputs.epoch,
    )


def _input(builder: _Builder, vertex: Vertex | None) -> int:
    for index, known in enumerate(builder.inputs[1:], 1):
        if known == vertex:
            return index
    builder.inputs.append(vertex)
    return len(builder.inputs) - 1


def _warn_of_plain_destination(builder: _Builder) -> None:
    paths = builder.transfer.paths
    if len(paths.sources) + len(paths.documents) < 2 or builder.directory:
        return
    if f"{builder.stage.directory}/".startswith(f"{builder.destination}/"):
        return  # the working directory and what is above it exist
    builder.stage.warn(
        f"{builder.transfer.keyword} has several sources, so its destination"
        f' "{paths.destination}" should end with a slash',
        builder.transfer.line.span,
    )

"""COPY: files from the context, a stage, a named context or an image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from buildkit_py.instructions.base import Instruction, instruction
from buildkit_py.instructions.files import (
    FileTransfer,
    Paths,
    expand_paths,
    lower_transfer,
    parse_paths,
)
from buildkit_py.instructions.flags import FlagSet
from buildkit_py.syntax import Arguments, Shape

if TYPE_CHECKING:
    from buildkit_py.expansion import Expander
    from buildkit_py.heredocs import Heredoc
    from buildkit_py.stage_builder import StageBuilder


@instruction("COPY", Shape.PATHS)
@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Instruction):
    """`COPY [flags] source … destination`; `documents` are here-documents among the sources."""

    sources: tuple[str, ...]
    destination: str
    documents: tuple[Heredoc, ...] = ()
    from_: str = ""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()

    @classmethod
    def parse(cls, arguments: Arguments) -> Self:
        """Read flags and paths."""
        paths = parse_paths(arguments)
        flags = FlagSet(
            arguments,
            strings=("from", "chown", "chmod"),
            lists=("exclude",),
            booleans=("link", "parents"),
        )
        return cls(
            line=arguments.line,
            heredocs=arguments.heredocs,
            sources=paths.sources,
            destination=paths.destination,
            documents=paths.documents,
            from_=flags.text("from"),
            chown=flags.text("chown"),
            chmod=flags.text("chmod"),
            link=flags.truth("link") or False,
            parents=flags.truth("parents") or False,
            exclude=flags.texts("exclude"),
        )

    @property
    def paths(self) -> Paths:
        """Sources and destination."""
        return Paths(sources=self.sources, destination=self.destination, documents=self.documents)

    def expand(self, expander: Expander) -> Self:
        """Everything but --exclude; --from as well, which is ours."""
        paths = expand_paths(self.paths, expander)
        return replace(
            self,
            sources=paths.sources,
            destination=paths.destination,
            documents=paths.documents,
            from_=expander.word(self.from_) if "$" in self.from_ else self.from_,
            chown=expander.word(self.chown),
            chmod=expander.word(self.chmod),
        )

    def lower(self, builder: StageBuilder) -> None:
        """One layer."""
        source = builder.inputs.context
        keep_owner = False
        if self.from_:
            source_vertex = builder.inputs.resolve_from(self.from_, self.line.find(self.from_))
            keep_owner = builder.inputs.from_keeps_owner(self.from_)
        else:
            source_vertex = source
        lower_transfer(
            FileTransfer(
                keyword="COPY",
                line=self.line,
                paths=self.paths,
                source=source_vertex,
                chown=self.chown,
                chmod=self.chmod,
                link=self.link,
                parents=self.parents,
                exclude=self.exclude,
                keep_owner=keep_owner,
            ),
            builder,
        )

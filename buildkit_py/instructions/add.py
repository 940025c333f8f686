"""ADD: files and archives from the context, downloads, git repositories."""

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


@instruction("ADD", Shape.PATHS)
@dataclass(frozen=True, slots=True, kw_only=True)
class Add(Instruction):
    """`ADD [flags] source … destination`. `unpack` None: local archives yes, downloads no."""

    sources: tuple[str, ...]
    destination: str
    documents: tuple[Heredoc, ...] = ()
    chown: str = ""
    chmod: str = ""
    link: bool = False
    exclude: tuple[str, ...] = ()
    checksum: str = ""
    keep_git_dir: bool | None = None
    unpack: bool | None = None

    @classmethod
    def parse(cls, arguments: Arguments) -> Self:
        """Read flags and paths."""
        paths = parse_paths(arguments)
        flags = FlagSet(
            arguments,
            strings=("chown", "chmod", "checksum"),
            lists=("exclude",),
            booleans=("link", "keep-git-dir", "unpack"),
        )
        return cls(
            line=arguments.line,
            heredocs=arguments.heredocs,
            sources=paths.sources,
            destination=paths.destination,
            documents=paths.documents,
            chown=flags.text("chown"),
            chmod=flags.text("chmod"),
            link=flags.truth("link") or False,
            exclude=flags.texts("exclude"),
            checksum=flags.text("checksum"),
            keep_git_dir=flags.truth("keep-git-dir"),
            unpack=flags.truth("unpack"),
        )

    @property
    def paths(self) -> Paths:
        """Sources and destination."""
        return Paths(sources=self.sources, destination=self.destination, documents=self.documents)

    def expand(self, expander: Expander) -> Self:
        """Everything but --exclude."""
        paths = expand_paths(self.paths, expander)
        return replace(
            self,
            sources=paths.sources,
            destination=paths.destination,
            documents=paths.documents,
            chown=expander.word(self.chown),
            chmod=expander.word(self.chmod),
            checksum=expander.word(self.checksum),
        )

    def lower(self, builder: StageBuilder) -> None:
        """One layer."""
        lower_transfer(
            FileTransfer(
                keyword="ADD",
                line=self.line,
                paths=self.paths,
                source=builder.inputs.context,
                chown=self.chown,
                chmod=self.chmod,
                link=self.link,
                exclude=self.exclude,
                unpack_local=self.unpack is not False,
                unpack_remote=self.unpack is True,
                keep_git_dir=self.keep_git_dir,
                checksum=self.checksum,
            ),
            builder,
        )

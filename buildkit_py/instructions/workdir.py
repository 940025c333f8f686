"""WORKDIR: changes and makes the working directory."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from buildkit_py.graph import FileOp, MakeDirectory
from buildkit_py.instructions.base import Instruction, display_text, instruction, one_argument
from buildkit_py.instructions.flags import FlagSet
from buildkit_py.instructions.ownership import parse_owner
from buildkit_py.syntax import Arguments, Shape

if TYPE_CHECKING:
    from buildkit_py.expansion import Expander
    from buildkit_py.stage_builder import StageBuilder


@instruction("WORKDIR", Shape.TEXT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Workdir(Instruction):
    """`WORKDIR path`; a relative path joins the one before, an absolute one stays as written."""

    path: str

    @classmethod
    def parse(cls, arguments: Arguments) -> Self:
        """Read the text."""
        path = one_argument(arguments)
        FlagSet(arguments)
        return cls(line=arguments.line, path=path)

    def expand(self, expander: Expander) -> Self:
        """The whole text."""
        return replace(self, path=expander.word(self.path))

    def lower(self, builder: StageBuilder) -> None:
        """Set `WorkingDir`, and make the directory unless it is the root."""
        path = _absolute(self.path, builder.workdir)
        builder.update(working_dir=path)
        if path == "/":
            builder.commit_metadata(f"WORKDIR {path}")
            return
        action = MakeDirectory(
            path=builder.directory,
            owner=parse_owner(builder.fields.user),
            mtime=builder.inputs.epoch,
        )
        vertex = builder.add(
            FileOp(actions=(action,)),
            (builder.root,),
            text=display_text(self.text, builder.env, escape=builder.inputs.escape),
            span=self.span,
        )
        builder.commit_layer(vertex, f"WORKDIR {path}")


def _absolute(path: str, workdir: str) -> str:
    """A relative path joined to `workdir` and cleaned; an absolute one as it is written."""
    if path.startswith("/"):
        return path
    if not path:
        return workdir
    return "/" + posixpath.normpath(posixpath.join("/", workdir, path)).lstrip("/")

"""What is said after a build: findings of the linter, and warnings of the compiler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from buildkit_py.errors import PybuildError
from buildkit_py.progress.events import BuildWarning
from buildkit_py.source import excerpt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from buildkit_py.dockerfile import Dockerfile
    from buildkit_py.engine.compile import Compiled
    from buildkit_py.engine.inputs import BuildInputs
    from buildkit_py.lint import Finding
    from buildkit_py.source import SourceFile
    from buildkit_py.stages import BuildOptions

_TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True"))


def add_warnings(
    told: list[BuildWarning], dockerfile: Dockerfile, compiled: Compiled, inputs: BuildInputs
) -> None:
    """Add all warnings, in the order of lines. Raises PlanError where `check=error=true`."""
    from buildkit_py.lint import check_options, lint, violation  # noqa: PLC0415

    plan = compiled.plans[0]
    check = check_options(dockerfile, plan.options)
    findings = lint(
        dockerfile,
        plan=plan,
        bases={key: base.config for key, base in compiled.bases.items()},
        ignore=inputs.patterns,
        check=check,
    )
    out = [_warning(item) for item in findings]
    said = dict.fromkeys(pair for image in compiled.images for pair in image.warnings)
    out += [
        BuildWarning(message=message, line=span.start.line if span else 0)
        for message, span in said
    ]
    told += sorted(out, key=lambda warning: warning.line)
    error = violation(findings, check)
    if error is not None:
        raise error


def early_warnings(
    dockerfile: Dockerfile, options: BuildOptions, inputs: BuildInputs
) -> list[BuildWarning]:
    """What the linter has to say of a file whose build ends before its first step."""
    from buildkit_py.lint import lint  # noqa: PLC0415

    try:
        findings = lint(dockerfile, options=options, ignore=inputs.patterns)
    except PybuildError:
        return []  # what is wrong with the file is said anyhow
    return [_warning(item) for item in findings]


def warnings_metadata(
    told: Sequence[BuildWarning], dockerfile: SourceFile, environment: Mapping[str, str]
) -> dict[str, object]:
    """What `--metadata-file` has of warnings where BUILDX_METADATA_WARNINGS asks for them."""
    if environment.get("BUILDX_METADATA_WARNINGS", "") not in _TRUE or not told:
        return {}
    import base64  # noqa: PLC0415

    from buildkit_py.progress.rawjson import warning_json  # noqa: PLC0415

    data = base64.b64encode(dockerfile.text.encode("utf-8", "surrogateescape")).decode()
    source = {"filename": dockerfile.name, "data": data, "language": "Dockerfile"}
    out = [warning_json(item) | ({"sourceInfo": source} if item.line else {}) for item in told]
    return {"buildx.build.warnings": out}


def _warning(item: Finding) -> BuildWarning:
    return BuildWarning(
        rule=item.rule,
        message=item.message,
        url=item.url,
        description=item.description,
        line=item.line,
        excerpt=excerpt((item.span,), caret=False),
    )

"""What is said after a build: findings of the linter, and warnings of the compiler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from buildkit_py.progress.events import BuildWarning
from buildkit_py.source import excerpt

if TYPE_CHECKING:
    from buildkit_py.dockerfile import Dockerfile
    from buildkit_py.engine.compile import Compiled
    from buildkit_py.engine.inputs import BuildInputs


def build_warnings(
    dockerfile: Dockerfile, compiled: Compiled, inputs: BuildInputs
) -> list[BuildWarning]:
    """All warnings, in the order of lines. Raises PybuildError where `check=error=true`."""
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
    error = violation(findings, check)
    if error is not None:
        raise error
    out = [
        BuildWarning(
            rule=item.rule,
            message=item.message,
            url=item.url,
            description=item.description,
            line=item.line,
            excerpt=excerpt((item.span,), caret=False),
        )
        for item in findings
    ]
    said = dict.fromkeys(pair for image in compiled.images for pair in image.warnings)
    out += [
        BuildWarning(message=message, line=span.start.line if span else 0)
        for message, span in said
    ]
    return sorted(out, key=lambda warning: warning.line)

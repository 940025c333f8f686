"""Each folder of `plans` has a Dockerfile, and `plan.json` and `graph.json`, or an `error.txt`.

Every base image is taken for one of a fixed config and digest.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from buildkit_py.cli.render import render_error
from buildkit_py.digest import Digest
from buildkit_py.dockerfile import parse
from buildkit_py.dumps import dump_lowered, dump_plan
from buildkit_py.errors import PybuildError
from buildkit_py.graph import ImageOp
from buildkit_py.lower import ResolvedBase, lower
from buildkit_py.oci.config import ContainerConfig, History, ImageConfig
from buildkit_py.source import SourceFile
from buildkit_py.stages import BuildOptions, plan

PLANS = Path(__file__).parent / "plans"
DIGEST = Digest("sha256:" + "a" * 64)
BASE = ImageConfig(
    config=ContainerConfig(env=("PATH=/usr/bin:/bin",), cmd=("sh",)),
    diff_ids=(DIGEST,),
    history=(History(created="2024-01-01T00:00:00Z", created_by="base layer"),),
)


def outcome(path: Path) -> dict[str, str]:
    """The expected files and what they should hold."""
    source = SourceFile(name="Dockerfile", text=path.read_text())
    try:
        planned = plan(parse(source), BuildOptions())
        bases = {
            base.key: ResolvedBase(
                op=ImageOp(
                    reference=base.reference,
                    digest=DIGEST,
                    platform=base.platform,
                    named=DIGEST,
                ),
                config=BASE,
            )
            for base in planned.bases
        }
        lowered = lower(planned, bases)
    except PybuildError as error:
        return {"error.txt": render_error(error)}
    return {
        "plan.json": json.dumps(dump_plan(planned), indent=1, ensure_ascii=False) + "\n",
        "graph.json": json.dumps(dump_lowered(lowered), indent=1, ensure_ascii=False) + "\n",
    }


@pytest.mark.parametrize("case", sorted(path.name for path in PLANS.iterdir()))
def test_a_dockerfile_gives_the_expected_plan_and_graph(case: str, update_golden: bool) -> None:
    folder = PLANS / case
    actual = outcome(folder / "Dockerfile")
    if update_golden:
        for old in ("plan.json", "graph.json", "error.txt"):
            (folder / old).unlink(missing_ok=True)
        for name, text in actual.items():
            (folder / name).write_text(text)
    expected = {path.name: path.read_text() for path in folder.iterdir()}
    expected.pop("Dockerfile")
    assert actual == expected

"""Each folder of `configs` has a Dockerfile and its `config.json`, or an `error.txt`.

`config.json` holds the image config and the history that the build would give, as BuildKit has
them; `options.json` beside it may give `build_args` and a `target`. Every base image is taken for
one of a fixed config.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from buildkit_py.cli.render import render_error
from buildkit_py.digest import Digest
from buildkit_py.dockerfile import parse
from buildkit_py.errors import PybuildError
from buildkit_py.graph import ImageOp
from buildkit_py.lower import ResolvedBase, lower
from buildkit_py.oci.config import ContainerConfig, History, ImageConfig, container_to_json
from buildkit_py.source import SourceFile
from buildkit_py.stage_builder import readable
from buildkit_py.stages import BuildOptions, plan

CONFIGS = Path(__file__).parent / "configs"
DIGEST = Digest("sha256:" + "a" * 64)
BASE = ImageConfig(
    config=ContainerConfig(env=("PATH=/usr/bin:/bin",), cmd=("sh",)),
    diff_ids=(DIGEST,),
    history=(History(created="2024-01-01T00:00:00Z", created_by="base layer"),),
)


def to_json(config: ImageConfig) -> dict[str, Any]:
    """What users compare: the config, and the history without times."""
    history = [
        f"{'     ' if entry.empty_layer else 'layer'} {entry.created_by}"
        for entry in config.history
    ]
    author = {"author": config.author} if config.author else {}
    return {**author, "config": container_to_json(config.config), "history": history}


def outcome(folder: Path) -> tuple[str, str]:
    """The name of the expected file, and what it should hold."""
    text = (folder / "Dockerfile").read_bytes().decode("utf-8", "surrogateescape")
    given = folder / "options.json"
    options = BuildOptions(**json.loads(given.read_text()) if given.exists() else {})
    try:
        planned = plan(parse(SourceFile(name="Dockerfile", text=text)), options)
        bases = {
            base.key: ResolvedBase(
                op=ImageOp(reference=base.reference, digest=DIGEST, platform=base.platform),
                config=BASE,
            )
            for base in planned.bases
        }
        lowered = lower(planned, bases)
    except PybuildError as error:
        return "error.txt", render_error(error)
    made = json.dumps(to_json(lowered.config), indent=1, ensure_ascii=False)
    return "config.json", readable(made) + "\n"


@pytest.mark.parametrize("case", sorted(path.name for path in CONFIGS.iterdir()))
def test_a_dockerfile_gives_the_expected_config(case: str, update_golden: bool) -> None:
    folder = CONFIGS / case
    name, actual = outcome(folder)
    if update_golden:
        for old in ("config.json", "error.txt"):
            (folder / old).unlink(missing_ok=True)
        (folder / name).write_text(actual)
    expected = {path.name for path in folder.iterdir()} - {"Dockerfile", "options.json"}
    assert expected == {name}
    assert (folder / name).read_text() == actual

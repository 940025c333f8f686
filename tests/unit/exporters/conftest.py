from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildkit_py.exporters.base import BuiltImage, ExportRequest
from buildkit_py.oci.config import ContainerConfig, History, ImageConfig
from buildkit_py.platforms import Platform
from buildkit_py.store import Store, open_store


@pytest.fixture
def store(state_root: Path) -> Iterator[Store]:
    with open_store(state_root, host=Platform()) as opened:
        yield opened


@pytest.fixture
def request_(store: Store, tmp_path: Path) -> ExportRequest:
    """A result of two layers; the second deletes, replaces and links files of the first."""
    with store.snapshots.prepare(None) as active:
        (active.upper / "etc").mkdir()
        (active.upper / "etc" / "motd").write_text("hello")
        (active.upper / "bin").symlink_to("usr/bin")
        base = store.snapshots.commit(active, description="base")
    with store.snapshots.prepare(base.id) as active:
        (active.upper / "etc").mkdir()
        (active.upper / "etc" / "one").write_text("linked")
        (active.upper / "etc" / "two").hardlink_to(active.upper / "etc" / "one")
        os.chmod(active.upper / "etc" / "one", 0o4711)
        top = store.snapshots.commit(active, description="top")
    config = ImageConfig(
        config=ContainerConfig(cmd=("sh",)),
        history=(
            History(created_by="COPY base"),
            History(created_by="CMD sh", empty_layer=True),
            History(created_by="RUN top"),
        ),
    )
    return ExportRequest(
        images=(BuiltImage(config=config, snapshot=top.id),),
        names=("app:1", "example.com/other:2"),
        epoch=1_700_000_000,
        directory=tmp_path,
    )

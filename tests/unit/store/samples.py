"""Layers and configs that store and exporter tests are made of."""

from __future__ import annotations

import io
import json
import tarfile


def layer_tar(files: dict[str, bytes]) -> bytes:
    """A layer as Python's tarfile writes it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def image_config(diff_ids: list[str], **more: object) -> bytes:
    return json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2024-01-31T12:00:00Z",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created_by": "made by a test"}] * len(diff_ids),
            **more,
        }
    ).encode()

"""`--change` of import and commit: what it may say, and the config that comes of it."""

from __future__ import annotations

import pytest

from buildkit_py.cli.changes import apply_changes
from buildkit_py.errors import UsageError
from buildkit_py.oci.config import DEFAULT_PATH, ContainerConfig, ImageConfig
from buildkit_py.platforms import Platform


def changed(*changes: str) -> ContainerConfig:
    return apply_changes(ImageConfig(platform=Platform(os="linux", architecture="amd64")), changes)


def test_a_path_is_kept_though_it_is_the_default_one() -> None:
    assert changed(f"ENV PATH={DEFAULT_PATH}").env == (f"PATH={DEFAULT_PATH}",)


def test_no_path_is_added() -> None:
    assert changed("ENV A=b", 'CMD ["sh"]').env == ("A=b",)


def test_expansion_sees_the_changes_before() -> None:
    assert changed("ENV A=b", "LABEL l=$A").labels == {"l": "b"}


@pytest.mark.parametrize("change", ["RUN true", "COPY a b", "FROM x", "bogus", "", "  "])
def test_other_instructions_are_refused(change: str) -> None:
    with pytest.raises(UsageError, match="is not a valid change command"):
        changed(change)


@pytest.mark.parametrize("line", ["RUN true", "FROM x"])
def test_a_second_line_of_a_change_is_looked_at_too(line: str) -> None:
    with pytest.raises(UsageError, match="is not a valid change command"):
        changed(f"ENV A=b\n{line}")

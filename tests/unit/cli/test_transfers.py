"""The lines of pull and push."""

from __future__ import annotations

from io import StringIO

from buildkit_py.cli.transfers import LayerLines
from buildkit_py.registry.transfer import TransferStatus

LAYER = "sha256:" + "1" * 64


def test_a_layer_has_a_line_before_it_moves_and_one_after() -> None:
    out = StringIO()
    lines = LayerLines(out, terminal=False)
    for action, current, done in (
        ("preparing", 0, False),
        ("pushing", 1, False),
        ("pushing", 2, True),
    ):
        lines(TransferStatus(id=LAYER, action=action, current=current, total=2, done=done))
    lines(TransferStatus(id=LAYER.replace("1", "2"), action="waiting"))
    assert out.getvalue().splitlines() == [
        "111111111111: Preparing",
        "111111111111: Pushed",
        "222222222222: Pulling fs layer",
    ]


def test_a_terminal_shows_a_blob_whose_size_is_not_known_yet() -> None:
    out = StringIO()
    LayerLines(out, terminal=True)(TransferStatus(id=LAYER, action="pushing", current=2_700_000))
    assert out.getvalue() == "111111111111: Pushing 2.7MB\n"

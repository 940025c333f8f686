"""`python -m buildkit_py` is `pybuild`."""

from __future__ import annotations

import sys


def main() -> int:
    """Entry point of the console script."""
    from buildkit_py.recall.lookup import run  # noqa: PLC0415

    status = run(sys.argv[1:])
    if status is not None:
        return status
    import gc  # noqa: PLC0415

    from buildkit_py.cli import main as cli_main  # noqa: PLC0415  (kept off the start-up path)

    # tens of thousands of files make as many tuples, none of them in a cycle
    gc.set_threshold(50_000, 20, 50)
    return cli_main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())

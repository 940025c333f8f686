"""`python -m buildkit_py` is `pybuild`."""

from __future__ import annotations

import sys


def main() -> int:
    """Entry point of the console script."""
    from buildkit_py.recall.lookup import run  # noqa: PLC0415

    status = run(sys.argv[1:])
    if status is not None:
        return status
    from buildkit_py.cli import main as cli_main  # noqa: PLC0415  (kept off the start-up path)

    return cli_main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())

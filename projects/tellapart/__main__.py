"""``python -m tellapart``: the same as the command ``tellapart``."""

from __future__ import annotations

from tellapart_cli import main

if __name__ == "__main__":
    main()

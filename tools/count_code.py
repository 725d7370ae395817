"""Count the lines of Python code per folder, without docstrings, comments and blank lines.

python tools/count_code.py projects/embedded_detectron2            # the folders directly below, and the total
python tools/count_code.py --depth 2 projects tests tools
"""

from __future__ import annotations

import argparse
import ast
import io
import tokenize
from collections import Counter
from pathlib import Path

NO_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def code_lines(source: str) -> int:
    """Return the number of lines with code.

    Raises:
        SyntaxError: ``source`` is not valid Python.
    """
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            text = body[0].value
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                docstrings.update(range(text.lineno, text.end_lineno + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def count(folder: Path, depth: int = 1) -> Counter[str]:
    """Return the lines of code per folder down to ``depth`` levels, which include deeper folders."""
    total: Counter[str] = Counter()
    for path in sorted(folder.rglob("*.py")):
        parts = path.parent.relative_to(folder).parts[:depth]
        total["/".join([str(folder), *parts])] += code_lines(path.read_text(encoding="utf-8"))
    return total


def main() -> None:
    """Print one row per folder and the total."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--depth", type=int, default=1, help="levels of folders to list (default: %(default)s)")
    args = parser.parse_args()
    total: Counter[str] = Counter()
    for folder in args.folders:
        if not folder.is_dir():
            parser.error(f"{folder} is not a folder: name one that holds Python files")
        total += count(folder, args.depth)
    for name, lines in sorted(total.items()):
        print(f"{lines:7,}  {name}")
    print(f"{sum(total.values()):7,}  total")


if __name__ == "__main__":
    main()

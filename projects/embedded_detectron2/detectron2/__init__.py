"""The embedded Detectron2: the part of Detectron2's API that this repository uses (see its README.md).

It stands in where no other ``detectron2`` is installed. ``tests/parity`` checks that its parameter names, numbers and
file formats are those of the real one.
"""

import sys

from detectron2 import _missing

__version__ = "0.6+embedded"

_missing.install(sys.modules[__name__])

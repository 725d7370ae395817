"""The embedded Detectron2: the part of Detectron2's public API that Tellapart, ``train_net.py`` and ``demo.py`` use.

It stands in where no ``detectron2`` is installed (``tellapart`` puts it on the path) and is held to the real one's
parameter names, numbers and file formats by ``tests/parity``. It knows nothing of Tellapart.
"""

__version__ = "0.6+embedded"

"""``PathManager`` opens local paths, http(s) addresses and files of the model zoo (``detectron2://``)."""

from __future__ import annotations

from iopath.common.file_io import HTTPURLHandler, PathHandler
from iopath.common.file_io import PathManager as PathManagerBase

PathManager = PathManagerBase()


class Detectron2Handler(PathHandler):
    """Downloads ``detectron2://X`` from the public model zoo, once, into iopath's cache."""

    PREFIX = "detectron2://"
    S3_DETECTRON2_PREFIX = "https://dl.fbaipublicfiles.com/detectron2/"

    def _get_supported_prefixes(self):
        return [self.PREFIX]

    def _get_local_path(self, path, **kwargs):
        return PathManager.get_local_path(self.S3_DETECTRON2_PREFIX + path[len(self.PREFIX) :], **kwargs)

    def _open(self, path, mode="r", **kwargs):
        return PathManager.open(self.S3_DETECTRON2_PREFIX + path[len(self.PREFIX) :], mode, **kwargs)


PathManager.register_handler(HTTPURLHandler())
PathManager.register_handler(Detectron2Handler())

"""``catalog://ImageNetPretrained/MSRA/R-50`` and the like: names of published ImageNet backbones."""

from __future__ import annotations

from iopath.common.file_io import PathHandler

from detectron2.utils.file_io import PathManager


class ModelCatalog:
    """Names -> addresses."""

    S3_C2_DETECTRON_PREFIX = "https://dl.fbaipublicfiles.com/detectron"
    C2_IMAGENET_MODELS = {
        "MSRA/R-50": "ImageNetPretrained/MSRA/R-50.pkl",
        "MSRA/R-101": "ImageNetPretrained/MSRA/R-101.pkl",
        "FAIR/R-50-GN": "ImageNetPretrained/47261647/R-50-GN.pkl",
        "FAIR/R-101-GN": "ImageNetPretrained/47592356/R-101-GN.pkl",
    }

    @staticmethod
    def get(name: str) -> str:
        """Address of a model; RuntimeError for a name that is not in the catalog."""
        prefix, _, rest = name.partition("/")
        if prefix != "ImageNetPretrained" or rest not in ModelCatalog.C2_IMAGENET_MODELS:
            known = ", ".join("ImageNetPretrained/" + k for k in ModelCatalog.C2_IMAGENET_MODELS)
            raise RuntimeError(f"model '{name}' is not in the catalog; there are {known}")
        return f"{ModelCatalog.S3_C2_DETECTRON_PREFIX}/{ModelCatalog.C2_IMAGENET_MODELS[rest]}"


class ModelCatalogHandler(PathHandler):
    """Resolves ``catalog://NAME`` through `ModelCatalog`."""

    PREFIX = "catalog://"

    def _get_supported_prefixes(self):
        return [self.PREFIX]

    def _get_local_path(self, path, **kwargs):
        return PathManager.get_local_path(ModelCatalog.get(path[len(self.PREFIX) :]), **kwargs)

    def _open(self, path, mode="r", **kwargs):
        return PathManager.open(self._get_local_path(path), mode, **kwargs)


PathManager.register_handler(ModelCatalogHandler())

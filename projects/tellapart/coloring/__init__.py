"""Instance coloring: pixels are grouped into instances by their embeddings, without boxes (Novotny et al., ECCV 2018)."""

from .coloring import SemiConvColoring

__all__ = ["SemiConvColoring"]

"""Instance coloring (Novotny et al., ECCV 2018): group pixels into instances by their embeddings, without boxes."""

from .coloring import SemiConvColoring

__all__ = ["SemiConvColoring"]

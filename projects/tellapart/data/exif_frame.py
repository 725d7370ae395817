"""Notice annotations that were drawn on the stored pixels of an image, before its EXIF orientation."""

from __future__ import annotations

import numpy as np

# The masks must explain this much more of the gray values' variance in the stored frame, as a factor and as a share.
_MIN_RATIO, _MIN_GAIN = 2.0, 0.02


def fit_stored_frame_better(stored: np.ndarray, turned: np.ndarray, masks: np.ndarray) -> bool:
    """Return whether masks fit an image's stored pixels clearly better than the turned ones.

    Masks of objects separate bright from dark pixels, or one texture from another, at least a little. The share of the
    variance of the gray values that the masks explain (eta squared) is compared between the two frames. It is a hint,
    not a proof.

    Args:
        stored: the image as it is stored, (H, W) or (H, W, C).
        turned: the image after its EXIF orientation, of the same height and width.
        masks: bool (H, W), the union of all masks.
    """
    in_stored, in_turned = _explained_variance(stored, masks), _explained_variance(turned, masks)
    return in_stored > _MIN_RATIO * in_turned and in_stored > in_turned + _MIN_GAIN


def _explained_variance(image: np.ndarray, masks: np.ndarray) -> float:
    """Return the share of the variance of the gray values between the pixels inside and outside of masks, 0 to 1."""
    gray = image.astype(np.float64)
    gray = gray.mean(2) if gray.ndim == 3 else gray
    variance, share = gray.var(), masks.mean()
    if not variance or share in (0, 1):
        return 0.0
    return float((gray[masks].mean() - gray[~masks].mean()) ** 2 * share * (1 - share) / variance)

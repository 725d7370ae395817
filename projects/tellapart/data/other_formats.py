"""Files of other annotation tools: recognized by name, with the way to a COCO file."""

from __future__ import annotations

from typing import Any


def other_format(content: Any) -> str:
    """Return which tool's file ``content`` is, and how to get a COCO file from there, or "" for an unknown one.

    Args:
        content: parsed JSON that is not a COCO file.
    """
    first = content[0] if isinstance(content, list) and content else None
    if isinstance(first, dict):
        if "score" in first and "image_id" in first:
            return "it is a COCO results file, which has no images and cannot be trained on"
        if "data" in first and ("annotations" in first or "completions" in first):
            return "it is an export of Label Studio: export again, as 'COCO with Images'"
        if "image" in first and isinstance(first.get("annotations"), list):
            return "it is an export of CreateML, which has boxes only: export as COCO"
    if not isinstance(content, dict):
        return ""
    if "shapes" in content and "imagePath" in content:
        return "it is a file of labelme, with one image: convert the folder with `labelme2coco` (on the package index)"
    values = content.get("_via_img_metadata", content)
    first = next(iter(values.values()), None) if isinstance(values, dict) else None
    if isinstance(first, dict) and "regions" in first and "filename" in first:
        return "it is a project of VIA: in VIA choose Annotation, Export Annotations (COCO format)"
    if content.get("type") in ("FeatureCollection", "Feature"):
        return "it is GeoJSON, as QuPath exports: export the objects of QuPath as label images instead"
    if "images" in content and "annotations" in content and "segments_info" in str(content["annotations"])[:2000]:
        return "it is a COCO panoptic file, whose masks are PNG files: use the instances file"
    if "nc" in content or "train" in content and "names" in content:
        return "it is the description of a YOLO data set: datasets/prepare_labels.py converts it"
    return ""

"""Match a model's parameters to weights that were saved under other names."""

from __future__ import annotations

import logging
import re

import torch

# Names of a ResNet's layers in Caffe2 -> in Detectron2. Applied in this order.
_CAFFE2 = [
    (r"_b$", ".bias"),
    (r"_w$", ".weight"),
    (r"_", "."),
    (r"^res\.conv1\.bn\.", "conv1.bn."),
    (r"\.(bn|gn)\.(s|gamma|weight)$", ".norm.weight"),
    (r"\.(bn|gn)\.(bias|beta)$", ".norm.bias"),
    (r"\.bn\.rm$", ".norm.running_mean"),
    (r"\.bn\.(riv|running\.var)$", ".norm.running_var"),
    (r"^(res\d\.\d+)\.branch1\.", r"\1.shortcut."),
    (r"^(res\d\.\d+)\.branch2a\.", r"\1.conv1."),
    (r"^(res\d\.\d+)\.branch2b\.", r"\1.conv2."),
    (r"^(res\d\.\d+)\.branch2c\.", r"\1.conv3."),
    (r"^conv1\.", "stem.conv1."),
    (r"^pred\.", "linear."),
]
# Names of a ResNet's layers in torchvision -> in Detectron2.
_TORCHVISION = [
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"^layer(\d)\.", lambda m: f"res{int(m[1]) + 1}."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
    (r"^fc\.", "linear."),
]


def _rename(name: str, rules: list) -> str:
    for pattern, new in rules:
        name = re.sub(pattern, new, name)
    return name


def convert_basic_c2_names(original_keys: list[str]) -> list[str]:
    """Convert Caffe2's names of ResNet weights to Detectron2's.

    For example, "res2_0_branch2a_bn_s" becomes "res2.0.conv1.norm.weight".
    """
    return [_rename(k, _CAFFE2) for k in original_keys]


def is_torchvision_resnet(keys) -> bool:
    """Return whether the names are those of a torchvision ResNet's state dict."""
    return {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight"} <= set(keys)


def convert_torchvision_names(original_keys: list[str]) -> list[str]:
    """Convert torchvision's names of ResNet weights ("layer1.0.bn1.weight") to Detectron2's."""
    return [_rename(k, _TORCHVISION) for k in original_keys]


def align_and_update_state_dicts(
    model_state_dict: dict[str, torch.Tensor], ckpt_state_dict: dict[str, torch.Tensor], c2_conversion: bool = True
) -> dict[str, torch.Tensor]:
    """Rename the weights of a checkpoint to the names of the model's parameters.

    A parameter receives the weight with the longest name that is the end of the parameter's name, for example
    "res2.0.conv1.weight" for "backbone.bottom_up.res2.0.conv1.weight". If their shapes differ, a warning is logged and
    the parameter receives nothing.

    Args:
        model_state_dict: state dict of the model.
        ckpt_state_dict: weights of the checkpoint by name.
        c2_conversion: convert the checkpoint's names from Caffe2's first.

    Returns:
        Weights by name. A weight that no parameter matches keeps its (converted) name.
    """
    logger = logging.getLogger(__name__)
    names = list(ckpt_state_dict)
    if c2_conversion:
        logger.info("Renaming Caffe2 weights ......")
        names = convert_basic_c2_names(names)
    loaded = dict(zip(names, ckpt_state_dict.values()))
    result, used, prefixes = {}, set(), {}
    for key, value in model_state_dict.items():
        parts = key.split(".")
        name = next((n for i in range(len(parts)) if (n := ".".join(parts[i:])) in loaded), None)  # longest first
        if name is None:
            continue
        if loaded[name].shape != value.shape:
            logger.warning(
                f"Shape of {name} in checkpoint is {tuple(loaded[name].shape)}, while shape of {key} in model is "
                f"{tuple(value.shape)}.\n{name} will not be loaded. Please double check and see if this is desired."
            )
            continue
        result[key] = loaded[name]
        used.add(name)
        prefix = key[: len(key) - len(name)].rstrip(".")
        prefixes[prefix] = prefixes.get(prefix, 0) + 1
    for prefix, count in prefixes.items():
        where = f"submodule {prefix}" if prefix else "model"
        logger.info(f"Following weights matched with {where} - Total num: {count}")
    result.update((k, v) for k, v in loaded.items() if k not in used)
    return result

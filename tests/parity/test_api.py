"""Every name this repository takes from ``detectron2`` exists, here and in the real one, and is called alike."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from typing import Any

import detectron2
import pytest

from .cases import is_embedded
from .common import ROOT
from .signatures import SIGNATURES, describe, identity, public_names
from .usage import python_files, used_names

GOLDEN = json.loads(SIGNATURES.read_text())
EXPORTS, THINGS, PRIVATE = GOLDEN["exports"], GOLDEN["things"], GOLDEN["private"]

# Parameters of the real one that the embedded one leaves out, and why. "Owner.method" or "function": {parameter: why}.
NO_KEYPOINTS = "keypoints are not in the embedded one"
NO_PROPOSAL_FILES = "proposals read from files are not in the embedded one"
NO_FED_LOSS = "for LVIS's federated loss only"
OMITTED: dict[str, dict[str, str]] = {
    "DatasetMapper.__init__": {
        "use_keypoint": NO_KEYPOINTS,
        "keypoint_hflip_indices": NO_KEYPOINTS,
        "precomputed_proposal_topk": NO_PROPOSAL_FILES,
    },
    "get_detection_dataset_dicts": {"min_keypoints": NO_KEYPOINTS, "proposal_files": NO_PROPOSAL_FILES},
    "transform_instance_annotations": {"keypoint_hflip_indices": NO_KEYPOINTS},
    "COCOEvaluator.__init__": {"kpt_oks_sigmas": NO_KEYPOINTS},
    "Visualizer.overlay_instances": {"keypoints": NO_KEYPOINTS},
    "Visualizer.draw_box": {"line_style": "nothing here draws dashed boxes"},
    "Visualizer.draw_text": {"rotation": "for rotated boxes only"},
    "Visualizer.draw_instance_predictions": {"jittering": "colours are told apart without"},
    "FPN.__init__": {"square_pad": "for ViTDet's backbone only"},
    "AMPTrainer.__init__": {"async_write_metrics": "metrics are written in the training thread"},
    "SimpleTrainer.__init__": {"async_write_metrics": "metrics are written in the training thread"},
    "FastRCNNOutputLayers.__init__": {
        "use_fed_loss": NO_FED_LOSS,
        "use_sigmoid_ce": NO_FED_LOSS,
        "get_fed_loss_cls_weights": NO_FED_LOSS,
        "fed_loss_num_classes": NO_FED_LOSS,
    },
}

# Where the embedded one is meant to differ: {"Owner.method": {parameter: why}}.
DIFFERENT: dict[str, dict[str, str]] = {
    "CfgNode.merge_from_file": {"allow_unsafe": "False here: a config file can't run code"},
    "Backbone.forward": {"x": "the real one's abstract method names no input; every backbone has one"},
}

POSITIONAL = ("POSITIONAL_ONLY", "POSITIONAL_OR_KEYWORD")


def used() -> dict[str, str]:
    """{dotted name: "file:line" of one use}."""
    out: dict[str, str] = {}
    for path in python_files(ROOT):
        for name, line in used_names(path.read_text(encoding="utf-8"), str(path)).items():
            out.setdefault(name, f"{path.relative_to(ROOT)}:{line}")
    return out


USED = used()


def resolve(name: str) -> Any:
    """The thing behind a dotted name; AttributeError or ImportError where there is none."""
    parts = name.split(".")
    thing = importlib.import_module(parts[0])
    for i, part in enumerate(parts[1:], 2):
        if not hasattr(thing, part) and inspect.ismodule(thing):
            importlib.import_module(".".join(parts[:i]))
        thing = getattr(thing, part)
    return thing


def recorded(name: str) -> str | None:
    """None where the real one has this name, else what is missing; attributes of instances are taken on trust."""
    parts = name.split(".")
    module, rest = parts[0], parts[1:]
    while rest:
        child = f"{module}.{rest[0]}"
        if rest[0].startswith("__") or rest[0] in PRIVATE.get(module, ()):
            return None
        if rest[0] not in EXPORTS[module]:
            if child not in EXPORTS:
                return f"{module} of the real Detectron2 has no {rest[0]}"
            module, rest = child, rest[1:]
            continue
        key = EXPORTS[module][rest[0]]
        if key in EXPORTS:
            module, rest = key, rest[1:]
            continue
        thing = THINGS.get(key)
        if len(rest) > 1 and thing and thing["kind"] == "class":
            known = set(thing["methods"]) | set(thing["attributes"])
            inherited = any(hasattr(resolve(base), rest[1]) for base in thing["bases"])
            if rest[1] not in known and not inherited and not rest[1].startswith("__"):
                return f"{key} of the real Detectron2 has no {rest[1]}"
        return None
    return None


def test_something_is_used() -> None:
    assert {"detectron2.config.get_cfg", "detectron2.structures.BoxMode.XYWH_ABS"} <= set(USED)


@pytest.mark.parametrize("name", sorted(USED))
def test_used_name_exists(name: str) -> None:
    """In the Detectron2 that runs, and in the real one as recorded."""
    try:
        resolve(name)
    except (AttributeError, ImportError) as error:
        pytest.fail(f"{USED[name]} uses {name}: {error}")
    missing = recorded(name)
    assert missing is None, f"{USED[name]} uses {name}: {missing}"


def test_used_names_follows_aliases() -> None:
    source = (
        "import detectron2.utils.comm as c\nfrom detectron2.data import transforms as T, MetadataCatalog\n"
        "def f(x):\n    return c.get_rank(), T.Resize((1, 2)).foo, MetadataCatalog.get(x)\n"
        "from detectron2.structures import Boxes\nBoxes = Boxes.cat\n"
    )
    assert used_names(source) == {
        "detectron2.utils.comm": 1,
        "detectron2.data.transforms": 2,
        "detectron2.data.MetadataCatalog": 2,
        "detectron2.structures.Boxes": 5,
        "detectron2.utils.comm.get_rank": 4,
        "detectron2.data.transforms.Resize": 4,
        "detectron2.data.MetadataCatalog.get": 4,
    }
    assert recorded("detectron2.data.transforms.Resize") is None
    assert recorded("detectron2.data.transforms.Resise") is not None
    assert recorded("detectron2.structures.BoxMode.XYXY") is not None


# ------------------------------------------------------------------------------------------------ signatures


def running_modules() -> list[str]:
    """The modules of the running Detectron2 that the record knows, or, if it is the embedded one, all of its own."""
    found = [m.name for m in pkgutil.walk_packages(detectron2.__path__, "detectron2.")]
    return sorted(found if is_embedded() else [m for m in found if m in EXPORTS])


def signature_problems(where: str, got: list[list], want: list[list]) -> list[str]:
    """Why a call that suits ``got``'s parameters might not suit ``want``'s, or the other way round."""
    omitted = OMITTED.get(where, {}) if is_embedded() else {}
    different = DIFFERENT.get(where, {}) if is_embedded() else {}
    problems = []
    got_names, want_names = [p[0] for p in got], [p[0] for p in want]
    takes_any = {p[1] for p in want} & {"VAR_KEYWORD"}
    for name, kind, _, _ in got:
        if name not in want_names and name not in different and not kind.startswith("VAR_") and not takes_any:
            problems.append(f"{where}: {name} is unknown to the real one, which takes {want_names}")
    common = [n for n in got_names if n in want_names]
    if common != [n for n in want_names if n in got_names]:
        problems.append(f"{where}: order {got_names}, the real one's {want_names}")
    by_name = {p[0]: p for p in got}
    positional = [n for n, kind, _, _ in want if kind in POSITIONAL and n not in omitted]
    mine = [n for n, kind, _, _ in got if kind in POSITIONAL and n not in different]
    if mine[: len(positional)] != positional[: len(mine)] and not any(p[1] == "VAR_POSITIONAL" for p in got):
        problems.append(f"{where}: positions {mine}, the real one's {positional}")
    for name, kind, has_default, default in want:
        if name not in by_name:
            swallowed = any(p[1] == "VAR_KEYWORD" for p in got) or kind.startswith("VAR_")
            if name not in omitted and not swallowed:
                problems.append(f"{where}: {name} is missing and not in the table of omissions")
            continue
        _, my_kind, my_has, my_default = by_name[name]
        if name in omitted:
            problems.append(f"{where}: {name} is there, but in the table of omissions")
        if my_has != has_default:
            problems.append(f"{where}: {name} is {'optional' if my_has else 'required'}, unlike the real one's")
        after_omitted = omitted.keys() & set(want_names[: want_names.index(name)])  # its position would be another
        if kind == "POSITIONAL_OR_KEYWORD" and my_kind == "KEYWORD_ONLY" and not after_omitted:
            problems.append(f"{where}: {name} is keyword-only, the real one's is not")
        if my_kind == "POSITIONAL_OR_KEYWORD" and kind == "KEYWORD_ONLY":
            problems.append(f"{where}: {name} is keyword-only in the real one, not here")
        if default != my_default and None not in (default, my_default) and name not in different:
            problems.append(f"{where}: {name}={my_default}, the real one's default is {default}")
    return problems


def module_problems(module: str) -> list[str]:
    """Differences between a running module's public names that the real one has too and the record of those."""
    if module not in EXPORTS:
        return [f"the real Detectron2 has no module {module}"]
    problems = []
    for name, thing in public_names(module).items():
        key = EXPORTS[module].get(name)
        own = str(getattr(thing, "__module__", "")).startswith("detectron2")
        if not key or key not in THINGS or not own or inspect.ismodule(thing):
            continue
        if identity(thing, module, name).rsplit(".", 1)[0] != module and module.count(".") > 1:
            continue  # imported from elsewhere: compared there
        want, got = THINGS[key], describe(thing)
        if want["kind"] != got["kind"]:
            problems.append(f"{module}.{name} is a {got['kind']}, in the real one a {want['kind']}")
        elif want["kind"] == "function":
            problems += signature_problems(name, got["signature"], want["signature"])
        elif want["kind"] == "class":
            for method, signature in got["methods"].items():
                if method in want["methods"]:
                    problems += signature_problems(f"{name}.{method}", signature, want["methods"][method])
    return problems


@pytest.mark.parametrize("module", running_modules())
def test_signatures(module: str) -> None:
    problems = module_problems(module)
    assert not problems, "\n".join(problems)


def test_signature_problems_are_seen() -> None:
    def parameter(name: str, default: bool = False, kind: str = "POSITIONAL_OR_KEYWORD", value: str | None = None):
        return [name, kind, default, value]

    want = [parameter("a"), parameter("b", True, value="1"), parameter("c", True, "KEYWORD_ONLY", "2")]
    assert not signature_problems("f", want, want)
    for got in (
        want[:2],
        [want[1], want[0], want[2]],
        [parameter("x"), *want[1:]],
        [parameter("a", True), *want[1:]],
        [want[0], parameter("b", True, value="3"), want[2]],
        [want[0], parameter("b", True, "KEYWORD_ONLY", "1"), want[2]],
        [*want[:2], parameter("c", True, value="2")],
    ):
        assert signature_problems("f", got, want), got


def test_table_of_omissions_names_real_parameters() -> None:
    known: dict[str, set[str]] = {}
    for key, thing in THINGS.items():
        name = key.rsplit(".", 1)[-1]
        if thing["kind"] == "function":
            known.setdefault(name, set()).update(p[0] for p in thing["signature"])
        for method, signature in thing.get("methods", {}).items():
            known.setdefault(f"{name}.{method}", set()).update(p[0] for p in signature)
    for where, parameters in OMITTED.items():
        assert set(parameters) <= known.get(where, set()), (where, known.get(where))
    assert set(DIFFERENT) <= set(known)

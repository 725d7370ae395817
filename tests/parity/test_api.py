"""The names of ``detectron2`` that this repository uses exist, and signatures are the same."""

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

# Parameters of the real one that the embedded one does not have: {"Class.method" or "function": {parameter: why}}.
NO_KEYPOINTS = "keypoints are not included"
NO_PROPOSAL_FILES = "proposals from files are not included"
NO_FED_LOSS = "LVIS's federated loss is not included"
OMITTED: dict[str, dict[str, str]] = {
    "DatasetMapper.__init__": {
        "use_keypoint": NO_KEYPOINTS,
        "keypoint_hflip_indices": NO_KEYPOINTS,
        "precomputed_proposal_topk": NO_PROPOSAL_FILES,
    },
    "get_detection_dataset_dicts": {"min_keypoints": NO_KEYPOINTS, "proposal_files": NO_PROPOSAL_FILES},
    "transform_instance_annotations": {"keypoint_hflip_indices": NO_KEYPOINTS},
    "COCOEvaluator.__init__": {"kpt_oks_sigmas": NO_KEYPOINTS},
    "FPN.__init__": {"square_pad": "the backbone of ViTDet is not included"},
    "AMPTrainer.__init__": {"async_write_metrics": "metrics are always written in the main thread"},
    "SimpleTrainer.__init__": {"async_write_metrics": "metrics are always written in the main thread"},
    "FastRCNNOutputLayers.__init__": {
        "use_fed_loss": NO_FED_LOSS,
        "use_sigmoid_ce": NO_FED_LOSS,
        "get_fed_loss_cls_weights": NO_FED_LOSS,
        "fed_loss_num_classes": NO_FED_LOSS,
    },
}

# Parameters that differ on purpose: {"Class.method": {parameter: why}}.
DIFFERENT: dict[str, dict[str, str]] = {
    "CfgNode.merge_from_file": {"allow_unsafe": "False here, so that a config file cannot run code"},
    "Backbone.forward": {"x": "the abstract method of the real one has no input, but every backbone has one"},
}

POSITIONAL = ("POSITIONAL_ONLY", "POSITIONAL_OR_KEYWORD")


def used() -> dict[str, str]:
    """Return the used names: {dotted name: "file:line" of one use}."""
    out: dict[str, str] = {}
    for path in python_files(ROOT):
        for name, line in used_names(path.read_text(encoding="utf-8"), str(path)).items():
            out.setdefault(name, f"{path.relative_to(ROOT)}:{line}")
    return out


USED = used()


def resolve(name: str) -> Any:
    """Return the object of a dotted name; AttributeError or ImportError if it does not exist."""
    parts = name.split(".")
    thing = importlib.import_module(parts[0])
    for i, part in enumerate(parts[1:], 2):
        if not hasattr(thing, part) and inspect.ismodule(thing):
            importlib.import_module(".".join(parts[:i]))
        thing = getattr(thing, part)
    return thing


def recorded(name: str) -> str | None:
    """Return None if the real one has this name, and otherwise what is missing.

    Attributes of instances are not checked.
    """
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


def test_used_names_are_found() -> None:
    assert {"detectron2.config.get_cfg", "detectron2.structures.BoxMode.XYWH_ABS"} <= set(USED)


@pytest.mark.parametrize("name", sorted(USED))
def test_used_name_exists(name: str) -> None:
    """In the running Detectron2, and in the record of the real one."""
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
    """Return the modules to compare: all of the embedded one, or the recorded ones of the real one."""
    found = [m.name for m in pkgutil.walk_packages(detectron2.__path__, "detectron2.")]
    public = [name for name in found if not name.rpartition(".")[2].startswith("_")]
    return sorted(public if is_embedded() else [name for name in public if name in EXPORTS])


def signature_problems(where: str, got: list[list], expected: list[list]) -> list[str]:
    """Return the reasons why calls that fit one signature might not fit the other.

    Args:
        where: "Class.method" or "function".
        got: parameters in the running Detectron2, see ``signatures.signature_of``.
        expected: parameters in the real one.
    """
    omitted = OMITTED.get(where, {}) if is_embedded() else {}
    different = DIFFERENT.get(where, {}) if is_embedded() else {}
    problems = []
    got_names, expected_names = [p[0] for p in got], [p[0] for p in expected]
    takes_any = {p[1] for p in expected} & {"VAR_KEYWORD"}
    for name, kind, _, _ in got:
        if name not in expected_names and name not in different and not kind.startswith("VAR_") and not takes_any:
            problems.append(f"{where}: {name} is not in the real one, which has {expected_names}")
    common = [n for n in got_names if n in expected_names]
    if common != [n for n in expected_names if n in got_names]:
        problems.append(f"{where}: order {got_names}, expected {expected_names}")
    by_name = {p[0]: p for p in got}
    positional = [n for n, kind, _, _ in expected if kind in POSITIONAL and n not in omitted]
    got_positional = [n for n, kind, _, _ in got if kind in POSITIONAL and n not in different]
    length = min(len(got_positional), len(positional))
    if got_positional[:length] != positional[:length] and not any(p[1] == "VAR_POSITIONAL" for p in got):
        problems.append(f"{where}: positional arguments {got_positional}, expected {positional}")
    for name, kind, has_default, default in expected:
        if name not in by_name:
            swallowed = any(p[1] == "VAR_KEYWORD" for p in got) or kind.startswith("VAR_")
            if name not in omitted and not swallowed:
                problems.append(f"{where}: {name} is missing and not in OMITTED")
            continue
        _, got_kind, got_has_default, got_default = by_name[name]
        if name in omitted:
            problems.append(f"{where}: {name} exists, but is in OMITTED")
        if got_has_default != has_default:
            now = "optional" if got_has_default else "required"
            problems.append(f"{where}: {name} is {now}, unlike in the real one")
        after_omitted = omitted.keys() & set(expected_names[: expected_names.index(name)])  # it has another position
        if kind == "POSITIONAL_OR_KEYWORD" and got_kind == "KEYWORD_ONLY" and not after_omitted:
            problems.append(f"{where}: {name} is keyword-only, unlike in the real one")
        if got_kind == "POSITIONAL_OR_KEYWORD" and kind == "KEYWORD_ONLY":
            problems.append(f"{where}: {name} is not keyword-only, unlike in the real one")
        if default != got_default and None not in (default, got_default) and name not in different:
            problems.append(f"{where}: {name}={got_default}, expected {default}")
    return problems


def module_problems(module: str) -> list[str]:
    """Return the differences between the public names of a running module and their record."""
    if module not in EXPORTS:
        return [f"the real Detectron2 has no module {module}"]
    problems = []
    for name, thing in public_names(module).items():
        key = EXPORTS[module].get(name)
        own = str(getattr(thing, "__module__", "")).startswith("detectron2")
        if not key or key not in THINGS or not own or inspect.ismodule(thing):
            continue
        if identity(thing, module, name).rsplit(".", 1)[0] != module and module.count(".") > 1:
            continue  # compared in the module that defines it
        expected, got = THINGS[key], describe(thing)
        if expected["kind"] != got["kind"]:
            problems.append(f"{module}.{name} is a {got['kind']}, expected a {expected['kind']}")
        elif expected["kind"] == "function":
            problems += signature_problems(name, got["signature"], expected["signature"])
        elif expected["kind"] == "class":
            for method, signature in got["methods"].items():
                if method in expected["methods"]:
                    problems += signature_problems(f"{name}.{method}", signature, expected["methods"][method])
    return problems


@pytest.mark.parametrize("module", running_modules())
def test_signatures(module: str) -> None:
    problems = module_problems(module)
    assert not problems, "\n".join(problems)


def test_signature_problems_are_found() -> None:
    def parameter(name: str, default: bool = False, kind: str = "POSITIONAL_OR_KEYWORD", value: str | None = None):
        return [name, kind, default, value]

    expected = [parameter("a"), parameter("b", True, value="1"), parameter("c", True, "KEYWORD_ONLY", "2")]
    assert not signature_problems("f", expected, expected)
    for got in (
        expected[:2],
        [expected[1], expected[0], expected[2]],
        [parameter("x"), *expected[1:]],
        [parameter("a", True), *expected[1:]],
        [expected[0], parameter("b", True, value="3"), expected[2]],
        [expected[0], parameter("b", True, "KEYWORD_ONLY", "1"), expected[2]],
        [*expected[:2], parameter("c", True, value="2")],
    ):
        assert signature_problems("f", got, expected), got


def test_omitted_parameters_exist_in_the_real_one() -> None:
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

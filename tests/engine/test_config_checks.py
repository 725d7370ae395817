"""Invalid input of `tellapart train`: one clear message and exit code 2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tellapart.config import RENAMED_KEYS, RENAMED_VALUES
from tellapart.engine.config_checks import check_datasets, find_config_file, load_config, register_from_flags
from tellapart.errors import InputError
from tellapart.model_zoo import get_config_file
from tellapart_cli import main

import detectron2
import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY

NAME = "config_checks_test"


@pytest.fixture
def refused(capfd, forget):
    """A function that runs `tellapart train` with invalid arguments and returns its error message."""

    def run(*arguments: str) -> str:
        forget(NAME)
        with pytest.raises(SystemExit) as exit:
            main(["train", *arguments])
        assert exit.value.code == 2
        out, err = capfd.readouterr()
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and "Traceback" not in out + err
        return errors[0]

    return run


@pytest.fixture
def copied_set(tiny_set, tmp_path) -> tuple[Path, Path]:
    shutil.copytree(tiny_set[0].parent, tmp_path / "set")
    return tmp_path / "set" / "instances.json", tmp_path / "set" / "images"


def flag(data: tuple[Path, Path]) -> tuple[str, str]:
    return "--register", f"{NAME}={data[0]}:{data[1]}"


def edit(json_file: Path, change) -> None:
    content = json.loads(json_file.read_text())
    change(content)
    json_file.write_text(json.dumps(content))


def test_missing_config(refused, tiny_config):
    config = tiny_config(NAME)
    message = refused("--config-file", str(config.with_name("config_checks_tst.yaml")))
    assert "config_checks_tst.yaml does not exist" in message and f"did you mean {config}" in message


def test_unknown_key_with_suggestion(refused, tiny_config):
    config = tiny_config(NAME)
    assert "unknown key SOLVER.BASE_LRR; did you mean SOLVER.BASE_LR?" in refused(
        "--config-file", str(config), "SOLVER.BASE_LRR", "1"
    )
    config.write_text(config.read_text().replace("BASE_LR: 0.01", "BASE_RL: 0.01"))
    message = refused("--config-file", str(config))
    assert str(config) in message and "SOLVER.BASE_RL; did you mean SOLVER.BASE_LR?" in message


@pytest.mark.parametrize("content", ["", "# nothing", "SOLVER", "- SOLVER"])
def test_config_without_keys(refused, tiny_config, content):
    config = tiny_config(NAME)
    config.write_text(content)
    assert f"{config} has no keys" in refused("--config-file", str(config))


def test_value_of_another_type_and_odd_options(refused, tiny_config):
    config = str(tiny_config(NAME))
    assert "SOLVER.MAX_ITER" in refused("--config-file", config, "SOLVER.MAX_ITER", "many")
    message = refused("--config-file", config, "SOLVER.MAX_ITER")
    assert "options are SOLVER.MAX_ITER (1 words), expected pairs KEY VALUE" in message


def test_right_key_in_the_wrong_section(refused):
    message = refused("EMBEDDING_DIM", "3")
    assert "the command line: unknown key EMBEDDING_DIM; did you mean MODEL.SEMICONV.EMBEDDING_DIM?" in message


@pytest.mark.parametrize("old, new", RENAMED_KEYS.items())
def test_renamed_key(refused, tiny_config, tmp_path, old, new):
    assert f"the command line: key {old} has been renamed: write {new}" in refused(old, "0")
    content = "0"
    for part in reversed(old.split(".")):
        content = f"{{{part}: {content}}}"
    (tmp_path / "old.yaml").write_text(content)
    message = refused("--config-file", str(tmp_path / "old.yaml"))
    assert f"{tmp_path / 'old.yaml'}: key {old} has been renamed: write {new}" in message


@pytest.mark.parametrize("old, new", RENAMED_VALUES.items())
def test_renamed_model_part(refused, tmp_path, old, new):
    section = "BACKBONE" if "backbone" in old else "ROI_HEADS"
    expected = f"MODEL.{section}.NAME is {old}, which has been renamed: set it to {new}"
    assert expected in refused(f"MODEL.{section}.NAME", old)
    (tmp_path / "old.yaml").write_text(f"MODEL: {{{section}: {{NAME: {old}}}}}")
    assert expected in refused("--config-file", str(tmp_path / "old.yaml"))
    assert load_config("", [f"MODEL.{section}.NAME", new])


def test_config_file_by_name_in_the_model_zoo(tmp_path, monkeypatch):
    """An existing file takes precedence."""
    monkeypatch.chdir(tmp_path)
    name = "quick/fcis/fcis_R_18_shapes.yaml"
    assert find_config_file(name) == get_config_file(name)
    assert load_config(name, []).MODEL.META_ARCHITECTURE == "FCIS"
    (tmp_path / "quick" / "fcis").mkdir(parents=True)
    (tmp_path / name).write_text("VERSION: 2\n")
    assert find_config_file(name) == name
    assert load_config(name, []).MODEL.META_ARCHITECTURE == "GeneralizedRCNN"
    with pytest.raises(InputError, match="did you mean FCIS/fcis_R_50_1x.yaml?"):
        find_config_file("FCIS/fcis_R50_1x.yaml")


@pytest.mark.parametrize(
    "key, name, hint",
    [
        ("META_ARCHITECTURE", "FICS", "did you mean FCIS?"),
        ("BACKBONE.NAME", "build_dilated_vgg_backbone", "did you mean build_dilated_vgg16_backbone?"),
        ("PROPOSAL_GENERATOR.NAME", "InstanceFCNProposal", "did you mean InstanceFCNProposals?"),
        ("ROI_HEADS.NAME", "SemiConvROIHead", "did you mean SemiConvROIHeads?"),
        ("ROI_BOX_HEAD.NAME", "FastRCNNHead", "did you mean FastRCNNConvFCHead?"),
        ("ROI_MASK_HEAD.NAME", "xyz", "known are "),
    ],
)
def test_unregistered_model_part(refused, tiny_config, key, name, hint):
    message = refused("--config-file", str(tiny_config(NAME)), f"MODEL.{key}", name)
    assert f"MODEL.{key} is {name}, which is not registered; {hint}" in message
    if "known" in hint:
        assert "SemiConvMaskHead" in message


def test_no_part_and_precomputed_proposals_are_valid(tiny_config):
    names = ["MODEL.ROI_BOX_HEAD.NAME", "", "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"]
    assert load_config(str(tiny_config(NAME)), names).MODEL.ROI_BOX_HEAD.NAME == ""


def test_unknown_optimizer(refused, tiny_config, tiny_set):
    message = refused("--config-file", str(tiny_config(NAME)), *flag(tiny_set), "SOLVER.OPTIMIZER", "LION")
    assert "SOLVER.OPTIMIZER is 'LION', expected SGD or ADAMW" in message


def test_unknown_evaluator(refused, tiny_config, tiny_set):
    flags = [*flag(tiny_set), "--eval-only", "TEST.EVALUATORS", "['voc']"]
    message = refused("--config-file", str(tiny_config(NAME)), *flags)
    assert "TEST.EVALUATORS is ['voc'], expected one or more of coco, coloring, instances, mask_proposals" in message


def test_broken_yaml(refused, tmp_path):
    (tmp_path / "broken.yaml").write_text("MODEL: {\n")
    assert "broken.yaml is not valid YAML" in refused("--config-file", str(tmp_path / "broken.yaml"))


def test_missing_base(refused, tmp_path):
    (tmp_path / "child.yaml").write_text("_BASE_: parent.yaml\n")
    message = refused("--config-file", str(tmp_path / "child.yaml"))
    assert "child.yaml" in message and "parent.yaml does not exist" in message


def test_unknown_data_set(refused, tiny_config):
    assert f"There is no data set {NAME}" in refused("--config-file", str(tiny_config(NAME)))


def test_missing_folder(refused, tiny_config, copied_set):
    shutil.rmtree(copied_set[1])
    message = refused("--config-file", str(tiny_config(NAME)), *flag(copied_set))
    assert f"there is no image folder {copied_set[1]}" in message


def test_broken_json(refused, tiny_config, copied_set):
    copied_set[0].write_text(copied_set[0].read_text()[:-20])
    message = refused("--config-file", str(tiny_config(NAME)), *flag(copied_set))
    assert str(copied_set[0]) in message and "not valid JSON" in message and "line 1" in message


def test_annotation_with_unknown_category(refused, tiny_config, copied_set):
    edit(copied_set[0], lambda content: content["annotations"][3].update(category_id=99))
    message = refused("--config-file", str(tiny_config(NAME)), *flag(copied_set))
    assert "annotation 4 names category '99'" in message


@pytest.mark.parametrize(
    "architecture, heads",
    [
        ("GeneralizedRCNN", "StandardROIHeads"),
        ("FCIS", "FCISROIHeads"),
        ("SemiConvColoring", "StandardROIHeads"),
        ("InstanceFCN", "MaskPooledROIHeads"),
    ],
)
def test_number_of_classes(refused, tiny_config, tiny_set, architecture, heads):
    opts = ["MODEL.META_ARCHITECTURE", architecture, "MODEL.ROI_HEADS.NAME", heads, "MODEL.ROI_HEADS.NUM_CLASSES"]
    for wrong in ("3", "1"):
        message = refused("--config-file", str(tiny_config(NAME)), *flag(tiny_set), *opts, wrong)
        assert f"MODEL.ROI_HEADS.NUM_CLASSES is {wrong}" in message and "2 categories: red, blue" in message


@pytest.mark.parametrize(
    "architecture, heads",
    [
        ("InstanceFCN", "PassThroughROIHeads"),
        ("GeneralizedRCNN", "PassThroughROIHeads"),
        # Only the real Detectron2 has it.
        *([("ProposalNetwork", "StandardROIHeads")] if "ProposalNetwork" in META_ARCH_REGISTRY else []),
    ],
)
def test_class_agnostic_proposals_allow_any_number_of_classes(tiny_config, tiny_set, forget, architecture, heads):
    forget(NAME)
    register_from_flags([flag(tiny_set)[1]])
    opts = ["MODEL.META_ARCHITECTURE", architecture, "MODEL.ROI_HEADS.NAME", heads, "MODEL.ROI_HEADS.NUM_CLASSES"]
    for number in ("3", "1"):
        check_datasets(load_config(str(tiny_config(NAME)), [*opts, number]), [], [NAME])


@pytest.mark.parametrize("is_training", [True, False])
def test_mask_on_without_masks(refused, tiny_config, copied_set, is_training):
    more = () if is_training else ("--eval-only", "MODEL.WEIGHTS", str(copied_set[0]))
    edit(copied_set[0], lambda content: [a.pop("segmentation") for a in content["annotations"]])
    message = refused("--config-file", str(tiny_config(NAME)), *flag(copied_set), *more)
    assert f"MODEL.MASK_ON is True, but the annotations of data set {NAME} have no 'segmentation'" in message


@pytest.mark.parametrize("workers", ["0", "2"])
def test_truncated_image(refused, tiny_config, copied_set, workers):
    image = copied_set[1] / "5.png"
    image.write_bytes(image.read_bytes()[:400])
    opts = ("DATALOADER.NUM_WORKERS", workers)
    assert str(image) in refused("--config-file", str(tiny_config(NAME)), *flag(copied_set), *opts)


def test_truncated_image_is_skipped_if_configured(tiny_config, copied_set, tmp_path, forget):
    forget(NAME)
    image = copied_set[1] / "5.png"
    image.write_bytes(image.read_bytes()[:400])
    opts = ["DATALOADER.SKIP_BAD_IMAGES", "True", "SOLVER.MAX_ITER", "5", "SOLVER.STEPS", "()"]
    arguments = ["--config-file", str(tiny_config(NAME, tmp_path / "out")), *flag(copied_set), *opts]
    main(["train", *arguments])
    assert (tmp_path / "out" / "model_final.pth").is_file()
    assert str(image) in (tmp_path / "out" / "log.txt").read_text()


def test_checkpoint_of_another_architecture(refused, tiny_config, tiny_set, tmp_path):
    config = str(tiny_config(NAME))
    torch.save({"model": {"backbone.conv.weight": torch.zeros(3)}}, tmp_path / "other.pth")
    weights = ("MODEL.WEIGHTS", str(tmp_path / "other.pth"))
    for mode in ((), ("--eval-only",)):
        message = refused("--config-file", config, *flag(tiny_set), *mode, *weights)
        assert "other.pth does not fit this model" in message


def test_missing_or_truncated_checkpoint(refused, tiny_config, tiny_set, tmp_path):
    arguments = ("--config-file", str(tiny_config(NAME)), *flag(tiny_set), "--eval-only", "MODEL.WEIGHTS")
    assert "nowhere.pth does not exist" in refused(*arguments, str(tmp_path / "nowhere.pth"))
    torch.save({"model": {"weight": torch.zeros(3000)}}, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:500])
    assert "cut.pth cannot be read" in refused(*arguments, str(tmp_path / "cut.pth"))


def test_more_gpus_than_available(refused, tiny_config):
    if torch.cuda.device_count() < 64:
        assert "--num-gpus is 64" in refused("--config-file", str(tiny_config(NAME)), "--num-gpus", "64")


@pytest.mark.skipif("embedded" not in detectron2.__file__, reason="the real Detectron2 supports keypoints")
def test_setting_that_the_embedded_detectron2_lacks(refused, tiny_config, tiny_set):
    config = str(tiny_config(NAME))
    message = refused("--config-file", config, *flag(tiny_set), "MODEL.KEYPOINT_ON", "True")
    assert "MODEL.KEYPOINT_ON True is not part of the embedded detectron2" in message and "make detectron2" in message

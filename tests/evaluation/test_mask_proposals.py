"""Average recall of mask proposals: compared with pycocotools, calculated by hand, two processes."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import os
import uuid

from tellapart import InputError
from tellapart.data.coco_folder import coco_annotation
from tellapart.evaluation import MaskProposalEvaluator

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import DatasetEvaluators, print_csv_format
from detectron2.structures import Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

H, W = 120, 160
IMAGES = range(11, 18)
EMPTY, NOT_PROCESSED, NO_PROPOSALS = 12, 14, 16  # images without objects, not processed, without proposals
IOUS = ["0.5", "0.55", "0.6", "0.65", "0.7", "0.75", "0.8", "0.85", "0.9", "0.95"]


def rectangle(x: int, y: int, w: int, h: int) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[y : y + h, x : x + w] = True
    return mask


def objects(image: int) -> list[np.ndarray]:
    """Return small, medium and large masks, some with holes. The last mask is repeated."""
    rng = np.random.default_rng(image)
    masks = []
    for k in range(6 if image != EMPTY else 0):
        w, h = rng.integers(*[(8, 30), (34, 60), (97, 110)][k % 3], size=2)
        mask = rectangle(rng.integers(0, W - w), rng.integers(0, H - h), w, h)
        masks.append(mask & (rng.random((H, W)) > 0.1 * (k % 2)))
    return [*masks, *masks[-1:]]


def coco_content(images, masks: list[tuple[int, int, np.ndarray, bool]], categories, first_id: int = 1) -> dict:
    """Return a COCO file's content with annotations (image id, category id, mask, whether it is a crowd)."""
    annotations = [
        {**coco_annotation(n, image, category, mask), "iscrowd": int(crowd)}
        for n, (image, category, mask, crowd) in enumerate(masks, first_id)
    ]
    images = [{"id": i, "file_name": f"{i}.png", "width": W, "height": H} for i in images]
    return {"images": images, "annotations": annotations, "categories": [{"id": c, "name": str(c)} for c in categories]}


def gt_content(first_id: int = 1, categories: tuple[int, int] = (1, 3)) -> dict:
    masks = [(i, categories[(k + 1) % 2], mask, k == 4) for i in IMAGES for k, mask in enumerate(objects(i))]
    return coco_content(IMAGES, masks, categories, first_id)


def output_of(masks: list[np.ndarray], scores, key: str = "instances", field: str = "scores") -> dict:
    masks = torch.from_numpy(np.array(masks, bool).reshape(-1, H, W))
    return {key: Instances((H, W), pred_masks=masks, **{field: torch.tensor(scores, dtype=torch.float32)})}


def proposals(image: int, count: int, noise: int = 6) -> Instances:
    """Return shifted objects and random rectangles in random order. Scores have ten values, so that most are tied."""
    rng = np.random.default_rng(image + 100)
    masks = [np.roll(m, rng.integers(-noise, noise + 1, size=2), (0, 1)) for m in objects(image) for _ in range(3)]
    while len(masks) < count:
        masks.append(rectangle(*rng.integers(1, 100, size=4)))
    order = rng.permutation(len(masks))[: 0 if image == NO_PROPOSALS else count]
    return output_of([masks[i] for i in order], rng.integers(0, 10, len(order)) / 10)["instances"]


def register(folder, content: dict) -> str:
    """Register a COCO file with this content under a new name."""
    name = f"ar_{uuid.uuid4().hex}"
    (folder / f"{name}.json").write_text(json.dumps(content))
    register_coco_instances(name, {}, str(folder / f"{name}.json"), str(folder))
    return name


@pytest.fixture
def dataset(tmp_path) -> str:
    return register(tmp_path, gt_content())


def evaluate(name: str, counts: dict[int, int], **options) -> dict[str, float]:
    """Return the figures for ``counts[image]`` proposals per image. NOT_PROCESSED is left out."""
    evaluator = MaskProposalEvaluator(name, **options)
    processed = [image for image in counts if image != NOT_PROCESSED]
    evaluator.process([{"image_id": i} for i in processed], [{"instances": proposals(i, counts[i])} for i in processed])
    return evaluator.evaluate().get("mask_proposals", {})


def as_results(counts: dict[int, int]) -> list[dict]:
    """Return the proposals that `evaluate` processes, in COCO's result format."""
    results = []
    for image, instances in ((i, proposals(i, n)) for i, n in counts.items() if i != NOT_PROCESSED):
        for score, mask in zip(instances.scores.tolist(), instances.pred_masks.numpy()):
            results.append({**coco_annotation(0, image, 1, mask), "bbox": [], "score": score})
    return results


def pycocotools_recall(name: str, results: list[dict], limits: list[int]) -> np.ndarray:
    """Return COCOeval's recalls in percent, by IoU threshold, area range and limit."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(MetadataCatalog.get(name).json_file)
        evaluation = COCOeval(coco, coco.loadRes(results), "segm")
        evaluation.params.useCats, evaluation.params.maxDets = 0, limits
        evaluation.evaluate()
        evaluation.accumulate()
    return 100 * evaluation.eval["recall"][:, 0]


def test_figures_equal_pycocotools(dataset):
    counts = dict(zip(IMAGES, (40, 35, 12, 40, 50, 40, 30)))
    figures = evaluate(dataset, counts, limits=[30, 3, 10])
    recall = pycocotools_recall(dataset, as_results(counts), list(range(1, 31)))
    expected = {f"AR@{n}": recall[:, 0, n - 1].mean() for n in (3, 10, 30)}
    expected |= {f"AR{area}@30": recall[:, k, -1].mean() for k, area in enumerate("sml", 1)}
    curve = recall[:, 0].mean(0)
    expected["AUC"] = sum((curve[n - 1] + curve[n]) / 2 * math.log((n + 1) / n, 30) for n in range(1, 30))
    expected |= {f"recall@{iou}": recall[k, 0, -1] for k, iou in enumerate(IOUS)}
    assert list(figures) == list(expected)
    assert figures == pytest.approx(expected, rel=1e-12)
    assert 5 < figures["AR@3"] < figures["AR@10"] < figures["AR@30"] < 80
    assert len({figures[f"AR{area}@30"] for area in "sml"}) == 3


def test_more_than_a_thousand_proposals(dataset):
    counts = {11: 1100, 12: 20}
    figures = evaluate(dataset, counts)
    recall = pycocotools_recall(dataset, as_results(counts), [10, 100, 1000]).mean(0)
    names = ["AR@10", "AR@100", "AR@1000", "ARs@1000", "ARm@1000", "ARl@1000"]
    assert list(figures)[:7] == [*names, "AUC"]
    assert [figures[name] for name in names] == pytest.approx([*recall[0], *recall[1:, -1]], rel=1e-12)
    assert figures["AR@10"] < figures["AR@100"] < figures["AR@1000"]


def test_ids_do_not_matter(dataset, tmp_path):
    """Unlike in plain pycocotools, an annotation can have the id 0 and no category needs the id 1."""
    other = register(tmp_path, gt_content(0, (5, 7)))
    assert evaluate(other, dict.fromkeys(IMAGES, 25)) == evaluate(dataset, dict.fromkeys(IMAGES, 25))


def simple(folder, masks: list[np.ndarray], crowd: tuple[int, ...] = ()) -> str:
    """Register a data set of one image, with id 1 and these objects."""
    return register(folder, coco_content([1], [(1, 1, m, k in crowd) for k, m in enumerate(masks)], [1]))


def score(name: str, output: dict, **options) -> dict[str, float]:
    evaluator = MaskProposalEvaluator(name, **options)
    evaluator.process([{"image_id": 1}], [output])
    return evaluator.evaluate()["mask_proposals"]


A, B, WRONG = rectangle(10, 10, 20, 20), rectangle(50, 50, 40, 40), rectangle(140, 0, 20, 9)


def test_area_under_curve_by_hand(tmp_path):
    name = simple(tmp_path, [A, B])
    output = output_of([B, WRONG, A, WRONG], [-2.0, 3.0, 1.0, -1.0], "proposals", "objectness_logits")
    figures = score(name, output, limits=(1, 4))  # recall with 1 to 4 proposals: 0, 1/2, 1/2, 1
    assert (figures["AR@1"], figures["AR@4"], figures["ARs@4"], figures["ARm@4"]) == (0, 100, 100, 100)
    assert math.isnan(figures["ARl@4"])
    assert figures["AUC"] == pytest.approx(math.log(2, 4) * 25 + math.log(3 / 2, 4) * 50 + math.log(4 / 3, 4) * 75)
    figures = score(name, output_of([B, A], [1.0, 0.5]), limits=(1, 2, 100))
    assert figures["AUC"] == pytest.approx(100 - 25 * math.log(2, 100)) and figures["AR@1"] == 50
    assert math.isnan(score(name, output, limits=(1,))["AUC"])


def test_recall_at_each_iou(tmp_path):
    """18 of 20 columns are covered: IoU 0.9. An object with an IoU equal to the threshold counts as found."""
    figures = score(simple(tmp_path, [A]), output_of([rectangle(10, 10, 18, 20)], [0.5]))
    assert [figures[f"recall@{iou}"] for iou in IOUS] == [100] * 9 + [0]
    assert figures["AR@10"] == pytest.approx(90) and figures["AUC"] == pytest.approx(90)


def test_of_equal_scores_the_first_are_kept(tmp_path):
    name = simple(tmp_path, [A, B])
    masks = [WRONG, A, *[WRONG] * 40, B]
    assert score(name, output_of(masks, [0.5] * 43), limits=(2,))["AR@2"] == 50
    assert score(name, output_of(masks, [0.5] * 42 + [0.6]), limits=(2,))["AR@2"] == 50
    assert score(name, output_of(masks, [0.1] + [0.5] * 41 + [0.6]), limits=(2,))["AR@2"] == 100


def test_crowd_regions_do_not_count_as_objects(tmp_path):
    name = simple(tmp_path, [B, A], crowd=(0,))
    in_crowd = [rectangle(50, 50, 40, 20), B]
    assert score(name, output_of([*in_crowd, A], [0.9, 0.8, 0.7]))["AR@10"] == 100
    assert score(name, output_of(in_crowd, [0.9, 0.8]))["AR@10"] == 0
    figures = score(simple(tmp_path, [A], crowd=(0,)), output_of([A], [0.5]))
    assert all(math.isnan(value) for value in figures.values())


def test_no_proposals_no_images_no_annotations(dataset, tmp_path):
    figures = score(simple(tmp_path, [A]), output_of([], []))
    assert (figures["AR@10"], figures["AUC"], figures["recall@0.5"]) == (0, 0, 0) and math.isnan(figures["ARl@1000"])
    evaluator = MaskProposalEvaluator(dataset)
    evaluator.process([{"image_id": 11}], [{"instances": proposals(11, 20)}])
    evaluator.reset()
    assert evaluator.evaluate() == {}
    without_annotations = register(tmp_path, {k: v for k, v in gt_content().items() if k != "annotations"})
    assert evaluate(without_annotations, dict.fromkeys(IMAGES, 5), output_dir=str(tmp_path)) == {}
    assert len(json.loads((tmp_path / "mask_proposals_results.json").read_text())) == 5 * 5


def test_results_file_has_the_same_figures(dataset, tmp_path):
    figures = evaluate(dataset, dict.fromkeys(IMAGES, 25), limits=(5, 20), output_dir=str(tmp_path / "new"))
    results = json.loads((tmp_path / "new" / "mask_proposals_results.json").read_text())
    assert len(results) == 20 * 5 and {r["category_id"] for r in results} == {1}
    recall = pycocotools_recall(dataset, results, [5, 20]).mean(0)
    assert [figures["AR@5"], figures["AR@20"]] == pytest.approx(list(recall[0]))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        evaluate(dataset, dict.fromkeys(IMAGES, 1), output_dir=str(tmp_path / "file"))


def test_dataset_without_a_file_is_written(dataset, tmp_path):
    records, name = DatasetCatalog.get(dataset), dataset + "_dicts"
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).thing_classes = MetadataCatalog.get(dataset).thing_classes
    with pytest.raises(InputError, match="has no COCO file: give output_dir"):
        MaskProposalEvaluator(name)
    counts = dict.fromkeys(IMAGES, 15)
    assert evaluate(name, counts, output_dir=str(tmp_path / "out")) == evaluate(dataset, counts)
    assert (tmp_path / "out" / f"{name}_coco_format.json").is_file()


def test_log_lines(tmp_path, caplog):
    evaluator = DatasetEvaluators([MaskProposalEvaluator(simple(tmp_path, [A]))])
    evaluator.process([{"image_id": 1}], [output_of([A], [0.5])])
    with caplog.at_level(logging.INFO):
        print_csv_format(evaluator.evaluate())
    table, *lines = [r.getMessage() for r in caplog.records if r.name.startswith(("tellapart", "detectron2"))]
    assert "Evaluation results for mask_proposals" in table and "ARs@1000" in table and "recall@0.95" in table
    names = "AR@10,AR@100,AR@1000,ARs@1000,ARm@1000,ARl@1000,AUC," + ",".join(f"recall@{iou}" for iou in IOUS)
    values = ",".join(["100.0000"] * 4 + ["nan"] * 2 + ["100.0000"] * 11)
    assert lines == ["copypaste: Task: mask_proposals", f"copypaste: {names}", f"copypaste: {values}"]


def test_errors_for_bad_input(dataset, tmp_path):
    for limits in ((), (0, 10), (10.5,)):
        with pytest.raises(InputError, match="limits are .* whole numbers above 0"):
            MaskProposalEvaluator(dataset, limits=limits)
    good, scores = output_of([A], [0.5])["instances"], torch.ones(1)
    transposed = Instances((W, H), pred_masks=good.pred_masks.mT, scores=scores)
    for image, output, message in (
        (5, {"instances": good}, "Image 5 is not in the data set"),
        (11, {"sem_seg": None}, r"Image 11: the model returns \['sem_seg'\], expected instances or proposals"),
        (11, {"instances": Instances((H, W), scores=scores)}, r"proposals have \['scores'\], expected pred_masks"),
        (11, {"instances": Instances((H, W), pred_masks=good.pred_masks)}, "and scores or objectness_logits"),
        (11, {"instances": transposed}, r"Image 11: .*\(160, 120\), expected torch.bool \(120, 160\)"),
        (11, {"instances": Instances((H, W), pred_masks=torch.ones(1, H, W), scores=scores)}, "torch.float32"),
        (11, output_of([A, B], [0.5, math.nan]), "Image 11: 1 of 2 scores are NaN"),
    ):
        with pytest.raises(InputError, match=message):
            MaskProposalEvaluator(dataset).process([{"image_id": image}], [output])
    content = gt_content()
    del content["annotations"][3]["segmentation"]
    for text, message in ((json.dumps(content), "annotation 4 lacks segmentation or area"), ("{", "can't be read: E")):
        (tmp_path / f"{dataset}.json").write_text(text)
        with pytest.raises(InputError, match=message):
            MaskProposalEvaluator(dataset)


def _run_process(rank: int, folder: str, json_file: str) -> None:
    """Run process ``rank`` of two. The second one processes an image of the first again, with other proposals."""
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(os.path.join(folder, "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    register_coco_instances("ar_two_processes", {}, json_file, folder)
    evaluator = MaskProposalEvaluator("ar_two_processes", limits=(5, 20), output_dir=folder)
    for image in (IMAGES[:4], IMAGES[4:])[rank]:
        evaluator.process([{"image_id": image}], [{"instances": proposals(image, 25)}])
    if rank == 1:
        evaluator.process([{"image_id": IMAGES[0]}], [{"instances": proposals(IMAGES[0], 25, noise=0)}])
    with open(os.path.join(folder, f"figures_{rank}.json"), "w") as file:
        json.dump(evaluator.evaluate(), file)
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_figures_of_one(dataset, tmp_path):
    # fork is seconds faster than spawn, which imports everything again
    arguments = (str(tmp_path), MetadataCatalog.get(dataset).json_file)
    torch.multiprocessing.start_processes(_run_process, arguments, nprocs=2, start_method="fork")
    main, other = (json.loads((tmp_path / f"figures_{rank}.json").read_text()) for rank in range(2))
    single = MaskProposalEvaluator(dataset, limits=(5, 20), output_dir=str(tmp_path / "single"))
    for image, noise in [*((image, 6) for image in IMAGES), (IMAGES[0], 0)]:
        single.process([{"image_id": image}], [{"instances": proposals(image, 25, noise)}])
    assert other == {} and main == single.evaluate()
    files = (folder / "mask_proposals_results.json" for folder in (tmp_path, tmp_path / "single"))
    assert len({file.read_text() for file in files}) == 1

"""AP of constructed predictions: known values, values of pycocotools, and evaluation in two processes."""

import contextlib
import io
import json
import math
import os
import uuid

import tellapart  # noqa: F401

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.samplers import InferenceSampler
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

H, W = 120, 160
CATEGORIES = [{"id": 2, "name": "disc"}, {"id": 7, "name": "square"}, {"id": 9, "name": "absent"}]


def rectangles():
    """(image id, category id, x, y, w, h) of small, medium and large instances in six images."""
    rng = np.random.RandomState(0)
    found = []
    for image in range(11, 17):
        for k in range(5):
            w, h = (int(v) for v in rng.randint(*[(8, 30), (34, 60), (97, 110)][k % 3], size=2))
            x, y = (int(v) for v in (rng.randint(0, W - w), rng.randint(0, H - h)))
            found.append((image, (2, 7)[k % 2], x, y, w, h))
    return found


def write_truth(path):
    annotations = [
        {
            "id": n + 1,
            "image_id": image,
            "category_id": category,
            "bbox": [x, y, w, h],
            "area": w * h,
            "iscrowd": 0,
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        }
        for n, (image, category, x, y, w, h) in enumerate(rectangles())
    ]
    images = [{"id": i, "file_name": f"{i}.png", "width": W, "height": H} for i in range(11, 17)]
    with open(path, "w") as f:
        json.dump({"images": images, "annotations": annotations, "categories": CATEGORIES}, f)


def predictions(image, noise):
    """Predictions for one image: the ground truth, moved by up to ``noise`` pixels.

    With noise, one prediction per image has a wrong class.
    """
    rng = np.random.RandomState(image)
    ground_truth = [r for r in rectangles() if r[0] == image]
    boxes = np.array([[x, y, x + w, y + h] for *_, x, y, w, h in ground_truth], dtype=np.float32)
    boxes = (boxes + rng.uniform(-noise, noise, boxes.shape)).astype(np.float32)
    found = Instances((H, W))
    found.pred_boxes = Boxes(torch.from_numpy(boxes))
    found.scores = torch.from_numpy(rng.rand(len(ground_truth)).astype(np.float32))
    classes = [{2: 0, 7: 1}[category] for _, category, *_ in ground_truth]
    found.pred_classes = torch.tensor([1 - c if noise and k == 0 else c for k, c in enumerate(classes)])
    masks = torch.zeros(len(ground_truth), H, W, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.round().astype(int).clip(0)):
        mask[y0:y1, x0:x1] = True
    found.pred_masks = masks
    return found


@pytest.fixture
def truth(tmp_path):
    """Name of a registered dataset whose metadata is complete."""
    name = f"ap_{uuid.uuid4().hex}"
    write_truth(tmp_path / "truth.json")
    register_coco_instances(name, {}, str(tmp_path / "truth.json"), str(tmp_path))
    DatasetCatalog.get(name)
    return name


def evaluate(name, noise=0.0, images=range(11, 17), keep=slice(None), img_ids=None, **options):
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOEvaluator(name, **options)
        evaluator.reset()
        for image in images:
            evaluator.process([{"image_id": image}], [{"instances": predictions(image, noise)[keep]}])
        return evaluator.evaluate(img_ids)


def test_perfect_predictions_reach_100(truth):
    results = evaluate(truth)
    assert list(results) == ["bbox", "segm"]
    for task in results.values():
        for metric in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AP-disc", "AP-square"):
            assert task[metric] == pytest.approx(100)
        assert math.isnan(task["AP-absent"])


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("noise", [2.0, 9.0])
def test_same_as_pycocotools(task, noise, truth):
    results = evaluate(truth, noise)[task]
    flat = []
    for image in range(11, 17):
        for result in instances_to_coco_json(predictions(image, noise), image):
            result["category_id"] = (2, 7)[result["category_id"]]
            if task == "segm":
                del result["bbox"]
            flat.append(result)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(MetadataCatalog.get(truth).json_file)
        direct = COCOeval(coco, coco.loadRes(flat), task)
        direct.evaluate()
        direct.accumulate()
        direct.summarize()
    expected = direct.stats[:6] * 100
    assert 3 < expected[0] < 97
    np.testing.assert_allclose([results[k] for k in ("AP", "AP50", "AP75", "APs", "APm", "APl")], expected)
    precision = direct.eval["precision"]  # IoU, recall, class, area, max dets
    for i, name in enumerate(("disc", "square")):
        assert results[f"AP-{name}"] == pytest.approx(precision[:, :, i, 0, 2].mean() * 100)


def test_one_of_two_categories_found(truth):
    """All instances of one category are found, and none of the other."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOEvaluator(truth)
        evaluator.reset()
        for image in range(11, 17):
            found = predictions(image, 0)
            evaluator.process([{"image_id": image}], [{"instances": found[found.pred_classes == 0]}])
        results = evaluator.evaluate()["segm"]
    assert results["AP"] == pytest.approx(50)
    assert (results["AP-disc"], results["AP-square"]) == (pytest.approx(100), pytest.approx(0))


def test_no_predictions_give_nan(truth):
    results = evaluate(truth, keep=slice(0), tasks=("bbox", "segm"))
    for task in ("bbox", "segm"):
        assert list(results[task]) == ["AP", "AP50", "AP75", "APs", "APm", "APl"]
        assert all(math.isnan(v) for v in results[task].values())
    assert evaluate(truth, images=[]) == {}


def test_one_class_has_no_ap_per_class(truth, tmp_path):
    with open(MetadataCatalog.get(truth).json_file) as f:
        content = json.load(f)
    content["categories"] = CATEGORIES[:1]
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] == 2]
    (tmp_path / "one.json").write_text(json.dumps(content))
    register_coco_instances(truth + "_one", {}, str(tmp_path / "one.json"), "")
    DatasetCatalog.get(truth + "_one")
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOEvaluator(truth + "_one", tasks=("bbox",))
        evaluator.reset()
        found = predictions(11, 0)
        evaluator.process([{"image_id": 11}], [{"instances": found[found.pred_classes == 0]}])
        results = evaluator.evaluate([11])
    assert list(results["bbox"]) == ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    assert results["bbox"]["AP"] == pytest.approx(100)


def test_tasks_images_and_max_detections(truth):
    assert list(evaluate(truth, tasks=("bbox",))) == ["bbox"]
    some = evaluate(truth, images=[11, 12], img_ids=[11, 12])["bbox"]["AP"]
    assert some == pytest.approx(100) and evaluate(truth, images=[11, 12])["bbox"]["AP"] < 50
    more = evaluate(truth, max_dets_per_image=200, use_fast_impl=False)
    assert more["bbox"]["AP"] == pytest.approx(100) and more["segm"]["APl"] == pytest.approx(100)


def test_results_file(truth, tmp_path):
    evaluate(truth, 2.0, output_dir=str(tmp_path / "out"))
    results = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert len(results) == 30 and {r["category_id"] for r in results} == {2, 7}
    first = predictions(11, 2.0)
    x0, y0, x1, y1 = first.pred_boxes.tensor[0].tolist()
    assert results[0]["image_id"] == 11 and results[0]["score"] == pytest.approx(first.scores[0].item())
    assert results[0]["bbox"] == pytest.approx([x0, y0, x1 - x0, y1 - y0], rel=1e-5)
    assert results[0]["segmentation"]["size"] == [H, W]
    with contextlib.redirect_stdout(io.StringIO()):
        masks = COCO(MetadataCatalog.get(truth).json_file).loadRes(results)
    np.testing.assert_array_equal(masks.annToMask(masks.anns[1]).astype(bool), first.pred_masks[0].numpy())


def test_dataset_without_a_coco_file_is_converted(truth, tmp_path):
    name = truth + "_dicts"
    records = DatasetCatalog.get(truth)
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).thing_classes = MetadataCatalog.get(truth).thing_classes
    results = evaluate(name, 2.0, output_dir=str(tmp_path))
    assert results["segm"]["AP"] == pytest.approx(evaluate(truth, 2.0)["segm"]["AP"])
    assert (tmp_path / f"{name}_coco_format.json").is_file()
    DatasetCatalog.register(name + "_bare", lambda: records)
    with pytest.raises(ValueError, match="output_dir must be provided"):
        COCOEvaluator(name + "_bare")


def test_unknown_class_is_refused(truth):
    found = predictions(11, 0)
    found.pred_classes[:] = 5
    evaluator = COCOEvaluator(truth)
    evaluator.reset()
    evaluator.process([{"image_id": 11}], [{"instances": found}])
    with pytest.raises(AssertionError, match="class=5.*3 classes"):
        evaluator.evaluate()


def _one_of_two(rank, folder):
    """The work of process ``rank`` of two: predict its part of the images, then evaluate together."""
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(os.path.join(folder, "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    register_coco_instances("ap_two_processes", {}, os.path.join(folder, "truth.json"), folder)
    DatasetCatalog.get("ap_two_processes")
    images = [range(11, 17)[i] for i in InferenceSampler(6)]
    results = evaluate("ap_two_processes", 5.0, images=images)
    with open(os.path.join(folder, f"results_{rank}.json"), "w") as f:
        json.dump([images, results], f)
    torch.distributed.destroy_process_group()


def test_two_processes_return_the_results_of_one(truth, tmp_path):
    # fork is seconds faster than spawn, which imports all modules again
    torch.multiprocessing.start_processes(_one_of_two, (str(tmp_path),), nprocs=2, start_method="fork")
    (images_0, results), (images_1, nothing) = (
        json.loads((tmp_path / f"results_{rank}.json").read_text()) for rank in range(2)
    )
    assert (images_0, images_1) == ([11, 12, 13], [14, 15, 16])
    assert nothing == {}
    single = evaluate(truth, 5.0)
    assert results["segm"].keys() == single["segm"].keys()
    for task in ("bbox", "segm"):
        for metric, value in single[task].items():
            assert results[task][metric] == value or math.isnan(value)  # exactly

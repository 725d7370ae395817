"""Two gloo processes: communication, data-parallel training, log files and checkpoints."""

from __future__ import annotations

import os
import time

import pytest
import torch
from detectron2.engine import create_ddp_model, launch
from detectron2.utils import comm
from helpers_engine import EMBEDDED, Toy

OWN_LAUNCH = EMBEDDED and not torch.cuda.is_available()


def start(rank, folder, meeting):
    """Start a process. The real Detectron2's ``launch`` starts several processes only with GPUs."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", world_size=2, rank=rank)
    comm.create_local_process_group(2)
    work(folder)


def work(folder):
    """Communicate, then train. Runs in each of the two processes."""
    torch.set_num_threads(1)
    rank = comm.get_rank()
    result = {"communication": communicate(rank, folder), "train": train(rank, os.path.join(folder, "train"))}
    torch.save(result, os.path.join(folder, f"{rank}.pt"))
    comm.synchronize()
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Return folder and results of two processes, which are started once because that is slow."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "train").mkdir()
    if OWN_LAUNCH:
        launch(work, 2, dist_url="auto", args=(str(folder),))
    else:
        torch.multiprocessing.spawn(start, args=(str(folder), str(folder / "meeting")), nprocs=2)
    return folder, [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def communicate(rank, folder):
    if rank == 1:
        time.sleep(0.2)
        open(os.path.join(folder, "late"), "w").close()
    comm.synchronize()
    late = os.path.exists(os.path.join(folder, "late"))
    return {
        "who": (comm.get_rank(), comm.get_world_size(), comm.get_local_rank()),
        "main": comm.is_main_process(),
        "waited": late,
        "all": comm.all_gather({"rank": rank, "x": list(range(rank * 1000))}),
        "to 0": comm.gather(rank),
        "to 1": comm.gather(rank, dst=1),
        "seed": comm.shared_random_seed(),
        "local": comm.all_gather(rank, group=comm.get_local_process_group()),
    }


def test_communication(two):
    first, second = (result["communication"] for result in two[1])
    assert first["who"] == (0, 2, 0) and second["who"] == (1, 2, 1)
    assert first["main"] and not second["main"]
    assert first["waited"] and second["waited"]
    assert first["all"] == second["all"] == [{"rank": r, "x": list(range(r * 1000))} for r in range(2)]
    assert first["to 0"] == [0, 1] and second["to 0"] == []
    assert first["to 1"] == [] and second["to 1"] == [0, 1]
    assert first["seed"] == second["seed"] and 0 <= first["seed"] < 2**31
    assert first["local"] == second["local"] == [0, 1]


def test_one_process():
    assert (comm.get_rank(), comm.get_world_size(), comm.get_local_rank()) == (0, 1, 0)
    assert comm.is_main_process()
    assert comm.all_gather("x") == comm.gather("x") == ["x"]
    assert 0 <= comm.shared_random_seed() < 2**31
    comm.synchronize()
    model = Toy()
    assert create_ddp_model(model) is model


class Halves:
    """The part of each batch of eight for this rank."""

    def __init__(self, rank, count=2):
        self.rank, self.count = rank, count

    def __iter__(self):
        position = 0
        while True:
            batch = torch.randn(8, 2, generator=torch.Generator().manual_seed(position))
            yield batch.chunk(self.count)[self.rank]
            position += 1


def train(rank, folder, count=2):
    import functools

    from detectron2.config import get_cfg
    from detectron2.engine import DefaultTrainer, defaults
    from detectron2.utils.logger import setup_logger

    if count > 1 and not EMBEDDED:
        # The real one always passes device_ids, which DistributedDataParallel refuses on the CPU.
        defaults.create_ddp_model = functools.partial(defaults.create_ddp_model, device_ids=None)

    class Trainer(DefaultTrainer):
        @classmethod
        def build_model(cls, cfg):
            return Toy(5)

        @classmethod
        def build_train_loader(cls, cfg):
            return Halves(rank, count)

    cfg = get_cfg()
    cfg.OUTPUT_DIR = folder
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATASETS.TEST = ()
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS = 6, (4,), 2
    cfg.SOLVER.BASE_LR, cfg.SOLVER.CHECKPOINT_PERIOD = 0.05, 3
    setup_logger(folder, distributed_rank=comm.get_rank(), configure_stdout=False)
    trainer = Trainer(cfg)
    trainer.train()
    losses = [v for v, _ in trainer.storage.histories()["total_loss"].values()] if rank == 0 else []
    weights = {k.replace("module.", ""): v for k, v in trainer.model.state_dict().items()}

    resumed = Trainer(cfg)
    with open(os.path.join(folder, "last_checkpoint")) as f:
        last = f.read()
    resumed.resume_or_load(resume=True)
    again = {k.replace("module.", ""): v for k, v in resumed.model.state_dict().items()}
    return {"weights": weights, "losses": losses, "last": last, "start": resumed.start_iter, "again": again}


def test_data_parallel_training(two, tmp_path):
    folder = two[0] / "train"
    first, second = (result["train"] for result in two[1])
    single = train(0, str(tmp_path), count=1)
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name])
        torch.testing.assert_close(value, single["weights"][name])
    assert first["losses"] == pytest.approx(single["losses"], rel=1e-5)
    for result in (first, second):
        assert result["last"] == "model_final.pth" and result["start"] == 6
        assert all(torch.equal(result["again"][k], v) for k, v in result["weights"].items())
    content = torch.load(folder / "model_final.pth", weights_only=True)
    assert list(content["model"]) == ["fc.weight", "fc.bias"]
    names = {p.name for p in folder.iterdir()}
    assert {"log.txt", "log.txt.rank1", "metrics.json", "model_0000002.pth", "model_0000005.pth"} <= names
    assert len([n for n in names if n.startswith("events.")]) == 1
    assert len((folder / "metrics.json").read_text().splitlines()) == 1


def report(folder):
    with open(os.path.join(folder, "launched"), "w") as f:
        f.write(f"{comm.get_world_size()} {torch.distributed.is_initialized()}")


def test_launch_one(tmp_path):
    launch(report, 1, args=(str(tmp_path),))
    assert (tmp_path / "launched").read_text() == "1 False"


def test_launch_auto_is_for_one_machine(tmp_path):
    with pytest.raises((ValueError, AssertionError), match="auto"):
        launch(report, 1, num_machines=2, dist_url="auto", args=(str(tmp_path),))

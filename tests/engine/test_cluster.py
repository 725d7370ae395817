"""SLURM's variables, as its versions 22 and later set them, become torchrun's."""

from __future__ import annotations

import datetime

from tellapart import InputError
from tellapart.engine import cluster

import pytest

ONE_NODE = {
    "SLURM_JOB_ID": "2", "SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NTASKS": "2",
    "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_STEP_NODELIST": "vm",
}  # fmt: skip
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def outside_of_launchers(monkeypatch):
    for name in (*VARIABLES, *ONE_NODE, "TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "")  # so that what a test sets is removed after it
        monkeypatch.delenv(name)


def test_one_node():
    variables = cluster.slurm_variables(ONE_NODE)
    port = variables.pop("MASTER_PORT")
    assert variables == {
        "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "vm",
    }  # fmt: skip
    assert port == cluster.slurm_variables({**ONE_NODE, "SLURM_PROCID": "0"})["MASTER_PORT"]
    assert port != cluster.slurm_variables({**ONE_NODE, "SLURM_STEP_ID": "1"})["MASTER_PORT"]
    assert 20_000 <= int(port) < 32_768


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu[07-09,12],cpu3", "gpu07"),
        ("cpu3,gpu[07-09]", "cpu3"),
        ("node[1,5]-ib", "node1-ib"),
        ("rack[2-3]node[04-05]", "rack2node04"),
    ],
)
def test_the_first_node_of_several(nodes, first):
    several = {"SLURM_STEP_NODELIST": nodes, "SLURM_STEP_NUM_TASKS": "12", "SLURM_STEP_TASKS_PER_NODE": "4(x3)"}
    variables = cluster.slurm_variables({**ONE_NODE, **several})
    assert (variables["MASTER_ADDR"], variables["LOCAL_WORLD_SIZE"], variables["WORLD_SIZE"]) == (first, "4", "12")


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_NTASKS": "4"},  # a shell of salloc
        {**ONE_NODE, "SLURM_STEP_NUM_TASKS": "1"},  # srun --ntasks=1 in a job with more
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"},
    ],
)
def test_a_single_task_trains_alone(environment):
    assert cluster.slurm_variables(environment) == {}


def test_what_cannot_be_one_job_is_refused(monkeypatch):
    with pytest.raises(InputError, match=r"2\(x3\),1 tasks per node: start the same number"):
        cluster.slurm_variables({**ONE_NODE, "SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_STEP_NUM_TASKS": "7"})
    for name, value in ONE_NODE.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="srun has started 2 tasks, and each would start 8 processes"):
        cluster.join_slurm_tasks(8, 1)
    cluster.join_slurm_tasks(8, 2)  # one task per machine: the user gives each its --machine-rank
    assert not cluster.is_launched()
    cluster.join_slurm_tasks(1, 1)
    assert cluster.is_launched()


def test_the_others_do_not_come(monkeypatch, capsys):
    for name, value in {
        **cluster.slurm_variables({**ONE_NODE, "SLURM_PROCID": "0"}),
        "MASTER_ADDR": "localhost",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cluster, "_MEETING_TIME", datetime.timedelta(seconds=1))
    with pytest.raises(
        InputError, match="process 0 of 2 waited 0:00:01 for the others at localhost:.* with srun, or set"
    ):
        cluster.join_processes("gloo")
    assert capsys.readouterr().err.startswith("waiting for the other 1 of 2 processes at localhost:")

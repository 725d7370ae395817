"""The command ``tellapart``: help without torch, the same flags as Detectron2, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tellapart.errors import InputError, did_you_mean, run_command
from tellapart_cli import COMMANDS, argument_parser, main

import pytest
from detectron2.engine import default_argument_parser

OWN_DATA = ("train", "val", "method", "init", "output")  # flags of `tellapart train` without a config file
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)])
def test_help_prints_nothing_else_and_imports_nothing_large(arguments):
    script = (
        "import sys\nfrom tellapart_cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as exit:\n"
        "    large = [name for name in ('torch', 'numpy', 'detectron2', 'tellapart') if name in sys.modules]\n"
        "    assert not large and not exit.code, (large, exit.code)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "projects")}
    command = [sys.executable, "-c", script, *arguments, "--help"]
    result = subprocess.run(command, text=True, capture_output=True, env=environment)
    assert result.returncode == 0 and result.stderr == ""
    assert result.stdout.startswith(f"usage: {' '.join(['tellapart', *arguments])} [-h]")


def test_help_lists_all_commands(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    printed = capsys.readouterr().out
    assert all(name in printed and summary in printed for name, (_, summary) in COMMANDS.items())


@pytest.mark.parametrize("arguments", [[], ["trian"], ["train", "--num-gpus", "many"]])
def test_unknown_commands_and_flags(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "error: " in capsys.readouterr().err


def test_flags_are_those_of_detectron2():
    """The same values for the same command line, and the same names, types and defaults."""
    argv = [
        *("--config-file", "a.yaml", "--resume", "--eval-only", "--num-gpus", "2", "--num-machines", "3"),
        *("--machine-rank", "1", "--dist-url", "tcp://a:1", "SEED", "1", "--not-a-flag", "MODEL.DEVICE", "cpu"),
    ]
    for given in ([], argv, argv[:3]):
        theirs = vars(default_argument_parser().parse_args(given))
        ours = vars(argument_parser().parse_args(["train", *given]))
        assert ours.pop("register") == [] and callable(ours.pop("run"))
        assert [ours.pop(name) for name in OWN_DATA] == [None] * len(OWN_DATA)
        assert ours == theirs

    def flags(parser) -> dict[str, tuple]:
        return {a.dest: (type(a), a.option_strings, a.nargs, a.const, a.default, a.type) for a in parser._actions}

    theirs = flags(default_argument_parser())
    train_parser = argument_parser()._subparsers._group_actions[0].choices["train"]
    assert {
        dest: action for dest, action in flags(train_parser).items() if dest not in ("register", *OWN_DATA)
    } == theirs


def test_eval_is_train_with_eval_only():
    flags = ["--config-file", "a.yaml", "--register", "a=b:c", "MODEL.WEIGHTS", "a.pth"]
    evaluate = vars(argument_parser().parse_args(["eval", *flags]))
    train = vars(argument_parser().parse_args(["train", "--eval-only", *flags]))
    assert evaluate.pop("run") is not train.pop("run")
    assert [train.pop(name) for name in OWN_DATA] == [None] * len(OWN_DATA)
    assert [evaluate.pop(name) for name in ("model", "data", "against", "threshold", "tile")] == [None] * 5
    assert evaluate == train and evaluate["eval_only"] and evaluate["register"] == ["a=b:c"]


@pytest.mark.parametrize("flags, message", [
    (["--data", "a.json"], "--data needs --model"),
    (["--model", "run"], "--model needs --data"),
    (["--model", "run", "--data", "a.json", "--config-file", "a.yaml"], "leave out --config-file"),
])  # fmt: skip
def test_flags_of_a_trained_model_that_do_not_fit(flags, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["eval", *flags])
    assert stopped.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize("start", [["-m", "tellapart", "eval"], [str(ROOT / "train_net.py")]])
def test_invalid_input_is_one_line_and_exit_code_2(start):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "projects"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *start, "--config-file", "nowhere.yaml"]
    result = subprocess.run(command, text=True, capture_output=True, env=environment)
    assert result.returncode == 2 and result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if "detectron2 is not installed" not in line]
    assert len(lines) == 1 and lines[0].startswith("error: config file nowhere.yaml does not exist")


def test_run_command(capsys):
    def fail(error: BaseException) -> None:
        raise error

    run_command(lambda: None)
    with pytest.raises(SystemExit, match="^2$"):
        run_command(lambda: fail(InputError("no file a.png")))
    assert capsys.readouterr().err == "error: no file a.png\n"
    with pytest.raises(SystemExit, match="^130$"):
        run_command(lambda: fail(KeyboardInterrupt()))
    with pytest.raises(ValueError, match="a bug"):
        run_command(lambda: fail(ValueError("a bug")))


def test_did_you_mean():
    known = ["apple", "pineapple", "pear"]
    assert did_you_mean("aple", known) == "; did you mean apple?"
    assert did_you_mean("aple", known, num_suggestions=2) == "; did you mean apple or pineapple?"
    assert did_you_mean("aple", {"apple": "fruit/apple"}) == "; did you mean fruit/apple?"
    assert did_you_mean("xyz", known) == "" == did_you_mean("aple", [])
    assert did_you_mean("pr", known, cutoff=0.9) == "" != did_you_mean("pr", known)

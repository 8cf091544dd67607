"""The command line: quick to start, readable when something is wrong, and its settings reach the right parameter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from components.common.contracts.errors import ConfigError
from pipelines.cli.main import cli
from pipelines.dag.parameters import INJECTED, TRAINING, Parameter
from pipelines.dag.settings import apply_settings, check_parameters, default_parameters
from pipelines.dag.stages import TASKS
from pipelines.local.records import load_plan, new_run_id


def called(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="untaint")


def test_help_answers_without_loading_kfp_or_any_other_heavy_library() -> None:
    code = (
        "import sys\nfrom pipelines.cli.main import cli\ncli(['--help'], standalone_mode=False)\n"
        "print(sorted({'kfp', 'torch', 'boto3', 'pyarrow', 'numpy', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "untaint run --attack blended" in done.stdout


@pytest.mark.parametrize("command", cli.list_commands(click.Context(cli)))
def test_every_command_is_listed_and_explains_itself(command: str) -> None:
    assert f"  {command} " in called("--help").output
    answer = called(command, "--help")
    assert answer.exit_code == 0
    assert answer.output.startswith(f"Usage: untaint {command}")


@pytest.mark.parametrize("parameter", [one for one in (*INJECTED, *TRAINING) if one.setting], ids=lambda one: one.name)
def test_a_wrong_value_of_an_option_is_told_as_that_of_set_is(
    parameter: Parameter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNTAINT_HOME", str(tmp_path))
    flag = f"--{parameter.name.replace('_', '-')}"
    by_option, by_set = called("run", flag, "?!"), called("run", "--set", f"{parameter.setting}=?!")
    assert by_option.exit_code == by_set.exit_code == ConfigError.exit_code
    assert by_option.stderr == by_set.stderr
    assert by_option.stderr.startswith(f"problem:    ConfigError: {parameter.setting}\n")
    assert "found:      '?!'" in by_option.stderr


def test_what_help_shows_as_default_is_what_a_run_gets_without_the_option() -> None:
    shown = " ".join(called("run", "--help").output.partition("Options:")[2].split())
    for one in (*INJECTED, *TRAINING):
        if one.setting:
            text = shown.partition(f"--{one.name.replace('_', '-')} ")[2].partition(" --")[0]
            default = text.partition("[default: ")[2].partition("]")[0]
            assert apply_settings(default_parameters(), [f"{one.setting}={default}"])[one.name] == one.default


@pytest.mark.parametrize(
    ("arguments", "subject", "found"),
    [
        (("run", "--poison-rate", "1.5"), "ingest.poison_rate", "1.5"),
        (("run", "--set", "warmup.epochs=many"), "warmup.epochs", "'many'"),
        (("run", "--set", "split.no_such=1"), "split.no_such", "no such setting"),
        (("run", "--set", "promote.x=1"), "setting 'promote.x=1'", "stage 'promote'"),
        (("run", "--set", "warmup.epochs"), "setting 'warmup.epochs'", "another form"),
        (("run", "--set", "split.isolation_ratio=[1"), "split.isolation_ratio", "'[1' (ParserError)"),
        (("run", "--run-id", "../elsewhere"), "run_id", "'../elsewhere'"),
        (("report", "never-was"), "run never-was", "none"),
        (("compile", "--output", "training.json"), "--output training.json", "another"),
    ],
)
def test_a_mistake_is_told_in_four_lines_before_anything_starts(
    arguments: tuple[str, ...], subject: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNTAINT_HOME", str(tmp_path))
    answer = called(*arguments)
    assert answer.exit_code == ConfigError.exit_code
    labels = [line.split(":")[0] for line in answer.stderr.splitlines()]
    assert labels == ["problem", "expected", "found", "what to do"]
    assert answer.stderr.splitlines()[0].endswith(f"ConfigError: {subject}")
    assert found in answer.stderr.splitlines()[2]
    assert list(tmp_path.iterdir()) == []


def test_debugging_shows_the_exception_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNTAINT_DEBUG", "1")
    assert isinstance(called("run", "--poison-rate", "1.5").exception, ConfigError)


def test_compile_writes_a_pipeline_for_the_named_images(tmp_path: Path) -> None:
    path = tmp_path / "out.yaml"
    assert called("compile", "--registry", "r.example/x", "--tag", "t1", "--output", str(path)).exit_code == 0
    assert "image: r.example/x/untaint-evaluate:t1" in path.read_text()


def test_models_are_listed_by_name() -> None:
    assert "convnet" in called("list", "models").output.split()


def test_attacks_are_listed_with_their_own_settings() -> None:
    lines = called("list", "attacks").output.splitlines()
    (at,) = (number for number, line in enumerate(lines) if line.startswith("bpp "))
    assert lines[at + 1].strip() == "- levels 8 (2 to 128): Values that a channel may take."
    assert "--set ingest.attack_options=" in lines[-1]


def test_settings_reach_the_parameter_that_the_stage_reads() -> None:
    changed = apply_settings(
        default_parameters(),
        ["warmup.batch_size=64", "warmup.epochs=3", "split.isolation_ratio=0.01", "ingest.attack=sig"],
    )
    assert changed["warmup_settings"] == {"batch_size": 64}
    assert changed["warmup_epochs"] == 3
    assert changed["split_settings"] == {"isolation_ratio": 0.01}
    assert changed["attack"] == "sig"
    check_parameters(changed)


def test_words_and_numbers_that_yaml_takes_for_something_else_are_what_the_setting_wants() -> None:
    written = ["ingest.mirror=no", "ingest.holdout=0.1", "warmup.weight_decay=5e-4", "warmup.compile=no"]
    changed = apply_settings(default_parameters(), written)
    assert changed["ingest_settings"] == {"mirror": "no", "holdout": "0.1"}
    assert changed["warmup_settings"] == {"weight_decay": 0.0005, "compile": False}
    check_parameters(changed)
    further = apply_settings({"since": "", **default_parameters()}, ["claim.since=2026-11-01"], TASKS)
    assert further["since"] == "2026-11-01"
    place = "parquet:/data of mine/#1: cats"
    assert apply_settings(default_parameters(), [f"ingest.dataset={place}"])["dataset"] == place
    assert apply_settings(default_parameters(), ["ingest.holdout=' a '"])["ingest_settings"] == {"holdout": " a "}
    with pytest.raises(ConfigError, match=r"warmup\.weight_decay: expected a number in"):
        check_parameters(apply_settings(default_parameters(), ["warmup.weight_decay=little"]))


def test_the_control_trains_as_long_as_the_defended_model_unless_told_otherwise() -> None:
    defaults = default_parameters()
    assert apply_settings(defaults, ["warmup.epochs=3", "finetune.epochs=5"])["control_epochs"] == 8
    assert apply_settings(defaults, ["warmup.epochs=3", "control.epochs=2"])["control_epochs"] == 2
    assert apply_settings(defaults, ["split.isolation_ratio=0.01"])["control_epochs"] == defaults["control_epochs"]


def test_settings_do_not_change_the_parameters_they_start_from() -> None:
    defaults = default_parameters()
    apply_settings(defaults, ["warmup.batch_size=64"])
    assert defaults == default_parameters()


def test_run_ids_sort_by_time_and_are_accepted(tmp_path: Path) -> None:
    run_id = new_run_id()
    assert load_plan(tmp_path, run_id) is None

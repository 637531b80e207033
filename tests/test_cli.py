"""The command line: what it prints and writes, and how it refuses."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxirls as ji
from jaxirls import cli
from jaxirls.designs import Lanes, LanesByRow
from jaxirls.engine.batch import FOLD_LOOPS, Batch, plan
from jaxirls.study import StudyCheck

EXAMPLE = str(Path(__file__).parent.parent / "examples" / "separation.toml")


def test_study_prints_and_writes(tmp_path, capsys):
    out = tmp_path / "new" / "out"
    assert cli.main(["study", EXAMPLE, "--replicates", "300", "--chunk", "256", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""  # no bar where there is no terminal
    for word in ("300 replicates", "converged", "separated", "bias", "coverage", "fits/s", "measures.csv"):
        assert word in printed.out

    study = json.loads((out / "study.json").read_text())
    assert study["scenario"]["replicates"] == study["replicates"] == 300
    assert study["scenario"]["coefficients"] == [1.5, -1.0]
    assert set(study["statuses"]) == {status.name for status in ji.Status}
    assert sum(status["count"] for status in study["statuses"].values()) == 300
    assert study["replicates_measured"] == study["statuses"]["CONVERGED"]["count"]
    assert {"jaxirls", "jax", "numpy", "python", "device"} == set(study["versions"])
    assert study["timing"]["fits_per_second"] > 0

    rows = list(csv.DictReader((out / "measures.csv").read_text(encoding="utf-8").splitlines()))
    assert list(rows[0]) == ["measure", "coefficient", "truth", "estimate", "mcse", "count"]
    table = {(row["measure"], row["coefficient"]): row for row in rows}
    for measure in study["measures"]:
        row = table[measure["measure"], measure["coefficient"]]
        assert float(row["estimate"]) == measure["estimate"]
        assert float(row["mcse"]) == measure["mcse"]
        assert int(row["count"]) == study["replicates_measured"]
    assert float(table["rate SEPARATED", ""]["estimate"]) == study["statuses"]["SEPARATED"]["rate"]
    assert int(table["rate SEPARATED", ""]["count"]) == 300


@pytest.mark.skipif(jax.__version_info__ >= (0, 12), reason="XLA folds loops by itself")
def test_a_process_of_its_own_is_told_to_fold_loops(monkeypatch, capsys):
    data = Batch(np.ones((2, 9, 2)), np.ones((2, 9)), None, None, None, ji.Poisson(), None, None, None)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    monkeypatch.setattr(sys, "argv", ["jaxirls", "--help"])
    assert plan(data).design is Lanes
    assert cli.main() == 0
    assert os.environ["XLA_FLAGS"] == f"--xla_cpu_enable_fast_math=false {FOLD_LOOPS}"
    assert plan(data).design is LanesByRow


def test_options_override_the_file(tmp_path, capsys):
    arguments = ["--replicates", "20", "--seed", "7", "--dtype", "float32", "--out", str(tmp_path)]
    assert cli.main(["study", EXAMPLE, *arguments]) == 0
    scenario = json.loads((tmp_path / "study.json").read_text())["scenario"]
    assert (scenario["replicates"], scenario["seed"], scenario["dtype"]) == (20, 7, "float32")


def test_progress_bar_runs(capsys):
    assert cli.main(["study", EXAMPLE, "--replicates", "20", "--progress"]) == 0
    printed = capsys.readouterr()
    assert "fitting: 100%" in printed.err
    assert "20.0/20.0" in printed.err


def test_progress_without_tqdm_is_a_line(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert cli.main(["study", EXAMPLE, "--replicates", "20", "--progress"]) == 0
    assert "20 of 20 fits (100%)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study", "nowhere.toml"], "nowhere.toml: cannot be read"),
        (["study", EXAMPLE, "--replicates", "0"], "--replicates = 0: expected a whole number from 1"),
        (["study", EXAMPLE, "--replicates", "many"], "--replicates"),
        (["study", EXAMPLE, "--seed", "-5"], "--seed = -5: expected a whole number from 0"),
        (["study", EXAMPLE, "--dtype", "float16"], "--dtype"),
        (["study", EXAMPLE, "--out", EXAMPLE], "separation.toml"),
        (["study", EXAMPLE, "--frobnicate"], "--frobnicate"),
        (["study"], "scenario"),
        (["studdy"], "studdy"),
        ([], "COMMAND"),
    ],
)
def test_wrong_arguments_exit_with_2_and_no_traceback(capsys, arguments: list[str], message: str):
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""


def test_wrong_key_exits_with_2(tmp_path, capsys):
    path = tmp_path / "wrong.toml"
    path.write_text(Path(EXAMPLE).read_text(encoding="utf-8").replace("scale", "scael"), encoding="utf-8")
    assert cli.main(["study", str(path)]) == 2
    assert 'wrong.toml: design.scael is not a key of [design]; did you mean "scale"?' in capsys.readouterr().err


def test_help_exits_with_0(capsys):
    assert cli.main(["study", "--help"]) == 0
    assert "--out DIR" in capsys.readouterr().out


def test_interruption_is_no_traceback(capsys, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", interrupted)
    assert cli.main(["study", EXAMPLE]) == cli.INTERRUPTED
    assert "interrupted" in capsys.readouterr().err


def test_check_prints_the_worst_of_a_sample(capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(cli, "check", lambda scenario: seen.append(scenario) or StudyCheck(20, 17, 3e-13, 5, 2e-9))
    assert cli.main(["study", EXAMPLE, "--replicates", "20", "--check"]) == 0
    printed = capsys.readouterr().out
    assert seen[0].replicates == 20
    for words in ("17 fits", "sample of 20", "3.0e-13 (replicate 5)", "2.0e-09 standard errors", "20 replicates of"):
        assert words in printed

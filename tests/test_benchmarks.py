"""The benchmarks run, and every peer that this machine has gets the right answer."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import engine, report
from benchmarks.__main__ import main
from benchmarks.cases import CASES, Data
from benchmarks.peers import PEERS
from jaxirls.designs import Dense
from jaxirls.engine.batch import Plan


def test_every_available_peer_has_a_row_and_the_right_answer(tmp_path, capsys):
    results = tmp_path / "results.json"
    arguments = ["--quick", "--cases", "n20-p2", "--dtypes", "float64", "--batch", "16", "--turns", "1"]
    records = main([*arguments, "--out", str(results)])

    data = Data(CASES["n20-p2"], np.dtype("float64"))
    expected = {name for name, peer in PEERS.items() if peer.applies(data) and peer.available()}
    assert {record.peer for record in records} == expected
    for record in records:
        assert record.compared > 0, record.peer
        assert record.lost == 0, record.peer
        assert record.error < 1e-8, record.peer
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed for name in expected)

    about, again = report.load(results)
    assert again == records
    assert about["versions"]["jax"]
    main(["--table", str(results)])
    assert report.table(records) in capsys.readouterr().out


def test_the_sweep_of_layouts_marks_the_choice(monkeypatch, capsys):
    small = {"PLANS": (Plan(Dense, 1, 1),), "SHAPES": ((9, 2),), "SHARED_SHAPES": (), "ELEMENTS": 64, "TURNS": 1}
    for name, value in small.items():
        monkeypatch.setattr(engine, name, value)
    monkeypatch.setattr(engine, "plan", lambda batch: Plan(Dense, 1, 1))
    engine.main(["designs"])
    assert "n = 9, p = 2: *Dense" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no section speed"):
        engine.main(["speed"])

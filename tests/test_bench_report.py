import json

import numpy as np
import pandas as pd
import pytest

from vqseg.bench import fabricate
from vqseg.bench import report as bench
from vqseg.bench.options import Options
from vqseg.bench.outcome import as_json, table
from vqseg.errors import InputError
from vqseg.evaluate import COLUMNS
from vqseg.records import index
from vqseg.records.run import RunFolder
from vqseg.report.make import make


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    place = tmp_path_factory.mktemp("store")
    return place, fabricate.fabricate(place, 12, seeds=3)


def test_a_fabricated_run_has_the_documented_files_and_columns(store):
    place, study = store
    assert len(study["cells"]) == 12 and len(study["arms"]) == 4
    assert len({cell["identity"] for cell in study["cells"]}) == 12
    frame = index.frame(place, [cell["identity"] for cell in study["cells"]])
    assert set(frame["state"]) == {"finished"} and frame["fabricated"].all() and frame["data.synthetic"].all()
    run = RunFolder(place, study["cells"][-1]["identity"])
    assert run.config()["perturbation"]["name"] == study["arms"][-1]["family"]
    rows = pd.read_parquet(run.path / "rows.parquet")
    assert list(rows) == COLUMNS and len(rows) == 720
    assert rows["dice"].between(0, 1).all() and rows["part"].value_counts().to_dict() == {"val": 240, "test": 480}
    codes = pd.read_parquet(run.path / "codebook.parquet")
    assert list(codes)[:4] == ["part", "network", "code", "tokens"] and len(codes) == 2 * fabricate.CODES
    curves = index.curves(place, [run.identity])
    assert set(curves["name"]) == {*fabricate.FLUSHED, *fabricate.VALIDATED} and curves["step"].max() == fabricate.STEPS


def test_a_fabricated_store_is_the_same_every_time_and_a_run_can_be_scored_again(store, tmp_path):
    place, study = store
    again = fabricate.fabricate(tmp_path, 12, seeds=3)
    assert again == study
    identity = study["cells"][5]["identity"]
    path = tmp_path / "runs" / identity / "rows.parquet"
    assert path.read_bytes() == (place / "runs" / identity / "rows.parquet").read_bytes()
    before = pd.read_parquet(path)
    fabricate.write_run(tmp_path, fabricate.cell_of(study, 5), *fabricate.tables(), again=1)
    after = pd.read_parquet(path)
    assert not np.allclose(before["dice"], after["dice"])
    pd.testing.assert_frame_equal(before[["case", "class_name"]], after[["case", "class_name"]])
    with pytest.raises(ValueError, match="runs must be positive"):
        fabricate.fabricate(tmp_path, 0)


def test_its_report_says_that_it_is_no_result(store):
    place, study = store
    words = make(study["name"], store=place).words
    assert "Phantom" in words and "phantom: synthetic images" in words


def test_the_bench_measures_first_times_and_second_ones():
    outcome = bench.measure(Options(quick=True, extra={"runs": "6", "seeds": "3"}))
    assert outcome.settings == {"runs": 6, "arms": 2, "seeds": 3, "repeats": 1}
    rows = {row.what: row for row in outcome.rows}
    assert list(rows) == [
        *("index, first time", "index, again", "tables, first time", "tables, again"),
        *("whole page, first time", "whole page, nothing changed", "whole page, one run changed"),
    ]
    assert all(row.ours > 0 and row.limit and row.limit > 0 for row in outcome.rows)
    assert rows["whole page, nothing changed"].naive == rows["whole page, first time"].ours
    assert all(len(line) <= 100 for line in table(outcome).splitlines())
    assert json.dumps(as_json(outcome), allow_nan=False) and as_json(outcome)["rows"][0]["unit"] == "s"


def test_the_bench_refuses_settings_that_it_does_not_know():
    with pytest.raises(InputError, match=r"--set run: .*did you mean 'runs'"):
        bench.measure(Options(quick=True, extra={"run": "6"}))

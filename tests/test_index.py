import io
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import fabricated
import numpy as np
import pandas as pd
import pytest

from vqseg.errors import InputError
from vqseg.files import write_json
from vqseg.records import bulk, index
from vqseg.records.run import RunFolder

SMALL = {"none": 84.0, "qpm eps=0.7": 86.0}


def make(store, **options):
    return fabricated.study(store, SMALL, **{"seeds": 2, "patients": 2, "parts": ("val",)} | options)


def identities(study):
    return [cell["identity"] for cell in study["cells"]]


def test_frame_has_one_flat_row_per_run_in_order(tmp_path):
    study = make(tmp_path)
    frame = index.frame(tmp_path, identities(study))
    assert list(frame["identity"]) == identities(study)
    assert set(frame["state"]) == {"finished"}
    assert set(frame["split.digest"]) == {"s" * 16}
    assert set(frame["split.parts.labelled.patients"]) == {7}
    assert frame["code"].iloc[0]["vqseg.train"] == "t1"
    assert frame["last:reach/dice_uniform"].between(0.3, 0.36).all()
    assert frame["evaluations"].iloc[0][0]["part"] == "val"


def test_late_is_the_mean_of_the_last_quarter_and_a_torn_line_is_left_out(tmp_path):
    study = make(tmp_path)
    path = tmp_path / "runs" / identities(study)[0] / "metrics.csv"
    path.write_text("step,name,value\n10,a,1.0\n70,a,5.0\n80,a,2.0\n100,a,4.0\n110,a,9")
    row = index.frame(tmp_path, identities(study)[:1]).iloc[0]
    assert row["last:a"] == 4.0
    assert row["late:a"] == 3.0


def test_missing_failed_and_killed_runs_are_rows(tmp_path):
    study = make(tmp_path)
    first, second, third = identities(study)[:3]
    RunFolder(tmp_path, first).update(state="failed", error="loss is not finite at step 3")
    RunFolder(tmp_path, second).update(state="running")
    (tmp_path / "runs" / third / "status.json").write_text("{")
    frame = index.frame(tmp_path, [first, second, third, "0" * 16]).set_index("identity")
    assert frame.loc[first, "state"] == "failed"
    assert "not finite" in frame.loc[first, "error"]
    assert frame.loc[second, "state"] == "killed"
    assert frame.loc[third, "state"] == "damaged"
    assert frame.loc["0" * 16, "state"] == "missing"


def test_a_running_run_is_asked_again_although_its_files_did_not_change(tmp_path):
    study = make(tmp_path)
    folder = RunFolder(tmp_path, identities(study)[0])
    folder.update(state="running")
    with folder.lock():
        assert index.frame(tmp_path, [folder.identity])["state"].iloc[0] == "running"
    assert index.frame(tmp_path, [folder.identity])["state"].iloc[0] == "killed"


def test_the_cache_is_used_and_never_wrong(tmp_path):
    study = make(tmp_path)
    first = identities(study)[0]
    index.frame(tmp_path, identities(study))
    assert (tmp_path / index.CACHE).is_file()
    path = tmp_path / "runs" / first / "status.json"
    before = path.stat()
    status = json.loads(path.read_text())
    # same size, same time, another file: only the inode tells
    write_json(path, {**status, "seed": 9})
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert index.frame(tmp_path, [first])["seed"].iloc[0] == 9
    with (tmp_path / "runs" / first / "metrics.csv").open("a") as file:
        file.write("2100,val/dice_teacher,0.5\n")
    assert index.frame(tmp_path, [first])["last:val/dice_teacher"].iloc[0] == 0.5
    assert len(index._read_cache(tmp_path)) == len(identities(study))
    (tmp_path / index.CACHE).write_bytes(b"damaged")
    assert len(index.frame(tmp_path, identities(study))) == len(identities(study))


def test_the_cache_saves_reading(tmp_path, monkeypatch):
    study = make(tmp_path)
    once = index.frame(tmp_path, identities(study))
    monkeypatch.setattr(RunFolder, "status", lambda *_: pytest.fail("read again"))
    monkeypatch.setattr(bulk, "_whole_lines", lambda *_: pytest.fail("read again"))
    assert index.frame(tmp_path, identities(study)).equals(once)


def test_the_cache_forgets_runs_that_are_gone_and_knows_its_version(tmp_path, monkeypatch):
    study = make(tmp_path)
    first, *others = identities(study)
    once = index.frame(tmp_path, identities(study))
    shutil.rmtree(tmp_path / "runs" / first)
    assert index.frame(tmp_path, identities(study))["state"].tolist() == ["missing", *["finished"] * len(others)]
    RunFolder(tmp_path, others[0]).update(seed=7)
    index.frame(tmp_path, others)
    assert set(index._read_cache(tmp_path)) == set(others)
    with monkeypatch.context() as patch:
        patch.setattr(index, "VERSION", "1")
        index.frame(tmp_path, others)
    read = []
    status = RunFolder.status
    monkeypatch.setattr(RunFolder, "status", lambda self: read.append(self.identity) or status(self))
    assert index.frame(tmp_path, others)["last:val/dice_teacher"].tolist() == once["last:val/dice_teacher"].tolist()[1:]
    assert read == others


@pytest.mark.parametrize("damage", ["cut", "flipped", "columns", "folder"])
def test_a_damaged_cache_is_made_anew(tmp_path, damage):
    study = make(tmp_path)
    once = index.frame(tmp_path, identities(study))
    path = tmp_path / index.CACHE
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "flipped":
        place = whole.index(b"finished") + 3
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    elif damage == "columns":
        pd.DataFrame({"identity": identities(study)}).to_parquet(path)
    else:
        path.unlink()
        path.mkdir()
    assert index.frame(tmp_path, identities(study)).equals(once)


def test_many_may_read_and_write_the_cache_at_once(tmp_path):
    study = make(tmp_path, seeds=4)
    known = identities(study)

    def look(number):
        with (tmp_path / "runs" / known[number] / "metrics.csv").open("a") as file:
            file.write(f"3000,own,{number}.0\n")
        return [index.frame(tmp_path, known)["last:own"].iloc[number] for _ in range(5)]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(look, range(4))) == [[float(number)] * 5 for number in range(4)]
    assert index.frame(tmp_path, known)["last:own"].tolist()[:4] == [0.0, 1.0, 2.0, 3.0]


def plain(path):
    """One run's metrics as the index sums them up, read alone."""
    text = path.read_text()
    table = pd.read_csv(io.StringIO(text[: text.rfind("\n") + 1] or "step,name,value\n"))
    found = {}
    for name, values in table.groupby("name"):
        late = values[values["step"] >= index.LATE * values["step"].max()]
        found |= {f"last:{name}": values["value"].iloc[-1], f"late:{name}": late["value"].mean()}
    return found


def test_reading_many_metrics_at_once_is_reading_each(tmp_path, monkeypatch):
    study = make(tmp_path, seeds=3)
    draw, known = np.random.default_rng(), identities(study)
    for number, identity in enumerate(known):
        lines = [f"{step},{name},{draw.normal()!r}" for step in range(1, 40) for name in ("a", "b", f"c{number}")]
        lines += ["40,a,nan", "41,b,inf"] if number == 1 else []
        (tmp_path / "runs" / identity / "metrics.csv").write_text("\n".join(["step,name,value", *lines, "50,a,1"]))
    (tmp_path / "runs" / known[2] / "metrics.csv").unlink()
    (tmp_path / "runs" / known[3] / "metrics.csv").write_text("")
    for batch in (1, 10_000, 1 << 26):
        monkeypatch.setattr(bulk, "BATCH", batch)
        (tmp_path / index.CACHE).unlink(missing_ok=True)
        for _, row in index.frame(tmp_path, known).iterrows():
            path = tmp_path / "runs" / row["identity"] / "metrics.csv"
            own = plain(path) if path.exists() else {}
            told = {key: value for key, value in row.items() if key.startswith(("last:", "late:"))}
            assert {key for key, value in told.items() if value == value} <= set(own)
            for key, value in own.items():
                # The mean of the last quarter may be summed in another order.
                assert told[key] == pytest.approx(value, rel=0 if key.startswith("last") else 1e-13, nan_ok=True)


def test_odd_metrics_are_read_alone_and_a_damaged_file_is_named(tmp_path):
    study = make(tmp_path)
    known = identities(study)[:3]
    paths = [tmp_path / "runs" / identity / "metrics.csv" for identity in known]
    paths[0].write_text('step,name,value\n1,"a, b",2.0\n')
    paths[1].write_text("step,name,value\r\n1,a,3.0\r\n\r\n2,a,4.0\r\n")
    told = index.curves(tmp_path, known)
    assert told[["step", "name", "value"]].to_numpy().tolist()[:3] == [[1, "a, b", 2.0], [1, "a", 3.0], [2, "a", 4.0]]
    assert told["identity"].tolist()[:3] == [known[0], known[1], known[1]]
    paths[1].write_text("step,name,value\n1,a,3.0\nx,a,oops\n")
    with pytest.raises(InputError, match=rf"{known[1]}/metrics\.csv: not readable"):
        index.curves(tmp_path, known)


def test_tables_of_unlike_files_are_those_of_pandas(tmp_path):
    study = make(tmp_path)
    known = identities(study)
    paths = [tmp_path / "runs" / identity / "rows.parquet" for identity in known]
    whole = [pd.read_parquet(path) for path in paths]

    def expected():
        tables = [pd.read_parquet(path).assign(identity=run) for path, run in zip(paths, known)]
        return pd.concat(tables, ignore_index=True)

    pd.testing.assert_frame_equal(index.rows(tmp_path, known), expected())
    whole[1].drop(columns="hd95_mm").to_parquet(paths[1], index=False)  # as older runs are
    pd.testing.assert_frame_equal(index.rows(tmp_path, known), expected())
    whole[1].drop(columns="empty_prediction").to_parquet(paths[1], index=False)
    whole[2].astype({"class_index": "float64"}).to_parquet(paths[2], index=False)
    pd.testing.assert_frame_equal(index.rows(tmp_path, known), expected())
    few = index.rows(tmp_path, known, ("dice", "part", "unknown"))
    assert list(few) == ["part", "dice", "identity"] and few["dice"].equals(expected()["dice"])


def test_rows_usage_and_curves_carry_their_identity(tmp_path):
    study = make(tmp_path)
    known = identities(study)
    rows = index.rows(tmp_path, [*known, "0" * 16])
    assert set(rows["identity"]) == set(known)
    assert len(rows) == len(known) * 2 * 2 * 3 * 4
    assert set(index.usage(tmp_path, known)["identity"]) == set(known)
    curves = index.curves(tmp_path, known, ["val/dice_teacher"])
    assert set(curves["name"]) == {"val/dice_teacher"}
    assert len(curves) == 10 * len(known)
    assert index.rows(tmp_path, []).empty
    assert index.frame(tmp_path, []).empty


def test_a_damaged_table_is_named(tmp_path):
    study = make(tmp_path)
    (tmp_path / "runs" / identities(study)[0] / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"rows\.parquet: not readable"):
        index.rows(tmp_path, identities(study))


def test_find_study_by_full_name_then_definition_then_newest(tmp_path):
    make(tmp_path, name="sweep-a", definition="sweep", created="2026-01-01", data="acdc")
    make(tmp_path, name="sweep-b", definition="sweep", created="2026-01-03", data="isic")
    make(tmp_path, name="other", definition="modules", created="2026-01-02")
    assert index.find_study(tmp_path, "sweep-a")["name"] == "sweep-a"
    assert index.find_study(tmp_path, "sweep")["name"] == "sweep-b"
    assert index.find_study(tmp_path, "sweep", data="acdc")["name"] == "sweep-a"
    with pytest.raises(InputError, match=r"2 studies are called 'sweep': .*; name one of them in full"):
        index.find_study(tmp_path, "sweep", one=True)
    assert index.find_study(tmp_path, "sweep-a", one=True)["name"] == "sweep-a"
    assert index.find_study(tmp_path, None)["name"] == "sweep-b"
    assert [study["name"] for study in index.studies(tmp_path)] == ["sweep-b", "other", "sweep-a"]
    for path in (tmp_path / "runs").glob("*/rows.parquet"):
        if path.parent.name in identities(index.find_study(tmp_path, "sweep-b")):
            path.unlink()
    assert index.find_study(tmp_path, None)["name"] == "other"
    assert index.find_study(tmp_path, "sweep")["name"] == "sweep-a"
    with pytest.raises(InputError, match="did you mean 'sweep"):
        index.find_study(tmp_path, "swep")
    with pytest.raises(InputError, match=r"on split 'x'"):
        index.find_study(tmp_path, "sweep", split="x")


def test_an_empty_store_says_what_to_do(tmp_path):
    assert index.studies(tmp_path) == []
    with pytest.raises(InputError, match="vqseg study run"):
        index.find_study(tmp_path, None)

"""Which differences between runs a table refuses: code of the user's, by the file that an arm names."""

import subprocess
import sys

import pandas as pd
import pytest

from vqseg.report.selection import disagreements

KEY = "perturbation mask.py:Mask"


def study(**arms):
    rows = [{"label": label, "overrides": overrides} for label, overrides in arms.items()]
    return {"name": "s", "arms": rows, "base_config": {"perturbation": {"name": "none"}}, "overrides": {}}


def named(path, **options):
    return {"perturbation": {"name": f"{path}:Mask", **options}}


def found(record, **hashes):
    """Return the differences between runs ``arm_seed`` with these hashes of the part's code."""
    rows = [
        {"identity": run, "name": run, "arm": run.partition("_")[0], "code": {KEY: code, "vqseg.train": "t"}}
        for run, code in hashes.items()
    ]
    scores = pd.DataFrame({"identity": list(hashes), "scoring": "s"})
    return disagreements(pd.DataFrame(rows), scores, record)


def test_arms_that_name_two_files_of_one_name_are_two_variants():
    record = study(one=named("/a/v1/mask.py"), two=named("/a/v2/mask.py"))
    assert found(record, one_0="1", one_1="1", two_0="2") == []


@pytest.mark.parametrize("two", [named("/a/mask.py", rate=0.3), {"perturbation.name": "/a/mask.py:Mask"}])
def test_one_file_that_changed_between_runs_is_refused_within_an_arm_and_across(two):
    record = study(one=named("/a/mask.py"), two=two)
    (said,) = found(record, one_0="1", one_1="1", two_0="2")
    assert said == f"code of {KEY} 1 ('one_0' and 1 more) against 2 ('two_0')"
    assert found(record, one_0="1", one_1="2") != []
    assert found(record, one_0="1", two_0="1") == []


def test_an_arm_that_takes_the_base_config_means_the_file_that_stands_there():
    record = study(one={}, two={"perturbation.rate": 0.3}, three=named("/a/mask.py"), four=named("/b/mask.py"))
    record["base_config"]["perturbation"]["name"] = "/a/mask.py:Mask"
    assert found(record, one_0="1", two_0="2") != []
    assert found(record, one_0="1", three_0="2") != []
    assert found(record, one_0="1", two_0="1", three_0="1", four_0="2") == []
    typed = {**record, "overrides": {"perturbation": {"name": "/b/mask.py:Mask"}}}
    assert found(typed, one_0="1", four_0="2") != []


def test_installed_code_and_ours_are_compared_between_all():
    record = study(one={"method": "pack.mine:M"}, two={"method": "pack.mine:M"})
    rows = pd.DataFrame(
        [
            {"identity": arm, "name": arm, "arm": arm, "code": {"method pack.mine:M": code, "vqseg.train": code}}
            for arm, code in (("one", "1"), ("two", "2"))
        ]
    )
    said = disagreements(rows, pd.DataFrame({"identity": ["one", "two"], "scoring": "s"}), record)
    assert [text.split(" 1 ")[0] for text in said] == ["code of method pack.mine:M", "code of vqseg.train"]


def test_reports_import_no_torch():
    program = "import sys, vqseg.report.selection; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

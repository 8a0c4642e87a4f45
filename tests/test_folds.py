"""K folds: everyone is held out once, proportions hold, twins stay together; and the order that keeps proportions."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from test_splits import NAMES, manifest_of, prepared, with_column

from vqseg import folds
from vqseg.errors import InputError
from vqseg.manifest import Manifest, Split, read_split, split_names, write_split
from vqseg.splits import require_apart
from vqseg.strata import interleaved, strata


def pool_of(manifest: Manifest) -> Split:
    names = manifest.patients
    return Split(name="base", data=manifest.digest, parts={"labelled": names[:2], "unlabelled": names[2:]})


def cut(manifest: Manifest, base: Split | None = None, **options: Any) -> list[Split]:
    return folds.folds(manifest, base or pool_of(manifest), name="cv", **{"count": 5, "labelled": "2", **options})


@pytest.mark.parametrize("seed", [None, 0, 7])
def test_every_patient_is_the_test_part_once(seed: int | None) -> None:
    manifest = manifest_of([f"q{number:02d}" for number in range(23)])
    made = cut(manifest, seed=seed, labelled="3")
    assert [split.name for split in made] == ["cv-1", "cv-2", "cv-3", "cv-4", "cv-5"]
    assert sorted(patient for split in made for patient in split.parts["test"]) == sorted(manifest.patients)
    assert sorted(len(split.parts["test"]) for split in made) == [4, 4, 5, 5, 5]
    for number, split in enumerate(made, 1):
        everyone = [patient for part in split.parts.values() for patient in part]
        assert sorted(everyone) == sorted(manifest.patients)
        assert (len(split.parts["labelled"]), len(split.parts["val"])) == (3, 2)
        assert split.note.startswith(f"fold {number} of 5 is test; 3 labelled patients")
    assert made == cut(manifest, seed=seed, labelled="3")


def test_seeds_deal_and_draw_anew() -> None:
    manifest = manifest_of([f"q{number:02d}" for number in range(20)])
    made = {seed: cut(manifest, seed=seed) for seed in range(4)}
    assert len({tuple(splits[0].parts["test"]) for splits in made.values()}) == 4
    assert len({tuple(sorted(split.parts["labelled"])) for split in made[0]}) > 2
    plain = cut(manifest)
    assert plain[0].parts["test"] == ["q00", "q05", "q10", "q15"]
    assert plain[0].parts["labelled"] == ["q01", "q02"]


def test_beside_a_test_part_the_fold_is_val(tmp_path: Path) -> None:
    manifest, base = prepared(tmp_path)  # two patients are test
    made = cut(manifest, base, count=4)
    pool = [patient for part in ("labelled", "unlabelled", "val") for patient in base.parts[part]]
    assert sorted(patient for split in made for patient in split.parts["val"]) == sorted(pool)
    assert all(split.parts["test"] == base.parts["test"] for split in made)
    with pytest.raises(InputError, match=r"--val 0.2: the fold itself is val, since 'base' has a test part"):
        cut(manifest, base, val=0.2)
    pooled = cut(manifest, base, pool_test=True)
    assert sorted(patient for split in pooled for patient in split.parts["test"]) == sorted(NAMES)
    assert all(len(split.parts["val"]) == 1 for split in pooled)
    assert all(len(split.parts["val"]) == 3 for split in cut(manifest, base, pool_test=True, val=0.3))


def test_devtest_counts_as_a_test_part(tmp_path: Path) -> None:
    manifest, base = prepared(tmp_path)
    parts = {**base.parts, "devtest": base.parts["test"]}
    del parts["test"]
    made = cut(manifest, base.model_copy(update={"parts": parts}), count=2)
    assert all(split.parts["devtest"] == base.parts["test"] and "test" not in split.parts for split in made)


@pytest.mark.parametrize("seed", [None, *range(5)])
def test_folds_keep_each_stratum_within_one_patient(seed: int | None) -> None:
    names = [f"q{number:02d}" for number in range(37)]
    manifest = with_column(manifest_of(names), "a" * 17 + "b" * 11 + "c" * 6 + "d" * 3)
    grade = strata(manifest, "grade")
    made = cut(manifest, seed=seed, stratify="grade", labelled="10", val=0.2)
    for kind, total in Counter(grade.values()).items():
        held = [sum(grade[patient] == kind for patient in split.parts["test"]) for split in made]
        assert max(held) - min(held) <= 1
        for split in made:
            rest = total - sum(grade[patient] == kind for patient in split.parts["test"])
            left = len(names) - len(split.parts["test"])
            val = sum(grade[patient] == kind for patient in split.parts["val"])
            assert abs(val - len(split.parts["val"]) * rest / left) < 1
            labelled = sum(grade[patient] == kind for patient in split.parts["labelled"])
            after = (rest - val) / (left - len(split.parts["val"]))
            assert abs(labelled - 10 * after) < 1
    sizes = [len(split.parts["test"]) for split in made]
    assert max(sizes) - min(sizes) <= 1


def test_twins_share_a_fold_and_never_leak() -> None:
    same = (NAMES[0], NAMES[6])
    manifest = manifest_of(NAMES, same=same)
    for seed in (None, *range(10)):
        made = cut(manifest, seed=seed, count=4)
        held = [set(same) & set(split.parts["test"]) for split in made]
        assert sorted(map(len, held)) == [0, 0, 0, 2]
        assert sorted(patient for split in made for patient in split.parts["test"]) == sorted(NAMES)
        for split in made:
            require_apart(manifest, split.parts, split.name, "")
    with pytest.raises(
        InputError, match=r"--folds 10: expected 2 to 9, the patients with masks \(twins count as one\)"
    ):
        cut(manifest, count=10)


def test_twins_of_twins_share_a_fold_too() -> None:
    manifest = manifest_of(NAMES)
    chain = {("p05", "ED"): "one", ("p01", "ED"): "one", ("p01", "ES"): "two", ("p00", "ES"): "two"}
    scans = [
        scan.model_copy(update={"image_sha256": chain.get((scan.patient, scan.scan[-2:]), scan.image_sha256)})
        for scan in manifest.scans
    ]
    linked = manifest.model_copy(update={"scans": scans})
    for seed in (None, *range(5)):
        made = cut(linked, seed=seed, count=4)
        assert sorted(len({"p05", "p01", "p00"} & set(split.parts["test"])) for split in made) == [0, 0, 0, 3]
        assert sorted(len(split.parts["test"]) for split in made) == [2, 2, 3, 3]


def test_patients_without_masks_are_unlabelled_in_every_fold() -> None:
    bare = (NAMES[3], NAMES[6])
    manifest = manifest_of(NAMES, bare=bare)
    made = cut(manifest, count=4, seed=0)
    assert sorted(patient for split in made for patient in split.parts["test"]) == sorted(set(NAMES) - set(bare))
    assert all(set(bare) <= set(split.parts["unlabelled"]) for split in made)
    twin = manifest_of(NAMES, bare=bare, same=(NAMES[6], NAMES[0]))  # the bare twin of a held-out patient leaks
    for split in cut(twin, count=4, seed=0):
        assert (NAMES[0] in split.parts["test"]) <= (NAMES[6] not in split.parts["unlabelled"])
        require_apart(twin, split.parts, split.name, "")


def test_folds_are_written_whole_or_not_at_all_and_only_once(tmp_path: Path) -> None:
    manifest, base = prepared(tmp_path)
    options: dict[str, Any] = {"count": 3, "labelled": "2", "seed": 1}
    assert [new for _, new in folds.add(tmp_path, name="cv", **options)] == [True, True, True]
    assert [new for _, new in folds.add(tmp_path, name="cv", **options)] == [False, False, False]
    (tmp_path / "splits" / "cv-2.json").unlink()  # as after an interruption
    assert [new for _, new in folds.add(tmp_path, name="cv", **options)] == [False, True, False]
    write_split(tmp_path, base.model_copy(update={"name": "other-3"}))
    with pytest.raises(InputError, match=r"other-3.json: is of other patients or other data"):
        folds.add(tmp_path, name="other", **options)
    assert split_names(tmp_path) == ["base", "cv-1", "cv-2", "cv-3", "other-3"]
    assert read_split(tmp_path, manifest, "cv-1").parts["test"] == base.parts["test"]
    for count in (1, 0, 9):
        with pytest.raises(InputError, match=f"--folds {count}: expected 2 to 8"):
            folds.add(tmp_path, name="n", **{**options, "count": count})
    leak = base.model_copy(update={"name": "leak", "parts": {**base.parts, "test": NAMES[7:]}})
    write_split(tmp_path, leak)
    with pytest.raises(InputError, match="'leak': leakage: patient 'p04' is in both test and the pool"):
        folds.add(tmp_path, name="n", base="leak", **options)


def test_columns_of_the_table_and_of_the_masks() -> None:
    manifest = with_column(manifest_of(NAMES), "aabbbccccc")
    assert Counter(strata(manifest, "grade").values()) == {"a": 2, "b": 3, "c": 5}
    ages = {patient: {"age": str(number)} for number, patient in enumerate(NAMES[:9])}
    aged = manifest.model_copy(update={"attributes": ages})
    found = strata(aged, "age")
    assert [found[patient] for patient in NAMES] == [
        *["quarter 1"] * 3,
        *["quarter 2"] * 2,
        *["quarter 3"] * 2,
        *["quarter 4"] * 2,
        "",
    ]
    counts = {patient: [100 - number, number] for number, patient in enumerate(NAMES)}
    scans = [
        scan.model_copy(update={"class_voxels": counts[scan.patient] if scan.patient != NAMES[9] else None})
        for scan in manifest.scans
    ]
    counted = manifest.model_copy(update={"scans": scans})
    assert strata(counted, "class:a") == {
        NAMES[0]: "does not",
        **dict.fromkeys(NAMES[1:9], "shows it"),
        NAMES[9]: "",
    }
    quarters = strata(counted, "foreground")
    assert (quarters[NAMES[0]], quarters[NAMES[8]], quarters[NAMES[9]]) == ("quarter 1", "quarter 4", "")


def test_a_column_that_is_not_there_is_named() -> None:
    manifest = with_column(manifest_of(NAMES), "aabbbccccc")
    with pytest.raises(
        InputError, match=r"--stratify grad: no such column \(did you mean 'grade'\?\); .* class:a, foreg"
    ):
        strata(manifest, "grad")
    with pytest.raises(InputError, match="unknown class of x 'b'; known: a"):
        strata(manifest, "class:b")
    with pytest.raises(InputError, match="--stratify foreground: the data has no mask to count"):
        strata(manifest_of(NAMES), "foreground")


@pytest.mark.parametrize("seed", range(30))
def test_every_beginning_of_the_order_holds_each_stratum_within_one(seed: int) -> None:
    random_ = random.Random(seed)
    weights = [random_.random() ** 3 for _ in range(random_.randint(1, 9))]
    kinds = random_.choices(range(len(weights)), weights, k=random_.randint(1, 120))
    patients = [f"p{number}" for number in range(len(kinds))]
    stratum_of = {patient: f"s{kind}" for patient, kind in zip(patients, kinds, strict=True)}
    order = interleaved(patients, stratum_of)
    assert sorted(order) == sorted(patients)
    for stratum in set(stratum_of.values()):
        within = [patient for patient in order if stratum_of[patient] == stratum]
        assert within == [patient for patient in patients if stratum_of[patient] == stratum]
        share = len(within) / len(order)
        seen = 0
        for place, patient in enumerate(order, 1):
            seen += stratum_of[patient] == stratum
            assert abs(seen - place * share) < 1

"""Splits: counts, draws by patient, shared files, and the refusal to leak or to change one that exists."""

import json
import shutil
from pathlib import Path

import pytest

from vqseg import splits
from vqseg.errors import InputError
from vqseg.manifest import Manifest, Scan, Split, read_split, write_manifest, write_split

NAMES = [f"p{number:02d}" for number in (5, 3, 9, 1, 7, 2, 8, 4, 6, 0)]


def manifest_of(names: list[str], *, bare: tuple[str, ...] = (), same: tuple[str, ...] = ()) -> Manifest:
    scans = [
        Scan(
            scan=f"{name}_{frame}",
            patient=name,
            slices=[1],
            shape=(1, 4, 4),
            image=f"images/{name}_{frame}.npz",
            image_sha256=f"{'twin' if name in same else name}-{frame}",
            range=(0, 1),
            mask=None if name in bare else f"masks/{name}_{frame}.npz",
        )
        for name in names
        for frame in ("ED", "ES")
    ]
    return Manifest(name="x", classes=["background", "a"], source={}, default_split="base", scans=scans)


def prepared(root: Path, **options: tuple[str, ...]) -> tuple[Manifest, Split]:
    manifest = manifest_of(NAMES, **options)
    parts = {"labelled": NAMES[:2], "unlabelled": NAMES[2:7], "val": NAMES[7:8], "test": NAMES[8:]}
    base = Split(name="base", data=manifest.digest, parts=parts)
    write_manifest(root, manifest)
    write_split(root, base)
    return manifest, base


@pytest.mark.parametrize(
    ("text", "total", "count"),
    [("7", 70, 7), ("all", 70, 70), ("10%", 70, 7), ("1%", 20, 1), ("0.5%", 3, 1), ("100%", 9, 9), ("50%", 5, 2)],
)
def test_labelled_count(text: str, total: int, count: int) -> None:
    assert splits.labelled_count(text, total) == count


@pytest.mark.parametrize("text", ["0", "-1", "11", "0%", "101%", "ten", "", "1.5"])
def test_labelled_count_refuses(text: str) -> None:
    with pytest.raises(InputError, match="expected 1 to 10 patients"):
        splits.labelled_count(text, 10)


def test_without_a_draw_the_first_in_list_order(tmp_path: Path) -> None:
    manifest, base = prepared(tmp_path)
    made = splits.draw(manifest, base, name="n", labelled="3")
    assert made.parts == {**base.parts, "labelled": NAMES[:3], "unlabelled": NAMES[3:7]}


def test_draw_is_seeded_complete_and_by_patient(tmp_path: Path) -> None:
    manifest, base = prepared(tmp_path)
    drawn = {seed: splits.draw(manifest, base, name="n", labelled="40%", seed=seed).parts for seed in range(8)}
    assert drawn[3] == splits.draw(manifest, base, name="n", labelled="40%", seed=3).parts
    assert len({tuple(parts["labelled"]) for parts in drawn.values()}) > 3
    for parts in drawn.values():
        assert len(parts["labelled"]) == 3
        assert (parts["val"], parts["test"]) == (base.parts["val"], base.parts["test"])
        everyone = [patient for part in parts.values() for patient in part]
        assert sorted(everyone) == sorted(NAMES)


def test_val_and_test_taken_anew(tmp_path: Path) -> None:
    manifest, base = prepared(tmp_path)
    parts = splits.draw(manifest, base, name="n", labelled="2", val=0.2, test=0.3).parts
    assert parts == {"labelled": NAMES[:2], "unlabelled": NAMES[2:5], "val": NAMES[5:7], "test": NAMES[7:]}
    drawn = splits.draw(manifest, base, name="n", labelled="2", seed=1, val=0.2).parts
    assert drawn["test"] == base.parts["test"]
    assert len(drawn["val"]) == 2
    assert sorted(patient for part in drawn.values() for patient in part) == sorted(NAMES)
    for options in ({"val": 0.0}, {"val": 1.0}, {"val": 0.9}):
        with pytest.raises(InputError, match="--val"):
            splits.draw(manifest, base, name="n", labelled="1", **options)


def test_patients_without_masks_are_never_labelled(tmp_path: Path) -> None:
    bare = tuple(NAMES[2:6])
    manifest, base = prepared(tmp_path, bare=bare)
    for seed in range(5):
        made = splits.draw(manifest, base, name="n", labelled="3", seed=seed)
        assert set(bare) <= set(made.parts["unlabelled"])
    with pytest.raises(InputError, match="asks for 4 patients, only 3 have masks"):
        splits.draw(manifest, base, name="n", labelled="4", seed=0)
    everyone = splits.draw(manifest, base, name="n", labelled="all", seed=0).parts
    assert (len(everyone["labelled"]), sorted(everyone["unlabelled"])) == (3, sorted(bare))
    bald, base = prepared(tmp_path / "bald", bare=tuple(NAMES))
    with pytest.raises(InputError, match="only 0 have masks"):
        splits.draw(bald, base, name="n", labelled="all")


def test_twins_stay_on_one_side(tmp_path: Path) -> None:
    manifest, base = prepared(tmp_path, same=(NAMES[0], NAMES[6]))
    assert splits.twins(manifest) == {NAMES[0]: {NAMES[6]}, NAMES[6]: {NAMES[0]}}
    made = splits.draw(manifest, base, name="n", labelled="1")
    assert made.parts["unlabelled"] == NAMES[1:6]
    assert NAMES[6] in made.note
    for seed in range(10):
        drawn = splits.draw(manifest, base, name="n", labelled="1", seed=seed, val=0.4).parts
        assert not {NAMES[0], NAMES[6]} & set(drawn["val"])


def test_a_twin_is_not_held_out() -> None:
    manifest = manifest_of(NAMES, same=(NAMES[0], NAMES[8]))
    rest, held = splits.hold_out(manifest, NAMES)
    assert held == [NAMES[7], NAMES[9]]
    assert rest == [*NAMES[:7], NAMES[8]]


def test_hold_out_counts() -> None:
    names = [f"q{number}" for number in range(70)]
    rest, held = splits.hold_out(manifest_of(names), names)
    assert (rest, held) == (names[:50], names[50:])
    assert [len(splits.hold_out(manifest_of(names[:n]), names[:n])[1]) for n in (3, 7, 35)] == [0, 2, 10]


def test_add_writes_once_and_refuses_a_change(tmp_path: Path) -> None:
    manifest, _ = prepared(tmp_path)
    made, new = splits.add(tmp_path, name="tenth", labelled="10%", seed=4)
    assert new
    assert read_split(tmp_path, manifest, "tenth") == made
    path = tmp_path / "splits" / "tenth.json"
    before = path.stat().st_mtime_ns
    assert splits.add(tmp_path, name="tenth", labelled="10%", seed=4) == (made, False)
    assert path.stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r"tenth.json: is of other patients or other data; choose another name"):
        splits.add(tmp_path, name="tenth", labelled="3", seed=4)
    with pytest.raises(InputError, match="--name"):
        splits.add(tmp_path, name="../out", labelled="3")
    with pytest.raises(InputError, match="unknown split"):
        splits.add(tmp_path, name="other", labelled="3", base="bass")
    assert splits.add(tmp_path, name="more", labelled="3", base="tenth")[0].parts["val"] == made.parts["val"]


@pytest.mark.parametrize(
    ("parts", "same", "words"),
    [
        ({"val": [NAMES[7], NAMES[1]]}, (), "patient 'p03' is in both val and the pool to draw from"),
        ({"test": [NAMES[7]]}, (), "patient 'p04' is in both val and test"),
        ({}, (NAMES[7], NAMES[9]), r"patients 'p04' \(val\) and 'p00' \(test\) have the same images"),
        ({}, (NAMES[2], NAMES[9]), r"patients 'p00' \(test\) and 'p09' \(the pool to draw from\) have the same images"),
        ({"test": ["who"]}, (), "patient 'who' of part test is not in the data"),
        ({"test": [NAMES[8], NAMES[8]]}, (), "part test names patient 'p06' twice"),
    ],
)
def test_a_leaking_base_is_refused_and_nothing_written(
    tmp_path: Path, parts: dict[str, list[str]], same: tuple[str, ...], words: str
) -> None:
    _, base = prepared(tmp_path, same=same)
    write_split(tmp_path, base.model_copy(update={"name": "leak", "parts": {**base.parts, **parts}}))
    with pytest.raises(InputError, match=f"split 'leak': .*{words}"):
        splits.add(tmp_path, name="n", labelled="2", seed=0, base="leak")
    assert not (tmp_path / "splits" / "n.json").exists()


def test_a_leaking_part_may_be_drawn_anew(tmp_path: Path) -> None:
    manifest, base = prepared(tmp_path)
    leak = base.model_copy(update={"parts": {**base.parts, "val": [NAMES[7], NAMES[1]]}})
    parts = splits.draw(manifest, leak, name="n", labelled="2", val=0.2).parts
    assert sorted(patient for part in parts.values() for patient in part) == sorted(NAMES)


def with_column(manifest: Manifest, values: str, column: str = "grade") -> Manifest:
    columns = {patient: {column: value} for patient, value in zip(sorted(manifest.patients), values, strict=True)}
    return manifest.model_copy(update={"attributes": columns})


def test_a_stratified_draw_keeps_proportions(tmp_path: Path) -> None:
    names = [f"q{number:02d}" for number in range(40)]
    manifest = with_column(manifest_of(names), "a" * 20 + "b" * 12 + "c" * 8)
    base = Split(name="base", data=manifest.digest, parts={"unlabelled": names})
    grade = {name: manifest.attributes[name]["grade"] for name in names}
    for seed in (None, *range(6)):
        options = {"name": "n", "labelled": "5", "seed": seed, "val": 0.1, "test": 0.25, "stratify": "grade"}
        split = splits.draw(manifest, base, **options)
        counts = {
            part: [[grade[patient] for patient in patients].count(kind) for kind in "abc"]
            for part, patients in split.parts.items()
        }
        assert counts["test"] == [5, 3, 2]
        assert counts["val"] in ([2, 1, 1], [2, 2, 0])  # of 15, 9, 6: 2, 1.2, 0.8
        assert counts["labelled"][0] in (2, 3)
        assert min(counts["labelled"]) >= 1
        assert "stratified by grade" in split.note
    plain = splits.draw(manifest, base, name="n", labelled="5", seed=3, val=0.1, test=0.25)
    assert plain == splits.draw(
        manifest.model_copy(update={"attributes": {}}), base, name="n", labelled="5", seed=3, val=0.1, test=0.25
    )


def test_a_shared_file_is_taken_once(tmp_path: Path) -> None:
    manifest, _ = prepared(tmp_path / "here")
    prepared(tmp_path / "there")
    made, _ = splits.add(tmp_path / "here", name="mine", labelled="3", seed=1)
    file = tmp_path / "sent.json"
    shutil.copy(tmp_path / "here" / "splits" / "mine.json", file)
    there = tmp_path / "there"
    assert splits.receive(there, file) == (made, True)
    assert read_split(there, manifest, "mine").digest == made.digest
    assert splits.receive(there, file) == (made, False)
    renamed, new = splits.receive(there, file, "theirs")
    assert (renamed.name, renamed.parts, new) == ("theirs", made.parts, True)
    splits.add(there, name="other", labelled="2")
    with pytest.raises(InputError, match=r"other.json: is of other patients or other data; choose another name"):
        splits.receive(there, file, "other")
    with pytest.raises(InputError, match="--name"):
        splits.receive(there, file, "../mine")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": "0123456789abcdef"}, "made for data 0123456789abcdef, but"),
        ({"parts": {"labelled": ["p05"], "val": ["who"]}}, "patient 'who' of part val is not in the data"),
        ({"parts": {"labelled": ["p05"], "val": ["p05"]}}, "patient 'p05' is in both labelled and val"),
        ({"parts": {"labelled": ["p05", "p05"]}}, "part labelled names patient 'p05' twice"),
        ({"parts": {"labelled": ["p05"], "test": ["p06"]}}, "have the same images"),
        ({"parts": {"labelled": ["p05"], "val": ["p09"]}}, "patient 'p09' of part val has no mask"),
        ({"parts": {"training": ["p05"]}}, "unknown part 'training'; known: labelled"),
        ({"parts": {"labelled": "p05"}}, "not a split: parts.labelled:"),
        ({"extra": 1}, "not a split: extra:"),
    ],
)
def test_a_shared_file_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    manifest, base = prepared(tmp_path / "d", bare=("p09",), same=("p05", "p06"))
    held = {**base.model_dump(mode="json"), "name": "sent", **change}
    file = tmp_path / "sent.json"
    file.write_text(json.dumps(held))
    with pytest.raises(InputError) as caught:
        splits.receive(tmp_path / "d", file)
    assert str(caught.value).startswith(f"{file}: ")
    assert words in str(caught.value)
    assert "data" not in change or manifest.digest in str(caught.value)
    assert not (tmp_path / "d" / "splits" / "sent.json").exists()


@pytest.mark.parametrize("name", ["val", "test", "devtest"])
def test_no_split_is_called_as_a_part_is(phantom_root, tmp_path, name):
    root = tmp_path / "data"
    shutil.copytree(phantom_root, root)
    with pytest.raises(InputError, match=f"split '{name}': is called as a part is; choose another name"):
        splits.add(root, name=name, labelled="1")

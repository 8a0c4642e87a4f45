"""Splits: counts, draws by patient, and the refusal to change one that exists."""

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

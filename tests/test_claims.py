"""Claims: their files, every verdict and every reason for none on fabricated stores, and what the report shows."""

import re
import shutil
from pathlib import Path
from unittest.mock import patch

import fabricated
import numpy as np
import pandas as pd
import pytest

from vqseg import assets
from vqseg.errors import InputError
from vqseg.files import parse_yaml, read_json, read_yaml, write_json, write_yaml
from vqseg.records import index
from vqseg.records.run import RunFolder
from vqseg.report import claim_forest, claim_pages, published, statistics, style
from vqseg.report.claim import Arms, load, read
from vqseg.report.claims import build, verdicts
from vqseg.report.options import Options
from vqseg.report.picking import absent, arms_of, matching
from vqseg.study.definition import read_definition

PAGE = Path(__file__).parent.parent / "docs" / "claims.md"
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
BUILT_IN = sorted((assets.folder("reports") / "claims").glob("*.yaml"))
SWEEP = {
    "none": 84.0, "qpm eps=0.3": 85.0, "qpm eps=0.7": 88.0, "dropout p=0.3": 84.0, "dropout p=0.9": 70.0,
    "channel-dropout p=0.3": 84.4,
}  # fmt: skip
FEW = {"patients": 6}
PLAIN = {
    "claim": "QPM helps.", "source": "a test", "short": "QPM .7 against none", "study": "epsilon-sweep",
    "kind": "effect", "arm": {"family": "qpm", "at": {"eps": 0.7}}, "against": {"family": "none"},
    "published": {"where": "nowhere"}, "about": "Nothing.",
}  # fmt: skip


def write(folder, name="mine", **keys):
    """Write a claim file; a key that is None is left out."""
    path = folder / f"{name}.yaml"
    write_yaml(path, {key: value for key, value in {**PLAIN, **keys}.items() if value is not None})
    return path


def mine(store, path, **options):
    """The verdicts on one claim file, without those on the paper's, which take longer to read."""
    with patch("vqseg.report.claims.load", lambda store, files: [read(each) for each in files]):
        return verdicts(store, index.studies(store), Options(**options), files=[path])


def one(store, path, **options):
    (found,) = mine(store, path, **options)
    return found


def rerecord(store, name, **changes):
    """Change what a study's record says."""
    path = store / "studies" / name / "study.json"
    record = {**read_json(path), **changes}
    write_json(path, record)
    return record


def shorts(found):
    return [each.short for each in found.obstacles]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A store with an epsilon sweep whose effects are plain to see; nobody writes to it."""
    store = tmp_path_factory.mktemp("store")
    fabricated.study(store, SWEEP, **FEW)
    return store


@pytest.fixture
def own(tmp_path, sweep):
    """A copy of that store that a test may spoil."""
    shutil.copytree(sweep, tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """A store with a grid of modules: QPM helps, DB does nothing, PFA hurts."""
    store = tmp_path_factory.mktemp("store")
    fabricated.module_study(store, fabricated.grid(QPM=3, DB=0.1, PFA=-4), patients=6, parts=("devtest",))
    return store


# files


def test_every_claim_of_the_paper_loads_and_says_what_it_must(tmp_path):
    claims = load(tmp_path)
    assert [claim.name for claim in claims] == [
        path.stem for path in sorted(BUILT_IN, key=lambda p: (study_of(p), p.stem))
    ]
    assert len(claims) >= 17
    for claim in claims:
        assert claim.claim.endswith(".") and len(claim.claim) < 80
        assert "\n" not in claim.short and len(claim.short) < 70
        assert "VQ-Seg (NeurIPS 2025)" in claim.source
    questions = {claim.name for claim in claims if claim.headline}
    assert "qpm-beats-dropout" in questions


def study_of(path):
    return read_yaml(path)["study"]


@pytest.mark.parametrize("path", BUILT_IN, ids=lambda path: path.stem)
def test_the_arms_of_a_claim_are_arms_of_its_study(path):
    claim = read(path)
    _, definition = read_definition(claim.study)
    if claim.form == "supervised":
        assert definition.supervised
    arms = arms_of({"arms": [arm.model_dump() for arm in definition.expand()]})
    sides = [claim.arm, claim.against, claim.among]
    sides += [claim.premise.arm, claim.premise.against] if claim.premise else []
    for wanted in sides:
        if wanted is not None:
            assert absent(arms, wanted) == []
            assert [name for name in wanted.family if not matching(arms, Arms(family=(name,)))] == []
    if claim.kind == "best":
        assert len(matching(arms, claim.arm)) == 1
        assert len(matching(arms, claim.among)) > 1


def test_every_printed_number_is_in_the_published_tables():
    known = {round(value, 4) for row in published.load() for value in row.values.values()}
    for path in BUILT_IN:
        for pair in read(path).published.numbers:
            assert set(pair) <= known, path.stem


def test_printed_effects_are_differences_in_printed_units():
    helps = read(next(path for path in BUILT_IN if path.stem == "qpm-helps"))
    assert helps.printed == pytest.approx([2.58])
    falls = read(next(path for path in BUILT_IN if path.stem == "utilization-falls"))
    assert falls.printed == pytest.approx([-3.0, -6.0])


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"kind": "efect"}, "kind: input should be"),
        ({"marign": 1}, "unknown key 'marign' (did you mean 'margin' or"),
        ({"study": None}, "study: is missing"),
        ({"arm": {"famly": "qpm"}}, "unknown key 'arm.famly' (did you mean 'family'?); known there: family, label, at"),
        ({"against": None}, "against: is missing; a claim of kind 'effect' needs it"),
        ({"among": {"family": "qpm"}}, "among: a claim of kind 'effect' takes no such key"),
        ({"kind": "best", "among": {}}, "against: a claim of kind 'best' takes no such key"),
        ({"kind": "best", "among": {}, "against": None, "margin": 1}, "margin: a claim of kind 'best' takes no"),
        ({"kind": "null", "direction": "lower"}, "direction: a claim of kind 'null' takes no such key"),
        ({"metric": "dise"}, "metric: unknown 'dise' (did you mean 'dice'?)"),
        ({"metric": "hd95"}, "margin: is missing; only that of dice has a default, this metric is hd95_voxel"),
        ({"margin": 0}, "margin: input should be greater than 0, got 0"),
        ({"needs": {"seeds": 2}}, "needs.seeds: input should be greater than or equal to 3, got 2"),
        ({"needs": {"reech": 0.1}}, "unknown key 'needs.reech' (did you mean 'reach'?)"),
        ({"against": PLAIN["arm"]}, "against: names the same arms as 'arm'"),
        ({"published": {"where": "x", "numbers": [[0.1]]}}, "published.numbers.0.1: is missing"),
    ],
)
def test_a_bad_file_is_one_line_that_names_it_and_its_key(tmp_path, keys, words):
    path = write(tmp_path, **keys)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ") and words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_claim_is_refused(tmp_path):
    write_yaml(tmp_path / "named.yaml", {**PLAIN, "name": "other"})
    with pytest.raises(InputError, match="name: the file's own name is the claim's; leave it out"):
        read(tmp_path / "named.yaml")
    (tmp_path / "list.yaml").write_text("- one\n")
    with pytest.raises(InputError, match="expected keys such as claim"):
        read(tmp_path / "list.yaml")


def test_claims_of_the_user_join_and_names_are_not_taken_twice(own, tmp_path):
    write(own / "claims", "ours")
    path = write(tmp_path, "theirs")
    names = [claim.name for claim in load(own, [path])]
    assert {"ours", "theirs", "qpm-helps"} <= set(names)
    assert load(own, [path, path]) == load(own, [path])
    twin = write(tmp_path, "qpm-helps")
    with pytest.raises(InputError, match=f"{twin}: .* has that name already; rename the file"):
        load(own, [twin])


def test_null_needs_no_quotes():
    assert parse_yaml("kind: null") == {"kind": None}
    assert read(next(path for path in BUILT_IN if path.stem == "dropout-low-does-nothing")).kind == "null"


# the documentation


def test_the_page_shows_every_kind():
    assert {str(parse_yaml(block)["kind"]) for block in BLOCKS} == {"effect", "noninferior", "best", "None"}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: parse_yaml(block)["short"])
def test_a_block_of_the_page_is_a_claim_that_gets_a_verdict(block, tmp_path, sweep, grid):
    path = tmp_path / "page.yaml"
    path.write_text(block)
    found = one(grid if "modules" in block else sweep, path)
    assert found.outcome in ("confirmed", "refuted", "inconclusive") or shorts(found) in (["arms missing"], ["3 seeds"])
    assert found.sentence().startswith(found.claim.short)


def test_the_page_names_every_key():
    text = PAGE.read_text()
    for key in read(BUILT_IN[0]).__class__.model_fields:
        assert key == "name" or f"`{key}`" in text, key


# verdicts


@pytest.mark.parametrize(
    ("keys", "outcome"),
    [
        ({}, "confirmed"),
        ({"direction": "lower"}, "refuted"),
        ({"margin": 20}, "refuted"),
        ({"arm": {"family": "dropout", "at": {"p": 0.9}}, "direction": "lower", "margin": 10}, "confirmed"),
        ({"arm": {"family": "dropout", "at": {"p": 0.3}}, "kind": "null", "margin": 4}, "confirmed"),
        ({"arm": {"family": "dropout", "at": {"p": 0.3}}, "kind": "null", "margin": 0.01}, "inconclusive"),
        ({"arm": {"family": "dropout", "at": {"p": [0.3, 0.9]}}, "kind": "null", "margin": 4}, "refuted"),
        ({"arm": {"family": "qpm"}, "kind": "noninferior", "margin": 3}, "confirmed"),
        ({"arm": {"family": "dropout"}, "kind": "noninferior", "margin": 3}, "refuted"),
        ({"kind": "best", "against": None, "among": {"label": "*"}}, "confirmed"),
        ({"kind": "best", "against": None, "among": {}, "arm": {"label": "none"}}, "refuted"),
        ({"metric": "hd95", "margin": 0.1, "direction": "lower"}, "confirmed"),
        ({"metric": "hd95", "margin": 0.1, "kind": "best", "against": None, "among": {}}, None),
    ],
)
def test_verdicts(sweep, tmp_path, keys, outcome):
    path = write(tmp_path, **keys)
    if outcome is None:  # 'best' has no margin
        with pytest.raises(InputError, match="margin"):
            read(path)
        return
    found = one(sweep, path)
    assert found.outcome == outcome, found.sentence()
    assert found.runs and found.obstacles == ()
    assert set(found.runs) <= {cell["identity"] for cell in found.study["cells"]}
    assert (found.settling is not None) == (outcome == "inconclusive")


def test_a_verdict_is_the_one_of_the_statistics(sweep, tmp_path):
    found = one(sweep, write(tmp_path))
    rows = found.selection.headline.assign(value=100 * found.selection.headline["dice"])
    line = statistics.compare(rows, "none", arms=["qpm eps=0.7"]).iloc[0]
    assert found.of(found.decisive) == pytest.approx((line["estimate"], line["low"], line["high"]))
    assert found.p == pytest.approx(line["p"])
    assert found.decisive.by_seed == pytest.approx(
        (
            rows[rows["arm"] == "qpm eps=0.7"].groupby("seed")["value"].mean()
            - rows[rows["arm"] == "none"].groupby("seed")["value"].mean()
        ).tolist()
    )


def test_lower_is_better_for_distances(sweep, tmp_path):
    worse = {"kind": "noninferior", "metric": "hd95", "margin": 0.1, "arm": {"label": "dropout p=0.9"}}
    assert one(sweep, write(tmp_path, **worse)).outcome == "refuted"
    best = {"kind": "best", "metric": "hd95", "against": None, "among": {}}
    found = one(sweep, write(tmp_path, **best))
    assert found.outcome == "confirmed"
    assert found.of(found.decisive)[0] < 0  # fewer voxels than the nearest
    assert "HD95 (voxel)" in found.effect(2)


def test_the_contrast_that_decides_is_shown(sweep, tmp_path):
    low = one(sweep, write(tmp_path, arm={"family": "dropout"}, kind="noninferior", margin=3))
    assert low.decisive.words == "dropout p=0.9 minus none"
    assert [low.of_part(part) for part in low.parts] == ["confirmed", "refuted"]
    best = one(sweep, write(tmp_path, kind="best", against=None, among={"family": ["qpm", "none"]}))
    assert best.decisive.words == "qpm eps=0.7 minus qpm eps=0.3"


def test_the_best_on_validation_stands_for_its_families(sweep, tmp_path):
    drops = {"family": ["dropout", "channel-dropout", "shuffle"], "best_on": "validation"}
    found = one(sweep, write(tmp_path, against=drops))
    assert found.decisive.words == "qpm eps=0.7 minus channel-dropout p=0.3"
    said = " ".join(found.notes)
    assert "channel-dropout p=0.3 was chosen on validation among 3 of 3 arms" in said
    assert "no arm of family shuffle" in said and "optimistic" not in said
    assert "(qpm eps=0.7 minus channel-dropout p=0.3)" in found.sentence()
    same = one(sweep, write(tmp_path, against=drops), part="val")
    assert "optimistic" in " ".join(same.notes)


def test_the_best_of_some_is_not_the_best_of_all(own, tmp_path):
    drops = {"family": ["dropout", "channel-dropout"], "best_on": "validation"}
    path = write(tmp_path, against=drops, margin=3)
    assert one(own, path).outcome == "confirmed"
    for cell in index.studies(own)[0]["cells"]:
        if cell["arm"] == "channel-dropout p=0.3":
            RunFolder(own, cell["identity"]).update(state="running")
    found = one(own, path)
    assert found.outcome == "not tested" and shorts(found) == ["arms missing"] and found.parts
    assert "channel-dropout p=0.3 (killed)" in found.obstacles[0].words
    # Nor is what lacks held against the claim.
    assert one(own, write(tmp_path, against=drops, margin=30)).outcome == "not tested"


@pytest.mark.parametrize(
    "sides",
    [
        {"arm": {"family": "qpm", "best_on": "validation"}, "against": {"label": "qpm eps=0.7"}},
        {"arm": {"label": "qpm eps=0.7"}, "against": {"family": "qpm", "at": {"eps": 0.7}}},
    ],
)
def test_an_arm_is_not_held_against_itself(sweep, tmp_path, sides):
    found = one(sweep, write(tmp_path, **sides))
    assert found.outcome == "not tested" and shorts(found) == ["ambiguous"] and not found.parts
    assert "they must be two" in found.obstacles[0].words and "not tested (ambiguous)" in found.sentence()
    premise = {"says": "Nothing", **sides, "margin": 1}
    found = one(sweep, write(tmp_path, premise=premise))
    assert shorts(found) == ["premise not tested"] and found.remedy == "narrow the claim's file"


def test_a_premise_shows_the_contrast_that_failed_it(sweep, tmp_path):
    drops = {"label": ["dropout p=0.9", "dropout p=0.3"]}
    premise = {"says": "Dropout collapses", "arm": drops, "against": {"family": "none"}, "direction": "lower"}
    found = one(sweep, write(tmp_path, premise={**premise, "margin": 5}))
    assert shorts(found) == ["premise not met"] and "dropout p=0.3 minus none)" in found.obstacles[0].words


def test_a_sentence_names_the_margin_and_what_was_compared(own, tmp_path):
    assert one(own, write(tmp_path)).sentence().endswith("confirmed (margin 0.5).")
    record = index.studies(own)[0]
    arms = [{**arm, "at": {"D": 1.8 * arm["knob"]}} if arm["knob"] else arm for arm in record["arms"]]
    rerecord(own, record["name"], arms=arms)
    keys = {"arm": {"family": "qpm"}, "against": {"family": "dropout"}, "matched": ["D"]}
    held = {"held": {"metric": "perturbation/distortion", "axis": "D", "within": 0.2}}
    found = one(own, write(tmp_path, **keys, needs=held))
    assert len(found.parts) == 1 and f"({found.parts[0].words})" in found.sentence()


def test_what_is_wrong_with_rows_stands_beside_verdicts(own):
    report = build(own, index.studies(own), Options())
    assert report.banners == []
    for cell in index.studies(own)[0]["cells"]:
        values = enumerate([0.4, 0.6, 0.7, 0.74, 0.77, 0.8], start=1)
        lines = [f"{100 * step},val/dice_teacher,{value}" for step, value in values]
        (own / "runs" / cell["identity"] / "metrics.csv").write_text("\n".join(["step,name,value", *lines, ""]))
    report = build(own, index.studies(own), Options())
    assert report.banners[0].startswith("Not converged: ")
    evidence = [table for section in report.sections[1:] for table in section.tables]
    assert evidence and all(table.footnotes[0].startswith("§ Validation still rising") for table in evidence)


def test_holm_runs_over_the_claims_that_a_study_tests(sweep, tmp_path):
    paths = [write(tmp_path, name, arm={"label": arm}) for name, arm in (("a", "qpm*7"), ("b", "qpm*3"))]
    found = {each.claim.name: each for each in verdicts(sweep, index.studies(sweep), Options(), files=paths)}
    tested = [each for each in found.values() if each.outcome != "not tested"]
    assert len(tested) == 2
    adjusted = statistics.holm(np.array([each.p for each in tested]))
    assert [each.p_holm for each in tested] == pytest.approx(adjusted.tolist())
    assert all(np.isnan(each.p_holm) for each in found.values() if each.outcome == "not tested")


def test_a_mean_over_settings_is_the_effect_of_a_module(grid):
    found = {each.claim.name: each for each in verdicts(grid, index.studies(grid), Options())}
    assert found["qpm-helps"].outcome == "confirmed"
    assert found["pfa-helps"].outcome == "refuted"
    assert found["db-helps"].outcome in ("refuted", "inconclusive")
    assert "mean over 4 settings of DB, PFA" in found["qpm-helps"].decisive.words
    weights = found["qpm-helps"].decisive.weights
    assert weights["QPM"] == 0.25 and weights["base"] == -0.25 and len(weights) == 8
    assert found["all-modules-best"].outcome == "refuted"


def test_each_of_the_pairs_along_an_axis_must_hold(tmp_path):
    store = tmp_path / "store"
    labels = {f"{arm} share={share}": 80 + gain for arm, gain in (("ours", 4), ("base", 0)) for share in (5, 10)}
    fabricated.study(store, labels, reference="base share=5", definition="label-ratio", name="ratio", **FEW)
    keys = {"study": "label-ratio", "arm": {"family": "ours"}, "against": {"family": "base"}}
    found = one(store, write(tmp_path, **keys, matched=["share"]))
    assert found.outcome == "confirmed"
    assert [part.words for part in found.parts] == [f"ours share={s} minus base share={s}" for s in (5, 10)]
    assert shorts(one(store, write(tmp_path, **keys))) == ["ambiguous"]
    apart = one(store, write(tmp_path, **keys, matched=["p"]))
    assert shorts(apart) == ["arms missing"] and "share a place along p" in apart.obstacles[0].words


def test_draws_of_labelled_patients_are_in_the_interval(tmp_path):
    store = tmp_path / "store"
    made = fabricated.study(store, {"none": 80.0, "qpm eps=0.7": 84.0}, seeds=6, **FEW)
    cells = [{**cell, "draw": cell["seed"] % 2, "seed": cell["seed"] // 2} for cell in made["cells"]]
    rerecord(store, made["name"], cells=cells, draws=2)
    found = one(store, write(tmp_path))
    assert found.decisive.moments.sizes == {"draw": 2, "seed": 3, "patient": 6}
    assert found.size() == "2 x 3 x 6" and "2 draws x 3 seeds x 6 patients" in found.sentence()
    assert len(found.decisive.by_seed) == 6


def test_what_would_settle_it_is_said(tmp_path):
    store = tmp_path / "store"
    made = fabricated.study(store, {"none": 84.0, "qpm eps=0.7": 84.0}, patients=20, parts=("devtest",))
    for cell in made["cells"]:  # differences of 0, 1 and 2 points, and little else
        path = store / "runs" / cell["identity"] / "rows.parquet"
        rows = pd.read_parquet(path)
        patients = 0.001 * rows["patient"].str[1:].astype(int)
        rows.assign(dice=0.8 + patients + 0.01 * cell["seed"] * (cell["arm"] != "none")).to_parquet(path, index=False)
    found = one(store, write(tmp_path))
    assert found.outcome == "inconclusive"
    assert found.settling.factor == "seed" and 3 < found.settling.count < 200
    end = f"inconclusive (margin 0.5), about {found.settling.count} seeds would settle it."
    assert found.sentence().endswith(end)
    assert re.match(
        r"QPM \.7 against none on acdc \(devtest, preset cpu\): \+1.00 Dice \[−[\d.]+, \+[\d.]+\], 3 seeds x 20 "
        r"patients, inconclusive", found.sentence(),
    )  # fmt: skip


# utilization


def codebooks(store, made, *, used, tokens):
    """Give every run a histogram: the share of its codes that is ``used``, ``tokens`` per code."""
    for cell in made["cells"]:
        codes = int(cell["arm"].split("=")[1])
        draw = np.random.default_rng(cell["seed"])
        hit = round(codes * (used[cell["arm"]] + 0.002 * draw.random()))
        counts = np.zeros(codes, int)
        counts[:hit] = codes * tokens // hit
        table = {"part": "devtest", "network": "teacher", "code": np.arange(codes), "tokens": counts}
        pd.DataFrame(table).to_parquet(store / "runs" / cell["identity"] / "codebook.parquet", index=False)


def test_utilization_is_of_runs_and_of_its_ceiling(tmp_path):
    store = tmp_path / "store"
    made = fabricated.study(
        store, {"V=640": 84.0, "V=1280": 84.0}, reference="V=640", definition="codebook-size", name="size", **FEW
    )
    keys = {
        "study": "codebook-size", "metric": "utilization_of_ceiling", "arm": {"at": {"V": 1280}}, "margin": 1,
        "against": {"at": {"V": 640}}, "direction": "lower", "needs": {"tokens": 10},
    }  # fmt: skip
    codebooks(store, made, used={"V=640": 0.95, "V=1280": 0.80}, tokens=20)
    found = one(store, write(tmp_path, **keys))
    assert found.outcome == "confirmed" and found.size() == "3 seeds"
    assert -17 < found.of(found.decisive)[0] < -13 and "points" in found.effect(2)
    codebooks(store, made, used={"V=640": 0.95, "V=1280": 0.80}, tokens=5)
    found = one(store, write(tmp_path, **keys))
    assert found.outcome == "not tested" and shorts(found)[0].endswith("tokens per code")
    assert "fewer than 10" in found.obstacles[0].words and found.parts
    # few tokens cannot use all codes: against its ceiling nothing fell
    codebooks(store, made, used={"V=640": 1 - np.exp(-1.0), "V=1280": 1 - np.exp(-1.0)}, tokens=1)
    found = one(store, write(tmp_path, **{**keys, "needs": None}))
    assert found.outcome == "refuted"


# not tested


def test_a_study_that_was_not_run(tmp_path):
    found = one(tmp_path, write(tmp_path))
    assert (found.outcome, found.study, found.data) == ("not tested", None, "—")
    assert found.word == "not tested (study not run)" and found.remedy == "run epsilon-sweep"
    assert "supervised form" in one(tmp_path, write(tmp_path, form="supervised")).obstacles[0].words
    typo = one(tmp_path, write(tmp_path, study="epsilon-swep"))
    assert shorts(typo) == ["study unknown"] and "did you mean 'epsilon-sweep'" in typo.obstacles[0].words
    assert found.sentence() == "QPM .7 against none: not tested, study not run (run epsilon-sweep)."


def test_only_the_other_form_was_run(own, tmp_path):
    path = write(tmp_path, form="supervised")
    found = one(own, path)
    assert shorts(found) == ["semi-supervised only"] and found.remedy == "the supervised form"
    assert found.parts  # the numbers are there all the same
    record = index.studies(own)[0]
    write_json(own / "studies" / "twin" / "study.json", {**record, "name": "twin", "supervised": True})
    (found,) = mine(own, path)
    assert found.outcome == "confirmed" and found.study["name"] == "twin" and "supervised" in found.data
    rerecord(own, record["name"], supervised=True)
    assert [shorts(each) for each in mine(own, write(tmp_path))] == [["supervised only"]] * 2


def test_one_verdict_per_study(own, tmp_path):
    record = index.studies(own)[0]
    write_json(own / "studies" / "other" / "study.json", {**record, "name": "other", "preset": "unet"})
    assert {each.data for each in mine(own, write(tmp_path))} == {"acdc devtest, cpu", "acdc devtest, unet"}


def test_synthetic_images(own, tmp_path):
    record = index.studies(own)[0]
    rerecord(own, record["name"], data={**record["data"], "synthetic": True})
    for found in verdicts(own, index.studies(own), Options()):
        assert found.outcome == "not tested"
        if found.claim.study == "epsilon-sweep" and found.claim.form == "semi-supervised":
            assert "phantom" in shorts(found)
    found = one(own, write(tmp_path))
    assert found.word == "not tested (phantom)" and found.effect(2) and found.phantom


def test_too_few_seeds_and_one_patient(tmp_path):
    store = tmp_path / "store"
    fabricated.study(store, {"none": 84.0, "qpm eps=0.7": 88.0}, seeds=2, **FEW)
    found = one(store, write(tmp_path))
    assert shorts(found) == ["2 seeds"] and found.remedy == "3 seeds"
    assert shorts(one(store, write(tmp_path, needs={"seeds": 5}))) == ["2 seeds"]
    fabricated.study(store, {"none": 84.0, "qpm eps=0.7": 88.0}, name="lonely", patients=1)
    assert ["1 patient"] in [shorts(each) for each in mine(store, write(tmp_path))]


def test_reach(own, sweep, tmp_path):
    path = write(tmp_path, needs={"reach": 0.05})
    assert one(sweep, path).outcome == "confirmed"
    assert shorts(one(sweep, write(tmp_path, needs={"reach": 0.5})))[0].startswith("reach 0.3")
    for run in (own / "runs").iterdir():
        lines = (run / "metrics.csv").read_text().splitlines(keepends=True)
        (run / "metrics.csv").write_text("".join(line for line in lines if "reach/" not in line))
    assert shorts(one(own, path)) == ["reach unknown"]


def test_nothing_was_learned(tmp_path):
    store = tmp_path / "store"
    fabricated.study(store, {"none": 0.1, "qpm eps=0.7": 0.2}, **FEW)
    assert "nothing learned" in shorts(one(store, write(tmp_path)))


def test_settings_that_the_claim_needs(own, tmp_path):
    path = write(tmp_path, needs={"settings": {"network.statistics": "separate"}})
    assert shorts(one(own, path)) == ["statistics unknown"]
    for number, run in enumerate(sorted((own / "runs").iterdir())):
        config = read_yaml(run / "config.yaml")
        config["network"]["statistics"] = "shared" if number == 0 else "separate"
        write_yaml(run / "config.yaml", config)
    everyone = write(
        tmp_path, kind="best", against=None, among={}, needs=read(path).needs.model_dump(exclude_none=True)
    )
    found = one(own, everyone)
    assert shorts(found) == ["statistics shared"] and "in 1 of 18 runs" in found.obstacles[0].words
    first = sorted((own / "runs").iterdir())[0]
    config = read_yaml(first / "config.yaml")
    write_yaml(first / "config.yaml", {**config, "network": {**config["network"], "statistics": "separate"}})
    assert one(own, everyone).outcome == "confirmed"


def test_a_target_that_was_not_held(own, tmp_path):
    record = index.studies(own)[0]
    # fabricated replacements distort 1.8 times their rate, dropout at .9 nine times over
    arms = [{**arm, "at": {"distortion": 1.8 * arm["knob"], "eps": arm["knob"]}} if arm["knob"] else arm
            for arm in record["arms"]]  # fmt: skip
    held = {"held": {"metric": "perturbation/distortion", "axis": "distortion", "within": 0.2}}
    drop = {"label": "dropout p=0.9"}
    rerecord(own, record["name"], arms=arms)
    found = one(own, write(tmp_path, against=drop, needs=held))
    assert shorts(found) == ["distortion not held"] and "dropout p=0.9" in found.obstacles[0].words
    assert "qpm" not in found.obstacles[0].words
    # what was held is compared, and what was not is named
    both = {"label": ["dropout p=0.9", "qpm eps=0.3"]}
    found = one(own, write(tmp_path, kind="noninferior", arm=both, against={"label": "qpm eps=0.7"}, needs=held))
    assert [part.words for part in found.parts] == ["qpm eps=0.3 minus qpm eps=0.7"] and found.obstacles == ()
    assert "dropout p=0.9 did not hold its distortion (" in " ".join(found.notes)


def test_families_that_are_named_have_a_partner_each(sweep, tmp_path):
    low = {"family": ["dropout", "channel-dropout"], "at": {"p": 0.3}}
    found = one(sweep, write(tmp_path, against=low))
    assert {part.words for part in found.parts} == {
        "qpm eps=0.7 minus dropout p=0.3", "qpm eps=0.7 minus channel-dropout p=0.3"
    }  # fmt: skip
    found = one(sweep, write(tmp_path, against={**low, "at": {"p": "*"}}))
    assert shorts(found) == ["ambiguous"] and "narrow it" in found.obstacles[0].words


def test_arms_that_were_skipped_or_are_missing(own, tmp_path):
    record = index.studies(own)[0]
    best = write(tmp_path, kind="best", against=None, among={"family": ["qpm", "prior"]})
    skipped = [{"label": "prior clip", "reason": "weights absent: clip"}]
    rerecord(own, record["name"], skipped=skipped)
    found = one(own, best)
    assert shorts(found) == ["weights absent"] and "prior clip: weights absent: clip" in found.obstacles[0].words
    assert found.remedy == "weights of prior clip"
    axis = write(tmp_path, kind="best", against=None, among={"at": {"eps": ["*", "Prior CLIP"]}})
    assert shorts(one(own, axis)) == ["weights absent"]  # by its label, which is all that is known of it
    # what one arm refutes, no further arm can save
    worse = write(tmp_path, kind="best", against=None, arm={"label": "qpm eps=0.3"}, among={"family": ["qpm", "prior"]})
    assert one(own, worse).outcome == "refuted"
    found = one(own, write(tmp_path, arm={"family": "qpm", "at": {"eps": [0.5, 0.7]}}))
    assert shorts(found) == ["arms missing"] and found.remedy == "run qpm eps=0.5"
    RunFolder(own, next(c["identity"] for c in record["cells"] if c["arm"] == "none")).update(state="failed", error="x")
    assert shorts(one(own, write(tmp_path))) == ["2 seeds"]
    for cell in record["cells"]:
        if cell["arm"] == "none":
            RunFolder(own, cell["identity"]).update(state="failed", error="x")
    found = one(own, write(tmp_path))
    assert shorts(found) == ["arms missing"] and "none (failed)" in found.obstacles[0].words


def test_runs_that_disagree(own, tmp_path):
    record = index.studies(own)[0]
    RunFolder(own, record["cells"][0]["identity"]).update(steps=10)
    found = one(own, write(tmp_path))
    assert shorts(found) == ["runs disagree"] and "steps" in found.obstacles[0].words and not found.parts
    found = one(own, write(tmp_path), allow_mixed=True)
    assert shorts(found) == ["runs disagree"] and found.parts


def test_nothing_scored_and_parts_and_protocols_that_are_not(own, tmp_path):
    assert shorts(one(own, write(tmp_path), part="test")) == ["part not scored"]
    assert shorts(one(own, write(tmp_path), protocol="ssl4mis")) == ["protocol not scored"]
    for asked in ({"part": "tset"}, {"protocol": "scam"}):
        with pytest.raises(InputError, match=r"unknown (part|protocol)"):
            one(own, write(tmp_path), **asked)
    for run in (own / "runs").iterdir():
        (run / "rows.parquet").unlink()
    found = one(own, write(tmp_path))
    assert shorts(found) == ["nothing scored"] and found.data == "acdc, cpu"


PREMISE = {"says": "Dropout .9 collapses", "against": {"family": "none"}, "direction": "lower", "margin": 10}


def test_a_premise_comes_first(sweep, tmp_path):
    holds = {**PREMISE, "arm": {"label": "dropout p=0.9"}}
    assert one(sweep, write(tmp_path, premise=holds)).outcome == "confirmed"
    found = one(sweep, write(tmp_path, premise={**holds, "arm": {"label": "dropout p=0.3"}}))
    assert shorts(found) == ["premise not met"] and "Dropout .9 collapses: not confirmed" in found.obstacles[0].words
    # nor is a claim refuted for want of arms where there was nothing to ask
    worse = {"kind": "best", "against": None, "arm": {"label": "none"}, "among": {"label": ["*", "shuffle"]}}
    assert one(sweep, write(tmp_path, **worse)).outcome == "refuted"
    found = one(sweep, write(tmp_path, **worse, premise={**holds, "arm": {"label": "dropout p=0.3"}}))
    assert shorts(found) == ["arms missing", "premise not met"]
    found = one(sweep, write(tmp_path, premise={**holds, "arm": {"label": "shuffle*"}}))
    assert shorts(found) == ["premise not tested"]


def test_a_choice_without_validation_cannot_be_made(tmp_path):
    store = tmp_path / "store"
    made = fabricated.study(store, SWEEP, parts=("devtest",), **FEW)
    for cell in made["cells"]:
        RunFolder(store, cell["identity"]).update(validation={})
    found = one(store, write(tmp_path, against={"family": "dropout", "best_on": "validation"}))
    assert shorts(found) == ["arms missing"] and "validation scores" in found.obstacles[0].words


# the report


def test_the_report_of_an_empty_store_says_what_to_run(tmp_path):
    report = build(tmp_path, [], Options())
    table = report.sections[0].tables[0]
    assert len(table.rows) == len(BUILT_IN) and {row.cells[0].text for row in table.rows} == {
        "not tested (study not run)"
    }
    assert report.sections[0].pictures == []
    assert len(report.sections) == len(BUILT_IN) + 1


def test_the_report(sweep, grid, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(sweep, store)
    shutil.copytree(grid, store, dirs_exist_ok=True)
    write(store / "claims", "ours", margin=1)
    report = build(store, index.studies(store), Options())
    first = report.sections[0].tables[0]
    assert [row.label for row in first.rows].count("QPM helps.") == 2
    line = next(row for row in first.rows if row.label == "The dual branch (DB) helps.")
    assert line.cells[2].text == "+0.83 to +0.91" and line.cells[3].text == "acdc devtest, cpu"
    assert re.fullmatch(r"[−+]\d.\d\d \[.*\]", line.cells[1].text) and "runs" in line.cells[1].tip
    names = [section.title for section in report.sections[1:]]
    assert len(names) == len(set(names)) + 1 == len(BUILT_IN) + 1  # ours has the words of one of the paper's
    own = next(section for section in report.sections if section.title == "QPM beats the best dropout.")
    assert any("was chosen on validation" in words for words in own.paragraphs)
    tables = [table for section in report.sections for table in section.tables]
    assert len({table.name for table in tables}) == len(tables)
    assert all(re.fullmatch(r"[A-Za-z0-9.-]+", table.name) for table in tables)
    evidence = next(table for table in tables if table.name.startswith("claim-ours"))
    assert [row.label for row in evidence.rows] == ["qpm eps=0.7 minus none"]
    assert evidence.runs and "part devtest" in evidence.caption
    assert f"{len(BUILT_IN) + 1} claims" in report.summary[0]
    assert any(sentence.startswith("QPM .7 against the best dropout") for sentence in report.summary)


def test_numbers_of_synthetic_images_are_marked(own):
    record = index.studies(own)[0]
    rerecord(own, record["name"], data={**record["data"], "synthetic": True})
    report = build(own, index.studies(own), Options())
    (picture,) = report.sections[0].pictures
    assert picture.name == "claims-forest-phantom"
    assert "phantom" in [text.get_text() for text in picture.figure.texts]
    evidence = [table for section in report.sections[1:] for table in section.tables]
    assert evidence and all(table.phantom for table in evidence)


def test_another_metric_is_refused(sweep):
    with pytest.raises(InputError, match="--metric hd95: every claim names its own metric"):
        build(sweep, index.studies(sweep), Options(metric="hd95"))


def test_the_forest_draws_every_verdict(tmp_path):
    lines = [
        {"label": f"claim {number}", "outcome": word, "value": value, "low": value - 1, "high": value + 1,
         "margin": 0.5, "other_margin": 0.5, "paper": paper, "metric": "Dice (points)"}
        for number, (word, value, paper) in enumerate(
            [("confirmed", 2.0, 2.5), ("refuted", -1, np.nan), ("inconclusive", 0.2, 1.0), ("not tested", 30, np.nan)]
        )
    ]  # fmt: skip
    figure = claim_forest.draw(pd.DataFrame(lines), False)
    near, far = figure.axes
    words = [tick.get_text() for tick in near.get_yticklabels()]
    assert words == ["confirmed", "claim 0", "refuted", "claim 1", "inconclusive", "claim 2"]
    assert [tick.get_text() for tick in far.get_yticklabels()] == ["not tested", "claim 3"]
    assert near.get_xlim()[1] < 6 < far.get_xlim()[1]
    markers = {line.get_marker() for line in near.lines} - {"None", ""}
    assert markers == {"o", "X", "D", "*"}
    assert style.save(figure, tmp_path, "forest")


def test_paper_words():
    claims = {path.stem: read(path) for path in BUILT_IN}
    assert claim_pages.paper_words(claims["qpm-helps"], 2) == "+2.58"
    assert claim_pages.paper_words(claims["utilization-falls"], 1) == "−6.0 to −3.0"
    assert claim_pages.paper_words(claims["dropout-unusable"], 2) == "—"

"""A user's own part: how it is named, loaded, hashed and refused. Tables and options: test_config."""

import sys

import pytest

from vqseg import foreign_code
from vqseg.config import Choice
from vqseg.errors import InputError
from vqseg.foreign_code import absolute, is_code, load
from vqseg.parts import admit_code, bind, code_in, resolve, supplied_to
from vqseg.perturbations.uniform import Uniform

PART = '''
"""A part."""
from vqseg.replacement import check_rate


class Half:
    """Words."""

    def __init__(self, *, rate: float = 0.5, many: int = 2) -> None:
        self.rate, self.many = check_rate(rate), many

    def draw(self, quantized, codes, generator):
        # a comment
        return quantized.indices

    def apply(self, quantized, codes, drawn):
        return quantized.tokens * self.many
'''


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """An empty folder to work in, far from the project."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder, text=PART, name="half.py"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def part(path, attribute="Half", **options):
    return resolve("perturbation", Choice(name=f"{path}:{attribute}", **options))


def test_a_file_gives_a_part_whose_signature_is_the_schema(desk):
    written(desk)
    found = part("half.py", rate="0.25")
    assert found.build().rate == 0.25 and found.options == {"rate": 0.25, "many": 2}
    assert found.name == f"{desk / 'half.py'}:Half" and found.label == "half.py:Half"
    assert found.module == "perturbation half.py:Half" and list(found.hashes()) == [found.module]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rat": 0.5}, r"perturbation 'half.py:Half': unknown option 'rat'.*did you mean 'rate'"),
        ({"rate": "much"}, r"perturbation.rate: .*number.*got 'much'"),
    ],
)
def test_its_options_are_checked_before_it_is_built(desk, options, message):
    with pytest.raises(InputError, match=message):
        part(written(desk), **options)


# Identity


def identity(found):
    return found.identity(), found.hashes()


def test_the_same_source_is_the_same_wherever_it_lies(desk):
    one, two = (part(written(desk / name)) for name in ("one", "two"))
    assert identity(one) == identity(two)
    assert one.name != two.name
    assert identity(one)[0] == {"name": "half.py:Half", "many": 2, "rate": 0.5}
    assert str(desk) not in str(identity(one))


@pytest.mark.parametrize(
    "changed", [PART.replace("a comment", "another"), PART.replace("Words.", "x"), PART.replace("rate: float", "rate")]
)
def test_words_and_types_are_no_other_run(desk, changed):
    assert changed != PART
    assert identity(part(written(desk / "new", changed))) == identity(part(written(desk / "old")))


@pytest.mark.parametrize(
    "changed", [PART.replace("* self.many", "/ self.many"), PART.replace("= 0.5", "= 0.4"), PART + "LIMIT = 3\n"]
)
def test_a_formula_or_a_default_is_another_run(desk, changed):
    assert changed != PART
    new, old = part(written(desk / "new", changed), rate=0.5), part(written(desk / "old"), rate=0.5)
    assert new.identity() == old.identity()
    assert new.hashes() != old.hashes()


def test_a_default_that_lies_elsewhere_is_in_the_identity(desk, monkeypatch):
    text = "import colors\n" + PART.replace("= 2", "= colors.MANY")
    library = written(desk / "library", "MANY = 2\n", "colors.py").parent
    monkeypatch.syspath_prepend(library)
    first = part(written(desk / "mine", text))
    sys.modules.pop("colors")
    (library / "colors.py").write_text("MANY = 3  # changed\n")
    second = part(written(desk / "other", text))
    assert first.hashes() == second.hashes()
    assert (first.identity()["many"], second.identity()["many"]) == (2, 3)
    sys.modules.pop("colors")


@pytest.mark.parametrize("imported", ["from .blocks import MANY", "from . import blocks"])
def test_what_it_imports_from_beside_it_counts_and_runs(desk, imported):
    text = imported + PART.replace("= 2", "= MANY" if "MANY" in imported else "= blocks.MANY")
    hashes = []
    for many, helper in ((3, ""), (3, "# words"), (4, "")):
        folder = desk / f"{many}{len(helper)}"
        written(folder, "from .deep import MANY\n", "blocks.py")
        written(folder, f"{helper}\nMANY = {many}\n", "deep.py")
        found = part(written(folder, text))
        assert found.build().many == many
        hashes.append(found.hashes())
    assert hashes[0] == hashes[1] != hashes[2]


def test_what_it_imports_of_vqseg_counts(desk, monkeypatch):
    path = written(desk, "from vqseg.perturbations import Uniform\n\n\nclass Mine(Uniform):\n    pass\n")
    before = part(path, "Mine")
    was = before.hashes()
    real = foreign_code.module_hash
    changed = {"vqseg.perturbations.uniform": "another"}
    monkeypatch.setattr(foreign_code, "module_hash", lambda module: changed.get(module) or real(module))
    assert part(path, "Mine").hashes() != was
    assert issubclass(before.factory, Uniform)


def test_two_files_of_one_name_do_not_meet_and_an_edited_one_is_read_anew(desk):
    first, second = written(desk / "one"), written(desk / "two", PART.replace("= 2", "= 5"))
    assert part(first).build().many == 2 and part(second).build().many == 5
    assert part(first).factory is part(first).factory
    first.write_text(PART.replace("= 2", "= 7"))
    assert part(first).build().many == 7


def test_a_module_that_python_finds_may_be_named(desk, monkeypatch):
    package = desk / "library" / "own_bricks"
    written(package, "", "__init__.py")
    written(package, "MANY = 6\n", "sizes.py")
    written(package, "from own_bricks.sizes import MANY\nimport numpy\n" + PART.replace("= 2", "= MANY"))
    monkeypatch.syspath_prepend(package.parent)
    found = part("own_bricks.half")
    assert found.build().many == 6 and found.name == found.label == "own_bricks.half:Half"
    assert set(foreign_code._module_texts("own_bricks.half", package / "half.py")) == {
        package / "__init__.py",
        package / "half.py",
        package / "sizes.py",
    }


# What goes wrong is one line with its place


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (
            PART,
            "hlf.py:Half",
            r"hlf\.py: no such file \(did you mean 'half\.py' or 'helper\.py'\?\); expected FILE",
        ),
        (PART, "half.py:Hlf", r"half\.py: defines no 'Hlf' \(did you mean 'Half'\?\); it defines Half"),
        (PART, "half.py:", r"expected FILE\.py:NAME or PACKAGE\.MODULE:NAME"),
        (PART, "a b:Half", r"expected FILE\.py:NAME or PACKAGE\.MODULE:NAME"),
        (PART, "no_such_module:Half", r"no_such_module: Python finds no such module; .*FILE\.py:Half"),
        (PART, "half.nothing:Half", r"half\.nothing: Python finds no such module"),
        (PART, "math:sqrt", r"math: has no Python source"),
        ("x = 1\ndef f(:\n", "half.py:f", r"half\.py:2: invalid syntax"),
        ("x = 1\x00\n", "half.py:f", r"half\.py"),
        ("x = 1\ny = x / 0\n", "half.py:f", r"half\.py:2: ZeroDivisionError while it was loaded: division by zero"),
        ("import sys\n\nsys.exit(3)\n", "half.py:f", r"half\.py:3: SystemExit while it was loaded: 3"),
        ("import helper\n", "half.py:f", r"half\.py:1: ModuleNotFoundError .*from \.helper import"),
        ("from .helper import broken\n", "half.py:f", r"half\.py:1: ImportError"),
        ("from .bad import broken\n", "half.py:f", r"bad\.py:1: invalid syntax"),
    ],
)
def test_code_that_does_not_load_is_named_with_file_and_line(desk, text, name, message):
    written(desk, text)
    written(desk, "", "helper.py")
    written(desk, "def\n", "bad.py")
    before = {key for key in sys.modules if key.startswith("vqseg_foreign")}
    with pytest.raises(InputError, match=message) as caught:
        load(name)
    assert "\n" not in str(caught.value)
    if not name.endswith("Hlf"):  # that file did load
        assert {key for key in sys.modules if key.startswith("vqseg_foreign")} == before


def test_code_that_failed_to_load_is_tried_again(desk):
    path = written(desk, "raise ValueError('not yet')\n")
    for _ in range(2):
        with pytest.raises(InputError, match="half.py:1: ValueError while it was loaded: not yet"):
            load(f"{path}:Half")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Half = 3\n", "Half is a int; expected a class that is built as a perturbation"),
        (PART.replace("def apply", "def use"), r"half\.py:6: Half is no perturbation: it has no 'apply'"),
        (PART.replace("*, rate", "rate"), r"half\.py:6: Half: .* built with \(\*, options\); put a '\*' before 'rate'"),
        (PART.replace("self, *, rate: float = 0.5", "self, size, *, rate: float = 0.5"), "missing a required argument"),
        (PART.replace("many: int = 2", "many: int"), "option 'many' is required"),
        (
            PART.replace("many: int = 2", "many=print"),
            r"option 'many' is a builtin_function_or_method; expected numbers",
        ),
        (PART.replace("many: int", "many: 'Nowhere'"), "annotations of half.py:Half cannot be read: name 'Nowhere'"),
    ],
)
def test_what_is_no_part_of_its_family_says_why(desk, text, message):
    assert text != PART
    with pytest.raises(InputError, match=message):
        part(written(desk, text))


def test_a_file_without_a_class_is_told_how_to_name_one(desk):
    with pytest.raises(InputError, match=r"perturbation 'half\.py': which class in it\? expected FILE\.py:NAME"):
        resolve("perturbation", Choice(name="half.py"))


def test_every_family_says_what_its_members_are_built_with():
    assert supplied_to("quantizer") == ["dim"] and supplied_to("perturbation") == []
    assert supplied_to("method") == ["student", "perturbation", "setup"] and supplied_to("encoder") == [
        "channels",
        "norm",
    ]
    assert supplied_to("prior") == ["channels"] and supplied_to("importer") == ["source"]
    assert supplied_to("decoder") == ["dims", "strides", "out_channels", "norm", "skips"]


def test_options_are_bound_to_any_function():
    def scans(source, *, classes: tuple[str, ...], span: float = 1.0):
        return source, classes, span

    assert bind("importer", scans, {"classes": ["a", "b"]}) == {"classes": ("a", "b"), "span": 1.0}
    with pytest.raises(InputError, match="importer 'scans': option 'classes' is required"):
        bind("importer", scans, {}, name="scans")


# Permission

SETTINGS = {"perturbation": {"name": "x.py:X", "path": "y.py:Y"}, "network.encoder": "e:E"}
STUDY = {"question": "does this:look like code?", "arms": [{"family": "a:b", "set": SETTINGS}]}


@pytest.mark.parametrize(
    ("tree", "key", "name"),
    [
        ({"perturbation": "mine.py:Mask"}, "perturbation", "mine.py:Mask"),
        ({"network": {"quantizer": {"name": "a.b:C", "num_codes": 3}}}, "network.quantizer.name", "a.b:C"),
        ({"network.quantizer": "a.b:C"}, "network.quantizer", "a.b:C"),
        ({"perturbation.name": "m.py:M"}, "perturbation.name", "m.py:M"),
        (STUDY, "arms.0.set.perturbation.name", "x.py:X"),
    ],
)
def test_code_in_a_file_is_refused_with_key_name_and_option(tree, key, name):
    assert code_in(tree)
    with pytest.raises(InputError) as caught:
        admit_code(tree, "study.yaml", allowed=False)
    assert str(caught.value).startswith(f"study.yaml: {key} names code, {name!r}, ")
    assert "--allow-code" in str(caught.value)


def test_what_is_allowed_gets_absolute_paths_and_the_rest_stays(desk):
    found = admit_code(STUDY, "study.yaml", allowed=True)
    settings = found["arms"][0]["set"]
    assert settings["perturbation"] == {"name": f"{desk / 'x.py'}:X", "path": "y.py:Y"}
    assert settings["network.encoder"] == "e:E" and found["arms"][0]["family"] == "a:b"
    assert found["question"] == STUDY["question"]
    assert STUDY["arms"][0]["set"]["perturbation"]["name"] == "x.py:X"


def test_names_of_rows_are_never_code():
    tree = {"perturbation": {"name": "qpm", "rate": 0.5}, "method": "vqseg", "note": "a.py:B", "train": {"steps": 3}}
    assert not code_in(tree)
    assert admit_code(tree, "x", allowed=False) == tree
    assert is_code("a.py:B") and not is_code("qpm")


def test_a_tilde_is_the_home_folder(desk, monkeypatch):
    monkeypatch.setenv("HOME", str(desk))
    assert absolute("~/mine.py:Mask") == f"{desk}/mine.py:Mask"
    assert absolute("package.module:Mask") == "package.module:Mask"

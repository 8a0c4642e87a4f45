"""Every row of every table keeps its family's promises, and a part that breaks one is told which and how to mend it."""

import inspect
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import typer
from torch import nn
from typer.testing import CliRunner

from vqseg import contracts
from vqseg.cli.check import check
from vqseg.codebook import quantize
from vqseg.config import Choice
from vqseg.contracts.kind import kind_of, named
from vqseg.contracts.promise import FIRST
from vqseg.decoders import DECODERS
from vqseg.encoders import ENCODERS
from vqseg.errors import InputError
from vqseg.files import write_json
from vqseg.foreign_code import load
from vqseg.methods import METHODS
from vqseg.optimizer import OPTIMIZERS
from vqseg.parts import Part, resolve
from vqseg.perturbations import PERTURBATIONS
from vqseg.priors import PRIORS
from vqseg.priors.local import SETTINGS, LocalPrior, shape_config
from vqseg.quantizers import QUANTIZERS
from vqseg.replacement import bernoulli, check_rate

ROWS = {
    "encoder": ENCODERS, "decoder": DECODERS, "quantizer": QUANTIZERS, "perturbation": PERTURBATIONS,
    "prior": PRIORS, "method": METHODS, "optimizer": OPTIMIZERS,
}  # fmt: skip
# What is supplied otherwise: nothing at all, or a folder that a run makes first.
APART = {("prior", "none"), ("prior", "local")}
VIT = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 24}


def failures(part, source=None):
    return {found.check: found.failure for found in contracts.checked(part, source) if found.failure}


def broken(family, factory, **options):
    """Return the failures of a class, its constructor's defaults filled in."""
    defaults = {
        name: value.default
        for name, value in inspect.signature(factory).parameters.items()
        if value.kind is inspect.Parameter.KEYWORD_ONLY
    }
    return failures(Part(family, "x", factory, {**defaults, **options}))


# Every row of every table


@pytest.fixture(scope="module")
def tiny_vit(tmp_path_factory):
    """A folder of transformers with a tiny random vision transformer."""
    import transformers

    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    transformers.ViTModel(transformers.ViTConfig(**VIT, image_size=16, patch_size=8)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("family", "name"), [(f, n) for f, rows in ROWS.items() for n in rows if (f, n) not in APART])
def test_every_row_keeps_the_promises_of_its_family(family, name, tiny_vit):
    options = {"weights": str(tiny_vit)} if "weights" in inspect.signature(ROWS[family][name]).parameters else {}
    results = list(contracts.checked(resolve(family, Choice(name=name, **options))))
    assert [f"{found.check}: {found.failure}" for found in results if found.failure] == []
    assert [found.check for found in results] == list(contracts.CONTRACTS[family])


def test_the_local_prior_keeps_the_promises_of_its_family(tmp_path):
    """Its folder, which pre-training makes, is supplied by the run."""
    import transformers

    options = {"patch_px": 8, "dim": 16, "depth": 1, "heads": 2}

    def local(channels):
        folder, shape = tmp_path / str(channels), {"channels": channels, **options}
        torch.manual_seed(0)
        config = transformers.ViTConfig(**shape_config(shape, 16))
        transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
        write_json(folder / SETTINGS, {"shape": shape, "mean": [0.5] * channels, "std": [0.5] * channels})
        return LocalPrior(channels, folder, **options)

    assert failures(Part("prior", "local", local, {})) == {}


def test_the_contracts_are_those_of_the_tables():
    assert set(contracts.CONTRACTS) == set(ROWS)


def position_of_numpy():
    return np.random.get_state(legacy=False)["state"]["pos"]  # noqa: NPY002


def test_checks_leave_the_global_generators_as_they_were():
    torch.manual_seed(1)
    states = torch.get_rng_state(), random.getstate(), position_of_numpy()
    failures(resolve("perturbation", Choice(name="qpm")))
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert position_of_numpy() == states[2]


# Quantizers that break a promise


class Table(nn.Module):
    def __init__(self, dim, *, num_codes=16):
        super().__init__()
        self.table = nn.Parameter(torch.empty(num_codes, dim))

    def initialize(self, generator_for):
        with torch.no_grad():
            self.table.normal_(generator=generator_for("table"))

    def codes(self):
        return self.table

    def forward(self, tokens):
        return quantize(tokens, self.codes())


def averaging(quantizer, tokens):
    """Move the codes towards the tokens, in evaluation too."""
    found = quantize(tokens, quantizer.table)
    with torch.no_grad():
        quantizer.table.mul_(0.99)
    return found


@pytest.mark.parametrize(
    ("name", "forward", "message"),
    [
        ("gives each an index", lambda s, z: tuple(quantize(z, s.table))[:2], "expected forward to return .*Quantized"),
        ("gives each an index", lambda s, z: quantize(z, s.table)._replace(tokens=z[:, :3]), r"saw \(2, 3, 8\)"),
        (
            "gives each an index",
            lambda s, z: quantize(z, s.table)._replace(indices=z[..., 0]),
            "saw torch.float32",
        ),
        ("tokens are rows", lambda s, z: quantize(z, s.table)._replace(tokens=2 * z), "perturbations replace codes"),
        ("straight through", lambda s, z: quantize(z.detach(), s.table), "tokens with a graph behind, saw none"),
        ("methods weigh", lambda s, z: quantize(z, s.table)._replace(losses={}), "'codebook' and 'commitment', saw"),
        ("same codes", averaging, "no change of the quantizer in evaluation"),
        ("another width", lambda s, z: quantize(z[..., :8], s.table), "a ValueError for tokens of 9 channels"),
        ("autocast", lambda s, z: quantize(z, s.table)._replace(tokens=z.bfloat16()), "float32, saw torch.bfloat16"),
    ],
)
def test_a_broken_quantizer_is_told_what_to_mend(name, forward, message):
    kind = type("Broken", (Table,), {"forward": forward})
    found = broken("quantizer", kind)
    (check,) = [check for check in contracts.CONTRACTS["quantizer"] if name in check]
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(found.get(check, "holds"))


def test_a_whole_quantizer_passes_and_one_that_holds_nothing_trained_too():
    class Fixed(Table):
        def __init__(self, dim, *, num_codes=16):
            nn.Module.__init__(self)
            self.register_buffer("table", torch.empty(num_codes, dim))

    assert broken("quantizer", Table) == {}
    assert broken("quantizer", Fixed) == {}


def test_first_values_from_the_global_generator_are_found():
    class Drawn(Table):
        def __init__(self, dim, *, num_codes=16):
            nn.Module.__init__(self)
            self.table = nn.Parameter(torch.randn(num_codes, dim))

        initialize = None

    found = broken("quantizer", Drawn)
    assert list(found) == ["starts from the seed alone"]
    assert "'table' differing between two of one seed; draw it in 'initialize(self, generator_for)'" in str(found)


def test_state_that_a_checkpoint_would_lose_is_found():
    class Loose(Table):
        def initialize(self, generator_for):
            super().initialize(generator_for)
            self.scale = torch.ones(3)

    assert "self.scale, which is neither; write self.register_buffer('scale'" in str(broken("quantizer", Loose))


def test_what_cannot_be_built_is_the_only_failure():
    class Looking(Table):
        def __init__(self, dim, *, num_codes=16):
            super().__init__(dim, num_codes=num_codes)
            assert float(self.table.detach().sum()) >= 0

    found = broken("quantizer", Looking)
    assert list(found) == [FIRST] and "test_contracts.py:" in found[FIRST]


# Perturbations


class Zero:
    def __init__(self, *, rate=0.5):
        self.rate = check_rate(rate)

    def draw(self, quantized, codes, generator):
        return bernoulli(quantized.indices.shape, self.rate, generator)

    def apply(self, quantized, codes, drawn):
        return quantized.tokens * (~drawn)[..., None]


def in_place(self, quantized, codes, drawn):
    with torch.no_grad():
        quantized.tokens.mul_((~drawn)[..., None])
    return quantized.tokens


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("shape", {"apply": lambda s, q, c, d: q.tokens[:, 1:]}, r"expected tokens of shape \(3, 48, 6\), saw"),
        ("shape", {"apply": lambda s, q, c, d: None}, "expected apply to return a tensor, saw NoneType"),
        ("shape", {"draw": lambda s, q, c, g: 3}, "expected draw to return a tensor, saw int"),
        ("gradient", {"apply": lambda s, q, c, d: q.tokens.detach()}, "with a graph behind, saw none"),
        ("same generator", {"draw": lambda s, q, c, g: torch.rand(q.indices.shape) < 0.5}, "pass generator=generator"),
        ("own generator", {"draw": lambda s, q, c, g: torch.rand(q.indices.shape) < 0.5}, "torch's global generator"),
        ("own generator", {"draw": lambda s, q, c, g: q.indices < np.random.rand()}, "numpy's global"),  # noqa: NPY002
        ("own generator", {"draw": lambda s, q, c, g: q.indices < random.random()}, "Python's global generator"),
        (
            "rate 0",
            {"draw": lambda s, q, c, g: bernoulli(q.indices.shape, 0.5, g)},
            "tokens as they were at rate 0",
        ),
        ("in place", {"apply": in_place}, "expected quantized.tokens as they were, saw a change in place"),
        ("methods call", {"apply": lambda s, q, c, d: q.tokens.bfloat16()}, "float32, saw torch.bfloat16"),
        ("methods call", {"apply": lambda s, q, c, d: q.tokens / 0}, "finite distortion"),
    ],
)
def test_a_broken_perturbation_is_told_what_to_mend(name, changes, message):
    found = broken("perturbation", type("Broken", (Zero,), changes))
    (check,) = [check for check in contracts.CONTRACTS["perturbation"] if name in check]
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(found.get(check, "holds"))


def test_a_rate_is_stated_and_bounded():
    class Unbounded(Zero):
        def __init__(self, *, rate=0.5):
            self.rate = rate

    class Unstated(Zero):
        def __init__(self, *, share=0.5):
            self.share = share

    assert broken("perturbation", Zero) == {}
    assert "check_rate" in broken("perturbation", Unbounded)["a rate outside [0, 1] raises"]
    assert "an attribute 'rate' in [0, 1], saw None" in broken("perturbation", Unstated)[FIRST]


# Encoders, decoders, priors, optimizers


class Convolution(nn.Module):
    dims, strides, stride = (3,), (2,), 2

    def __init__(self, channels, norm):
        super().__init__()
        self.conv = nn.Conv2d(channels, 3, 2, stride=2)

    def forward(self, images):
        if images.shape[-1] % 2:
            raise ValueError("odd")
        return [self.conv(images)]


@pytest.mark.parametrize(
    ("changes", "check", "message"),
    [
        ({}, None, ""),
        ({"strides": None}, FIRST, "an attribute 'strides'"),
        ({"strides": (2, 4)}, FIRST, "one stride per dim"),
        ({"strides": (1,)}, "gives the maps that it states", r"expected maps of \[\(2, 3, 16, 18\)\]"),
        ({"forward": lambda s, x: [s.conv(x).detach()]}, "every parameter learns", "with a graph behind, saw none"),
        ({"forward": lambda s, x: [s.conv(x - x.mean())]}, "the same image gives the same maps", "alone as in a batch"),
        ({"forward": lambda s, x: [s.conv(x)]}, "images of another size raise", "a ValueError for images of 17 px"),
    ],
)
def test_a_broken_encoder_is_told_what_to_mend(changes, check, message):
    found = broken("encoder", type("Broken", (Convolution,), changes))
    assert (check is None and found == {}) or message_in(found, check, message)


class Head(nn.Module):
    def __init__(self, dims, strides, out_channels, norm, skips):
        super().__init__()
        self.scale, self.head = strides[-1], nn.Conv2d(dims[-1], out_channels, 1)

    def forward(self, coarsest, finer):
        return F.interpolate(self.head(coarsest), scale_factor=float(self.scale))


@pytest.mark.parametrize(
    ("changes", "check", "message"),
    [
        ({}, None, ""),
        ({"forward": lambda s, c, f: s.head(c)}, "gives images of full resolution", r"expected \(2, 3, 16, 20\)"),
        (
            {"forward": lambda s, c, f: Head.forward(s, c + f[0].mean(), f)},
            "without skips it sees the codes alone",
            "read their sizes alone",
        ),
        ({"forward": lambda s, c, f: Head.forward(s, c.detach(), f)}, "reaches tokens and", "at the coarsest map"),
    ],
)
def test_a_broken_decoder_is_told_what_to_mend(changes, check, message):
    found = broken("decoder", type("Broken", (Head,), changes))
    assert (check is None and found == {}) or message_in(found, check, message)


def test_a_decoder_may_refuse_strides_but_not_all():
    class Picky(Head):
        def __init__(self, dims, strides, out_channels, norm, skips):
            if len(set(strides)) > 1:
                raise ValueError("one stride")
            super().__init__(dims, strides, out_channels, norm, skips)

    class Never(Head):
        def __init__(self, dims, strides, out_channels, norm, skips):
            raise ValueError("never")

    assert broken("decoder", Picky) == {}
    assert "ValueError: never" in broken("decoder", Never)[FIRST]


class Pooled(nn.Module):
    dim, patch = 2, 4

    def __init__(self, channels):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.conv = nn.Conv2d(channels, 2, 4, stride=4)
        self.requires_grad_(False)
        self.eval()

    def forward(self, images, grid):
        return self.conv(images)


@pytest.mark.parametrize(
    ("changes", "check", "message"),
    [
        ({}, None, ""),
        ({"dim": None}, FIRST, "an attribute 'dim', a positive whole number"),
        ({"requires_grad_": lambda s, on: s}, "is frozen", "self.requires_grad_"),
        ({"eval": lambda s: s}, "is frozen", "expected evaluation mode"),
        ({"dim": 3}, "gives features of its width", r"shape \(2, 3, h', w'\), saw \(2, 2, 8, 12\)"),
        ({"forward": lambda s, x, g: s.conv(torch.rand_like(x))}, "the same images", "draw nothing in forward"),
    ],
)
def test_a_broken_prior_is_told_what_to_mend(changes, check, message):
    found = broken("prior", type("Broken", (Pooled,), changes))
    assert (check is None and found == {}) or message_in(found, check, message)


def plain_sgd(groups, *, lr=0.1):
    rows = [{"params": list(values), "lr": lr, "base_lr": lr} for values in groups.values()]
    return torch.optim.SGD(rows, lr=lr)


def rateless(groups, *, lr=0.1):
    return torch.optim.SGD([value for values in groups.values() for value in values], lr=lr)


def head_only(groups, *, lr=0.1):
    return plain_sgd({"head": groups["head"]}, lr=lr)


def test_a_broken_optimizer_is_told_what_to_mend():
    assert broken("optimizer", plain_sgd) == {}
    assert message_in(broken("optimizer", rateless), "follows the schedule", "'base_lr' in every parameter group")
    assert message_in(broken("optimizer", head_only), FIRST, "expected every parameter of every group, saw 1 of 2")
    assert message_in(broken("optimizer", plain_sgd, lr=-0.0), "lowers a loss", "a lower loss of a bowl")


def message_in(found, check, message):
    import re

    (name,) = [name for name in found if check in name] or [None]
    return bool(name and re.search(message, found[name])) or pytest.fail(str(found))


# Methods: files, because a run looks them up by name

METHOD = """
import torch

from vqseg.methods.supervised import Supervised
from vqseg.step import Step
from vqseg.teacher import follow


class Mine(Supervised):
    CHANGES
"""


@pytest.mark.parametrize(
    ("changes", "check", "message"),
    [
        ("pass", None, ""),
        (
            "def groups(self):\n        return {'head': list(self.student.encoder.parameters())}",
            "trains the whole student",
            "each of the student's parameters once",
        ),
        (
            "def losses(self, batch, step):\n        return super().losses(batch, step).losses",
            "finite scalars",
            r"losses\(\) to return vqseg.step.Step, saw dict",
        ),
        (
            "def losses(self, batch, step):\n        return super().losses(batch, step)._replace(logs={'x': 1.0})",
            "finite scalars",
            r"logs\['x'\] to be a finite scalar tensor in step 0, saw 1.0",
        ),
        (
            "def losses(self, batch, step):\n        found = super().losses(batch, step)\n"
            "        return found._replace(losses={'labelled': found.losses['codebook']})",
            "the student learns",
            "a finite gradient at 'encoder.levels.0.0.weight', saw none",
        ),
        (
            "def __init__(self, student, perturbation, setup, *, dual_branch: bool = False):\n"
            "        super().__init__(student, perturbation, setup, dual_branch=dual_branch)\n"
            "        self.teacher.requires_grad_(True)",
            "outside the graph",
            "a teacher without gradients",
        ),
        ("def after_step(self, step):\n        pass", "the teacher follows", "call vqseg.teacher.follow in after_step"),
        (
            "calls = 0\n    def losses(self, batch, step):\n        self.calls += 1\n"
            "        found = super().losses(batch, step)\n"
            "        return found._replace(losses={k: v * self.calls for k, v in found.losses.items()})",
            "stopped and resumed",
            "equal weights .* after a stop at step 3 and without",
        ),
    ],
)
def test_a_broken_method_is_told_what_to_mend(changes, check, message, tmp_path):
    (tmp_path / "mine.py").write_text(METHOD.replace("CHANGES", changes))
    options = {} if "__init__" in changes else {"dual_branch": False}
    part = resolve("method", Choice(name=f"{tmp_path / 'mine.py'}:Mine", **options))
    asked = {name: run for name, run in contracts.CONTRACTS["method"].items() if check is None or check in name}
    found = {result.check: result.failure for result in contracts.run(asked, part) if result.failure}
    assert (check is None and found == {}) or message_in(found, check, message)


# Importers

IMPORTER = """
from functools import partial
from pathlib import Path

import numpy as np

from vqseg.importers.writer import Pending, Plan, Volume, file_state


def scans(source: Path, *, classes: tuple[str, ...] = ("background", "organ")):
    files = sorted(source.glob("*.npy"))
    rows = [Pending(path.stem, path.stem.split("_")[0], [1, 2], partial(read, path)) for path in files]
    return Plan("mine", list(classes), {}, file_state(files), rows)


def read(path):
    image = np.load(path)
    return Volume(image, (image > 128).astype(np.uint8), (0.0, 255.0), (8.0, 1.5, 1.5))
"""


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(6):
        image = np.random.default_rng(number).integers(0, 255, (2, 8, 8), dtype=np.uint8)
        np.save(folder / f"p{number}_a.npy", image)
    return folder


@pytest.mark.parametrize(
    ("old", "new", "check", "message"),
    [
        ("", "", None, ""),
        (
            "    return Plan(",
            "    return source or Plan(",
            FIRST,
            "gave a PosixPath; expected a vqseg.importers.writer.Plan",
        ),
        ("    files =", "    1 / 0\n    files =", FIRST, r"mine\.py:\d+: ZeroDivisionError: division by zero"),
        ("*.npy", "*.png", FIRST, "found no scan"),
        ("path.stem, path.stem.split", "'x', path.stem.split", FIRST, "scan 'x' stands twice"),
        ("file_state(files)", "str(np.random.rand())", "the same plan", "expected one state of one source"),
        (
            "np.load(path)\n",
            "np.load(path) / 255\n",
            "can be read",
            r"float64 of \(2, 8, 8\); expected uint8 or uint16",
        ),
        ("np.uint8)", "np.uint8) * 9", "can be read", "up to 9; expected uint8 .* indices 0 to 1"),
        (
            "image = np.load(path)\n",
            "image = np.load(path)\n    image = image.astype(np.uint16 if path.stem == 'p2_a' else np.uint8)\n",
            "can be read",
            "scan 'p0_a' is uint8, scan 'p2_a' is uint16; expected one dtype",
        ),
        ("[1, 2]", "[1]", "can be read", r"uint8 of \(2, 8, 8\); expected uint8 or uint16 of \(1, H, W\)"),
        ("(8.0, 1.5, 1.5)", "(8.0, 0, 1.5)", "can be read", "spacing_mm is"),
        (
            "image = np.load(path)",
            "image = np.load(path); image[0] = np.arange(64).reshape(8, 8)",
            "sound prepared folder",
            "expected no errors from 'vqseg data check', saw parts",
        ),
        ("image = np.load(path)", "image = np.load(path); path.touch()", "leaves the source alone", "write nothing"),
    ],
)
def test_a_broken_importer_is_told_what_to_mend(old, new, check, message, tmp_path, source):
    text = IMPORTER.replace(old, new) if old else IMPORTER
    (tmp_path / "mine.py").write_text(text)
    found = failures(named(f"{tmp_path / 'mine.py'}:scans", None, {}), source)
    assert (check is None and found == {}) or message_in(found, check, message)


def test_an_importer_needs_a_source(tmp_path):
    (tmp_path / "mine.py").write_text(IMPORTER)
    part = named(f"{tmp_path / 'mine.py'}:scans", None, {"classes": ["a", "b"]})
    with pytest.raises(InputError, match="mine.py:scans is an importer: .*--source FOLDER"):
        failures(part)
    assert part.options == {"classes": ("a", "b")}


# Which family, and the command

KINDS = """
from vqseg.decoders.unet import UNetDecoder as decoder
from vqseg.encoders.unet import UNetEncoder as encoder
from vqseg.methods.supervised import Supervised as method
from vqseg.optimizer import sgd as optimizer
from vqseg.perturbations.qpm import QPM as perturbation
from vqseg.priors.dinov2 import DINOv2 as prior
from vqseg.quantizers.plain import PlainQuantizer as quantizer


def importer(source):
    pass


class NoCodes:
    def __init__(self, dim):
        pass


class Anything:
    def __init__(self, it):
        pass


def nothing(a, b, c, d):
    pass
"""


@pytest.fixture
def kinds(tmp_path):
    (tmp_path / "kinds.py").write_text(KINDS)
    return tmp_path / "kinds.py"


@pytest.mark.parametrize("family", [*ROWS, "importer"])
def test_a_family_shows_by_how_its_members_are_built(kinds, family):
    assert kind_of(load(f"{kinds}:{family}")) == family


def test_something_broken_is_taken_for_what_it_names(kinds):
    assert kind_of(load(f"{kinds}:NoCodes")) == "quantizer"
    with pytest.raises(InputError, match="NoCodes is no quantizer: it has no 'forward'"):
        named(f"{kinds}:NoCodes", None, {})
    for name, what in (("Anything", "could be optimizer or importer"), ("nothing", "is built as no family is")):
        with pytest.raises(InputError, match=rf"kinds\.py:\d+: kinds\.py:{name} {what}; say which: --family"):
            named(f"{kinds}:{name}", None, {})
    with pytest.raises(InputError, match="unknown family 'quantiser'.*did you mean 'quantizer'"):
        named(f"{kinds}:quantizer", "quantiser", {})
    with pytest.raises(InputError, match="'qpm': expected FILE.py:NAME or PACKAGE.MODULE:NAME, or with --family"):
        named("qpm", None, {})


def vqseg_check(*words):
    app = typer.Typer()
    app.command()(check)
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_says_each_check_and_exits_by_them(kinds, tmp_path):
    whole = vqseg_check(f"{kinds}:quantizer", "--set", "num_codes=8")
    assert whole.exit_code == 0
    lines = whole.stdout.splitlines()
    assert lines[0] == "quantizer kinds.py:quantizer, num_codes=8"
    assert lines[1:-1] == [f"ok      {name}" for name in contracts.CONTRACTS["quantizer"]]
    assert lines[-1] == "it keeps every promise of its family"
    (tmp_path / "bad.py").write_text(
        "from vqseg.quantizers.plain import PlainQuantizer\n\n\nclass Bad(PlainQuantizer):\n"
        "    def forward(self, tokens):\n        return super().forward(tokens.detach())\n"
    )
    bad = vqseg_check(f"{tmp_path / 'bad.py'}:Bad")
    assert bad.exit_code == 1
    assert "failed  the gradient passes straight through: expected tokens with a graph behind, saw none" in bad.stdout
    assert bad.stdout.splitlines()[-1] == "1 checks failed"
    row = vqseg_check("shuffle", "--family", "perturbation")
    assert row.exit_code == 0 and row.stdout.startswith("perturbation shuffle, rate=1.0\n")
    unknown = vqseg_check(f"{kinds}:quantizer", "--set", "codes=8")
    assert isinstance(unknown.exception, InputError) and "unknown option 'codes'" in str(unknown.exception)

"""Parts that are broken in ways hard to see, each with the check of its family's contract that finds it."""

import inspect
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import typer
from test_contracts import IMPORTER as SOUND
from test_contracts import Table as Sound
from torch import nn
from typer.testing import CliRunner

from vqseg import contracts
from vqseg.cli.check import check
from vqseg.codebook import Quantized, quantize
from vqseg.config import Choice
from vqseg.contracts.kind import named
from vqseg.errors import InputError
from vqseg.parts import Part, resolve
from vqseg.replacement import bernoulli, check_rate, replace_codes


def failures(family, factory, **options):
    defaults = {
        name: value.default
        for name, value in inspect.signature(factory).parameters.items()
        if value.kind is inspect.Parameter.KEYWORD_ONLY
    }
    part = Part(family, "x", factory, {**defaults, **options})
    return {found.check: found.failure for found in contracts.checked(part) if found.failure}


def fails(found, check, message):
    (name,) = [name for name in found if check in name] or [""]
    return bool(name and re.search(message, found[name])) or pytest.fail(str(found))


# Quantizers


class Table(Sound):
    def __init__(self, dim, *, num_codes=16):
        super().__init__(dim, num_codes=num_codes)
        self.kept = {}


def without_gradient(self, tokens):
    return quantize(tokens, self.table.detach())


def negated(self, tokens):
    found = quantize(tokens, self.table)
    return found._replace(losses={**found.losses, "codebook": -found.losses["codebook"]})


def mixing(self, tokens):
    return quantize(tokens - tokens.mean((0, 1), keepdim=True), self.table)


def stale_tokens(self, tokens):
    codes = self.kept.setdefault("codes", self.table.detach().clone())
    found, own = quantize(tokens, codes), quantize(tokens, self.table)
    return Quantized(found.tokens, found.indices, own.losses)


def stale_codes(self):
    return self.kept.setdefault("codes", self.table.detach().clone())


@pytest.mark.parametrize(
    ("changes", "check", "message"),
    [
        ({}, None, ""),
        ({"forward": without_gradient}, "the table learns", "a finite gradient at 'table', saw none"),
        ({"forward": negated}, "draws codes and tokens together", "losses are minimized: return the distance"),
        ({"forward": mixing}, "the same tokens", "an image alone as in a batch"),
        ({"forward": stale_tokens}, "follows its parameters", "equal tokens from equal parameters and buffers"),
        (
            {"codes": stale_codes, "forward": stale_tokens},
            "follows its parameters",
            "equal tokens from equal parameters and buffers",
        ),
    ],
)
def test_a_quantizer_that_is_broken_is_found(changes, check, message):
    found = failures("quantizer", type("Mine", (Table,), changes))
    assert (check is None and found == {}) or fails(found, check, message)


class Angle(Table):
    """The page's: lengths do not count."""

    def codes(self):
        return F.normalize(self.table, dim=1)

    def forward(self, tokens):
        return quantize(F.normalize(tokens, dim=-1), self.codes())


class Narrow(Table):
    """Searches in fewer channels than a token has; its loss lies there."""

    def __init__(self, dim, *, num_codes=16):
        super().__init__(2, num_codes=num_codes)
        self.down, self.up = nn.Linear(dim, 2, bias=False), nn.Linear(2, dim, bias=False)

    def codes(self):
        return self.up(self.table)

    def forward(self, tokens):
        if tokens.shape[-1] != self.down.in_features:
            raise ValueError("width")
        found = quantize(self.down(tokens.float()), self.table)
        wide = F.embedding(found.indices, self.codes())
        return Quantized(tokens + (wide - tokens).detach(), found.indices, found.losses)


class Averaged(Table):
    """Its codes are averages, kept in buffers and moved in training alone; it has no codebook loss."""

    def __init__(self, dim, *, num_codes=16):
        nn.Module.__init__(self)
        self.register_buffer("table", torch.empty(num_codes, dim))

    def forward(self, tokens):
        if self.training:
            chosen = quantize(tokens, self.table).indices[0, :1]
            self.table.index_copy_(0, chosen, tokens.detach()[0, :1])
        found = quantize(tokens, self.table)
        return found._replace(losses={**found.losses, "codebook": tokens.new_zeros(())})


class Spread(Table):
    """Its codebook loss has a term that is below 0."""

    def forward(self, tokens):
        found = quantize(tokens, self.table)
        return found._replace(losses={**found.losses, "codebook": found.losses["codebook"] - 3})


@pytest.mark.parametrize("kind", [Angle, Averaged, Spread])
def test_a_sound_quantizer_of_another_kind_passes(kind):
    assert failures("quantizer", kind) == {}


def test_a_codebook_loss_that_lies_in_other_channels_passes():
    found = failures("quantizer", Narrow)
    assert not any("draws codes" in name or "follows" in name for name in found), found


# Perturbations


class Replaced:
    def __init__(self, *, rate=0.5):
        self.rate = check_rate(rate)

    def draw(self, quantized, codes, generator):
        changed = bernoulli(quantized.indices.shape, self.rate, generator)
        other = torch.randint(len(codes), quantized.indices.shape, generator=generator)
        return torch.where(changed, other, quantized.indices)

    def apply(self, quantized, codes, drawn):
        return replace_codes(quantized, codes, drawn)


def own_generator(self, quantized, codes, generator):
    return Replaced.draw(self, quantized, codes, torch.Generator().manual_seed(7))


def kept_at_first(self, *, rate=0.5):
    self.rate = self.first = check_rate(rate)


def fixed_at_first(self, quantized, codes, generator):
    changed = bernoulli(quantized.indices.shape, self.first, generator)
    return torch.where(changed, (quantized.indices + 1) % len(codes), quantized.indices)


def every_second(self, quantized, codes, generator):
    return quantized.indices.roll(1, 1) if self.rate else quantized.indices


@pytest.mark.parametrize(
    ("changes", "check", "message"),
    [
        ({}, None, ""),
        ({"draw": lambda s, q, c, g: q.indices}, "rate 1 changes", "other tokens at rate 1, saw all of them"),
        ({"draw": own_generator}, "another generator", "pass generator=generator.*'deterministic = True'"),
        ({"draw": every_second}, "another generator", "another result from another generator, saw the same"),
        ({"draw": every_second, "deterministic": True}, None, ""),
        ({"draw": fixed_at_first, "__init__": kept_at_first}, "set later acts", "after rate = 0, a number.*self.rate"),
        ({"draw": lambda s, q, c, g: q.indices, "deterministic": True}, "rate 1 changes", "return other tokens"),
    ],
)
def test_a_perturbation_that_is_broken_is_found(changes, check, message):
    found = failures("perturbation", type("Mine", (Replaced,), changes))
    assert (check is None and found == {}) or fails(found, check, message)


def test_a_perturbation_without_a_rate_to_set_is_held_to_the_one_that_it_states():
    class Fixed(Replaced):
        rate = 0.5

        def __init__(self):
            pass

    class Still(Fixed):
        def draw(self, quantized, codes, generator):
            return quantized.indices

    assert failures("perturbation", Fixed) == {}
    assert fails(failures("perturbation", Still), "rate 1 changes", "other tokens at rate 0.5")
    assert failures("perturbation", type("None", (Still,), {"rate": 0.0})) == {}


# Priors


class Pooled(nn.Module):
    dim, patch = 2, 4

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, 2, 4, stride=4)
        with torch.no_grad():
            for value in self.conv.parameters():
                value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(3)))
        self.requires_grad_(False)
        self.eval()

    def forward(self, images, grid):
        return self.conv(images)


def drawn(self, channels):
    nn.Module.__init__(self)
    self.conv = nn.Conv2d(channels, 2, 4, stride=4)
    self.requires_grad_(False)
    self.eval()


def squared(self, images, grid):
    """Transposed, in a map whose sides are equal."""
    return F.adaptive_avg_pool2d(self.conv(images), 4).transpose(2, 3)


@pytest.mark.parametrize(
    ("changes", "check", "message"),
    [
        ({}, None, ""),
        ({"__init__": drawn}, "built again", "the same features from two that are built alike"),
        ({"forward": lambda s, x, g: s.conv(x - x.mean())}, "the same images", "an image alone as in a batch"),
        ({"forward": lambda s, x, g: s.conv(x).transpose(2, 3)}, "gives features", "rows before columns"),
        ({"forward": squared}, "lie where the image", "top right in the features' top right"),
        ({"forward": lambda s, x, g: s.conv(x).mean((2, 3), keepdim=True)}, None, ""),
        ({"forward": lambda s, x, g: F.interpolate(s.conv(x), (5, 5))}, None, ""),
        ({"patch": 14, "forward": lambda s, x, g: F.avg_pool2d(s.conv(x), 3)}, None, ""),
    ],
)
def test_a_prior_that_is_broken_is_found(changes, check, message):
    found = failures("prior", type("Mine", (Pooled,), changes))
    assert (check is None and found == {}) or fails(found, check, message)


# Importers

IMPORTER = SOUND.replace("    return Volume(", "    CHANGES\n    return Volume(")


@pytest.mark.parametrize("changes", ["", "image = np.random.default_rng().integers(0, 255, image.shape, dtype='u1')"])
def test_an_importer_that_reads_another_scan_each_time_is_found(tmp_path, changes):
    (tmp_path / "mine.py").write_text(IMPORTER.replace("CHANGES", changes))
    (tmp_path / "source").mkdir()
    for number in range(3):
        np.save(tmp_path / "source" / f"p{number}_a.npy", np.full((2, 8, 8), 10 * number, np.uint8))
    part = resolve("importer", Choice(name=f"{tmp_path / 'mine.py'}:scans"))
    found = {one.check: one.failure for one in contracts.checked(part, tmp_path / "source")}
    failure = found["a scan is the same when it is read again"]
    assert failure.startswith("expected the same image of scan 'p0_a' again, saw another") == bool(changes)
    assert changes or not any(found[name] for name in list(found)[:4])


# The family of a thing


def vqseg_check(*words):
    app = typer.Typer()
    app.command()(check)
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("body", ["class X:\n    pass\n", "def X():\n    pass\n", "from torch.nn import ReLU as X\n"])
def test_what_is_built_from_nothing_is_no_perturbation_for_that_alone(tmp_path, body):
    (tmp_path / "x.py").write_text(body)
    with pytest.raises(InputError, match=r"x\.py:X is built as no family is; say which: --family encoder\|") as caught:
        named(f"{tmp_path / 'x.py'}:X", None, {})
    assert "\n" not in str(caught.value)
    found = vqseg_check(f"{tmp_path / 'x.py'}:X")
    assert isinstance(found.exception, InputError) and found.stdout == ""


def test_a_perturbation_that_lacks_apply_is_known_by_its_draw(tmp_path):
    (tmp_path / "x.py").write_text("class X:\n    def draw(self, quantized, codes, generator):\n        pass\n")
    with pytest.raises(InputError, match="X is no perturbation: it has no 'apply'"):
        named(f"{tmp_path / 'x.py'}:X", None, {})


def test_a_class_of_a_large_library_is_refused_before_the_library_is_hashed(monkeypatch):
    from vqseg import foreign_code

    def fails(*_):
        raise AssertionError("the library was read")

    monkeypatch.setattr(foreign_code, "_texts", fails)
    monkeypatch.setattr(foreign_code, "_hash", fails)
    for family in (None, "quantizer"):
        with pytest.raises(InputError, match=r"Linear(:| is no quantizer)"):
            named("torch.nn:Linear", family, {})

"""Priors: every family through the real path, frozen, aligned; their catalog, their import, how they are fetched."""

import errno
import inspect
import json
import pathlib
import shutil
import socket
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from test_foundation import make_folder, tensors_of
from torch import nn
from typer.testing import CliRunner

from vqseg import catalog, hub, streams
from vqseg.cli.prior import app
from vqseg.config import Choice
from vqseg.errors import InputError
from vqseg.foundation import FlatViT, ViTPrior
from vqseg.losses import info_nce
from vqseg.parts import resolve
from vqseg.priors import PRIORS
from vqseg.trunk import import_trunk
from vqseg.weights import home, locate, weights_digest

FAMILIES = [name for name, part in PRIORS.items() if inspect.isclass(part) and issubclass(part, ViTPrior)]
KINDS = {"biomedclip": "vit"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("priors")
    return {name: make_folder(root / name, KINDS.get(name, name)) for name in FAMILIES}


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No weights but those that a test makes."""
    monkeypatch.setenv("VQSEG_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def built(name, folders, channels=1, **options):
    return PRIORS[name](channels, weights=str(folders[name]), **options)


def refused(*arguments):
    """Run ``vqseg prior`` and return the one line that it is refused with."""
    outcome = CliRunner().invoke(app, [str(each) for each in arguments])
    assert isinstance(outcome.exception, InputError), outcome.output
    assert "\n" not in str(outcome.exception)
    return str(outcome.exception)


def test_table_and_folder_agree():
    folder = pathlib.Path(inspect.getfile(PRIORS["none"])).parent
    assert {path.stem.replace("_", "-") for path in folder.glob("*.py")} - {"--init--"} == set(PRIORS)
    assert {"dinov2", "dinov2-registers", "dinov3", "clip", "siglip", "mae", "rad-dino", "biomedclip"} <= set(FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_aligns(name, folders):
    """Acceptance: a tiny random model saved, loaded through the real path, aligned for 20 steps, the loss falling."""
    prior = built(name, folders)
    torch.manual_seed(0)
    images, tokens = torch.rand(4, 1, 24, 24), torch.randn(4, 24, 3, 3)
    features = prior(images, (3, 3)).flatten(2).transpose(1, 2)
    adapter = nn.Conv2d(24, prior.dim, 1)
    optimizer = torch.optim.Adam(adapter.parameters(), lr=0.02)
    losses = []
    for _ in range(21):
        loss = info_nce(adapter(tokens).flatten(2).transpose(1, 2), features, 0.07)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[20] < 0.6 * losses[0], losses
    assert losses[20] < losses[10] < losses[0]
    assert all(value.grad is None for value in prior.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_features_cover_the_token_grid_and_carry_no_gradient(name, folders):
    prior = built(name, folders)
    images = torch.rand(2, 1, 20, 30, requires_grad=True)
    features = prior(images, (2, 3))
    assert features.shape == (2, prior.dim, 2, 3) and features.dtype == torch.float32
    assert not features.requires_grad and torch.isfinite(features).all()
    assert torch.equal(features, prior(images, (2, 3)))
    assert not torch.allclose(features[0], features[1])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(prior(images, (2, 3)), features)


def test_an_image_of_the_right_size_is_taken_as_it_is(folders):
    prior = built("dinov2", folders)
    images = torch.rand(1, 1, 28, 42)
    assert torch.equal(prior(images, (2, 3)), prior.vit(images, [3])[0])
    smaller = F.interpolate(images, (14, 28), mode="bilinear", antialias=True, align_corners=False)
    assert torch.equal(prior(images, (1, 2)), prior.vit(smaller, [3])[0])


def test_options_choose_the_layer_and_the_size(folders):
    images = torch.rand(1, 1, 28, 28)
    last, named, early = (built("dinov2", folders, layer=layer)(images, (2, 2)) for layer in (-1, 3, 1))
    assert torch.equal(last, named) and not torch.equal(last, early)
    assert built("dinov2", folders, size_px=56)(images, (2, 2)).shape == (1, 32, 4, 4)
    for options in ({"layer": 4}, {"layer": -5}, {"size_px": 30}, {"size_px": 0}):
        with pytest.raises(ValueError, match=f"prior.{next(iter(options))}"):
            built("dinov2", folders, **options)


def test_channels_are_repeated_kept_or_averaged(folders):
    prior = built("clip", folders)
    gray, color, pair = torch.rand(1, 1, 16, 16), torch.rand(1, 3, 16, 16), torch.rand(1, 2, 16, 16)
    assert torch.equal(prior(gray, (2, 2)), prior(gray.repeat(1, 3, 1, 1), (2, 2)))
    assert not torch.allclose(prior(color, (2, 2)), prior(color.flip(1), (2, 2)))
    assert torch.equal(prior(pair, (2, 2)), prior(pair.mean(1, keepdim=True), (2, 2)))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prior_stays_frozen(name, folders):
    prior = built(name, folders)
    before = [value.clone() for value in prior.parameters()]
    network = nn.Sequential(prior).train()
    streams.initialize(network, 3)
    assert not any(module.training for module in prior.modules())
    assert not any(value.requires_grad for value in prior.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, prior.parameters(), strict=True))


def test_options_are_bound_and_the_digest_is_the_weights(folders):
    part = resolve("prior", Choice(name="rad-dino", weights=str(folders["rad-dino"])))
    assert part.factory.digest(**part.options) == weights_digest(str(folders["rad-dino"]))
    assert part.factory.uses == ("vqseg.foundation",)
    assert part.build(1).dim == 32
    with pytest.raises(InputError, match="'weights' is required"):
        resolve("prior", Choice(name="vit"))
    with pytest.raises(InputError, match="facebook/dinov2-small@ed25f3a31f01632728cabb09d1542f84ab7b0056' gets it"):
        resolve("prior", Choice(name="dinov2")).build(1)


# --- timm's layout ---------------------------------------------------------------------------------------------------


def timm_tensors(dim=64, depth=3, patch=8, side=4):
    """Return random tensors under timm's names."""
    torch.manual_seed(1)
    shapes = {"cls_token": (1, 1, dim), "pos_embed": (1, 1 + side**2, dim), "norm.weight": (dim,), "norm.bias": (dim,)}
    shapes |= {"patch_embed.proj.weight": (dim, 3, patch, patch), "patch_embed.proj.bias": (dim,)}
    for k in range(depth):
        for name, out, inside in (("attn.qkv", 3 * dim, dim), ("attn.proj", dim, dim), ("mlp.fc1", 96, dim)):
            shapes |= {f"blocks.{k}.{name}.weight": (out, inside), f"blocks.{k}.{name}.bias": (out,)}
        shapes |= {f"blocks.{k}.mlp.fc2.weight": (dim, 96), f"blocks.{k}.mlp.fc2.bias": (dim,)}
        shapes |= {f"blocks.{k}.norm{n}.{kind}": (dim,) for n in (1, 2) for kind in ("weight", "bias")}
    return {name: torch.randn(shape) * 0.2 for name, shape in shapes.items()}


def timm_features(tensors, pixels, heads, depth=3):
    """Compute the normed tokens as timm's plain ViT does, from its formulas alone."""

    def linear(x, name):
        return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    def norm(x, name):
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
        return (x - mean) / (variance + 1e-6).sqrt() * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    kernel = tensors["patch_embed.proj.weight"]
    x = F.conv2d(pixels, kernel, tensors["patch_embed.proj.bias"], stride=kernel.shape[-1]).flatten(2).transpose(1, 2)
    x = torch.cat([tensors["cls_token"].expand(len(x), -1, -1), x], 1) + tensors["pos_embed"]
    count, tokens, dim = x.shape
    for k in range(depth):
        qkv = linear(norm(x, f"blocks.{k}.norm1"), f"blocks.{k}.attn.qkv")
        q, key, v = qkv.reshape(count, tokens, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
        attention = (q @ key.transpose(-2, -1) / (dim // heads) ** 0.5).softmax(-1) @ v
        x = x + linear(attention.transpose(1, 2).reshape(count, tokens, dim), f"blocks.{k}.attn.proj")
        inner = linear(norm(x, f"blocks.{k}.norm2"), f"blocks.{k}.mlp.fc1")
        x = x + linear(inner * 0.5 * (1 + torch.erf(inner / 2**0.5)), f"blocks.{k}.mlp.fc2")
    return norm(x, "norm")


def open_clip_file(path, tensors=None):
    """Save tensors as open_clip does: the trunk under a prefix, beside a text tower and a projection."""
    tensors = timm_tensors() if tensors is None else tensors
    state = {f"visual.trunk.{name}": value for name, value in tensors.items()}
    state |= {"visual.head.proj.weight": torch.randn(8, 64), "text.transformer.x": torch.randn(3)}
    state |= {"logit_scale": torch.tensor(2.0)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("heads", [None, 4])
def test_biomedclips_trunk_computes_what_timm_computes(suffix, heads, tmp_path):
    source = open_clip_file(tmp_path / f"open_clip_model{suffix}")
    folder = import_trunk(source, tmp_path / "vit", heads=heads)
    model = FlatViT(str(folder)).eval()
    images = torch.rand(2, 3, 32, 32)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
    expected = timm_features(timm_tensors(), (images - mean) / std, heads or 1)
    with torch.no_grad():
        found = model(images, [2])[0]
    assert torch.allclose(found, expected[:, 1:].transpose(1, 2).reshape(2, 64, 4, 4), atol=1e-4)
    assert model.missing == () and model.trunk.config.image_size == 32
    assert PRIORS["biomedclip"](1, weights=str(folder)).dim == 64


def test_the_normalization_is_the_files_own(tmp_path):
    source = open_clip_file(tmp_path / "open_clip_pytorch_model.bin")
    told = {"preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(told))
    model = FlatViT(str(import_trunk(source, tmp_path / "vit")))
    assert model.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert model.std.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])


def test_a_file_of_timms_needs_its_configuration(tmp_path):
    source = tmp_path / "timm" / "model.safetensors"
    source.parent.mkdir()
    save_file({**timm_tensors(), "head.weight": torch.zeros(5, 64), "head.bias": torch.zeros(5)}, source)
    with pytest.raises(InputError, match="put timm's config.json"):
        import_trunk(source, tmp_path / "vit")
    told = {"architecture": "vit", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (source.parent / "config.json").write_text(json.dumps(told))
    assert FlatViT(str(import_trunk(source, tmp_path / "vit"))).dim == 64


def test_what_is_no_plain_vit_is_refused_and_leaves_nothing(tmp_path):
    cases = {
        "layer scale": ({"blocks.0.ls1.gamma": torch.ones(64)}, "blocks.0.ls1.gamma, for which a plain ViT"),
        "registers": ({"reg_token": torch.ones(1, 4, 64)}, "reg_token, for which a plain ViT"),
        "positions": ({"pos_embed": torch.ones(1, 15, 64)}, "on 14 positions"),
        "half a block": ({"blocks.3.norm1.weight": torch.ones(64)}, "are missing"),
    }
    for more, message in cases.values():
        with pytest.raises(InputError, match=message):
            import_trunk(open_clip_file(tmp_path / "a.safetensors", {**timm_tensors(), **more}), tmp_path / "vit")
    for more, message in {
        "blocks.x.mlp.fc1.weight": "holds blocks.x; expected blocks of a plain ViT",
        "blocks.": "holds blocks.; expected",
    }.items():
        with pytest.raises(InputError, match=message):
            import_trunk(
                open_clip_file(tmp_path / "a.safetensors", {**timm_tensors(), more: torch.ones(2)}), tmp_path / "vit"
            )
    bare = {name: value for name, value in timm_tensors().items() if not name.startswith("blocks.")}
    swiglu = {**bare, "blocks.0.mlp.fc1_g.weight": torch.ones(4, 4)}
    for tensors in (bare, swiglu):
        with pytest.raises(InputError, match="holds no blocks.0.mlp.fc1.weight"):
            import_trunk(open_clip_file(tmp_path / "a.safetensors", tensors), tmp_path / "vit")
    linear = {**timm_tensors(), "patch_embed.proj.weight": torch.ones(64, 192)}
    with pytest.raises(InputError, match=r"are \[64, 192\] and .* expected 4 and 3 axes"):
        import_trunk(open_clip_file(tmp_path / "a.safetensors", linear), tmp_path / "vit")
    torch.save({"visual.transformer.resblocks.0.ln_1.weight": torch.ones(3)}, tmp_path / "b.bin")
    with pytest.raises(InputError, match="no vision transformer in timm's layout"):
        import_trunk(tmp_path / "b.bin", tmp_path / "vit")
    torch.save({"model": pathlib.Path("x")}, tmp_path / "c.bin")
    with pytest.raises(InputError, match="not readable as a file of tensors"):
        import_trunk(tmp_path / "c.bin", tmp_path / "vit")
    with pytest.raises(InputError, match="no such file"):
        import_trunk(tmp_path / "d.bin", tmp_path / "vit")
    with pytest.raises(InputError, match="say --heads"):
        import_trunk(open_clip_file(tmp_path / "e.bin", timm_tensors(dim=40)), tmp_path / "vit")
    assert not (tmp_path / "vit").exists() and not list(tmp_path.glob(".vit*"))
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / "mine.txt").touch()
    with pytest.raises(InputError, match="is there already"):
        import_trunk(open_clip_file(tmp_path / "f.bin"), tmp_path / "vit")


# --- fetching --------------------------------------------------------------------------------------------------------


@pytest.fixture
def published(monkeypatch, tmp_path):
    """Stand in for a hub: repository -> folder; every revision is the commit 'c' * 40."""
    models, asked = {}, []

    def model_info(self, repository, revision=None, timeout=None):
        asked.append((repository, revision))
        names = [SimpleNamespace(rfilename=path.name) for path in models[repository].iterdir()]
        return SimpleNamespace(sha="c" * 40, siblings=names)

    def snapshot_download(repository, revision, allow_patterns, local_dir):
        assert revision == "c" * 40
        pathlib.Path(local_dir, ".cache").mkdir(parents=True)
        for name in allow_patterns:
            shutil.copy(models[repository] / name, local_dir)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return SimpleNamespace(models=models, asked=asked)


def test_fetching_records_the_commit_and_runs_find_it(published, folders):
    published.models["microsoft/rad-dino"] = folders["rad-dino"]
    (folders["rad-dino"] / "LICENSE").write_text("MIT")
    (folders["rad-dino"] / "backbone_compatible.safetensors").touch()
    outcome = CliRunner().invoke(app, ["fetch", "rad-dino"])
    assert outcome.exit_code == 0, outcome.output
    assert f"microsoft/rad-dino@{'c' * 40} is in {home() / 'rad-dino'}" in outcome.output
    assert weights_digest("microsoft/rad-dino") in outcome.output
    there = {path.name for path in (home() / "rad-dino").iterdir()}
    assert there == {"LICENSE", "config.json", "model.safetensors", "preprocessor_config.json", "source.json"}
    assert PRIORS["rad-dino"](1).dim == 32
    assert [entry.folder for entry in catalog.entries() if entry.name == "rad-dino"] == [home() / "rad-dino"]
    hub.fetch("rad-dino")
    hub.fetch("microsoft/rad-dino", revision="c" * 40)
    assert published.asked == [("microsoft/rad-dino", "main")]
    assert "not microsoft/rad-dino at old; delete it" in refused("fetch", "rad-dino", "--revision", "old")
    assert not list(home().glob(".*"))


def test_a_pinned_revision_is_what_is_asked_for(published, folders):
    published.models["facebook/dinov2-small"] = folders["dinov2"]
    hub.fetch("dinov2")
    assert published.asked == [("facebook/dinov2-small", "ed25f3a31f01632728cabb09d1542f84ab7b0056")]
    assert PRIORS["dinov2"](1).dim == 32


def test_any_model_of_a_hub_can_be_fetched(published, folders, tmp_path):
    published.models["someone/model"] = folders["mae"]
    assert hub.fetch("someone/model@v1") == home() / "someone--model"
    assert published.asked == [("someone/model", "v1")]
    assert locate("someone/model@v1") == locate("someone/model") == home() / "someone--model"
    assert hub.fetch("someone/model", out=tmp_path / "elsewhere") == tmp_path / "elsewhere"


def test_a_pickle_is_converted_and_an_open_clip_file_imported(published, folders, tmp_path):
    pickled = tmp_path / "clip"
    pickled.mkdir()
    shutil.copy(folders["clip"] / "config.json", pickled)
    torch.save(tensors_of(folders["clip"]), pickled / "pytorch_model.bin")
    published.models["openai/clip-vit-base-patch16"] = pickled
    hub.fetch("clip")
    assert not list((home() / "clip").glob("*.bin"))
    images = torch.rand(1, 3, 16, 16)
    shutil.copy(folders["clip"] / "preprocessor_config.json", home() / "clip")
    assert torch.equal(PRIORS["clip"](3)(images, (2, 2)), built("clip", folders, 3)(images, (2, 2)))
    repository = open_clip_file(tmp_path / "biomed" / "open_clip_pytorch_model.bin").parent
    published.models["microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"] = repository
    hub.fetch("biomedclip")
    there = {path.name for path in (home() / "biomedclip").iterdir()}
    assert there == {"config.json", "model.safetensors", "preprocessor_config.json", "source.json"}
    assert PRIORS["biomedclip"](1).dim == 64


def test_what_cannot_be_fetched_leaves_nothing(published, tmp_path):
    (tmp_path / "bare").mkdir()
    published.models["someone/bare"] = tmp_path / "bare"
    assert "holds no config.json" in refused("fetch", "someone/bare")
    (tmp_path / "bare" / "config.json").write_text("{}")
    assert "holds no weights that can be read" in refused("fetch", "someone/bare")
    (tmp_path / "bare" / "pytorch_model.bin").write_bytes(b"nothing")
    assert "not readable as a file of tensors" in refused("fetch", "someone/bare")
    assert "nothing to fetch" in refused("fetch", "local")
    assert "unknown prior 'dino'" in refused("fetch", "dino")
    assert not list(home().iterdir())


def _bare(name):
    """Return an error of the hub's without the answer that it came from."""
    kind = getattr(huggingface_hub.errors, name)
    return kind.__new__(kind)


def test_a_full_disk_is_not_the_networks_fault(published, folders, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    published.models["facebook/dinov2-small"] = folders["dinov2"]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(OSError, match="No space left"):
        hub.fetch("dinov2")
    assert not list(home().iterdir())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError("Name or service not known"), "the hub cannot be reached"),
        (RuntimeError("timed out"), r"the hub cannot be reached \(timed out\); fetch it on a machine that can"),
        (huggingface_hub.errors.OfflineModeIsEnabled("no"), "HF_HUB_OFFLINE is set; unset it"),
        (huggingface_hub.errors.HFValidationError("no"), "no such model"),
        (socket.gaierror(-2, "Name or service not known"), "the hub cannot be reached"),
        (
            _bare("GatedRepoError"),
            "accepted; do so at https://huggingface.co/facebook/dinov2-small, then 'hf auth login'",
        ),
        (_bare("RevisionNotFoundError"), "no such revision"),
        (_bare("RepositoryNotFoundError"), "no such model, or a private one"),
    ],
)
def test_a_hub_out_of_reach_is_one_line(error, message, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    with pytest.raises(InputError, match=message):
        hub.fetch("dinov2")


# --- the commands ----------------------------------------------------------------------------------------------------


def test_list_names_every_prior(folders):
    shutil.copytree(folders["dinov2"], home() / "dinov2")
    source = {
        "repository": "facebook/dinov2-small",
        "asked": "main",
        "revision": "ed25f3a31f01632728cabb09d1542f84ab7b0056",
    }
    (home() / "dinov2" / "source.json").write_text(json.dumps(source))
    rows = json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout)
    assert {row["name"] for row in rows} == set(PRIORS)
    assert {row["name"] for row in rows if row["folder"]} == {"dinov2"}
    assert all(row["license"] and row["what"] for row in rows if row["weights"])
    text = CliRunner().invoke(app, ["list"]).stdout
    assert "siglip-base-patch16-224: not there; vqseg prior fetch siglip" in text and str(home()) in text


@pytest.mark.parametrize("name", FAMILIES)
def test_check_says_what_a_folder_is(name, folders):
    outcome = CliRunner().invoke(app, ["check", str(folders[name]), "--json"])
    assert outcome.exit_code == 0, outcome.output
    found = json.loads(outcome.stdout)
    assert found["dim"] == 32 and found["layers"] == 4 and found["mean"] == [0.5] * 3
    assert found["grid_at_224_px"] == [224 // found["patch_px"]] * 2
    assert found["prefix_tokens"] == {"dinov2-registers": 5, "dinov3": 5, "siglip": 0}.get(name, 1)
    assert found["digest"] == weights_digest(str(folders[name])) and found["missing_unused_tensors"] == []


def test_check_refuses_features_that_say_nothing(folders, tmp_path):
    shutil.copytree(folders["vit"], tmp_path / "flat")
    tensors = tensors_of(tmp_path / "flat")
    zero = {name: value * 0 for name, value in tensors.items()}
    save_file(zero, tmp_path / "flat" / "model.safetensors", metadata={"format": "pt"})
    assert "its features are constant" in refused("check", tmp_path / "flat")
    save_file({k: v * float("nan") for k, v in tensors.items()}, tmp_path / "flat" / "model.safetensors")
    assert "no numbers" in refused("check", tmp_path / "flat")
    assert "gets it" in refused("check", "dinov2")
    assert "name a folder" in refused("check", "local")


def test_a_pickled_model_is_converted(folders, tmp_path):
    (tmp_path / "old").mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(folders["siglip"] / name, tmp_path / "old")
    torch.save(tensors_of(folders["siglip"]), tmp_path / "old" / "pytorch_model.bin")
    line = refused("check", tmp_path / "old")
    assert f"'vqseg prior import {tmp_path}/old/pytorch_model.bin NEW_FOLDER' converts it" in line
    arguments = ["import", str(tmp_path / "old" / "pytorch_model.bin"), str(tmp_path / "new")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    images = torch.rand(1, 1, 16, 16)
    made = PRIORS["siglip"](1, weights=str(tmp_path / "new"))
    assert torch.equal(made(images, (2, 2)), built("siglip", folders)(images, (2, 2)))


def test_import_is_a_command(tmp_path):
    source = open_clip_file(tmp_path / "open_clip_model.safetensors")
    outcome = CliRunner().invoke(app, ["import", str(source), str(tmp_path / "made"), "--heads", "2"])
    assert outcome.exit_code == 0 and "vqseg prior check" in outcome.output
    assert CliRunner().invoke(app, ["check", str(tmp_path / "made")]).exit_code == 0

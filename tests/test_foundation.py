"""Flat ViTs of transformers through the real path: tiny random ones, saved and loaded."""

import copy
import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from vqseg.errors import InputError
from vqseg.foundation import ARCHITECTURES, FlatViT, normalization
from vqseg.weights import home, locate, weights_digest

SHAPE = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
PLAIN = {**SHAPE, "intermediate_size": 48, "image_size": 32, "patch_size": 8}
TEXT = {**SHAPE, "intermediate_size": 48, "vocab_size": 50}


def dinov2(**more):
    return transformers.Dinov2Model(
        transformers.Dinov2Config(**{**SHAPE, "mlp_ratio": 2, "image_size": 28, "patch_size": 14, **more})
    )


def registers():
    config = transformers.Dinov2WithRegistersConfig(**SHAPE, mlp_ratio=2, image_size=28, patch_size=14)
    return transformers.Dinov2WithRegistersModel(config)


def mae_with_decoder():
    decoder = {f"decoder_{key}": value for key, value in {**SHAPE, "intermediate_size": 48}.items()}
    return transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**PLAIN, **decoder))


# name: how it is made, prefix tokens, patch.
MODELS = {
    "dinov2": (dinov2, 1, 14),
    "dinov2-registers": (registers, 5, 14),
    "dinov3": (
        lambda: transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**PLAIN, num_register_tokens=4)),
        5,
        8,
    ),
    "clip": (
        lambda: transformers.CLIPModel(
            transformers.CLIPConfig(vision_config=PLAIN, text_config=TEXT, projection_dim=16)
        ),
        1,
        8,
    ),
    "clip-vision": (lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**PLAIN)), 1, 8),
    "siglip": (
        lambda: transformers.SiglipModel(transformers.SiglipConfig(vision_config=PLAIN, text_config=TEXT)),
        0,
        8,
    ),
    "siglip-vision": (lambda: transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**PLAIN)), 0, 8),
    "vit": (lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**PLAIN)), 1, 8),
    "mae": (lambda: transformers.ViTMAEModel(transformers.ViTMAEConfig(**PLAIN)), 1, 8),
    "mae-with-decoder": (mae_with_decoder, 1, 8),
    "ijepa": (lambda: transformers.IJepaModel(transformers.IJepaConfig(**PLAIN)), 0, 8),
    "rad-dino": (dinov2, 1, 14),
}


def make_model(kind, seed=0):
    """Return a random model whose norms and biases are not at their starting values."""
    torch.manual_seed(seed)
    model = MODELS[kind][0]().eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn_like(value) * 0.05)
    return model


def make_folder(path, kind, processor=True):
    """Save such a model as a folder; images are normalized by .5 and .25."""
    make_model(kind).save_pretrained(path)
    if processor:
        told = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
        (path / "preprocessor_config.json").write_text(json.dumps(told))
    return path


def tensors_of(folder):
    """Read a folder's tensors into memory: what is loaded is the file itself, mapped."""
    return {name: value.clone() for name, value in load_file(folder / "model.safetensors").items()}


def change_tensors(folder, change):
    """Rewrite a folder's tensors."""
    tensors = tensors_of(folder)
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {kind: make_folder(root / kind, kind) for kind in MODELS}


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No weights but those that a test makes."""
    monkeypatch.setenv("VQSEG_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def vision_of(kind, folder):
    """Load the vision model with transformers itself."""
    loaders = {"clip": "CLIPVisionModel", "siglip": "SiglipVisionModel", "mae": "ViTModel", "vit": "ViTModel"}
    name = loaders.get(kind.split("-")[0])
    model = getattr(transformers, name) if name else transformers.AutoModel
    return model.from_pretrained(folder).eval()


@pytest.mark.parametrize("kind", MODELS)
def test_the_last_layer_is_the_models_own_last_hidden_state_without_prefix_tokens(kind, folders):
    prefix, patch = MODELS[kind][1:]
    side = 28 if patch == 14 else 32
    model = FlatViT(str(folders[kind])).eval()
    images = torch.rand(2, 3, side, side)
    with torch.no_grad():
        found = model(images, [model.depth - 1])[0]
        expected = vision_of(kind, folders[kind])(pixel_values=(images - 0.5) / 0.25).last_hidden_state
    grid = side // patch
    assert (model.dim, model.patch, model.depth, model.channels) == (32, patch, 4, 3)
    assert model.prefix_tokens(images) == prefix == expected.shape[1] - grid**2
    assert found.shape == (2, 32, grid, grid)
    by_hand = expected[:, prefix:].transpose(1, 2).reshape(2, 32, grid, grid)
    assert torch.allclose(found, by_hand, atol=1e-6)


@pytest.mark.parametrize("kind", MODELS)
def test_earlier_layers_go_through_the_final_norm(kind, folders):
    model = FlatViT(str(folders[kind])).eval()
    norm = {"clip": None, "siglip": "post_layernorm", "dinov3": "norm"}.get(kind.split("-")[0], "layernorm")
    images = torch.rand(1, 3, 56, 56)
    taken = {}
    first = model.trunk.model.layer[1] if kind == "dinov3" else _layers(model.trunk)[1]
    hook = first.register_forward_hook(lambda module, inputs, out: taken.update(out=out))
    with torch.no_grad():
        early, late = model(images, [1, 3])
    hook.remove()
    tokens = taken["out"][0] if isinstance(taken["out"], tuple) else taken["out"]
    if norm:
        tokens = getattr(model.trunk, norm)(tokens)
    prefix = MODELS[kind][1]
    assert torch.allclose(early, tokens[:, prefix:].transpose(1, 2).reshape(early.shape), atol=1e-6)
    assert not torch.allclose(early, late)


def _layers(trunk):
    owner = trunk.encoder if hasattr(trunk, "encoder") else trunk
    return owner.layer if hasattr(owner, "layer") else owner.layers


def test_a_masked_auto_encoder_keeps_every_patch_in_its_place(folders):
    original = transformers.ViTMAEModel.from_pretrained(folders["mae"], mask_ratio=0.0).eval()
    model = FlatViT(str(folders["mae"])).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        order = torch.arange(16).expand(2, -1).float()
        expected = original(pixel_values=(images - 0.5) / 0.25, noise=order).last_hidden_state[:, 1:]
        found = [model(images, [3])[0].flatten(2).transpose(1, 2) for _ in range(2)]
    assert torch.equal(found[0], found[1])
    assert torch.allclose(found[0], expected, atol=1e-6)


@pytest.mark.parametrize("kind", MODELS)
def test_other_sizes_are_interpolated_and_no_multiple_is_refused(kind, folders):
    model = FlatViT(str(folders[kind])).eval()
    patch = model.patch
    with torch.no_grad():
        assert model(torch.rand(1, 3, 3 * patch, 6 * patch), [3])[0].shape == (1, 32, 3, 6)
    for height, width in ((3 * patch + 1, 3 * patch), (3 * patch, patch - 1)):
        with pytest.raises(InputError, match=f"multiples of {patch}"):
            model(torch.rand(1, 3, height, width), [3])


def test_gray_images_are_repeated_and_others_refused(folders):
    model = FlatViT(str(folders["vit"])).eval()
    gray = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(gray, [3])[0], model(gray.repeat(1, 3, 1, 1), [3])[0])
    with pytest.raises(InputError, match="images of 2 channels"):
        model(torch.rand(1, 2, 32, 32), [3])


def test_the_meta_device_needs_the_configuration_alone(folders, tmp_path):
    for kind, folder in folders.items():
        bare = tmp_path / kind
        bare.mkdir()
        shutil.copy(folder / "config.json", bare)
        with torch.device("meta"):
            model = FlatViT(str(bare))
        assert {value.device.type for value in model.parameters()} == {"meta"}
        real = FlatViT(str(folder))
        assert [v.shape for v in model.parameters()] == [v.shape for v in real.parameters()]
        with pytest.raises(InputError, match="no model.safetensors"):
            FlatViT(str(bare))


@pytest.mark.parametrize("kind", ["dinov2", "clip", "mae", "siglip"])
def test_missing_and_misshapen_tensors_are_errors(kind, folders, tmp_path):
    folder = tmp_path / kind
    shutil.copytree(folders[kind], folder)
    matrices = [n for n, value in tensors_of(folder).items() if value.ndim == 2 and ".0." in n]
    name = next(n for n in sorted(matrices) if "text" not in n)
    change_tensors(folder, lambda tensors: tensors.update({name: tensors[name][:5].clone()}))
    with pytest.raises(InputError, match="of another shape than config.json says"):
        FlatViT(str(folder))
    change_tensors(folder, lambda tensors: tensors.pop(name))
    with pytest.raises(InputError, match="weights .*weight are missing; copy or fetch"):
        FlatViT(str(folder))


@pytest.mark.parametrize("kind", MODELS)
def test_layers_that_the_configuration_does_not_have_are_errors(kind, folders, tmp_path):
    folder = tmp_path / kind
    shutil.copytree(folders[kind], folder)
    told = json.loads((folder / "config.json").read_text())
    vision = told.get("vision_config", told)
    vision["num_hidden_layers"] = 2
    for name in ("out_features", "out_indices", "stage_names"):
        vision.pop(name, None)
    (folder / "config.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match=r"layers?\.2\..* are of layers that config.json does not have; copy or fetch"):
        FlatViT(str(folder))


def test_other_heads_are_none_of_the_trunks_layers(folders, tmp_path):
    shutil.copytree(folders["vit"], tmp_path / "a")
    change_tensors(tmp_path / "a", lambda tensors: tensors.update({"projector.layers.9.weight": torch.ones(3)}))
    images = torch.rand(1, 1, 32, 32)
    one, other = (FlatViT(str(folder)).eval() for folder in (folders["vit"], tmp_path / "a"))
    assert torch.equal(one(images, [3])[0], other(images, [3])[0])


def test_files_that_hold_something_else_are_one_line(folders, tmp_path):
    cases = {
        "config.json": {"[1]": "config.json: holds a list", '{"model_type": ["vit"]}': "is no flat ViT"},
        "preprocessor_config.json": {
            "[1]": "preprocessor_config.json: holds a list",
            '{"image_processor": [1]}': "image_processor is a list",
            '{"image_mean": ["a", "b", "c"]}': r"image_mean is \['a', 'b', 'c'\], expected numbers;",
            '{"image_std": [1, 0, 1]}': "image_std is .* expected numbers above 0",
            '{"image_mean": {"r": 1}}': "image_mean is .* expected numbers",
        },
        "model.safetensors.index.json": {
            "{}": "holds no weight_map",
            '{"weight_map": {"a": 3}}': "holds no weight_map",
        },
    }
    for number, (name, text) in enumerate((name, text) for name, texts in cases.items() for text in texts):
        folder = tmp_path / str(number)
        shutil.copytree(folders["vit"], folder)
        (folder / name).write_text(text)
        if "index" in name:
            (folder / "model.safetensors").unlink()
        with pytest.raises(InputError, match=cases[name][text]) as caught:
            FlatViT(str(folder))
        assert "\n" not in str(caught.value)


def test_a_missing_mask_token_does_not_matter_and_is_named(folders, tmp_path):
    shutil.copytree(folders["dinov2"], tmp_path / "a")
    change_tensors(tmp_path / "a", lambda tensors: tensors.pop("embeddings.mask_token"))
    assert FlatViT(str(tmp_path / "a")).missing == ("embeddings.mask_token",)
    assert FlatViT(str(folders["dinov2"])).missing == ()


def test_pickles_broken_files_and_other_architectures_are_refused(folders, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(folders["dinov2"], folder)
    tensors = tensors_of(folder)
    (folder / "model.safetensors").write_bytes(b"no header" * 20)
    with pytest.raises(InputError, match="not loadable as a vision transformer"):
        FlatViT(str(folder))
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="a pickle, and no model.safetensors"):
        FlatViT(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": "swin", "auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(InputError, match="'swin' is no flat ViT"):
        FlatViT(str(folder))
    assert "dinov3_vit" in ARCHITECTURES


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_attention_from_a_hub_is_refused(folders, tmp_path, key):
    folder = tmp_path / "model"
    shutil.copytree(folders["vit"], folder)
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, key: "someone/kernel"}))
    with pytest.raises(InputError, match=f"config.json: {key} 'someone/kernel' is code of a hub; take that line out"):
        FlatViT(str(folder))
    (folder / "config.json").write_text(json.dumps({**told, key: "eager"}))
    FlatViT(str(folder))


def test_half_precision_files_load_in_full_precision(folders, tmp_path):
    shutil.copytree(folders["vit"], tmp_path / "half")
    change_tensors(tmp_path / "half", lambda tensors: tensors.update({k: v.half() for k, v in tensors.items()}))
    assert {value.dtype for value in FlatViT(str(tmp_path / "half")).parameters()} == {torch.float32}


def test_a_copy_is_a_network_of_its_own(folders):
    model = FlatViT(str(folders["dinov2"])).eval()
    images = torch.rand(1, 3, 28, 28)
    with torch.no_grad():
        before = model(images, [0, 3])
        twin = copy.deepcopy(model)
        assert all(torch.equal(a, b) for a, b in zip(twin(images, [0, 3]), before, strict=True))
        for value in twin.parameters():
            value.zero_()
        after = model(images, [0, 3])
        assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
        assert all(float(each.abs().sum()) == 0 for each in twin(images, [0, 3]))


def test_nothing_is_printed_while_loading(folders, capfd):
    FlatViT(str(folders["clip"]))
    assert capfd.readouterr() == ("", "")


def test_the_digest_sees_weights_configuration_and_normalization(folders, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(folders["vit"], folder)
    seen = [weights_digest(str(folders["vit"]))]
    assert weights_digest(str(folder)) == seen[0] and len(seen[0]) == 16
    (folder / "README.md").write_text("not a weight")
    assert weights_digest(str(folder)) == seen[0]
    change_tensors(folder, lambda tensors: next(iter(tensors.values())).add_(1))
    seen.append(weights_digest(str(folder)))
    (folder / "preprocessor_config.json").write_text("{}")
    seen.append(weights_digest(str(folder)))
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, "num_attention_heads": 4}))
    seen.append(weights_digest(str(folder)))
    assert len(set(seen)) == 4


def test_shards_are_weights_too(folders, tmp_path):
    model = make_model("vit")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert not (tmp_path / "shards" / "model.safetensors").exists()
    shutil.copy(folders["vit"] / "preprocessor_config.json", tmp_path / "shards")
    images = torch.rand(1, 1, 32, 32)
    one, many = FlatViT(str(folders["vit"])).eval(), FlatViT(str(tmp_path / "shards")).eval()
    assert torch.equal(one(images, [3])[0], many(images, [3])[0])
    before = weights_digest(str(tmp_path / "shards"))
    next((tmp_path / "shards").glob("model-00002*")).unlink()
    with pytest.raises(InputError, match="holds no model-00002"):
        weights_digest(str(tmp_path / "shards"))
    assert before != weights_digest(str(folders["vit"]))


def test_normalization_is_the_processors_or_imagenets(tmp_path):
    assert normalization(tmp_path, 3) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert normalization(tmp_path, 1) == ([pytest.approx(0.449)], [pytest.approx(0.226)])
    (tmp_path / "processor_config.json").write_text(
        json.dumps({"image_processor": {"image_mean": 0.5, "image_std": [1]}})
    )
    assert normalization(tmp_path, 3) == ([0.5] * 3, [1.0] * 3)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0, 1, 2], "image_std": [1, 2, 3]}))
    assert normalization(tmp_path, 3) == ([0, 1, 2], [1, 2, 3])
    with pytest.raises(InputError, match="image_mean has 3 numbers, but the model takes 1 channels"):
        normalization(tmp_path, 1)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False}))
    assert normalization(tmp_path, 2) == ([0, 0], [1, 1])


def test_weights_are_found_without_asking_a_network(folders, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("asked a network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    with pytest.raises(InputError, match="'vqseg prior fetch facebook/dinov2-small' gets it"):
        locate("facebook/dinov2-small")
    for path in ("/no/such/folder", "./nowhere", "a/b/c"):
        with pytest.raises(InputError, match="no such folder; expected"):
            locate(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no config.json"):
        locate(str(tmp_path / "empty"))
    shutil.copytree(folders["dinov2"], home() / "mine")
    assert locate("mine") == home() / "mine"
    source = {"repository": "facebook/dinov2-small", "asked": "main", "revision": "abc"}
    (home() / "mine" / "source.json").write_text(json.dumps(source))
    for name in ("facebook/dinov2-small", "facebook/dinov2-small@abc", "facebook/dinov2-small@main"):
        assert locate(name) == home() / "mine"
    with pytest.raises(InputError, match="gets it"):
        locate("facebook/dinov2-small@def")


def test_weights_in_the_hubs_cache_are_found(folders, tmp_path):
    snapshots = tmp_path / "hub" / "models--owner--name" / "snapshots"
    shutil.copytree(folders["dinov2"], snapshots / ("a" * 40))
    with pytest.raises(InputError, match="gets it"):
        locate("owner/name")
    assert locate(f"owner/name@{'a' * 40}") == snapshots / ("a" * 40)
    (snapshots.parent / "refs").mkdir()
    (snapshots.parent / "refs" / "main").write_text("a" * 40)
    assert FlatViT("owner/name").folder == snapshots / ("a" * 40)

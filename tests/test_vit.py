"""The ViT encoder and the DPT decoder, alone and in the network."""

import copy

import pytest
import torch
import torch.nn.functional as F
from test_foundation import MODELS, make_folder

from vqseg import streams
from vqseg.config import Choice
from vqseg.decoders import DECODERS
from vqseg.decoders.dpt import DPTDecoder, Fusion, Residual
from vqseg.encoders import ENCODERS
from vqseg.encoders.unet import UNetEncoder
from vqseg.encoders.vit import ViTEncoder, evenly_spaced
from vqseg.errors import InputError
from vqseg.network import SegmentationNetwork
from vqseg.parts import resolve
from vqseg.quantizers import QUANTIZERS
from vqseg.step import parameter_groups
from vqseg.teacher import follow, make_teacher
from vqseg.weights import weights_digest


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {kind: make_folder(root / kind, kind) for kind in MODELS}


def encoder(folders, kind="dinov2", channels=1, **options):
    return ViTEncoder(channels, "batch", weights=str(folders[kind]), **options)


def network(folders, kind="dinov2", dual=False, seed=0, **options):
    made = encoder(folders, kind, **options)
    shape, small = (made.dims, made.strides), {"features": 8, "widths": (4, 6, 8, 10)}
    image = DPTDecoder(*shape, 1, "batch", False, **small) if dual else None
    quantizer = QUANTIZERS["mapped"](made.dims[-1], num_codes=20)
    built = SegmentationNetwork(made, quantizer, DPTDecoder(*shape, 4, "batch", True, **small), image)
    streams.initialize(built, seed)
    return built


def test_tables():
    assert ENCODERS["vit"] is ViTEncoder and DECODERS["dpt"] is DPTDecoder


@pytest.mark.parametrize("kind", MODELS)
def test_four_maps_of_one_size(kind, folders):
    made = encoder(folders, kind)
    patch = MODELS[kind][2]
    maps = made(torch.rand(2, 1, 2 * patch, 4 * patch))
    assert [tuple(each.shape) for each in maps] == [(2, 32, 2, 4)] * 4
    assert made.dims == (32,) * 4 and made.strides == (patch,) * 4 and made.stride == patch
    assert not torch.allclose(maps[0], maps[3])
    with pytest.raises(InputError, match=f"multiples of {patch}"):
        made(torch.rand(1, 1, 2 * patch + 1, patch))


def test_layers():
    assert evenly_spaced(12) == (2, 5, 8, 11)
    assert evenly_spaced(24) == (5, 11, 17, 23)
    assert evenly_spaced(4) == (0, 1, 2, 3)
    assert evenly_spaced(2) == (0, 0, 1, 1)


def test_layers_by_hand(folders):
    chosen, images = encoder(folders, layers=(0, 1, 1, 2)).eval(), torch.rand(1, 1, 28, 28)
    every = encoder(folders).eval()(images)
    assert all(torch.equal(a, every[k]) for a, k in zip(chosen(images), (0, 1, 1, 2), strict=True))
    for layers in ((), (2, 1), (0, 4), (-1, 2)):
        with pytest.raises(ValueError, match="ascending layers from 0 to 3"):
            encoder(folders, layers=layers)


def test_channels(folders):
    assert encoder(folders, channels=3)(torch.rand(1, 3, 14, 14))[0].shape == (1, 32, 1, 1)
    with pytest.raises(ValueError, match="these have 5: prepare 1 or 3"):
        encoder(folders, channels=5)


def test_frozen_stays_frozen_and_trained_learns(folders):
    images = torch.rand(2, 1, 28, 28)
    frozen = encoder(folders, trained=False).train()
    assert not any(module.training for module in frozen.modules())
    assert not any(value.requires_grad for value in frozen.parameters())
    assert not any(each.requires_grad for each in frozen(images))
    trained = encoder(folders).train()
    assert all(module.training for module in trained.modules())
    maps = trained(images)
    (maps[0].square().mean() + maps[-1].square().mean()).backward()
    without = {name for name, value in trained.named_parameters() if value.grad is None}
    assert without == {"vit.trunk.embeddings.mask_token"}
    assert all(float(v.grad.abs().sum()) > 0 for v in trained.parameters() if v.grad is not None and v.ndim > 1)
    assert not trained.eval().vit.trunk.training


def test_weights_survive_the_seed_and_everything_else_is_drawn(folders):
    one, two = network(folders, seed=1), network(folders, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(one.encoder.parameters(), two.encoder.parameters(), strict=True))
    assert not torch.equal(one.segment_decoder.project[0].weight, two.segment_decoder.project[0].weight)


@pytest.mark.parametrize("kind", ["dinov2", "dinov3", "clip", "siglip"])
def test_in_the_network_the_gradient_reaches_every_part(kind, folders):
    net = network(folders, kind, dual=True).train()
    side = 3 * net.encoder.stride
    out = net(torch.rand(2, 1, side, side))
    assert out.logits.shape == (2, 4, side, side) and out.encoded.grid == (3, 3)
    rebuilt = net.reconstruct(out.quantized.tokens, out.encoded)
    assert rebuilt.shape == (2, 1, side, side)
    (out.logits.square().mean() + rebuilt.square().mean()).backward()
    groups = parameter_groups(net)
    for part in (groups["encoder"], net.segment_decoder.parameters(), net.image_decoder.parameters()):
        assert sum(float(value.grad.abs().sum()) for value in part if value.grad is not None) > 0
    frozen = parameter_groups(network(folders, kind, trained=False))
    assert frozen["encoder"] == [] and frozen["head"]


def test_the_teacher_is_a_copy_that_follows_and_weights_can_be_loaded_back(folders):
    net = network(folders).train()
    images = torch.rand(1, 1, 28, 28)
    net(images)
    teacher = make_teacher(net)
    before = teacher(images).logits
    with torch.no_grad():
        for value in net.encoder.parameters():
            value.add_(0.1)
    assert torch.equal(teacher(images).logits, before)
    follow(teacher, net, step=0, decay=0.9)
    assert torch.allclose(teacher(images).logits, net.eval()(images).logits, atol=1e-5)
    other = network(folders, seed=5)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.eval()(images).logits, net(images).logits)
    frozen = network(folders, trained=False)
    twin = copy.deepcopy(frozen)
    follow(twin, frozen, step=3, decay=0.9)
    pairs = zip(twin.encoder.parameters(), frozen.encoder.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_dims_are_known_without_memory_and_options_are_bound(folders):
    part = resolve("encoder", Choice(name="vit", weights=str(folders["dinov3"]), trained=False, layers=[0, 1, 2, 3]))
    with torch.device("meta"):
        made = part.build(1, "batch")
        decoder = resolve("decoder", Choice(name="dpt")).build(made.dims, made.strides, 4, "batch", True)
    assert made.dims == (32,) * 4 and made.stride == 8
    assert {value.device.type for value in (*made.parameters(), *decoder.parameters())} == {"meta"}
    assert part.factory.digest(**part.options) == weights_digest(str(folders["dinov3"]))
    with pytest.raises(InputError, match="'weights' is required"):
        resolve("encoder", Choice(name="vit"))
    with pytest.raises(InputError, match="did you mean 'trained'"):
        resolve("encoder", Choice(name="vit", weights="x", train=False))


# --- DPT -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize(("grid", "stride"), [((16, 16), 14), ((3, 5), 8), ((1, 1), 16), ((2, 7), 14)])
def test_dpt_returns_the_images_size(skips, grid, stride):
    decoder = DPTDecoder((12,) * 4, (stride,) * 4, 3, "batch", skips)
    maps = [torch.rand(2, 12, *grid) for _ in range(4)]
    assert decoder(maps[-1], maps[:-1]).shape == (2, 3, grid[0] * stride, grid[1] * stride)


def test_dpt_without_skips_sees_the_coarsest_map_alone():
    decoder = DPTDecoder((9, 10, 11, 12), (8,) * 4, 3, "batch", False)
    coarsest = torch.rand(1, 12, 4, 4, requires_grad=True)
    finer = [torch.rand(1, dim, 4, 4, requires_grad=True) for dim in (9, 10, 11)]
    out = decoder(coarsest, finer)
    assert torch.equal(out, decoder(coarsest, [torch.zeros_like(each) for each in finer]))
    out.sum().backward()
    assert all(each.grad is None for each in finer) and coarsest.grad.abs().sum() > 0


def test_dpt_with_skips_uses_every_map_and_every_weight():
    decoder = DPTDecoder((9, 10, 11, 12), (8,) * 4, 3, "batch", True)
    maps = [torch.rand(1, dim, 4, 4, requires_grad=True) for dim in (9, 10, 11, 12)]
    decoder(maps[-1], maps[:-1]).square().sum().backward()
    assert all(float(each.grad.abs().sum()) > 0 for each in maps)
    assert all(value.grad is not None for value in decoder.parameters())


def published_head(decoder, maps, size):
    """The formulas of UniMatch V2's head over a decoder's tensors, written out level by level, nothing in place."""
    resize, gather, fuse = decoder.resize, decoder.gather, decoder.fuse
    levels = [decoder.project[k](maps[k]) for k in range(4)]
    levels[0] = F.conv_transpose2d(levels[0], resize[0].weight, resize[0].bias, stride=4)
    levels[1] = F.conv_transpose2d(levels[1], resize[1].weight, resize[1].bias, stride=2)
    levels[3] = F.conv2d(levels[3], resize[3].weight, resize[3].bias, stride=2, padding=1)
    levels = [F.conv2d(level, gather[k].weight, padding=1) for k, level in enumerate(levels)]
    sides = [tuple(level.shape[-2:]) for level in levels]
    sides.insert(0, (2 * sides[0][0], 2 * sides[0][1]))

    def unit(block, x):
        return x + block.second(block.first(x.clamp_min(0)).clamp_min(0))

    def larger(x, size):
        return F.interpolate(x, size, mode="bilinear", align_corners=True)

    x = fuse[3].mix(larger(unit(fuse[3].refine, levels[3]), sides[3]))
    for k in (2, 1, 0):
        x = fuse[k].mix(larger(unit(fuse[k].refine, x + unit(fuse[k].enter, levels[k])), sides[k]))
    return larger(decoder.head[2](decoder.head[0](x).clamp_min(0)), size)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("grid", [(5, 3), (1, 1), (4, 6)])
def test_dpt_computes_the_published_head_and_its_gradients(grid, layout):
    """Close and not the same bits: a fusion's 1 x 1 convolution runs before its upsampling, so sums are reordered."""
    decoder = DPTDecoder((6,) * 4, (14,) * 4, 2, "batch", True, features=5, widths=(3, 4, 5, 6))
    decoder = decoder.to(memory_format=layout)
    assert decoder.gather[0].bias is None and decoder.fuse[3].enter is None
    size = (14 * grid[0], 14 * grid[1])
    # As the encoder gives them: tokens seen as maps.
    tokens = [torch.randn(2, grid[0] * grid[1], 6, requires_grad=True) for _ in range(4)]
    kept, gradient = [each.detach().clone() for each in tokens], torch.randn(2, 2, *size)

    def both_ways(run):
        maps = [each.transpose(1, 2).unflatten(2, grid) for each in tokens]
        out = run(maps)
        wanted = [*tokens, *decoder.parameters()]
        return [out.detach(), *torch.autograd.grad(out, wanted, gradient)]

    found = both_ways(lambda maps: decoder(maps[3], maps[:3]))
    expected = both_ways(lambda maps: published_head(decoder, maps, size))
    for ours, plain in zip(found, expected, strict=True):
        assert torch.allclose(ours, plain, rtol=1e-4, atol=1e-4 * float(plain.abs().max()) + 1e-6)
    assert all(torch.equal(a, b) for a, b in zip(tokens, kept, strict=True)), "what came in was written to"


def test_dpt_without_gradients_gives_the_same_bits():
    decoder = DPTDecoder((6,) * 4, (14,) * 4, 2, "batch", True, features=5, widths=(3, 4, 5, 6))
    maps = [torch.randn(2, 6, 5, 3) for _ in range(4)]
    trained = decoder(maps[3], maps[:3])
    with torch.no_grad():
        taught = decoder(maps[3], maps[:3])
    assert torch.equal(trained, taught)
    with torch.inference_mode():
        assert torch.equal(copy.deepcopy(decoder).requires_grad_(False)(maps[3], maps[:3]), taught)


def test_dpt_under_autocast():
    decoder = DPTDecoder((6,) * 4, (14,) * 4, 2, "batch", True, features=5, widths=(3, 4, 5, 6))
    maps = [torch.randn(2, 6, 4, 4, requires_grad=True) for _ in range(4)]
    with torch.autocast("cpu", torch.bfloat16):
        half = decoder(maps[3], maps[:3])
    half.float().square().sum().backward()
    full = decoder(maps[3], maps[:3])
    assert torch.allclose(half.float(), full, atol=0.05 * float(full.detach().abs().max()))
    assert all(bool(each.grad.isfinite().all()) for each in (*maps, *decoder.parameters()))


def test_dpts_size_is_the_releases():
    """DPT-small on DINOv2-S: 384 channels in; counted by hand from the release's layers, its unused unit left out."""
    dims, widths, features = 384, (48, 96, 192, 384), 64
    total = sum(dims * w + w for w in widths)
    total += 48 * 48 * 16 + 48 + 96 * 96 * 4 + 96 + 384 * 384 * 9 + 384
    total += sum(w * features * 9 for w in widths)
    conv, one = features * features * 9 + features, features * features + features
    total += 7 * 2 * conv + 4 * one + conv + features * 4 + 4
    decoder = DPTDecoder((dims,) * 4, (14,) * 4, 4, "batch", True)
    assert sum(value.numel() for value in decoder.parameters()) == total


def test_encoder_and_decoder_that_do_not_fit_are_refused(folders):
    unet = UNetEncoder(1, "batch")
    with pytest.raises(ValueError, match=r"strides are \[1, 2, 4, 8, 16\]; use decoder unet"):
        DPTDecoder(unet.dims, unet.strides, 4, "batch", True)
    vit = encoder(folders)
    with pytest.raises(ValueError, match="use decoder dpt"):
        DECODERS["unet"](vit.dims, vit.strides, 4, "batch", True)
    with pytest.raises(ValueError, match="four maps of one stride"):
        DPTDecoder((4, 4, 4), (8, 8, 8), 4, "batch", True)


def test_blocks_keep_their_shape():
    x = torch.randn(1, 4, 3, 3)
    assert Residual(4)(x).shape == x.shape
    assert Fusion(4, two=True)(x, x, (6, 6)).shape == (1, 4, 6, 6)

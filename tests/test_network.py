import copy

import pytest
import torch
from torch import nn

from vqseg import experiment, streams
from vqseg.config import load_config
from vqseg.decoders.unet import UNetDecoder
from vqseg.encoders.unet import UNetEncoder
from vqseg.errors import InputError
from vqseg.network import SegmentationNetwork, running_statistics_kept
from vqseg.quantizers import QUANTIZERS
from vqseg.teacher import follow, make_teacher


def network(norm="batch", skips=True, dual=False, quantizer="mapped", seed=0):
    encoder = UNetEncoder(1, norm, widths=(4, 8, 12), dropout=(0.0, 0.0, 0.0))
    image = UNetDecoder(encoder.dims, encoder.strides, 1, norm, False) if dual else None
    built = SegmentationNetwork(
        encoder,
        QUANTIZERS[quantizer](12, num_codes=20),
        UNetDecoder(encoder.dims, encoder.strides, 4, norm, skips),
        image,
    )
    streams.initialize(built, seed)
    return built


@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("size", [(16, 16), (24, 40)])
def test_shapes(skips, norm, size):
    out = network(norm, skips)(torch.rand(2, 1, *size))
    assert out.logits.shape == (2, 4, *size)
    assert out.encoded.grid == (size[0] // 4, size[1] // 4)
    assert out.quantized.tokens.shape == (2, size[0] * size[1] // 16, 12)


def test_a_size_that_the_stride_does_not_divide_is_refused():
    with pytest.raises(InputError, match="multiples of 4"):
        network()(torch.rand(1, 1, 18, 16))


def test_the_image_decoder_sees_codes_alone():
    net = network(dual=True).eval()
    images = torch.rand(2, 1, 16, 16)
    encoded = net.encode(images)
    tokens = torch.zeros_like(encoded.tokens)
    rebuilt = net.reconstruct(tokens, encoded)
    assert torch.allclose(rebuilt[0], rebuilt[1])
    with pytest.raises(ValueError, match="no image decoder"):
        network().reconstruct(tokens, encoded)


def test_the_unet_of_the_field_has_1_8_million_parameters():
    encoder = UNetEncoder(1, "batch")
    decoder = UNetDecoder(encoder.dims, encoder.strides, 4, "batch", True)
    total = sum(p.numel() for part in (encoder, decoder) for p in part.parameters())
    assert total == pytest.approx(1.81e6, rel=0.01)


def test_a_decoder_of_a_pyramid_refuses_maps_of_one_size():
    with pytest.raises(ValueError, match="use decoder dpt"):
        UNetDecoder((8, 8), (14, 14), 4, "batch", True)


def test_what_is_pretrained_keeps_its_weights():
    built = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    built[1].pretrained = True
    before = [p.clone() for p in built.parameters()]
    streams.initialize(built, 0)
    assert [torch.equal(p, b) for p, b in zip(built.parameters(), before, strict=True)] == [False, False, True, True]


def test_perturbed_passes_leave_the_running_statistics_alone():
    net = network().train()
    norms = [m for m in net.segment_decoder.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [m.running_mean.clone() for m in norms]
    encoded = net.encode(torch.rand(2, 1, 16, 16))
    with running_statistics_kept(net.segment_decoder, True):
        kept = net.segment(encoded.tokens, encoded)
    assert all(torch.equal(m.running_mean, b) for m, b in zip(norms, before, strict=True))
    moved = net.segment(encoded.tokens, encoded)
    assert torch.equal(kept, moved)
    assert not any(torch.equal(m.running_mean, b) for m, b in zip(norms, before, strict=True))


def test_a_batch_cut_in_two_is_its_parts_and_so_are_the_gradients():
    net = network().eval()
    images, found = torch.rand(5, 1, 16, 16), []
    for cut in (lambda e: e.split(3), lambda e: (e.part(0, 3), e.part(3, 5))):
        net.zero_grad()
        ours, theirs = cut(net.encode(images))
        assert len(ours.tokens) == 3 and len(theirs.tokens) == 2
        logits = [net.segment(part.tokens, part) for part in (ours, theirs)]
        (logits[0].square().mean() + 3 * logits[1].square().mean()).backward()
        found.append((torch.cat(logits).detach(), [p.grad for p in net.encoder.parameters()]))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(found[0][1], found[1][1], strict=True))


def test_an_initial_value_depends_on_seed_and_path_alone():
    plain, dual, other = network(), network(dual=True, quantizer="plain"), network(seed=1)
    shared = dict(dual.named_parameters())
    for path, value in plain.named_parameters():
        if path in shared:
            assert torch.equal(value, shared[path]), path
    weights = [path for path, value in plain.named_parameters() if value.ndim == 4]
    assert not any(torch.equal(plain.get_parameter(path), other.get_parameter(path)) for path in weights)


def test_the_teacher_follows_weights_and_statistics():
    student = network().train()
    teacher = make_teacher(student)
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
    with torch.no_grad():
        for value in [*student.parameters(), *[b for b in student.buffers() if b.is_floating_point()]]:
            value += 1
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    follow(teacher, student, step=999, decay=0.9)
    for name, value in teacher.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value, before[name] + 0.1, atol=1e-5), name
    follow(teacher, student, step=0, decay=0.9)
    for mine, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
        assert torch.allclose(mine, theirs)


def test_following_at_once_is_following_one_by_one():
    student = network().train()
    student(torch.rand(2, 1, 16, 16))
    with torch.no_grad():
        for value in student.parameters():
            value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel())))
    teacher = make_teacher(network())
    twin = copy.deepcopy(teacher)
    follow(teacher, student, step=50, decay=0.97)
    weight = 1 - min(1 - 1 / 51, 0.97)
    goal = student.state_dict()
    for name, value in twin.state_dict().items():
        expected = value.lerp(goal[name], weight) if value.is_floating_point() else goal[name]
        assert torch.equal(teacher.state_dict()[name], expected), name


def test_arms_of_a_study_share_data_order_augmentation_and_every_shared_initial_value(phantom_root, tiny, tmp_path):
    built = []
    for arm in ("none", "qpm", "channel-dropout"):
        plan = experiment.plan(
            load_config("smoke", [*tiny, f"perturbation={arm}"]), root=phantom_root, split=None, store=tmp_path
        )
        trainer = experiment.assemble(plan, plan.folder.path / "checkpoint.pt", torch.device("cpu"), "fp32")
        method = trainer.method
        built.append((method, trainer.batches.at(5)))
    first, batch = built[0]
    for method, other in built[1:]:
        for a, b in zip(first.student.parameters(), method.student.parameters(), strict=True):
            assert torch.equal(a, b)
        assert torch.equal(batch.labelled.image, other.labelled.image)
        for one, two in zip(batch.unlabelled.strong, other.unlabelled.strong, strict=True):
            assert torch.equal(one.image, two.image) and torch.equal(one.mix.box, two.mix.box)

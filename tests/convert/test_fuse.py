"""The fused network computes what the trained one computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rtmo_deploy.convert.network import fold_linear_bn, fuse
from rtmo_deploy.measure import structured_images
from rtmo_deploy.model import RTMO, NetworkSpec
from rtmo_deploy.model.backbone import Focus
from rtmo_deploy.model.layers import NECK_BN, ConvModule
from rtmo_deploy.model.neck import RepVGGBlock
from rtmo_deploy.zoo import ARCHITECTURES


def randomise_norms(module: nn.Module, seed: int) -> None:
    """Statistics and gains that are all different, some of the gains negative."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            shape = layer.running_mean.shape
            layer.running_mean.copy_(torch.randn(shape, generator=generator) / 2)
            layer.running_var.copy_(torch.rand(shape, generator=generator) * 2 + 0.05)
            layer.weight.data.copy_(torch.randn(shape, generator=generator))
            layer.bias.data.copy_(torch.randn(shape, generator=generator) / 2)


def as_module(module: nn.Module) -> nn.Module:
    """``module`` fused, by way of a parent that holds it."""
    return fuse(nn.Sequential(module).eval())[0]


def assert_near(got: torch.Tensor, expected: torch.Tensor, share: float) -> None:
    assert got.shape == expected.shape
    error = float((got - expected).detach().abs().max())
    assert error <= share * float(expected.detach().abs().max()), error


@pytest.fixture(scope="module")
def random_model() -> RTMO:
    torch.manual_seed(0)
    model = RTMO(NetworkSpec.of(ARCHITECTURES["rtmo-n"], 17)).eval()
    randomise_norms(model, 1)
    return model


@pytest.mark.parametrize("shape", [(1, 64, 64), (2, 96, 160), (1, 224, 32)])
@torch.no_grad()
def test_fused_network_equals_the_original(random_model: RTMO, shape: tuple[int, int, int]) -> None:
    # In float64 only the fused weights' rounding to float32 is left: far tighter than float32 could be compared.
    images = torch.from_numpy(structured_images(*shape)).double()
    original = RTMO(random_model.spec).double().eval()
    original.load_state_dict(random_model.state_dict())
    fused = fuse(random_model).double()
    backbone, fused_backbone = original.backbone(images), fused.backbone(images)
    for got, expected in zip(fused_backbone, backbone, strict=True):
        assert_near(got, expected, 1e-5)
    neck, fused_neck = original.neck(backbone), fused.neck(backbone)
    for got, expected in zip(fused_neck, neck, strict=True):
        assert_near(got, expected, 1e-5)
    head, fused_head = original.head(neck), fused.head(neck)
    for name in ("cls_scores", "bbox_preds", "kpt_vis", "pose_vecs"):
        for got, expected in zip(getattr(fused_head, name), getattr(head, name), strict=True):
            assert_near(got, expected, 1e-5)


@torch.no_grad()
def test_golden_network_in_float32(model: RTMO) -> None:
    images = torch.from_numpy(structured_images(2, 128, 192))
    expected, got = model(images), fuse(model)(images)
    for name in ("cls_scores", "bbox_preds", "kpt_vis", "pose_vecs"):
        for one, two in zip(getattr(got, name), getattr(expected, name), strict=True):
            assert_near(one, two, 1e-4)


def test_no_batchnorm_of_two_dimensions_is_left(random_model: RTMO) -> None:
    fused = fuse(random_model)
    kinds = {type(module) for module in fused.modules()}
    assert not kinds & {nn.BatchNorm2d, ConvModule, Focus, RepVGGBlock}


def test_the_model_itself_is_untouched(random_model: RTMO) -> None:
    before = {key: value.clone() for key, value in random_model.state_dict().items()}
    kinds = [type(module) for module in random_model.modules()]
    random_model.train()
    try:
        fused = fuse(random_model)
        assert random_model.training
        assert not any(module.training for module in fused.modules())
    finally:
        random_model.eval()
    with torch.no_grad():
        for parameter in fused.parameters():
            parameter.zero_()
    after = random_model.state_dict()
    assert kinds == [type(module) for module in random_model.modules()]
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(("height", "width"), [(2, 2), (4, 10), (32, 6), (64, 96)])
@torch.no_grad()
def test_focus_is_one_strided_convolution_also_at_the_borders(height: int, width: int) -> None:
    torch.manual_seed(2)
    focus = Focus(5).double().eval()
    randomise_norms(focus, 3)
    fused = as_module(focus).double()
    # Numbers without any pattern: a colour, row or column taken for another one shows everywhere.
    images = torch.randint(0, 256, (2, 3, height, width)).double() + torch.rand(2, 3, height, width).double()
    expected, got = focus(images), fused(images)
    assert_near(got, expected, 1e-6)
    for edge in (got[..., 0, :], got[..., -1, :], got[..., :, 0], got[..., :, -1]):
        assert edge.isfinite().all()
    convolutions = [module for module in fused.modules() if isinstance(module, nn.Conv2d)]
    assert [(c.kernel_size, c.stride, c.padding) for c in convolutions] == [((6, 6), (2, 2), (2, 2))]


@torch.no_grad()
def test_every_pixel_of_focus_goes_to_its_own_weight() -> None:
    # One pixel lit at a time: the response is the kernel itself, so that no two errors can cancel.
    torch.manual_seed(4)
    focus = Focus(3).double().eval()
    focus.conv.activate = nn.Identity()
    randomise_norms(focus, 5)
    fused = as_module(focus).double()
    dark = torch.zeros(1, 3, 8, 12).double()
    pixels = torch.eye(dark.numel()).double().reshape(-1, 3, 8, 12)
    expected, got = focus(pixels) - focus(dark), fused(pixels) - fused(dark)
    assert_near(got, expected, 1e-6)


@pytest.mark.parametrize("size", [(1, 1), (3, 7)])
@torch.no_grad()
def test_repvgg_is_one_convolution(size: tuple[int, int]) -> None:
    torch.manual_seed(6)
    block = RepVGGBlock(7).double().eval()
    randomise_norms(block, 7)
    fused = as_module(block).double()
    x = torch.randn(2, 7, *size).double()
    assert_near(fused(x), block(x), 1e-6)
    convolutions = [module for module in fused.modules() if isinstance(module, nn.Conv2d)]
    assert [c.kernel_size for c in convolutions] == [(3, 3)]


@pytest.mark.parametrize(("kernel", "stride", "groups", "active"), [(1, 1, 1, True), (3, 2, 1, False), (3, 1, 4, True)])
@torch.no_grad()
def test_convolution_and_norm(kernel: int, stride: int, groups: int, active: bool) -> None:
    torch.manual_seed(8)
    act = nn.SiLU if active else None
    module = ConvModule(8, 12, kernel, stride, groups=groups, bn=NECK_BN, act=act).double().eval()
    randomise_norms(module, 9)
    # Tiny variance, where an epsilon left out would show.
    module.bn.running_var[:4] = 1e-5
    x = torch.randn(2, 8, 9, 5).double()
    assert_near(as_module(module).double()(x), module(x), 1e-6)


@torch.no_grad()
def test_linear_and_norm() -> None:
    torch.manual_seed(10)
    for bias in (True, False):
        linear, norm = nn.Linear(5, 6, bias=bias).double(), nn.BatchNorm1d(6).double().eval()
        randomise_norms(norm, 11)
        weight, offset = fold_linear_bn(linear, norm)
        x = torch.randn(4, 5).double()
        assert_near(x @ weight.T + offset, norm(linear(x)), 1e-12)


def test_norm_without_statistics_is_refused() -> None:
    module = ConvModule(3, 4, 1)
    module.bn = nn.BatchNorm2d(4, track_running_stats=False)
    with pytest.raises(ValueError, match="running statistics"):
        as_module(module)
    with pytest.raises(ValueError, match="running statistics"):
        fold_linear_bn(nn.Linear(2, 4), nn.BatchNorm1d(4, track_running_stats=False))

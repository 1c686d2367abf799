import dataclasses

import pytest
import torch
from tiny import CONFIG

from codec.model import ModelConfig, Transforms
from codec.transforms import BLOCKS, QualityTable, _dct_matrix, _haar_matrix


def test_patch_matrix_is_orthonormal():
    matrix = _dct_matrix()
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(192), atol=1e-5, rtol=0)


def test_haar_rows_are_orthonormal_and_start_with_the_luma_mean():
    matrix = _haar_matrix(ModelConfig())
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(320), atol=1e-6, rtol=0)
    assert matrix[0, :4].tolist() == [0.5] * 4


def without_branches(config):
    """Transforms whose residual branches are off: the transform codec that training starts from."""
    torch.manual_seed(0)
    transforms = Transforms(config)
    with torch.no_grad():
        for stack in (transforms.g_a.stack8, transforms.g_a.stack16, transforms.g_s.stack8, transforms.g_s.stack16):
            stack.scales.table.zero_()
    return transforms


def test_start_is_an_orthonormal_projection(photo):
    config = dataclasses.replace(CONFIG, M=320, C16=320)
    transforms = without_branches(config)
    x = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255
    quality = torch.tensor([50.0])
    y = transforms.g_a(x, quality)
    once = transforms.g_s(y, quality)
    psnr = -10 * torch.log10((once - x).square().mean())
    assert psnr > 28  # 320 of 768 coefficients keep most of a photograph
    torch.testing.assert_close(transforms.g_a(once, quality), y, atol=1e-4, rtol=0)


@pytest.mark.parametrize("block", BLOCKS)
def test_shapes_and_gradients_of_every_block(block):
    config = dataclasses.replace(CONFIG, block=block)
    transforms = Transforms(config)
    x = torch.rand(2, 3, 64, 128)
    quality = torch.tensor([0.0, 100.0])
    y = transforms.analyse(x, quality)
    assert y.shape == (2, config.M, 4, 8)
    assert transforms.side_information(y, quality).shape == (2, config.N, 1, 2)
    x_hat = transforms.synthesise(y, quality)
    assert x_hat.shape == x.shape
    x_hat.square().sum().backward()
    missing = [n for n, p in transforms.named_parameters() if p.grad is None and not n.startswith(("h_a", "z_"))]
    assert missing == []


def test_gains_rise_with_quality():
    transforms = Transforms(CONFIG)
    gains = transforms.log_gain(torch.tensor([0.0, 30.0, 60.0, 100.0]))[:, 0]
    assert (gains.diff() > 0).all()


def test_quality_table_interpolates():
    table = QualityTable(torch.tensor([[0.0], [10.0], [40.0]]))
    assert table(torch.tensor([0.0, 25.0, 50.0, 75.0, 100.0])).flatten().tolist() == [0, 5, 10, 25, 40]


def test_reach_covers_every_dependence():
    """Nothing farther away than ``reach`` may influence a latent or a pixel: tiling depends on it."""
    transforms = Transforms(dataclasses.replace(CONFIG, synthesis_depth8=3, analysis_depth8=3))
    quality = torch.tensor([50.0])
    y_hat = torch.randn(1, CONFIG.M, 24, 24, requires_grad=True)
    transforms.g_s(y_hat, quality)[..., 16 * 12 : 16 * 13, 16 * 12 : 16 * 13].sum().backward()
    rows = y_hat.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert 12 - rows.min() <= transforms.g_s.reach and rows.max() - 12 <= transforms.g_s.reach
    x = torch.randn(1, 3, 384, 384, requires_grad=True)
    transforms.g_a(x, quality)[..., 12, 12].sum().backward()
    rows = x.grad.abs().sum((0, 1, 3)).nonzero().flatten() // 16
    assert 12 - rows.min() <= transforms.g_a.reach and rows.max() - 12 <= transforms.g_a.reach

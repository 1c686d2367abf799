import dataclasses

import pytest
import torch
import torch.nn.functional as F

from codec.config import ModelConfig
from codec.nn.dct import (
    coarse_deviation,
    coarse_from_pixels,
    coarse_to_pixels,
    dct_matrix,
    haar_matrix,
    quantisation_step,
)
from codec.nn.transforms import QualityTable, Transforms, compand
from codec.training.transforms import Centre, TrainableTransforms, calibrate
from tiny import CONFIG


def lively(config=CONFIG, seed=0):
    """TrainableTransforms that have learned something, in eval mode, with means that are not zero."""
    torch.manual_seed(seed)
    transforms = TrainableTransforms(config)
    with torch.no_grad():
        for parameter in transforms.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    calibrate(_Through(transforms), [(torch.rand(2, 3, 128, 64), torch.tensor([20.0, 70.0]))])
    return transforms.eval()


class _Through(torch.nn.Module):
    """All networks of transforms, one after the other."""

    def __init__(self, transforms):
        super().__init__()
        self.transforms = transforms

    def forward(self, x, quality):
        y = self.transforms.analyse(x, quality)
        return y, self.transforms.side_information(y, quality), self.transforms.synthesise(y, quality)


def folded(transforms):
    plain = Transforms(transforms.config).eval()
    plain.load_state_dict(transforms.folded())
    return plain


X, QUALITY = torch.rand(2, 3, 128, 64, generator=torch.Generator().manual_seed(1)), torch.tensor([15.0, 80.0])


def test_dct_and_haar_are_orthonormal_and_start_with_the_luma_mean():
    for matrix in (dct_matrix(), haar_matrix(384)):
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(len(matrix)), atol=1e-5, rtol=0)
    assert haar_matrix(384)[0, :4].tolist() == [0.5] * 4


def test_the_whole_transform_on_pixels_is_dct_then_haar():
    matrix = coarse_to_pixels(haar_matrix(50))
    fine = F.conv2d(F.pixel_unshuffle(X, 8), dct_matrix()[:, :, None, None])
    expected = F.conv2d(F.pixel_unshuffle(fine, 2), haar_matrix(50)[:, :, None, None])
    torch.testing.assert_close(
        F.conv2d(F.pixel_unshuffle(X, 16), matrix[:, :, None, None]), expected, atol=1e-5, rtol=0
    )
    torch.testing.assert_close(coarse_from_pixels(matrix), haar_matrix(50), atol=1e-6, rtol=0)


def test_folded_networks_compute_what_the_trainable_ones_do():
    transforms = lively()
    with torch.no_grad():
        for ours, theirs in zip(_Through(transforms)(X, QUALITY), _Through(folded(transforms))(X, QUALITY)):
            torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)


def test_unfolding_is_the_inverse_of_folding():
    transforms = lively()
    again = TrainableTransforms(CONFIG).eval()
    again.unfold(transforms.folded())
    with torch.no_grad():
        for ours, theirs in zip(_Through(transforms)(X, QUALITY), _Through(again)(X, QUALITY)):
            torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)


def test_weights_of_other_networks_are_refused():
    tensors = lively().folded()
    del tensors["g_a.blocks.0.mix_in.weight"]
    with pytest.raises(KeyError):
        TrainableTransforms(CONFIG).unfold(tensors)


def test_training_starts_as_the_dct_codec():
    """Without branches exactly; with them within 1/3 of the quantisation step, or of the deviation at low quality."""
    config = ModelConfig()
    torch.manual_seed(0)
    transforms, matrix = TrainableTransforms(config), coarse_to_pixels(haar_matrix(config.M))
    x = F.interpolate(torch.rand(1, 3, 16, 16), scale_factor=8, mode="bicubic").clamp(0, 1)
    with torch.no_grad():
        exact = F.conv2d(F.pixel_unshuffle(x - 0.5, 16), matrix[:, :, None, None])
        torch.testing.assert_close(transforms.g_a.skeleton(x), exact, atol=1e-4, rtol=0)
        kept = F.pixel_shuffle(F.conv2d(exact, matrix.T[:, :, None, None]), 16) + 0.5
        torch.testing.assert_close(transforms.skeleton(x), kept, atol=1e-4, rtol=0)
        for anchor in range(config.anchors):
            quality = torch.tensor([100.0 * anchor / (config.anchors - 1)])
            unit = torch.minimum(quantisation_step(config)[anchor], coarse_deviation(config.M))
            moved = (transforms.g_a(x, quality) - exact).square().mean((0, 2, 3)).sqrt()
            assert (moved / unit).mean() < 0.4 and (moved > 0).all()


def test_shapes_and_gradients():
    transforms = TrainableTransforms(CONFIG)
    y, z, x_hat = _Through(transforms)(X, QUALITY)
    assert y.shape == (2, CONFIG.M, 8, 4) and z.shape == (2, CONFIG.N, 2, 1) and x_hat.shape == X.shape
    (x_hat.square().sum() + z.square().sum()).backward()
    # A mean that is removed takes the bias before it along.
    absorbed = ("mix_in.bias", "conv.bias", "h_a.enter.bias", "h_a.down1.bias", "h_a.down2.bias")
    missing = [n for n, p in transforms.named_parameters() if p.grad is None or not p.grad.any()]
    assert [n for n in missing if not n.endswith(absorbed)] == []


def test_latents_of_a_flat_picture_are_the_same_up_to_the_border():
    with torch.no_grad():
        y = folded(lively()).analyse(torch.full((1, 3, 128, 128), 0.8), torch.tensor([40.0]))
    torch.testing.assert_close(y, y[:, :, :1, :1].expand_as(y), atol=1e-3, rtol=1e-4)
    assert y[:, 0].abs().min() > 1


def test_means_are_those_of_the_batches_they_were_calibrated_on():
    centre = Centre(3)
    batches = [(torch.randn(2, 4, 5, 3) + 7,) for _ in range(3)]
    calibrate(centre, batches)
    torch.testing.assert_close(centre.mean, torch.cat([b for (b,) in batches]).mean((0, 1, 2)))
    assert centre.training
    torch.testing.assert_close(centre.train()(batches[0][0]).mean((0, 1, 2)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(centre.eval()(batches[0][0]), batches[0][0] - centre.mean)


def test_gains_rise_with_quality_and_keep_within_reach_of_theory():
    transforms = TrainableTransforms(CONFIG)
    gains = transforms.log_gain(torch.tensor([0.0, 30.0, 60.0, 100.0]))[:, 0]
    assert (gains.diff() > 0).all()
    start = transforms.log_gain.table.detach().clone()
    with torch.no_grad():
        transforms.log_gain.change.fill_(50.0)
    torch.testing.assert_close(transforms.log_gain.table - start, torch.full_like(start, 1.5))


def test_quality_table_interpolates():
    table = QualityTable(torch.tensor([[0.0], [10.0], [40.0]]))
    assert table(torch.tensor([0.0, 25.0, 50.0, 75.0, 100.0])).flatten().tolist() == [0, 5, 10, 25, 40]


def test_compand_is_odd_and_logarithmic():
    t = torch.tensor([-(torch.e**2 - 1), 0.0, torch.e - 1])
    torch.testing.assert_close(compand(t), torch.tensor([-2.0, 0.0, 1.0]))


def test_reach_covers_every_dependence():
    """Nothing farther away than ``reach`` may influence a latent or a pixel: tiling depends on it."""
    transforms = folded(lively(dataclasses.replace(CONFIG, synthesis_depth8=2, analysis_depth=3)))
    quality = torch.tensor([50.0])
    y_hat = torch.randn(1, CONFIG.M, 24, 24, requires_grad=True)
    transforms.g_s(y_hat, quality)[..., 16 * 12 : 16 * 13, 16 * 12 : 16 * 13].sum().backward()
    rows = y_hat.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert rows.max() - 12 <= transforms.g_s.reach and 12 - rows.min() <= transforms.g_s.reach <= 4
    x = torch.randn(1, 3, 384, 384, requires_grad=True)
    transforms.g_a(x, quality)[..., 12, 12].sum().backward()
    rows = x.grad.abs().sum((0, 1, 3)).nonzero().flatten() // 16
    assert rows.max() - 12 == 12 - rows.min() == transforms.g_a.reach == 3

import numpy as np
import pytest
import torch

from codec.nn.pixels import padded_size, to_tensor, to_uint8


@pytest.mark.parametrize(("size", "padded"), [(1, 64), (63, 64), (64, 64), (65, 128), (512, 512)])
def test_sizes_are_padded_to_the_stride(size, padded):
    assert padded_size(size, 1) == (padded, 64)


@pytest.mark.parametrize("size", [(1, 1), (63, 65), (64, 64), (1, 200)])
def test_pixels_survive_the_tensor(size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    x = to_tensor(pixels)
    assert x.shape[2] % 64 == 0 and x.shape[3] % 64 == 0 and x.min() >= 0 and x.max() <= 1
    assert np.array_equal(to_uint8(x, *size), pixels)


def test_padding_repeats_the_edge():
    x = to_tensor(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    assert torch.equal(x[0, :, 63, 63], x[0, :, 1, 1])


def test_values_are_clamped_and_rounded_half_up():
    x_hat = torch.tensor([-1.0, 0.5 / 255, 0.49 / 255, 2.0]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    assert to_uint8(x_hat, 2, 2)[..., 0].flatten().tolist() == [0, 1, 0, 255]

"""A decoder written from BITSTREAM.md and RANS.md alone finds the latents that ours finds."""

import zlib
from dataclasses import asdict

import numpy as np
import pytest

from codec import latents
from codec.latents import rans
from rans_referee import RefereeDecoder
from test_vector_entropy import CONFIGS
from test_vector_entropy import trainable as trainable_codes
from tile_referee import TileReferee, rows_of
from tiny import CONFIG, trainable, trellis_tensors


def setting(config, model):
    tensors = {name: tensor.numpy() for name, tensor in model.eval().export_tensors().items()}
    return config, tensors, latents.from_tensors(config, tensors)


def check(config, tensors, codes, z, y, quality, plain=False, dependent=False):
    """The tile of some latents, decoded twice."""
    encoded = codes.encode(z, y, quality, plain, dependent)
    coder = rans.Encoder(codes.tables)
    encoded.write(coder)
    lanes, data = coder.flush()
    decoder = RefereeDecoder(rows_of(tensors), data, lanes)
    referee = TileReferee(asdict(config), tensors, quality, plain, dependent)
    decode = {"scalar": referee.scalar, "hvq": referee.hierarchical}.get(config.latents, referee.vector)
    y_hat = decode(decoder.pull, *y.shape[1:])
    decoder.finish()
    assert zlib.crc32(np.array(referee.symbols, "<i2").tobytes()) == encoded.crc
    np.testing.assert_allclose(y_hat, encoded.y_hat, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(
    "quality, kind",
    [
        *((quality, {"plain": plain}) for quality in (0, 4321, 10000) for plain in (False, True)),
        (4321, {"dependent": True}),
    ],
    ids=str,
)
def test_scalar_latents(quality, kind):
    config, tensors, _ = setting(CONFIG, trainable())
    tensors.update(trellis_tensors(tensors))
    codes = latents.from_tensors(config, tensors)
    random = np.random.default_rng(quality)
    z = random.normal(0, 3, (config.N, 2, 3)).astype(np.float32)
    y = random.normal(0, 6, (config.M, 8, 12)).astype(np.float32)
    y[0, 0, 0], z[0, 0, 0] = 2000, -250  # escapes
    check(config, tensors, codes, z, y, quality, **kind)


@pytest.mark.parametrize("quality", [0, 4321, 10000])
@pytest.mark.parametrize("kind", CONFIGS)
def test_latents_made_of_codes(kind, quality):
    config, tensors, codes = setting(CONFIGS[kind], trainable_codes(kind))
    random = np.random.default_rng(quality)
    y = random.normal(0, 0.5, (config.M, 8, 12)).astype(np.float32)
    z = random.normal(0, 3, (config.N, 2, 3)).astype(np.float32) if kind == "hvq" else None
    check(config, tensors, codes, z, y, quality)

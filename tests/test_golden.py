"""Files that were written once decode to what they held; see tests/golden/README.md."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from codec import Codec, bitstream, weights
from codec.config import STEP, padded_size
from codec.latents import rans
from codec.model import TILE
from golden.make import FOLDER, PICTURES, encoded

FILES = sorted(FOLDER.glob("*/*.bin"))
NAMES = [f"{path.parent.name[:4]}-{path.stem}" for path in FILES]


@pytest.fixture(scope="module")
def codecs():
    """``codecs(model, backend)``, each loaded once."""
    made = {}

    def get(model, backend):
        key = model, backend
        if backend == "torch":
            pytest.importorskip("torch")
        if key not in made:
            made[key] = Codec(model, backend=backend, threads=2, fallback="never")
        return made[key]

    return get


def latents(model, container):
    """y_hat of every tile, or its colour. Symbols are checked with their CRCs."""
    if container.flat:
        return [tile.data for tile in container.tiles]
    rows, columns = (n // STEP for n in padded_size(container.height, container.width))
    assert rows <= TILE and columns <= TILE, "golden files have one tile"
    (tile,) = container.tiles
    decoder = rans.Decoder(model.tables, tile.data, tile.lanes)
    found = model.latents.decode(
        decoder, rows, columns, container.quality, container.plain, tile.symbols_crc, container.dependent
    )
    decoder.finish()
    return [found]


def test_default_and_released_models_have_files():
    expected = {f"{name}-{quality}" for name, (_, qualities, *_) in PICTURES.items() for quality in qualities}
    for model in {weights.default_model_id(), *filter(weights.is_released, weights.list_models())}:
        found = {path.stem for path in FILES if path.parent.name == model}
        assert found >= expected, f"python tests/golden/make.py makes those of {model}"
    assert {path.parent.name for path in FILES} <= set(weights.list_models()), "files of a model that is not installed"


def test_they_are_small_and_hold_every_kind():
    containers = [bitstream.unpack(path.read_bytes()) for path in FILES]
    for attribute in ("grey", "plain", "flat", "dependent", "alpha", "background"):
        assert any(getattr(container, attribute) for container in containers)
    for folder in {path.parent for path in FILES}:
        assert sum(path.stat().st_size for path in folder.iterdir()) < 80_000


@pytest.mark.parametrize("backend", ["onnx", "torch"])
@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_they_decode_to_their_pixels(codecs, path, backend):
    with Image.open(path.with_suffix(".png")) as picture:
        expected, mode = np.asarray(picture).astype(int), picture.mode
    found = codecs(path.parent.name, backend).decompress(path.read_bytes())
    assert found.mode == mode and found.size == (expected.shape[1], expected.shape[0])
    difference = np.abs(np.asarray(found).astype(int) - expected)
    assert difference.max() <= 1
    if mode == "RGBA":
        assert not difference[..., 3].any()


@pytest.mark.parametrize("backend", ["onnx", "torch"])
@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_their_pictures_are_coded_alike(codecs, path, backend):
    coder, old = codecs(path.parent.name, backend), path.read_bytes()
    name, _, quality = path.stem.rpartition("-")
    make, _, *how = PICTURES[name]
    new = encoded(coder, make(), int(quality), *how)
    assert abs(len(new) - len(old)) <= 2 + len(old) // 50
    before, after = bitstream.unpack(old), bitstream.unpack(new)
    assert dataclasses.replace(before, tiles=()) == dataclasses.replace(after, tiles=())
    for one, two in zip(latents(coder.model, before), latents(coder.model, after), strict=True):
        # A latent that lies on the border between two symbols may fall to either side, and what follows differs a bit.
        assert one == two if before.flat else (np.abs(one - two) > 1e-6).mean() < 0.02

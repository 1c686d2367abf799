"""Compressed files in imageio: what it reads is what the codec decodes, and what it writes is what the codec makes."""

import numpy as np
import pytest

import codec

iio = pytest.importorskip("imageio.v3")

import codec.imageio_plugin  # noqa: E402  (registers the format)


def test_pictures_go_there_and_back(tmp_path, photo):
    path = tmp_path / "picture.bin"
    assert iio.imwrite(path, photo, quality=60) is None
    assert path.read_bytes() == codec.compress(photo, 60)
    wanted = codec.decompress(path, as_array=True)
    assert (iio.imread(path) == wanted).all() and (iio.imread(path.read_bytes()) == wanted).all()
    assert (iio.imread(path, index=...) == wanted[None]).all()
    assert [(picture == wanted).all() for picture in iio.imiter(path)] == [True]
    with pytest.raises(IndexError, match="holds one picture"):
        iio.imread(path, index=1)


@pytest.mark.parametrize("shape", [(40, 56), (40, 56, 3), (40, 56, 4)])
def test_properties_are_those_of_the_array_and_read_the_header_alone(photo, shape, monkeypatch):
    pixels = (
        np.dstack([photo[:40, :56], photo[:40, :56, :1]])[..., : shape[2]] if len(shape) > 2 else photo[:40, :56, 0]
    )
    data = iio.imwrite("<bytes>", pixels, extension=".lqc", quality=60)
    found = iio.imread(data)
    monkeypatch.setitem(vars(codec), "decompress", None)
    about = iio.improps(data)
    assert (about.shape, about.dtype) == (found.shape, found.dtype) and about.shape == shape
    assert iio.improps(data, index=...).shape == (1, *shape)
    assert iio.immeta(data)["model_id"] == codec.Codec().model_id


def test_other_files_are_left_to_others(tmp_path, photo):
    iio.imwrite(tmp_path / "picture.png", photo)
    assert (iio.imread(tmp_path / "picture.png") == photo).all()
    with pytest.raises(OSError, match="codec"):
        iio.imread((tmp_path / "picture.png").read_bytes(), plugin="codec")
    with pytest.raises(ValueError, match="holds one picture, not 2"):
        iio.imwrite(tmp_path / "two.bin", [photo, photo])

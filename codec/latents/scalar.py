"""Rounded latents: y and z  <->  symbols.

    z -> round -> symbols of z                     rows: one per channel, of the nearest anchor quality
    z_hat -> walk: means, rows of each pass        rows: LEVELS for each pass, from narrow to wide
    y -> less mean, round -> symbols of y          those of row 0 are zero and not coded

Latents y are coded as Gaussian scale mixtures whose mean and scale come from the side information z and from the part
of y that is already known (mean-scale hyperprior: Minnen, Balle, Toderici 2018, arXiv:1809.02736), in the passes of
:mod:`codec.latents.quadtree`.
Symbols of z stand in the order channel, row, column; those of a pass in the order of
:func:`codec.latents.quadtree.take`: group, channel within it, row, column.
"""

import numpy as np

from .. import quality as scale
from ..errors import ModelError
from ..quantise.reference import round_half_up
from .coded import Encoded, Queue, Source
from .networks import LEVELS, Y_LIMIT, Z_LIMIT, exact_networks
from .quadtree import MEAN_UNIT, PASSES, merge, split, walk
from .rans import Tables


class ScalarLatents:
    """Exact entropy networks, CDF tables and dequantiser: what encoder and decoder must agree on.

    Args:
        config: ModelConfig with scalar latents.
        tensors: ``{name: array}`` of a weights file.
        dtype: for tests: of all products, float32 or float64.

    Attributes:
        tables: rans.Tables for the coder: those of z, then those of y pass by pass.

    Raises:
        ModelError: a tensor is missing, damaged, or does not fit the config.
    """

    def __init__(self, config, tensors, dtype=None):
        self.config = config
        self.networks = exact_networks(config, tensors, dtype)
        self._y_start = config.anchors * config.N
        self.tables = Tables.join(
            _read_tables(tensors, "entropy.z", self._y_start, Z_LIMIT),
            _read_tables(tensors, "entropy.y", len(PASSES) * LEVELS, Y_LIMIT),
        )
        self.dequantiser = Dequantiser(tensors.get("entropy.shrink"), config.anchors)

    def encode(self, z, y, quality, lattice=False):
        """Symbols of one picture or tile, and what the decoder will make of them.

        Args:
            z: float32 (N, h/4, w/4), side information before rounding.
            y: float32 (M, h, w), gained latents before rounding, in symbols; h and w multiples of 4.
            quality: int, hundredths.
            lattice: y_hat is made of whole numbers, and symbols of row 0 are coded too: for latents of the plain
                transform, which the networks predict less well.

        Returns:
            Encoded.
        """
        channels, rows, columns = z.shape
        assert channels == self.config.N and y.shape == (self.config.M, 4 * rows, 4 * columns)
        queue = Queue()
        z_hat = np.clip(round_half_up(z), -Z_LIMIT, Z_LIMIT)
        queue.push(self._z_rows(z_hat.shape, quality), z_hat.ravel())
        shrink, shifts, passes = self.dequantiser.table(quality, lattice), [], split(y)

        def symbols_of(k, means, indexes):
            symbols = np.clip(round_half_up(passes[k] - means / np.float32(MEAN_UNIT)), -Y_LIMIT, Y_LIMIT)
            coded = _coded(indexes, lattice)
            queue.push(self._y_rows(k, indexes)[coded], symbols[coded])
            symbols = symbols if lattice else np.where(indexes > 0, symbols, np.float32(0))
            shifts.append(self.dequantiser.shift(shrink, symbols, indexes))
            return symbols

        parts = walk(self.networks, z_hat, quality, symbols_of, lattice)
        return Encoded(z_hat, _y_hat(parts, shifts), queue.rows, queue.symbols, queue.crc)

    def decode(self, coder, height, width, quality, lattice=False, crc=None):
        """Inverse of :meth:`encode` for latents of size (height, width).

        Args:
            coder: has ``pull(rows) -> symbols``.
            crc: CRC-32 that the symbols must have; None: any.

        Returns:
            y_hat float32 (M, height, width), the encoder's, bit for bit.

        Raises:
            Corrupt: the symbols are not those of an encoder.
        """
        source = Source(coder)
        shape = (self.config.N, height // 4, width // 4)
        z_hat = source.pull(self._z_rows(shape, quality), -Z_LIMIT, Z_LIMIT).astype(np.float32).reshape(shape)
        shrink, shifts = self.dequantiser.table(quality, lattice), []

        def symbols_of(k, means, indexes):
            coded = _coded(indexes, lattice)
            symbols = np.zeros(means.shape, np.float32)
            symbols[coded] = source.pull(self._y_rows(k, indexes)[coded], -Y_LIMIT, Y_LIMIT)
            shifts.append(self.dequantiser.shift(shrink, symbols, indexes))
            return symbols

        parts = walk(self.networks, z_hat, quality, symbols_of, lattice)
        source.finish(crc)
        return _y_hat(parts, shifts)

    def estimate(self, z, y, quality, lattice=False):
        """Bits of :meth:`encode`'s symbols by the tables, without the coder's few bytes for its states: float."""
        return self.encode(z, y, quality, lattice).bits(self.tables)

    def _z_rows(self, shape, quality):
        """Row of each symbol of z: that of its channel, of the nearest anchor quality; int32 (n,)."""
        channels, height, width = shape
        start = scale.nearest(quality, self.config.anchors) * channels
        return np.repeat(np.arange(start, start + channels, dtype=np.int32), height * width)

    def _y_rows(self, k, indexes):
        """Row of each symbol of pass k: int32, of the shape of ``indexes``."""
        return indexes.astype(np.int32) + (self._y_start + k * LEVELS)


class Dequantiser:
    """Where in its interval a symbol is reconstructed for the synthesis, by row of the table and quality.

    Small predicted deviations mean that most of what was rounded to 1 lies near 1/2. What the entropy networks read
    themselves stays in the middle of the interval, and exact.

    Args:
        shrink: float (anchors, LEVELS, MAGNITUDES), shift towards the mean in symbols, from a weights file.

    Raises:
        ModelError: that is not what ``shrink`` is.
    """

    MAGNITUDES = 3  # 1, 2, and all from 3 on have a value of their own

    def __init__(self, shrink, anchors):
        shape = (anchors, LEVELS, self.MAGNITUDES)
        if shrink is None:
            raise ModelError("the weights lack entropy.shrink")
        if shrink.dtype.kind != "f" or shrink.shape != shape:
            raise ModelError(f"entropy.shrink is {shrink.dtype} {shrink.shape}, not float {shape}")
        if not (np.abs(shrink) <= 1).all():  # not for NaN either
            raise ModelError("entropy.shrink moves a symbol by more than 1")
        self._shrink = shrink.astype(np.float32)

    def table(self, quality, lattice=False):
        """Shifts at a quality, for :meth:`shift`: float32 (LEVELS (MAGNITUDES + 1),); none for a lattice."""
        if lattice:
            return None
        return np.pad(scale.interpolate(self._shrink, quality), ((0, 0), (1, 0))).ravel()

    def shift(self, table, symbols, indexes):
        """What to add to each latent, in symbols; float32, of the shape of ``symbols``."""
        if table is None:
            return np.float32(0)
        magnitude = np.minimum(np.abs(symbols), np.float32(self.MAGNITUDES))
        cell = (indexes * np.float32(self.MAGNITUDES + 1) + magnitude).astype(np.intp)
        return -np.sign(symbols) * table[cell]


def _coded(indexes, lattice):
    """Which symbols of a pass stand in the file: bool, of the shape of ``indexes``."""
    return np.ones(indexes.shape, bool) if lattice else indexes > 0


def _y_hat(parts, shifts):
    """Passes in 1/16 of a symbol and their shifts -> latents (M, h, w) in symbols."""
    return merge([part / np.float32(MEAN_UNIT) + shift for part, shift in zip(parts, shifts)])


def _read_tables(tensors, prefix, number, limit):
    """Tables of a weights file: ``<prefix>_cdf``, ``_lengths`` and ``_offsets``.

    Args:
        number: of rows. limit: largest magnitude of a symbol.

    Raises:
        ModelError: something is missing, or they are no such tables.
    """
    names = [f"{prefix}_{key}" for key in ("cdf", "lengths", "offsets")]
    for name in names:
        if name not in tensors:
            raise ModelError(f"the weights lack {name}")
    cdf, lengths, offsets = (tensors[name] for name in names)
    try:
        tables = Tables(cdf, lengths, offsets)
    except ModelError as error:
        raise ModelError(f"{prefix}: {error}") from None
    if len(tables) != number:
        raise ModelError(f"{prefix}: {len(tables)} rows; needed {number}")
    last = offsets.astype(np.int64) + lengths - 3
    if offsets.min() < -limit or last.max() > limit:
        raise ModelError(f"{prefix}: symbols {offsets.min()} to {last.max()}, beyond {limit}")
    return tables

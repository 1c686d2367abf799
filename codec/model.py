"""A model that compresses: pixels of 8 or 16 bits <-> coded tiles.

    pixels -> engine: g_a, gain -> y -> tiles -> engine: h_a -> z -> latents -> symbols -> rANS -> bytes of a tile
    tiles -> rANS -> symbols -> latents -> y_hat -> engine: 1 / gain, g_s -> pixels

Entropy coding works on independent tiles, the transforms on overlapping pieces of the whole picture, so that there are
no seams. Both go through a picture piece by piece, and tiles are coded on several threads: memory is bounded by a few
rows of tiles, whatever the size.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import latents
from .bitstream import TILE_SIDE, Container, Tile, tile_grid
from .config import STEP, ModelConfig, padded_size
from .engine import PIECE, Engine, PlainTransforms, Transforms, float_weights, read_folder
from .errors import CodecError, Corrupt, ModelError, Truncated
from .extras import installed, lacks
from .files import StrPath
from .latents import rans
from .quality import QUALITY_MAX
from .threads import current_threads

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from .nn.engine import TorchEngine


TILE = TILE_SIDE // STEP  # side of a tile in latent positions
# Strangeness of pictures: almost without detail below FLAT, a soft gradient below SMOOTH, and hardly a photograph from
# STRANGE on; for these the plain transform is tried. 1 of 12 photographs is smooth, 1 of 20 strange.
FLAT, SMOOTH, STRANGE = 0.02, 0.3, 4.0
TRIAL = 2048  # side of the middle of a picture, in pixels, on which the transform is chosen


class View(NamedTuple):
    """A region of a picture, in pixels, and by how much it is made smaller.

    Where it does not begin or end with a whole pixel of the smaller picture, it is that much larger.

    Attributes:
        left, top, width, height: of the region.
        reduce: 1, 2, 4 or 8: so many pixels each way make one.
    """

    left: int
    top: int
    width: int
    height: int
    reduce: int = 1

    @property
    def corner(self) -> tuple[int, int]:
        """(row, column) of the smaller picture that it begins with."""
        return self.top // self.reduce, self.left // self.reduce

    @property
    def size(self) -> tuple[int, int]:
        """(rows, columns) of what it gives."""
        row, column = self.corner
        return -(-(self.top + self.height) // self.reduce) - row, -(-(self.left + self.width) // self.reduce) - column


class Coded(NamedTuple):
    """What :meth:`Model.encode` makes of a picture.

    Attributes:
        tiles: bitstream.Tile of each tile, in raster order.
        plain: whether their latents are those of the plain transform.
        flat: whether each tile is one colour, and has no latents.
        dependent: whether the latents were quantised by a trellis.
    """

    tiles: tuple[Tile, ...]
    plain: bool = False
    flat: bool = False
    dependent: bool = False

    @property
    def bits(self) -> int:
        """Of all tiles, the file's header excluded."""
        return 8 * sum(len(tile.data) for tile in self.tiles)


class Model:
    """Trained weights, ready to compress and decompress. Calls from several threads are allowed.

    Args:
        config: ModelConfig.
        tensors: ``{name: array}``, all of its weights file; checked here.
        threads: None: what is set for the process (:mod:`codec.threads`).
        engine: runs the transforms; None: ONNX Runtime (:class:`codec.engine.Engine`).

    Raises:
        ModelError: a tensor is missing, damaged, or does not fit the config.
    """

    def __init__(
        self,
        config: ModelConfig,
        tensors: Mapping[str, np.ndarray],
        threads: int | None = None,
        engine: Engine | TorchEngine | None = None,
    ) -> None:
        self.config = config
        self.threads = threads
        self.latents = latents.from_tensors(config, tensors)
        self.tables = self.latents.tables
        self.engine = engine or Engine(config, float_weights(config, tensors), threads)
        self.plain = PlainTransforms(config) if config.scalar else None

    @classmethod
    def from_folder(
        cls, folder: StrPath, threads: int | None = None, backend: str = "onnx", device: str = "cpu"
    ) -> Model:
        """Model of a folder with ``config.json`` and ``weights.safetensors``.

        Args:
            backend: "onnx", or "torch" (needs PyTorch), which can use other devices.
            device: of the torch backend.

        Raises:
            ModelError: a file is missing, damaged, or does not fit the other. CodecError: no such backend or device.
        """
        config, tensors = read_folder(folder)
        engine = None
        try:
            if backend == "torch":
                if not installed("torch"):
                    raise CodecError(lacks("the torch backend", "torch", ["torch"]))
                from .nn.engine import TorchEngine

                engine = TorchEngine(config, float_weights(config, tensors), device)
            return cls(config, tensors, threads, engine)
        except ModelError as error:
            raise ModelError(f"{folder}: {error}") from None

    def _workers(self):
        return self.threads or current_threads()

    # Where the thread that goes through a picture may wait for those that work on its tiles.

    def _start(self, pool, work, *arguments):
        """Hand work on a tile to a _Pool, which has room for a few tiles; its future."""
        return pool.submit(work, *arguments)

    def _result(self, future):
        return future.result()

    # Pixels -> tiles

    def encode(
        self,
        pixels: np.ndarray,
        quality: int,
        plain: bool | None = None,
        dependent: bool | None = None,
        refine: bool = False,
    ) -> Coded:
        """A picture as coded tiles.

        Args:
            pixels: uint8 or uint16 (H, W, 3).
            quality: int, hundredths in [0, 10000].
            plain: whether to use the plain transform; None: for a picture that is smooth or hardly a photograph,
                where it costs less in rate and distortion, and for those almost without detail, which take few bits
                either way, where it is nearer. Pictures whose tiles have one colour each need neither.
            dependent: whether to quantise by the trellis; None: where the model has tables for it and the transform is
                the learned one.
            refine: whether to decode, and to quantise again with a view to what that gave: scalar latents of the
                learned transform.

        Returns:
            Coded.
        """
        picture = _Deep(pixels) if pixels.dtype == np.uint16 else pixels
        if plain is None:
            colours = _tile_colours(picture)
            if colours is not None:
                return Coded(tuple(Tile(colour, 1, zlib.crc32(colour)) for colour in colours), flat=True)
            plain = self._plain_is_better(picture, quality, dependent)
        coded = self._encode(picture, quality, plain, dependent)
        return self._refined(coded, picture, quality) if refine and self.config.scalar and not plain else coded

    def _encode(self, pixels, quality, plain, dependent):
        dependent = not plain and (self.latents.dependent if dependent is None else dependent)
        pieces = self._transforms(plain).analyse_pieces(pixels, quality)
        return Coded(self._encode_tiles(pieces, pixels.shape[:2], quality, plain, dependent), plain, False, dependent)

    def _refined(self, coded, pixels, quality):
        """Coded of latents that were moved by a share of what synthesis and analysis take from those of ``coded``.

        The encoder quantises as if the synthesis were the inverse of the analysis, orthonormal. The gradient of the
        picture's error by its latents is about the analysis of the error; a step along it from the latents that were
        decoded, quantised again, is a proximal step (Parikh, Boyd 2014, "Proximal algorithms", 4.2). From the analysis
        itself, that step is what analysis after synthesis takes from the decoded latents.
        """
        height, width = pixels.shape[:2]
        share = np.float32(_share(quality))
        decoded = _Deep(self.decode(coded, height, width, quality, np.uint16))
        with _Pool(self._workers() if len(coded.tiles) > 1 else 1) as pool:
            y_hat = _Latents(self, coded, height, width, quality, pool, View(0, 0, width, height), None)
            pairs = zip(*(self.engine.analyse_pieces(each, quality) for each in (pixels, decoded)))
            moved = (
                (piece, y + share * (y_hat[:, piece.top : piece.bottom, piece.left : piece.right] - again))
                for (piece, y), (_, again) in pairs
            )
            return coded._replace(
                tiles=self._encode_tiles(moved, (height, width), quality, coded.plain, coded.dependent)
            )

    def _plain_is_better(self, pixels, quality, dependent):
        if self.plain is None:
            return False
        strangeness = self.plain.strangeness(pixels)
        if SMOOTH <= strangeness < STRANGE:
            return False
        middle = _middle(pixels)
        wanted = middle if middle.dtype == np.uint8 else 255 * middle[:]
        worth = 0.0 if strangeness < FLAT else 1.0  # of bits
        costs = []
        for plain in (False, True):
            coded = self._encode(middle, quality, plain, dependent)
            decoded = self.decode(coded, middle.shape[0], middle.shape[1], quality)
            error = np.square(decoded.astype(np.float32) - wanted).sum(dtype=np.float64) / 3
            costs.append(worth * coded.bits + self.config.lmbda(quality / 100) * error)
        return costs[1] < costs[0]

    def _encode_tiles(self, pieces, size, quality, *how):
        """Tiles in raster order, from (Piece, y) of all pieces of a picture of this size."""
        columns, rows = tile_grid(size[1], size[0])
        found: list[Any] = [None] * (columns * rows)
        with _Pool(self._workers() if columns * rows > 1 else 1) as pool:
            for piece, y in pieces:
                # Tiles of a piece: its grid is a multiple of theirs.
                for top in range(0, y.shape[1], TILE):
                    for left in range(0, y.shape[2], TILE):
                        number = (piece.top + top) // TILE * columns + (piece.left + left) // TILE
                        part = y[:, top : top + TILE, left : left + TILE]
                        found[number] = self._start(pool, self._encode_tile, part, quality, *how)
            return tuple(self._result(future) for future in found)

    def _encode_tile(self, y, quality, *how):
        z = self.engine.side_information(y, quality)
        encoded = self.latents.encode(z, y, quality, *how)
        coder = rans.Encoder(self.tables)
        encoded.write(coder)
        lanes, data = coder.flush()
        return Tile(data, lanes, encoded.crc)

    # Tiles -> pixels

    def decode(
        self,
        coded: Coded | Container,
        height: int,
        width: int,
        quality: int,
        dtype: DTypeLike = np.uint8,
        view: View | None = None,
        lost: list[int] | None = None,
    ) -> np.ndarray:
        """Inverse of :meth:`encode`, up to quantisation: uint8 or uint16 (height, width, 3).

        Args:
            coded: Coded, or a bitstream.Container.
            dtype: of the pixels, whatever the depth of those that were encoded.
            view: View, what is wanted of the picture; None for all of it.
            lost: a list that numbers of tiles are added to, which are grey then, in the place of errors.

        Raises:
            Corrupt, Truncated: a tile does not decode to the symbols that the encoder wrote.
        """
        view = view or View(0, 0, width, height)
        pixels = np.empty((*view.size, 3), dtype)
        if coded.flat:
            _fill(pixels, coded.tiles, width, height, view, lost)
            return pixels
        self._check_kind(coded)
        transforms = self._transforms(coded.plain)
        with _Pool(self._workers() if len(coded.tiles) > 1 else 1) as pool:
            y_hat = _Latents(self, coded, height, width, quality, pool, view, lost)
            transforms.synthesise_into(pixels, y_hat, quality, view.corner, view.reduce)
        return pixels

    def verify(self, coded: Coded | Container, height: int, width: int, quality: int) -> None:
        """Decode the symbols of all tiles, which their checksums confirm, and no pixels.

        Arguments and errors are those of :meth:`decode`.
        """
        if coded.flat:
            self.decode(coded, height, width, quality)
            return
        self._check_kind(coded)
        with _Pool(self._workers() if len(coded.tiles) > 1 else 1) as pool:
            y_hat = _Latents(self, coded, height, width, quality, pool, View(0, 0, width, height), None)
            _, rows, columns = y_hat.shape
            for top in range(0, rows, TILE):
                y_hat[:, top : min(top + TILE, rows), 0:columns]

    def _transforms(self, plain: bool) -> Transforms:
        return self.plain if plain and self.plain else self.engine

    def _check_kind(self, coded):
        """Corrupt where the file asks for what this model does not have."""
        if coded.plain and self.plain is None:
            raise Corrupt("corrupt: a plain transform, where this model has none")
        if coded.dependent and not self.latents.dependent:
            raise Corrupt("corrupt: dependent quantisation, where this model has none")

    def _decode_tile(self, tile, height, width, quality, plain, dependent):
        """y_hat (M, height, width) of a tile."""
        if tile is None:
            raise Truncated("truncated: the file ends before this tile does")
        decoder = rans.Decoder(self.tables, tile.data, tile.lanes)
        y_hat = self.latents.decode(decoder, height, width, quality, plain, tile.symbols_crc, dependent)
        decoder.finish()
        return y_hat


class _Deep:
    """uint16 pixels as floats in [0, 1], for those who ask for a piece at a time."""

    dtype = np.dtype(np.float32)

    def __init__(self, pixels):
        self._pixels, self.shape = pixels, pixels.shape

    def __getitem__(self, key):
        return self._pixels[key].astype(np.float32) / np.float32(65535)

    def middle(self, *key):
        return _Deep(self._pixels[key])


class _Latents:
    """y_hat of a picture as an array that can be sliced, whose tiles are decoded when they are asked for, once.

    The synthesis goes from top to bottom. Rows of tiles above what it asks for are forgotten.
    """

    def __init__(self, model, coded, height, width, quality, pool, view, lost):
        self._model, self._pool, self._lost = model, pool, lost
        self._coded, self._quality = coded, quality
        padded = [n // STEP for n in padded_size(height, width)]
        self.shape = (model.config.M, *padded)
        self.dtype = np.dtype(np.float32)
        self._columns, self._rows = tile_grid(width, height)
        # What the pieces that the view touches need: their tiles, and the next ones.
        self._last = min(self._columns - 1, ((view.left + view.width - 1) // (STEP * PIECE) + 1) * (PIECE // TILE))
        self._futures = {}

    def __getitem__(self, key):
        _, rows, columns = key
        first, last = rows.start // TILE, (rows.stop - 1) // TILE
        for number in [n for n in self._futures if n // self._columns < first]:
            del self._futures[number]
        left, right = columns.start // TILE, (columns.stop - 1) // TILE
        wanted = [(r, c) for r in range(first, last + 1) for c in range(left, right + 1)]
        for r, c in wanted:
            self._start(r, c)
        if right < self._last:  # the next piece needs these, while this one is synthesised
            for r in range(first, last + 1):
                self._start(r, right + 1)
        part = np.empty((self.shape[0], rows.stop - rows.start, columns.stop - columns.start), np.float32)
        for r, c in wanted:
            y_hat = self._model._result(self._futures[r * self._columns + c])
            top, low = max(rows.start, r * TILE), min(rows.stop, r * TILE + y_hat.shape[1])
            west, east = max(columns.start, c * TILE), min(columns.stop, c * TILE + y_hat.shape[2])
            part[:, top - rows.start : low - rows.start, west - columns.start : east - columns.start] = y_hat[
                :, top - r * TILE : low - r * TILE, west - c * TILE : east - c * TILE
            ]
        return part

    def _start(self, row, column):
        number = row * self._columns + column
        if number not in self._futures:
            size = (min(TILE, self.shape[1] - row * TILE), min(TILE, self.shape[2] - column * TILE))
            work = self._decode, number, self._coded.tiles[number], size
            self._futures[number] = self._model._start(self._pool, *work)

    def _decode(self, number, tile, size):
        """y_hat of a tile; zeros where it is lost and that is to be borne."""
        try:
            return self._model._decode_tile(tile, *size, self._quality, self._coded.plain, self._coded.dependent)
        except (Corrupt, Truncated):
            if self._lost is None:
                raise
        self._lost.append(number)
        return np.zeros((self.shape[0], *size), np.float32)


def _share(quality):
    """Of a whole step: 0.25 at quality 0, 0.5 from 50 on. Longer ones cost more than they gain, sooner at low rates."""
    return 0.25 + 0.25 * min(2 * quality / QUALITY_MAX, 1)


class _Pool:
    """Threads that work on tiles, each with a bounded number of tiles waiting; with one thread, the caller's own."""

    def __init__(self, threads):
        self._executor = ThreadPoolExecutor(threads) if threads > 1 else None
        self._room = threading.BoundedSemaphore(4 * threads)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self._executor:
            self._executor.shutdown(cancel_futures=kind is not None)

    def submit(self, function, *arguments):
        if self._executor is None:
            return _Done(function(*arguments))
        self._room.acquire()
        future = self._executor.submit(function, *arguments)
        future.add_done_callback(lambda _: self._room.release())
        return future


class _Done(NamedTuple):
    """A result that is there, with the method of a Future."""

    value: object

    def result(self):
        return self.value


def _tile_colours(pixels):
    """The colours of all tiles as three bytes each, in raster order; None unless every tile has one colour."""
    if pixels.dtype != np.uint8:  # a colour has three bytes
        return None
    height, width = pixels.shape[:2]
    colours = []
    for top in range(0, height, TILE_SIDE):
        for left in range(0, width, TILE_SIDE):
            tile = pixels[top : top + TILE_SIDE, left : left + TILE_SIDE]
            if (tile[0] != tile[0, 0]).any() or (tile != tile[0, 0]).any():
                return None
            colours.append(tile[0, 0].tobytes())
    return colours


def _fill(pixels, tiles, width, height, view, lost):
    """Paint the part of each tile that a view shows in its colour; Corrupt where that is not the one written."""
    top, left = view.corner
    side = TILE_SIDE // view.reduce
    for row, column in np.ndindex(*tile_grid(width, height)[::-1]):
        rows = slice(max(side * row - top, 0), max(side * (row + 1) - top, 0))
        columns = slice(max(side * column - left, 0), max(side * (column + 1) - left, 0))
        part = pixels[rows, columns]
        if not part.size:
            continue
        number = row * tile_grid(width, height)[0] + column
        tile = tiles[number]
        colour: Any = 128
        if tile is not None and zlib.crc32(tile.data) == tile.symbols_crc:
            colour = np.frombuffer(tile.data, np.uint8)
        elif lost is None:
            raise Corrupt(f"corrupt: the colour of tile {number} does not match its checksum")
        else:
            lost.append(number)
        part[:] = np.asarray(colour, pixels.dtype) * (np.iinfo(pixels.dtype).max // 255)


def _middle(pixels):
    """At most TRIAL x TRIAL pixels from the middle of a picture."""
    top, left = (max(0, (n - TRIAL) // 2) for n in pixels.shape[:2])
    place = slice(top, top + TRIAL), slice(left, left + TRIAL)
    return pixels.middle(*place) if isinstance(pixels, _Deep) else pixels[place]

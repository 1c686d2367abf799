"""The runtime engine: g_a, h_a and g_s of a model in ONNX Runtime, in pieces, so that memory stays bounded.

    pixels -> analyse -> y -> side_information -> z
    y_hat  -> synthesise -> pixels

Needs numpy, onnxruntime and safetensors; onnxruntime is imported when the first network runs. Arrays are NumPy's.

Large pictures are cut into squares of :data:`PIECE` latent positions on a fixed grid. A network runs on a square and
the positions around it that can influence it, so that the result is that of the whole picture, up to float rounding.

The same input gives the same bytes, whatever the number of threads. ONNX Runtime cuts a matrix product into ranges of
rows when it has at least as many rows as columns, which leaves the order of every sum alone; streams are filled up to
that many rows (:class:`codec.winograd.Layout`).
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from . import graphs
from . import quality as scale
from .config import STEP, ModelConfig, padded_size
from .dct import coarse_deviation, coarse_to_pixels, haar_matrix
from .errors import ModelError, is_memory, tensor
from .files import StrPath
from .threads import Lock, after_fork, current_threads
from .winograd import layout

PIECE = 128  # side of a piece, in latent positions
MAX_THREADS = 32  # beyond, single products of a batch would be cut as well
PREVIEW = 8  # pixels each way that make one in a picture that is made without the network
LOW = 64  # coefficients of the lowest frequencies, whose energy says little about what a picture is


class Sliced(Protocol):
    """An array, or anything with a shape and a dtype that can be sliced like one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __getitem__(self, key: Any, /) -> np.ndarray: ...


class Piece(NamedTuple):
    """A square of the grid: rows top to bottom, columns left to right, in latent positions; ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        return self.bottom - self.top, self.right - self.left

    def grown(self, reach: int, height: int, width: int) -> Piece:
        """The piece and ``reach`` positions to each side, as far as the picture goes."""
        return Piece(
            max(self.top - reach, 0), min(self.bottom + reach, height),
            max(self.left - reach, 0), min(self.right + reach, width),
        )  # fmt: skip


def pieces(height: int, width: int, within: Piece | None = None) -> Iterator[Piece]:
    """The pieces of ``height`` x ``width`` latent positions, row by row; those that a Piece touches, if it is given."""
    for top in range(0, height, PIECE):
        for left in range(0, width, PIECE):
            piece = Piece(top, min(top + PIECE, height), left, min(left + PIECE, width))
            if within is None or (
                piece.top < within.bottom and within.top < piece.bottom
                and piece.left < within.right and within.left < piece.right
            ):  # fmt: skip
                yield piece


class Transforms:
    """What all engines make of their ``analyse_pieces`` and ``synthesise_pieces``, which :class:`Engine` describes."""

    config: ModelConfig

    def analyse_pieces(self, pixels: Sliced, quality: int) -> Iterator[tuple[Piece, np.ndarray]]:
        """As :meth:`Engine.analyse_pieces`."""
        raise NotImplementedError

    def synthesise_pieces(
        self, y_hat: Sliced, quality: int, within: Piece | None = None
    ) -> Iterator[tuple[Piece, np.ndarray]]:
        """As :meth:`Engine.synthesise_pieces`."""
        raise NotImplementedError

    def synthesise_float_pieces(
        self, y_hat: Sliced, quality: int, within: Piece | None = None
    ) -> Iterator[tuple[Piece, np.ndarray]]:
        """As :meth:`Engine.synthesise_float_pieces`."""
        raise NotImplementedError

    def analyse(self, x: np.ndarray, quality: int) -> np.ndarray:
        """x (3, H, W) float in [0, 1] or uint8, quality in hundredths -> y float32 (M, H/16, W/16).

        In symbols, where latents are scalar. H and W are multiples of 64.
        """
        _, height, width = x.shape
        y = np.empty((self.config.M, height // STEP, width // STEP), np.float32)
        for piece, part in self.analyse_pieces(x.transpose(1, 2, 0), quality):
            y[:, piece.top : piece.bottom, piece.left : piece.right] = part
        return y

    def synthesise_into(
        self, pixels: np.ndarray, y_hat: Sliced, quality: int, corner: tuple[int, int] = (0, 0), reduce: int = 1
    ) -> None:
        """Fill ``pixels`` with the picture of ``y_hat``, or with a region of it, at full size or smaller.

        Args:
            pixels: uint8 or uint16 (H, W, 3).
            y_hat: float (M, h, w), or anything that can be sliced like that. It is asked for what the region needs.
            corner: row and column of the picture, as it is when it has been made smaller, that ``pixels`` begins with.
            reduce: 1, 2, 4 or 8: so many pixels each way make one, their mean.
        """
        top, left = corner
        side = STEP // reduce  # of a latent position, in pixels of the result
        bottom, right = top + pixels.shape[0], left + pixels.shape[1]
        within = Piece(top // side, -(-bottom // side), left // side, -(-right // side))
        for piece, part in self._reduced_pieces(y_hat, quality, within, reduce, pixels.dtype):
            rows = slice(max(side * piece.top, top), min(side * piece.bottom, bottom))
            columns = slice(max(side * piece.left, left), min(side * piece.right, right))
            pixels[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = part[
                rows.start - side * piece.top : rows.stop - side * piece.top,
                columns.start - side * piece.left : columns.stop - side * piece.left,
            ]

    def _reduced_pieces(self, y_hat, quality, within, reduce, dtype):
        """Yield (Piece, pixels of it) of those that ``within`` touches."""
        if reduce == 1 and dtype == np.uint8:
            yield from self.synthesise_pieces(y_hat, quality, within)
            return
        largest = np.iinfo(dtype).max
        for piece, part in self._means(y_hat, quality, within, reduce):
            yield piece, np.clip(part * np.float32(largest) + np.float32(0.5), 0, largest).astype(dtype)

    def _means(self, y_hat, quality, within, reduce):
        """Yield (Piece, float (16 x piece's height / reduce, 16 x piece's width / reduce, 3)), nominally in [0, 1]."""
        for piece, part in self.synthesise_float_pieces(y_hat, quality, within):
            if reduce > 1:
                height, width = (n // reduce for n in part.shape[:2])
                part = np.clip(part, 0, 1).reshape(height, reduce, width, reduce, 3).mean((1, 3))
            yield piece, part


class Engine(Transforms):
    """The float networks of one model.

    Args:
        config: ModelConfig.
        weights: name -> float array of all float weights, as :func:`read_weights` returns them.
        threads: of one call; None: what is set for the process (:mod:`codec.threads`). At most 32 are used.

    Calls from several threads are allowed. A forked child, a copy and a pickle open sessions of their own.
    """

    def __init__(self, config: ModelConfig, weights: Mapping[str, np.ndarray], threads: int | None = None) -> None:
        self.config, self.threads = config, threads
        self._weights = weights
        self._graphs: dict[str, tuple[graphs.Graph, dict[str, np.ndarray]]] = {}
        self._sessions: dict[str, tuple[int, Any]] = {}  # of a number of threads
        self._tables: dict[str, tuple[int, dict[str, np.ndarray]]] = {}  # at a quality
        self._preview: _Preview | None = None
        self._lock = Lock()
        after_fork(self)
        self._analysis_reach = config.analysis_depth
        # 3x3 layers at 1/8 look half as far; the last one makes the pixels.
        self._reach8 = -(-(config.synthesis_depth8 + 1) // 2)
        self._synthesis_reach = config.synthesis_depth16 + self._reach8

    @classmethod
    def from_folder(cls, folder: StrPath, threads: int | None = None) -> Engine:
        """Engine of a model folder.

        Raises:
            ModelError: config.json or weights.safetensors is missing, damaged, or does not fit the other.
        """
        config, tensors = read_folder(folder)
        return cls(config, float_weights(config, tensors), threads)

    def __reduce__(self) -> tuple[Any, ...]:
        return Engine, (self.config, self._weights, self.threads)

    def after_fork(self) -> None:
        """Sessions of the parent have threads that this process lacks: to run or to close one is to wait for ever."""
        for _, session in self._sessions.values():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))  # never closed
        self._sessions = {}

    # Pictures as arrays of float: whole results

    def side_information(self, y: np.ndarray, quality: int) -> np.ndarray | None:
        """y (M, h, w) of :meth:`analyse`, h and w multiples of 4 -> gained z float32 (N, h/4, w/4), in symbols.

        None where latents need none. The border is zeros: tiles that are coded apart are given apart.
        """
        if not self.config.side_information:
            return None
        if not self.config.scalar:  # h_a reads symbols
            y = y * self._gain("log_gain.table", quality)[:, None, None]
        (z,) = self._session("hyper").run(["z"], {"y": np.ascontiguousarray(y[None], np.float32)})
        return z[0] * self._gain("z_log_gain.table", quality)[:, None, None]

    def synthesise(self, y_hat: Sliced, quality: int) -> np.ndarray:
        """y_hat (M, h, w), as :meth:`analyse` scales it -> x_hat float32 (3, 16 h, 16 w), not clamped."""
        x_hat = np.empty((3, STEP * y_hat.shape[1], STEP * y_hat.shape[2]), np.float32)
        for piece, part in self.synthesise_float_pieces(y_hat, quality):
            rows, columns = in_pixels(piece)
            x_hat[:, rows, columns] = part.transpose(2, 0, 1)
        return x_hat

    # Large pictures, as 8-bit pixels

    def analyse_pieces(self, pixels: Sliced, quality: int) -> Iterator[tuple[Piece, np.ndarray]]:
        """Yield (Piece, y float32 (M, piece's height, piece's width)) for all pieces of a picture.

        Args:
            pixels: uint8, or float in [0, 1], (H, W, 3) of any size, or anything with a shape and a dtype that can be
                sliced like that; the last row and column are repeated up to multiples of 64. y covers the padded
                picture.
            quality: in hundredths.
        """
        kind = "analysis" if pixels.dtype == np.uint8 else "analysis_float"
        session = self._session(kind)
        inputs = self._quality_tables(kind, quality)
        gain = self._gain("log_gain.table", quality) if self.config.scalar else None  # codes have sizes of their own
        height, width = (n // STEP for n in padded_size(*pixels.shape[:2]))
        for piece in pieces(height, width):
            outer = piece.grown(self._analysis_reach, height, width)
            order = layout(*outer.size, self.config.analysis_width)
            x = _squares(pixels, outer)[order.raster]
            x = x if kind == "analysis" else x.astype(np.float32, copy=False)
            (y,) = session.run(["y"], {"x": x, "neighbours": order.neighbours, **inputs})
            rows = order.stream.reshape(outer.size)[
                piece.top - outer.top : piece.bottom - outer.top,
                piece.left - outer.left : piece.right - outer.left,
            ]
            y = y[rows.reshape(-1)]
            if gain is not None:
                y *= gain
            yield piece, np.ascontiguousarray(y.T).reshape(-1, *piece.size)

    def synthesise_pieces(
        self, y_hat: Sliced, quality: int, within: Piece | None = None
    ) -> Iterator[tuple[Piece, np.ndarray]]:
        """Yield (Piece, uint8 (16 x piece's height, 16 x piece's width, 3)) for all pieces of a picture.

        Args:
            y_hat: (M, h, w), of any type that float32 holds, or anything that can be sliced like that: it is asked for
                one piece and what is around it at a time.
            within: a Piece: only those of the grid that it touches.
        """
        return self._synthesise_pieces(y_hat, quality, "synthesis", within)

    def synthesise_float_pieces(
        self, y_hat: Sliced, quality: int, within: Piece | None = None
    ) -> Iterator[tuple[Piece, np.ndarray]]:
        """The same, float32 and not clamped, nominally in [0, 1]."""
        return self._synthesise_pieces(y_hat, quality, "synthesis_float", within)

    def _means(self, y_hat, quality, within, reduce):
        """At an eighth of the size without the network: what its blocks add hardly changes means of 8 x 8 pixels."""
        if reduce < PREVIEW:
            yield from super()._means(y_hat, quality, within, reduce)
            return
        with self._lock:
            preview = self._preview = self._preview or _Preview(self.config, self._weights)
        gain = self._gain("log_gain.table", quality) if self.config.scalar else np.float32(1)
        _, height, width = y_hat.shape
        for piece in pieces(height, width, within):
            outer = piece.grown(1, height, width)
            y = np.asarray(y_hat[:, outer.top : outer.bottom, outer.left : outer.right], np.float32)
            yield piece, preview(y.transpose(1, 2, 0) / gain, piece, outer)

    def _synthesise_pieces(self, y_hat, quality, kind, within):
        session = self._session(kind)
        inputs = self._quality_tables(kind, quality)
        gain = self._gain("log_gain.table", quality) if self.config.scalar else None  # codes have sizes of their own
        _, height, width = y_hat.shape
        for piece in pieces(height, width, within):
            outer = piece.grown(self._synthesis_reach, height, width)
            middle = piece.grown(self._reach8, height, width)
            geometry = _synthesis_geometry(piece, middle, outer, self.config)
            y = np.asarray(y_hat[:, outer.top : outer.bottom, outer.left : outer.right])
            y = np.ascontiguousarray(y.reshape(len(y), -1).T)[geometry.raster].astype(np.float32, copy=False)
            if gain is not None:
                y /= gain
            parts = session.run(None, {"y_hat": y, **geometry.inputs, **inputs})
            squares = np.concatenate([part.reshape(16, -1, part.shape[1]) for part in parts], axis=1)
            yield (
                piece,
                _from_squares(squares.reshape(-1, squares.shape[2])[geometry.out], piece),
            )

    # Sessions and tables

    def _session(self, kind):
        """ONNX Runtime session: "analysis" and "synthesis" of 8-bit pixels, the same with "_float", or "hyper"."""
        # ONNX Runtime's convolutions, unlike its products, differ in the last bit between numbers of threads.
        threads = 1 if kind == "hyper" else min(self.threads or current_threads(), MAX_THREADS)
        with self._lock:
            if kind not in self._graphs:
                graph = {
                    "analysis": lambda config: graphs.analysis_graph(config, eight_bits=True),
                    "analysis_float": lambda config: graphs.analysis_graph(config, eight_bits=False),
                    "hyper": graphs.hyper_graph,
                    "synthesis": lambda config: graphs.synthesis_graph(config, rounded=True),
                    "synthesis_float": lambda config: graphs.synthesis_graph(config, rounded=False),
                }[kind](self.config)
                self._graphs[kind] = graph, graphs.taps(graph, self._weights)
            found, session = self._sessions.get(kind, (None, None))
            if found != threads:  # a session keeps the number that it was made with
                graph, _ = self._graphs[kind]
                # After the analysis come latents and coder, which need the memory; the synthesis is the last.
                arena = kind.startswith("synthesis")
                session = _open(graph, graphs.initialisers(graph, self._weights), threads, arena)
                self._sessions[kind] = threads, session
            return session

    def _quality_tables(self, kind, quality):
        """Inputs of a network that are no picture, at a quality; the latest ones are remembered."""
        graph, taps = self._graphs[kind]
        found, tables = self._tables.get(kind, (None, None))
        if found != quality:
            tables = {
                **taps,
                **graphs.tables(graph, self._weights, self._position(quality)),
            }
            self._tables[kind] = quality, tables
        return tables

    def _gain(self, name, quality):
        """Gains (channels,) at a quality."""
        return np.exp(graphs.interpolated(self._weights[name], self._position(quality)))

    def _position(self, quality):
        return scale.position(quality, self.config.anchors)


class PlainTransforms(Transforms):
    """The transform codec that training starts from: M coefficients of a 16 x 16 transform, one step for all.

    What photographs do not hold (text, line art, dither, checkerboards) the learned transforms reproduce badly, at
    whatever rate. This one treats all pictures alike. NumPy alone.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        matrix = coarse_to_pixels(haar_matrix(config.M)).reshape(-1, 3, 16, 16).transpose(0, 2, 3, 1)
        self._matrix = np.ascontiguousarray(matrix.reshape(config.M, -1))  # (M, row, column, colour)
        self._deviation = coarse_deviation(config.M)
        self._log_step = np.log(np.array(config.quantisation_step(), np.float32))

    def analyse_pieces(self, pixels: Sliced, quality: int) -> Iterator[tuple[Piece, np.ndarray]]:
        """As :meth:`Engine.analyse_pieces`."""
        step = self._step(quality)
        for piece, coefficients in self._coefficients(pixels):
            yield (
                piece,
                np.ascontiguousarray(coefficients.T / step).reshape(-1, *piece.size),
            )

    def synthesise(self, y_hat: Sliced, quality: int) -> np.ndarray:
        """y_hat (M, h, w) in symbols -> x_hat float32 (3, 16 h, 16 w), not clamped."""
        x_hat = np.empty((3, STEP * y_hat.shape[1], STEP * y_hat.shape[2]), np.float32)
        for piece, part in self._pixels(y_hat, quality):
            rows, columns = in_pixels(piece)
            x_hat[:, rows, columns] = part.transpose(2, 0, 1)
        return x_hat

    def synthesise_pieces(
        self, y_hat: Sliced, quality: int, within: Piece | None = None
    ) -> Iterator[tuple[Piece, np.ndarray]]:
        """As :meth:`Engine.synthesise_pieces`."""
        for piece, part in self._pixels(y_hat, quality, within):
            yield piece, np.clip(part * 255 + np.float32(0.5), 0, 255).astype(np.uint8)

    def synthesise_float_pieces(
        self, y_hat: Sliced, quality: int, within: Piece | None = None
    ) -> Iterator[tuple[Piece, np.ndarray]]:
        """As :meth:`Engine.synthesise_float_pieces`."""
        return self._pixels(y_hat, quality, within)

    def strangeness(self, pixels: Sliced) -> float:
        """Energy of a picture (H, W, 3) beyond the lowest frequencies, relative to that of photographs: 0.3 to 2."""
        total = count = 0
        for _, coefficients in self._coefficients(pixels):
            total += np.square(coefficients[:, LOW:] / self._deviation[LOW:]).sum(dtype=np.float64)
            count += coefficients[:, LOW:].size
        return total / count if count else 1.0  # so few channels tell nothing

    def _coefficients(self, pixels):
        """Yield (Piece, float32 (positions, M)), orthonormal."""
        height, width = (n // STEP for n in padded_size(*pixels.shape[:2]))
        for piece in pieces(height, width):
            x = _squares(pixels, piece)
            x = np.divide(x, 255, dtype=np.float32) if x.dtype == np.uint8 else x.astype(np.float32)
            yield piece, (x - np.float32(0.5)) @ self._matrix.T

    def _pixels(self, y_hat, quality, within=None):
        """Yield (Piece, float32 (16 x piece's height, 16 x piece's width, 3))."""
        _, rows, columns = y_hat.shape
        for piece in pieces(rows, columns, within):
            y = np.asarray(y_hat[:, piece.top : piece.bottom, piece.left : piece.right])
            y = y.reshape(len(y), -1).T.astype(np.float32) * self._step(quality)
            x = y @ self._matrix + np.float32(0.5)
            height, width = piece.size
            x = x.reshape(height, width, 16, 48).transpose(0, 2, 1, 3)
            yield piece, x.reshape(16 * height, 16 * width, 3)

    def _step(self, quality):
        return np.exp(graphs.interpolated(self._log_step, scale.position(quality, self.config.anchors)))


class _Preview:
    """What g_s makes of latents at an eighth of the size if its blocks added nothing: linear, of 3 x 3 latents."""

    def __init__(self, config, weights):
        enter, up, patch = (weights[f"g_s.{name}.weight"].astype(np.float64) for name in ("enter", "up", "patch"))
        b_enter, b_up, b_patch = (weights[f"g_s.{name}.bias"].astype(np.float64) for name in ("enter", "up", "patch"))
        # y -> the four positions at 1/8: channels stand before positions, as pixel_shuffle has them.
        up = up.reshape(len(up), -1)
        at8 = (up @ enter.reshape(len(enter), -1)).reshape(config.synthesis_width8, 4, config.M)
        b_at8 = (up @ b_enter + b_up).reshape(config.synthesis_width8, 4)
        # The patches of 8 x 8 pixels -> their means.
        patch, b_patch = patch.reshape(3, -1, *patch.shape[1:]).mean(1), b_patch.reshape(3, -1).mean(1)
        matrix, bias = np.zeros((3, 3, 2, 2, 3, config.M)), np.zeros((2, 2, 3))
        for a, b, i, j in np.ndindex(2, 2, 3, 3):
            (down, row), (across, column) = divmod(a + i - 1, 2), divmod(b + j - 1, 2)
            position = 2 * row + column
            matrix[down + 1, across + 1, a, b] += patch[:, :, i, j] @ at8[:, position]
            bias[a, b] += patch[:, :, i, j] @ b_at8[:, position]
        self._matrix = matrix.reshape(-1, config.M).T.astype(np.float32)  # (M, 9 neighbours x 4 positions x 3 colours)
        self._bias = (bias + b_patch + 0.5).astype(np.float32)  # the network makes x_hat - 1/2

    def __call__(self, y, piece, outer):
        """y (h, w, M) of the outer piece, one latent larger than the piece where there are any -> (2 h, 2 w, 3)."""
        margins = [
            (1 - piece.top + outer.top, 1 - outer.bottom + piece.bottom),
            (1 - piece.left + outer.left, 1 - outer.right + piece.right),
        ]
        parts = np.pad((y @ self._matrix).reshape(*outer.size, 3, 3, 2, 2, 3), [*margins, *[(0, 0)] * 5], mode="edge")
        height, width = piece.size
        total = self._bias + sum(
            parts[down : down + height, across : across + width, down, across] for down, across in np.ndindex(3, 3)
        )
        return total.transpose(0, 2, 1, 3, 4).reshape(2 * height, 2 * width, 3)


# Pixels <-> rows of squares


def in_pixels(piece: Piece) -> tuple[slice, slice]:
    """Slices of a picture's rows and columns."""
    return slice(STEP * piece.top, STEP * piece.bottom), slice(STEP * piece.left, STEP * piece.right)


def _squares(pixels, piece):
    """The 16 x 16 squares of a piece of a picture (H, W, 3), its border repeated: (positions, 768), same type."""
    rows, columns = in_pixels(piece)
    part = np.asarray(pixels[rows, columns])
    missing = (
        rows.stop - rows.start - part.shape[0],
        columns.stop - columns.start - part.shape[1],
    )
    if any(missing):
        part = np.pad(part, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    height, width = piece.size
    return part.reshape(height, 16, width, 16, 3).transpose(0, 2, 1, 3, 4).reshape(height * width, -1)


def _from_squares(squares, piece):
    """Rows of 8 x 8 pixels (positions at 1/8, 192) -> (16 x piece's height, 16 x piece's width, 3)."""
    height, width = (2 * n for n in piece.size)
    return squares.reshape(height, width, 8, 24).transpose(0, 2, 1, 3).reshape(8 * height, 8 * width, 3)


class _Geometry(NamedTuple):
    """What the synthesis of a piece takes from where.

    Attributes:
        raster: positions of the outer piece for each row of the stream at 1/16.
        inputs: the graph's int32 inputs.
        out: rows of the result, in raster order at 1/8.
    """

    raster: np.ndarray
    inputs: dict[str, np.ndarray]
    out: np.ndarray


def _synthesis_geometry(piece, middle, outer, config):
    """_Geometry: 1/16 on the outer piece, 1/8 on the middle one, pixels of the piece itself."""
    stream16 = layout(*outer.size, config.synthesis_width16)
    stream8 = layout(2 * middle.size[0], 2 * middle.size[1], config.synthesis_width8)
    core = layout(2 * piece.size[0], 2 * piece.size[1], 16 * graphs.PARTS)  # no part is empty
    r, c = np.divmod(stream8.raster, stream8.width)
    latent = (r // 2 + middle.top - outer.top) * outer.size[1] + c // 2 + middle.left - outer.left
    inputs = {
        "neighbours16": stream16.neighbours,
        "up": (4 * stream16.stream[latent] + 2 * (r % 2) + c % 2).astype(np.int32),
    }
    wanted = stream8.core_neighbours(2 * (piece.top - middle.top), 2 * (piece.left - middle.left), core)
    for name, neighbours in (("neighbours8", stream8.neighbours), ("neighbours_patch", wanted)):
        for k, part in enumerate(np.array_split(neighbours.reshape(36, -1), graphs.PARTS, axis=1)):
            inputs[f"{name}.{k}"] = np.ascontiguousarray(part).reshape(-1)
    return _Geometry(stream16.raster, inputs, core.stream)


# Loading


def _open(graph, arrays, threads, arena):
    """Session of a graph on the CPU; its initialisers are ``arrays``. With an arena it keeps its memory after a run."""
    ort = _onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4  # its errors are exceptions; lines on stderr would be noise
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = False  # pieces differ in size
    options.enable_cpu_mem_arena = arena
    # Threads that wait for work let others have the core: NumPy, and what else a busy machine runs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    values = [ort.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
    options.add_external_initializers(list(arrays), values)
    try:
        return ort.InferenceSession(graph.serialise(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common base but this
        if is_memory(error):
            raise
        raise ModelError(f"ONNX Runtime {ort.__version__} cannot run the network: {error}") from None


def _onnxruntime():
    """The module. From 1.29 on it reports to its makers, unless told not to before it is loaded.

    Nobody who compresses a picture asks for that; and a forked child waits for the reporting thread when it exits.
    """
    if "onnxruntime" not in sys.modules:
        before = os.environ.get("ORT_DISABLE_TELEMETRY")
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        try:
            import onnxruntime

            onnxruntime.disable_telemetry_events()
        finally:
            if before is None:
                del os.environ["ORT_DISABLE_TELEMETRY"]
            else:
                os.environ["ORT_DISABLE_TELEMETRY"] = before
    return sys.modules["onnxruntime"]


def read_folder(folder: StrPath) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """``(ModelConfig, tensors)`` of a model folder: name -> array, nothing of it checked but the config.

    What config.json says to the encoder alone joins the tensors: it has no part in what files mean, nor in the id.

    Raises:
        ModelError: a file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    folder = Path(folder)
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = ModelConfig.from_dict(values["architecture"])
        tensors = load_file(folder / "weights.safetensors")
        for name, numbers in values.get("encoder", {}).items():
            tensors[f"entropy.{name}"] = np.asarray(numbers, np.float32)
    except FileNotFoundError as error:
        raise ModelError(f"{folder}: no {Path(error.filename or 'weights.safetensors').name}") from None
    except (
        OSError,
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
        RecursionError,
        SafetensorError,
    ) as error:
        raise ModelError(f"{folder}: {type(error).__name__}: {error}") from None
    if not isinstance(config, ModelConfig):
        raise ModelError(f"{folder}: a model of the first architecture, which this engine does not run")
    return config, tensors


def float_weights(config: ModelConfig, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The float weights among a model's tensors, checked: name -> float16 or float32 array.

    Raises:
        ModelError: one is missing, unknown, of another shape or type, or not finite.
    """
    found = {name: array for name, array in tensors.items() if not name.startswith("entropy.")}
    shapes = graphs.weight_shapes(config)
    for name, shape in shapes.items():
        array = tensor(found, name)
        if array.shape != shape:
            raise ModelError(f"the weights' {name} is {array.shape}, and config.json asks for {shape}")
        if array.dtype not in (np.float16, np.float32):
            raise ModelError(f"the weights' {name} is {array.dtype}; float16 and float32 are allowed")
        if not np.isfinite(array).all():
            raise ModelError(f"the weights' {name} holds infinities or NaN")
    unknown = sorted(found.keys() - shapes.keys())
    if unknown:
        raise ModelError(f"the weights hold {unknown[0]}, which config.json does not ask for")
    return found

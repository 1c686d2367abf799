"""Entropy model: symbols <-> byte strings.

The latents y are coded as Gaussian scale mixtures whose mean and scale come from the side information z and from the
part of y that is already known (mean-scale hyperprior: Minnen, Balle, Toderici 2018, arXiv:1809.02736), in four passes
over a quadtree of positions and channel groups (Li, Li, Lu 2023, arXiv:2302.14402):

    pass    position (even, even)  (even, odd)  (odd, even)  (odd, odd)
    0                  group 0        group 1      group 2     group 3       hyperprior only
    1                  group 3        group 2      group 1     group 0       + pass 0
    2                  group 1        group 0      group 3     group 2       + passes 0, 1
    3                  group 2        group 3      group 0     group 1       + passes 0, 1, 2

Group g holds the channels c with c mod 4 = g. Each pass knows every position in one more channel group, and each group
at the diagonal neighbours before the direct ones.

All networks here are integer networks (:mod:`codec.integer`). Their inputs are symbols; they return a mean in 1/16
of a symbol and the index of a CDF row. The CDF tables are built once, when a model is exported, from CompressAI's
EntropyBottleneck and GaussianConditional, and travel in the weights file. CompressAI's rANS coder writes the bytes.
"""

import functools
import importlib.machinery
import importlib.util
import math
import zlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .errors import Corrupt, ModelError
from .integer import QUALITY_MAX, ExactLayer, anchor_position, exact_arithmetic
from .latents.networks import COMPAND_LIMIT, LEVELS, Y_LIMIT, Z_LIMIT, architecture, compand_table
from .latents.quadtree import GROUPS, MEAN_UNIT, PASSES, positions
from .quantise import round_half_up, round_ste

# --- Quadtree ------------------------------------------------------------------------------------------------------


def take(y, k):
    """Pass k of latents (B, M, h, w): (B, 4, M/4, h/2, w/2), with the groups along dimension 1."""
    return _Take.apply(y, k)


def place(part, k):
    """Inverse of :func:`take`: (B, M, h, w), zero where other passes belong."""
    return _Place.apply(part, k)


def split(y):
    """The four passes of latents (B, M, h, w)."""
    return [take(y, k) for k in range(len(PASSES))]


class _Take(torch.autograd.Function):
    """take and place are each other's gradient; slice assignments alone would cost autograd a copy each."""

    @staticmethod
    def forward(ctx, y, k):
        ctx.k = k
        return torch.stack([y[:, g::GROUPS, i::2, j::2] for g, (i, j) in enumerate(positions(k))], dim=1)

    @staticmethod
    def backward(ctx, grad):
        return _Place.forward(ctx, grad, ctx.k), None


class _Place(torch.autograd.Function):
    @staticmethod
    def forward(ctx, part, k):
        ctx.k = k
        batch, _, channels, height, width = part.shape
        y = part.new_zeros(batch, GROUPS * channels, 2 * height, 2 * width)
        for g, (i, j) in enumerate(positions(k)):
            y[:, g::GROUPS, i::2, j::2] = part[:, g]
        return y

    @staticmethod
    def backward(ctx, grad):
        return _Take.forward(ctx, grad, ctx.k), None


def gather(features, k):
    """(B, C, h, w) -> (B, 4 C, h/2, w/2): the features at the positions of groups 0 to 3 at pass k."""
    return torch.cat([features[:, :, i::2, j::2] for i, j in positions(k)], dim=1)


# --- Networks ------------------------------------------------------------------------------------------------------


class Chain(nn.Module):
    """Layers in sequence; the integers 2 in between are pixel shuffles."""

    def __init__(self, *steps):
        super().__init__()
        self.layers = nn.ModuleList(s for s in steps if isinstance(s, nn.Module))
        self._order = [s if isinstance(s, int) else None for s in steps]

    def forward(self, a, quality):
        layers = iter(self.layers)
        for factor in self._order:
            a = F.pixel_shuffle(a, factor) if factor else next(layers)(a, quality)
        return a


class EntropyNetworks(nn.Module):
    """h_s and the four context networks, made of trainable or exact layers.

    Args:
        config: ModelConfig.
        layer: LayerSpec -> layer; TrainableLayer or ExactLayer.
    """

    def __init__(self, config, layer):
        super().__init__()
        self.config = config
        made = architecture(config)
        self.plan, self.limit = made.plan, made.limit

        def chain(steps):
            return Chain(*(step if isinstance(step, int) else layer(step) for step in steps))

        self.h_s = chain(made.h_s)
        self.contexts = nn.ModuleList(
            nn.ModuleDict({"trunk": chain(c.trunk), "mean": layer(c.mean), "index": layer(c.index)})
            for c in made.contexts
        )
        if self.plan.companded:
            compand = torch.from_numpy(compand_table(config.activation_bits))
            self.register_buffer("compand", compand.float(), persistent=False)

    # As :func:`codec.latents.quadtree.walk` wants it; what is known is (features, y_hat in 1/16 of a symbol).

    def begin(self, z_hat, quality):
        return self.features(z_hat, quality), 0.0

    def predict(self, k, known, quality):
        return self.context(k, *known, quality)

    def learn(self, k, known, part):
        features, latents = known
        return features, latents + place(part, k)

    def features(self, z_hat, quality):
        """Integer z_hat (B, N, h/4, w/4) -> integer features (B, C, h, w)."""
        return self.h_s(z_hat, quality)

    def context(self, k, features, known, quality):
        """Means (in 1/16) and CDF indexes of pass k, both (B, 4, M/4, h/2, w/2) integers.

        Args:
            k: pass, 0 to 3.
            features: from :meth:`features`.
            known: y_hat (B, M, h, w) in 1/16 of a symbol, zero where it is not known yet; not read at pass 0.
        """
        net = self.contexts[k]
        if k:
            features = torch.cat([features, self.context_input(known)], dim=1)
        hidden = gather(net["trunk"](features, quality), k)
        shape = (hidden.shape[0], GROUPS, self.config.M // GROUPS, *hidden.shape[-2:])
        return net["mean"](hidden, quality).view(shape), net["index"](hidden, quality).view(shape)

    def context_input(self, known):
        """Latents (in 1/16) as the context networks read them: integers, companded by a table."""
        if self.plan.companded:
            return _Compand.apply(known, self.compand)
        scale = 2**self.config.activation_bits / 256 / MEAN_UNIT
        return round_ste(known * scale).clamp(-self.limit, self.limit)

    def layers(self):
        """(name, layer) of every integer layer."""
        for name, module in self.named_modules():
            if hasattr(module, "set_integers"):
                yield name, module


class _Compand(torch.autograd.Function):
    """Table look-up with the gradient of what the table stands for."""

    @staticmethod
    def forward(ctx, known, table):
        magnitude = known.abs()
        ctx.save_for_backward(magnitude, table)
        return table[magnitude.clamp(max=COMPAND_LIMIT).long()] * known.sign()

    @staticmethod
    def backward(ctx, grad):
        magnitude, table = ctx.saved_tensors
        unit = table[-1].item() / math.log1p(COMPAND_LIMIT / MEAN_UNIT)
        return grad * (unit / (MEAN_UNIT + magnitude)) * (magnitude <= COMPAND_LIMIT), None


class Dequantiser(nn.Module):
    """Where in its interval a symbol is reconstructed for the synthesis, learned for each row of the table.

    Small predicted deviations mean that most of what was rounded to 1 lies near 1/2. The entropy networks know the
    deviation, the synthesis does not. What they read themselves stays in the middle of the interval, and exact. Each
    anchor quality has a table of its own: one for all gained at high rates and cost at low ones.

    Args:
        anchors: number of anchor qualities.
    """

    MAGNITUDES = 3  # 1, 2, and all from 3 on have a value of their own

    def __init__(self, anchors):
        super().__init__()
        self.shrink = nn.Parameter(torch.zeros(anchors, LEVELS, self.MAGNITUDES))

    def forward(self, symbols, indexes, quality):
        """Shift of each latent towards its mean, in symbols.

        Args:
            symbols, indexes: integer-valued floats (B, ...), of one shape, which the result has too.
            quality: hundredths; (B,), or one for all.
        """
        quality = torch.as_tensor(quality, dtype=torch.float32, device=self.shrink.device).expand(len(symbols))
        left, position = anchor_position(quality, len(self.shrink))
        table = torch.lerp(self.shrink[left], self.shrink[left + 1], position[:, None, None])
        magnitude = symbols.detach().abs().clamp(1, self.MAGNITUDES)
        cell = (indexes.detach() * self.MAGNITUDES + magnitude - 1).long()
        shift = table.flatten(1).gather(1, cell.flatten(1)).view_as(symbols)
        return -symbols.detach().sign() * shift


# --- Coding --------------------------------------------------------------------------------------------------------


@functools.cache
def _ans():
    """CompressAI's rANS extension, without importing the compressai package.

    ``import compressai`` also imports torch-geometric, pandas, scipy and torchvision (seconds); its extension module
    needs none of them.
    """
    package = importlib.machinery.PathFinder.find_spec("compressai")
    spec = package and importlib.machinery.PathFinder.find_spec("compressai.ans", package.submodule_search_locations)
    if spec is None:
        raise ModelError("the package compressai is not installed; pip install compressai")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Tables:
    """CDF rows as the rANS coder wants them.

    Args:
        cdf: int32 (total,), all rows one after the other, 16-bit cumulative frequencies.
        lengths: int32 (rows,), entries of each row, the tail bin included.
        offsets: int32 (rows,), value of each row's first symbol.
    """

    def __init__(self, cdf, lengths, offsets):
        ends = torch.cumsum(lengths.long(), 0).tolist()
        flat = cdf.tolist()
        self.lengths, self.offsets = lengths.tolist(), offsets.tolist()
        self.rows = [flat[end - n : end] for end, n in zip(ends, self.lengths)]

    def select(self, start, stop):
        """The tables' rows start to stop, as the three lists that the coder takes."""
        return self.rows[start:stop], self.lengths[start:stop], self.offsets[start:stop]


class EntropyCoder(nn.Module):
    """Exact entropy networks and CDF tables: everything that encoder and decoder must agree on."""

    def __init__(self, config, dtype=None):
        super().__init__()
        self.config = config
        self.networks = EntropyNetworks(config, functools.partial(ExactLayer, dtype=dtype))
        self.dequantiser = Dequantiser(config.anchors)
        self.z_tables = self.y_tables = None

    @torch.no_grad()
    def load(self, tensors):
        """Fill networks and tables from the tensors of a weights file (see :func:`export_tensors`)."""
        for name, layer in self.networks.layers():
            layer.set_integers({key: tensors[f"entropy.{name}.{key}"] for key in layer.integers()})
        if self.networks.plan.companded:
            self.networks.compand.copy_(tensors["entropy.compand"])
        for which in ("z", "y"):
            parts = (tensors[f"entropy.{which}_{key}"] for key in ("cdf", "lengths", "offsets"))
            setattr(self, f"{which}_tables", Tables(*parts))
        if "entropy.shrink" in tensors:  # early models have none, or one for all qualities
            self.dequantiser.shrink.copy_(tensors["entropy.shrink"])

    def _z_rows(self, quality):
        """Rows of the prior of z that belongs to the nearest anchor quality."""
        anchor = (quality * (self.config.anchors - 1) + QUALITY_MAX // 2) // QUALITY_MAX
        return self.z_tables.select(anchor * self.config.N, (anchor + 1) * self.config.N)

    def _y_rows(self, k):
        """Rows of the scales at pass ``k``. Early models have the same, of plain Gaussians, for all passes."""
        start = k * LEVELS if len(self.y_tables.rows) > LEVELS else 0
        return self.y_tables.select(start, start + LEVELS)

    @torch.no_grad()
    def encode(self, z, y, quality, lattice=False):
        """Byte strings of one image, and what the decoder will make of them.

        Args:
            z: float (1, N, h/4, w/4), side information before rounding.
            y: float (1, M, h, w), gained latents before rounding (in symbols).
            quality: int, hundredths.
            lattice: y_hat is made of whole numbers, and symbols of row 0 are coded too: for latents of the plain
                transform, which the networks predict less well.

        Returns:
            ``(z_string, y_string, y_hat, crc)``; y_hat (1, M, h, w) in symbols, for the synthesis; crc is the CRC-32
            of all symbols.
        """
        with exact_arithmetic(y.device):
            return self._encode(z, y, quality, lattice)

    def _encode(self, z, y, quality, lattice):
        z_hat = round_half_up(z).clamp(-Z_LIMIT, Z_LIMIT)
        symbols = z_hat.flatten().to(torch.int16).cpu().numpy()
        z_coder = _ans().RansEncoder()
        indexes = _channel_indexes(z_hat.shape)
        z_string = z_coder.encode_with_indexes(symbols.tolist(), indexes.tolist(), *self._z_rows(quality))
        crc = _checksum(symbols)

        features = self.networks.features(z_hat, quality)
        y_coder = _ans().BufferedRansEncoder()
        known = shift = 0.0
        for k, part in enumerate(split(y)):
            means, indexes = self._predict(k, features, known, quality, lattice)
            symbols = round_half_up(part - means / MEAN_UNIT).clamp(-Y_LIMIT, Y_LIMIT)
            if not lattice:
                symbols = torch.where(indexes > 0, symbols, 0.0)
                shift = shift + place(self.dequantiser(symbols, indexes, quality), k)
            known = known + place(symbols * MEAN_UNIT + means, k)
            coded, index = _coded(symbols.cpu(), indexes.cpu(), lattice)
            y_coder.encode_with_indexes(coded.tolist(), index.tolist(), *self._y_rows(k))
            crc = _checksum(coded, crc)
        return z_string, y_coder.flush(), known / MEAN_UNIT + shift, crc

    @torch.no_grad()
    def decode(self, z_string, y_string, height, width, quality, crc, device="cpu", lattice=False):
        """Inverse of :meth:`encode` for latents of size (height, width).

        Returns:
            y_hat (1, M, height, width), the encoder's, bit for bit.

        Raises:
            Corrupt: the strings do not decode to the symbols whose checksum is ``crc``.
        """
        with exact_arithmetic(device):
            return self._decode(z_string, y_string, height, width, quality, crc, device, lattice)

    def _predict(self, k, features, known, quality, lattice):
        """Means (in 1/16) and rows of pass ``k``."""
        means, indexes = self.networks.context(k, features, known, quality)
        return (MEAN_UNIT * round_half_up(means / MEAN_UNIT) if lattice else means), indexes

    def _decode(self, z_string, y_string, height, width, quality, crc, device, lattice):
        shape = (1, self.config.N, height // 4, width // 4)
        indexes = _channel_indexes(shape)
        z_coder = _ans().RansDecoder()
        z_coder.set_stream(_padded(z_string, indexes.size))
        symbols = _checked(z_coder.decode_stream(indexes.tolist(), *self._z_rows(quality)), Z_LIMIT)
        found = _checksum(symbols)
        z_hat = torch.from_numpy(symbols.astype(np.float32)).view(shape).to(device)

        features = self.networks.features(z_hat, quality)
        y_coder = _ans().RansDecoder()
        y_coder.set_stream(_padded(y_string, self.config.M * height * width))
        known = shift = 0.0
        for k in range(len(PASSES)):
            means, indexes = self._predict(k, features, known, quality, lattice)
            index = indexes.flatten().to(torch.int32).cpu().numpy()
            where = np.arange(len(index)) if lattice else np.flatnonzero(index)
            coded = _checked(y_coder.decode_stream(index[where].tolist(), *self._y_rows(k)), Y_LIMIT)
            found = _checksum(coded, found)
            symbols = np.zeros(index.shape, np.float32)
            symbols[where] = coded
            symbols = torch.from_numpy(symbols).view(means.shape).to(device)
            known = known + place(symbols * MEAN_UNIT + means, k)
            if not lattice:
                shift = shift + place(self.dequantiser(symbols, indexes, quality), k)
        if found != crc:
            raise Corrupt("the coded symbols do not match their checksum")
        return known / MEAN_UNIT + shift


def _channel_indexes(shape):
    """Row of the prior for each symbol of z: its channel."""
    _, channels, height, width = shape
    return np.repeat(np.arange(channels, dtype=np.int32), height * width)


def _coded(symbols, indexes, every):
    """The symbols that are written (``every`` one, or index above zero) and their rows, as int16 and int32 arrays."""
    index = indexes.flatten().to(torch.int32).numpy()
    where = np.arange(len(index)) if every else np.flatnonzero(index)
    return symbols.flatten().to(torch.int16).numpy()[where], index[where]


def _padded(string, symbols):
    """The string followed by zeros, because the coder does not check for its end.

    Past the end a symbol takes at most 16 bits. A tail value costs as many nibbles as it announces, and a hostile
    string can announce 15 for each of its own nibbles.
    """
    return string + bytes(4 * symbols + 16 * len(string) + 64)


def _checksum(symbols, start=0):
    """CRC-32 over int16 symbols as little-endian bytes, continuing from ``start``."""
    return zlib.crc32(symbols.astype("<i2", copy=False).tobytes(), start)


def _checked(values, limit):
    """Decoded integers as int16; values that no encoder writes are refused."""
    values = np.asarray(values, dtype=np.int64)
    if values.size and np.abs(values).max() > limit:
        raise Corrupt("a coded symbol is out of range")
    return values.astype(np.int16)

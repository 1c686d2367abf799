"""A decoder of tiles written from "What is in a tile" of codec/BITSTREAM.md: Python's and int64 integers, slow.

It shares no code with codec/latents. ``pull(row) -> symbol`` is the entropy decoder's, :mod:`rans_referee` has one.
"""

import numpy as np

NEXT = ((0, 1), (3, 2), (5, 4), (7, 6), (1, 0), (2, 3), (4, 5), (6, 7))


class TileReferee:
    """Latents of one tile.

    Args:
        config: dict, the architecture of config.json. tensors: ``{name: array}`` of the weights file.
        quality: hundredths. plain: whether the latents are those of the plain transform. dependent: whether they were
            quantised by a trellis.
    """

    def __init__(self, config, tensors, quality, plain=False, dependent=False):
        self.config, self.tensors, self.q, self.plain = config, tensors, quality, plain
        self.dependent = dependent
        self.symbols = []
        anchors = config["anchors"]
        self.left = min(quality * (anchors - 1) // 10000, anchors - 2)
        self.t = quality * (anchors - 1) - 10000 * self.left

    # Scalar latents

    def scalar(self, pull, h, w):
        """y_hat float64 (M, h, w)."""
        M, N, anchors = (self.config[name] for name in ("M", "N", "anchors"))
        nearest = (self.q * (anchors - 1) + 5000) // 10000
        z = np.zeros((N, h // 4, w // 4), np.int64)
        for n, row, column in np.ndindex(z.shape):
            z[n, row, column] = self.taken(pull(N * nearest + n), 255)
        features = self.features(z)
        known, _, y_hat = np.zeros((3, M, h, w))
        known = known.astype(np.int64)
        shrink = self.tensors["entropy.trellis_shrink" if self.dependent else "entropy.shrink"]
        low, high = shrink[self.left : self.left + 2].astype(float)
        shrink = np.pad(low + (high - low) * self.t / 10000, ((0, 0), (1, 0)))
        for k in range(4):
            a = features if k == 0 else np.concatenate([features, known])
            a = self.trunk(f"entropy.contexts.{k}.trunk", a)
            part, meant, rows = np.zeros((3, 4, M // 4, h // 2, w // 2), np.int64)
            places = [divmod(g ^ (0, 3, 1, 2)[k], 2) for g in range(4)]
            for g, (i, j) in enumerate(places):
                here = a[:, i::2, j::2]
                own = slice(g * M // 4, (g + 1) * M // 4)
                meant[g] = self.layer(f"entropy.contexts.{k}.mean", here, -4095, 4095, rows=own)
                rows[g] = self.layer(f"entropy.contexts.{k}.index", here, 0, 63, rows=own)
            if self.plain:
                meant = 16 * ((meant + 8) // 16)
            decode = self.chains if self.dependent else self.rounded
            for at, symbol, v, row in decode(pull, k, meant, rows):
                part[at] = v
                g, c, i, j = at
                off = 0 if self.plain else np.sign(symbol) * shrink[row, min(abs(symbol), 3)]
                y_hat[4 * c + g, 2 * i + places[g][0], 2 * j + places[g][1]] = v / 16 - off
            compand = self.tensors["entropy.compand"].astype(np.int64)
            for g, (i, j) in enumerate(places):
                known[g::4, i::2, j::2] = np.sign(part[g]) * compand[np.minimum(np.abs(part[g]), 16383)]
        return y_hat

    def rounded(self, pull, k, means, rows):
        """Yield (place, symbol, v, row of the shift) of every latent of pass k."""
        start = self.config["N"] * self.config["anchors"] + 64 * k
        for at in np.ndindex(means.shape):
            row, symbol = int(rows[at]), 0
            if row >= 5 or self.plain:
                symbol = self.taken(pull(start + row), 2047)
            yield at, symbol, 16 * symbol + means[at], row

    def chains(self, pull, k, means, rows):
        """As :meth:`rounded`, by dependent quantisation."""
        start = self.config["N"] * self.config["anchors"] + 256 + 128 * k
        places = list(np.ndindex(means.shape))
        for at in (at for at in places if rows[at] < 10):
            symbol = self.taken(pull(start + int(rows[at])), 2047) if rows[at] >= 5 else 0
            yield at, symbol, 16 * symbol + means[at], rows[at]
        places = [at for at in places if rows[at] >= 10]
        number = -(-len(places) // 64)
        state = [0] * number
        for n, at in enumerate(places):
            quantiser = state[n % number] % 2
            symbol = self.taken(pull(start + 64 * quantiser + int(rows[at])), 2047)
            v = means[at] + 20 * symbol - 10 * quantiser * ((symbol > 0) - (symbol < 0))
            state[n % number] = NEXT[state[n % number]][symbol % 2]
            yield at, symbol, v, 64 * quantiser + rows[at]

    def taken(self, symbol, limit):
        if abs(symbol) > limit:
            raise ValueError("range")
        self.symbols.append(symbol)
        return symbol

    def features(self, a):
        name = "entropy.h_s.layers"
        a = shuffled(self.leaky(f"{name}.0", a))
        a = shuffled(self.leaky(f"{name}.2", self.depthwise(f"{name}.1", a)))
        return self.leaky(f"{name}.4", self.depthwise(f"{name}.3", a))

    def trunk(self, name, a):
        a = self.leaky(f"{name}.layers.0", a)
        a = self.leaky(f"{name}.layers.2", self.depthwise(f"{name}.layers.1", a))
        return self.leaky(f"{name}.layers.4", self.depthwise(f"{name}.layers.3", a))

    def leaky(self, name, a):
        limit = 2 ** self.config["activation_bits"] - 1
        return self.layer(name, a, -limit, limit, leaky=True)

    def depthwise(self, name, a):
        limit = 2 ** self.config["activation_bits"] - 1
        _, h, w = a.shape
        around = np.pad(a, ((0, 0), (1, 1), (1, 1)))
        nine = np.stack([around[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], 1)
        total = (nine * self.tensors[f"{name}.weight"].astype(np.int64)[:, :, None, None]).sum(1)
        return self.requantised(name, total, -limit, limit)

    def layer(self, name, a, low, high, leaky=False, rows=slice(None)):
        total = np.einsum("oc,chw->ohw", self.tensors[f"{name}.weight"][rows].astype(np.int64), a)
        return self.requantised(name, total, low, high, leaky, rows)

    def requantised(self, name, total, low, high, leaky=False, rows=slice(None)):
        bias = self.tensors[f"{name}.bias"].astype(np.int64)
        if len(bias) > 1:
            bias = (bias[self.left] * (10000 - self.t) + bias[self.left + 1] * self.t + 5000) // 10000
        bias = bias.reshape(-1)[rows]
        out = np.zeros(total.shape, np.int64)
        for o, (m, s) in enumerate(
            zip(self.tensors[f"{name}.multiplier"][rows].tolist(), self.tensors[f"{name}.shift"][rows].tolist())
        ):
            # In units of 2^-(s + 8): Python's integers, as there is no telling how large they are.
            one = 2 ** (s + 8)
            for at in np.ndindex(total.shape[1:]):
                v = (m * int(total[(o, *at)]) << 8) + (int(bias[o]) << s)
                rounded = (v + 4 * one) // (8 * one) if leaky and v < 0 else (2 * v + one) // (2 * one)
                out[(o, *at)] = min(max(rounded, low), high)
        return out

    # Latents made of codes

    def vector(self, pull, h, w):
        """y_hat float32 (M, h, w) of one level."""
        return self.level("entropy.vq", pull, h, w)

    def hierarchical(self, pull, h, w):
        """y_hat of two levels: the upper one at a quarter of the size, then the lower one."""
        z = np.clip(self.level("entropy.upper", pull, h // 4, w // 4), -255, 255).astype(np.int64)
        features, pairs = self.features(z), self.tensors["entropy.vq.first_quality"].shape
        unit = self.tensors["entropy.lower.unit"].astype(np.float32)[:, None, None] / np.float32(16)
        mean = self.layer("entropy.lower.mean", features, -4095, 4095).astype(np.float32) * unit
        classes = self.layer("entropy.lower.index", features, 0, 3).reshape(*pairs, h, w)
        start = 12 * self.tensors["entropy.upper.first_quality"].size
        return mean + self.level("entropy.vq", pull, h, w, classes, start)

    def level(self, prefix, pull, h, w, classes=None, start=0):
        """Sum of the codewords float32 (channels, h, w)."""
        books, magnitudes, first = (
            self.tensors[f"{prefix}.{name}"] for name in ("codebooks", "magnitudes", "first_quality")
        )
        stages, groups, _, dim = books.shape
        m, y_hat = {}, np.zeros((groups * dim, h, w), np.float32)
        nothing = np.zeros((h, w), int)
        for s, g in np.ndindex(stages, groups):
            if first[s, g] > self.q:
                continue
            before = 2 * m.get((s - 1, g), nothing) + sum(m.get((s, g - i), nothing) for i in (1, 2, 3))
            m[s, g] = np.zeros((h, w), int)
            for half in (0, 1):
                for r, c in ((r, c) for r in range(h) for c in range(w) if (r + c) % 2 == half):
                    context = history = sum(limit <= before[r, c] for limit in (1, 4, 8))
                    if half:
                        near = [(r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)]
                        total = sum(m[s, g][at] for at in near if 0 <= at[0] < h and 0 <= at[1] < w)
                        context = 4 + sum(limit <= total for limit in (1, 3, 6)) + 4 * (history >= 2)
                    pair = s * groups + g
                    table = pair if classes is None else 4 * pair + int(classes[s, g, r, c])
                    index = pull(start + 12 * table + context)
                    self.symbols.append(index)
                    m[s, g][r, c] = magnitudes[s, g, index]
                    y_hat[dim * g : dim * (g + 1), r, c] += books[s, g, index].astype(np.float32)
        return y_hat


def shuffled(a):
    """(4 C, h, w) -> (C, 2 h, 2 w)."""
    out = np.zeros((len(a) // 4, 2 * a.shape[1], 2 * a.shape[2]), a.dtype)
    for i in (0, 1):
        for j in (0, 1):
            out[:, i::2, j::2] = a[2 * i + j :: 4]
    return out


def rows_of(tensors):
    """(cumulative frequencies, offset) of every table row, z before y."""
    rows = []
    for name in ("entropy.upper.frequencies", "entropy.vq.frequencies"):
        if name in tensors:
            frequencies = tensors[name]
            steps = 1 + frequencies.reshape(-1, frequencies.shape[-1]).astype(np.int64) % 65536
            rows += [([0, *row.cumsum().tolist()], 0) for row in steps]
    if rows:
        return rows
    for which in ("z", "y", "trellis"):
        if f"entropy.{which}_cdf" not in tensors:
            continue
        cdf, lengths, offsets = (tensors[f"entropy.{which}_{key}"].tolist() for key in ("cdf", "lengths", "offsets"))
        start = 0
        for length, offset in zip(lengths, offsets):
            rows.append((cdf[start : start + length], offset))
            start += length
    return rows

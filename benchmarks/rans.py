"""Time of the interleaved rANS (codec/latents/rans.py) for several numbers of lanes, against CompressAI's coder.

    python benchmarks/rans.py [--model MODEL] [--symbols 100000] [--rounds 5]

Random symbols, distributed as the tables of a model say, in rows as photographs use them. All coders take turns, and
the best round of each counts. CompressAI's coder is C++ and takes lists; making and reading the lists is part of its
time, as the codec's symbols are arrays either way. Prints nanoseconds a symbol, microseconds a step of all lanes, and
bytes beyond the ideal. ``search`` decodes as the first few thousand symbols of a process are: with a binary search
instead of look-up tables.
"""

import argparse
import time

import numpy as np
from safetensors.numpy import load_file

from codec.latents import rans
from codec.latents.rans import Decoder, Encoder, Tables, lanes_for
from codec.weights import find_model

LANES = (1, 8, 16, 64, 256, 1024)


def photograph(tables, count):
    """(rows, symbols) of a made-up picture: int64 (count,) both."""
    random = np.random.default_rng(0)
    rows = np.minimum(1 + random.exponential(12, count), 60).astype(np.int64) + 64 * random.integers(0, 4, count)
    bins = np.searchsorted(tables._bin_ends, (rows << 16) + random.integers(0, 65536, count), "right")
    return rows, bins + tables._to_symbol[rows]


def lanes_coder(tables, rows, symbols, lanes):
    """(encode, decode) with so many lanes."""

    def encode():
        encoder = Encoder(tables)
        encoder.push(rows, symbols)
        return encoder.flush(lanes)[1]

    def decode(data):
        decoder = Decoder(tables, data, lanes)
        found = decoder.pull(rows)
        decoder.finish()
        return found

    return encode, decode


def compressai_coder(tables, rows, symbols):
    from compressai import ans

    ends = np.cumsum(tables.lengths)
    cdfs = [tables.cdf[end - length : end].tolist() for end, length in zip(ends, tables.lengths, strict=True)]
    lists = cdfs, tables.lengths.tolist(), tables.offsets.tolist()

    def encode():
        return ans.RansEncoder().encode_with_indexes(symbols.tolist(), rows.tolist(), *lists)

    def decode(data):
        return np.array(ans.RansDecoder().decode_with_indexes(data, rows.tolist(), *lists))

    return encode, decode


def seconds(call, *arguments):
    started = time.perf_counter()
    result = call(*arguments)
    return time.perf_counter() - started, result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--symbols", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    settings = parser.parse_args()

    tensors = load_file(find_model(settings.model) / "weights.safetensors")
    arrays = [tensors[f"entropy.y_{key}"] for key in ("cdf", "lengths", "offsets")]
    tables = Tables(*arrays)
    rows, symbols = photograph(tables, settings.symbols)
    ideal = tables.bits(rows, symbols).sum(dtype=float) / 8
    print(f"{settings.symbols} symbols, {ideal:.0f} bytes ideal; the encoder would take {lanes_for(ideal)} lanes")

    coders = {"CompressAI": (1, *compressai_coder(tables, rows, symbols))}
    searching = Tables(*arrays)
    for lanes in LANES:
        coders[f"{lanes} lanes"] = lanes, *lanes_coder(tables, rows, symbols, lanes)
        if lanes >= rans.SCALAR_LANES:
            coders[f"{lanes} lanes, search"] = lanes, *lanes_coder(searching, rows, symbols, lanes)
    price = rans.LOOKUP_PRICE
    best = {}
    for _ in range(settings.rounds):
        for name, (_, encode, decode) in coders.items():
            rans.LOOKUP_PRICE = 10**12 if name.endswith("search") else price
            encoding, data = seconds(encode)
            decoding, found = seconds(decode, data)
            assert (found == symbols).all()
            previous = best.get(name, (9e9, 9e9, 0))
            best[name] = min(encoding, previous[0]), min(decoding, previous[1]), len(data)

    print(f"{'':20}  encode ns  decode ns  us a step  bytes over ideal")
    for name, (encoding, decoding, size) in best.items():
        ns, step = 1e9 / settings.symbols, 1e6 * coders[name][0] / settings.symbols
        print(f"{name:20} {encoding * ns:10.0f} {decoding * ns:10.0f} {decoding * step:10.1f} {size - ideal:17.0f}")


if __name__ == "__main__":
    main()

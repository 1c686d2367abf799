import pickle
import random
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.errors import BitstreamError, Corrupt, ModelError, Truncated
from codec.latents import rans
from codec.latents.rans import SYMBOL_LIMIT, Decoder, Encoder, Tables, lanes_for
from rans_referee import RefereeDecoder

DOCUMENT = Path(rans.__file__).with_name("RANS.md").read_text(encoding="utf-8")

deterministic = settings(derandomize=True, deadline=None, database=None)


def int32(values):
    return np.array(values, np.int32)


def tables_of(rows):
    """Tables of [(cdf, offset), ...]."""
    return Tables(
        int32([c for cdf, _ in rows for c in cdf]),
        int32([len(cdf) for cdf, _ in rows]),
        int32([offset for _, offset in rows]),
    )


def rows_of(tables):
    """The referee's [(cdf, offset), ...]."""
    ends = np.cumsum(tables.lengths)
    cdfs = [tables.cdf[end - length : end].tolist() for end, length in zip(ends, tables.lengths)]
    return list(zip(cdfs, tables.offsets.tolist()))


def gaussian_tables(scales):
    """Rows of discretised Gaussians (a bell of that width would do; these need no erf)."""
    rows = []
    for scale in scales:
        half = max(1, int(3.5 * scale))
        weight = np.exp(-0.5 * (np.arange(-half, half + 1) / scale) ** 2) + 1e-9
        frequency = [*np.maximum(1, np.floor(weight / weight.sum() * 65000)).astype(int).tolist(), 1]
        frequency[half] += 65536 - sum(frequency)
        rows.append(([0, *np.cumsum(frequency).tolist()], -half))
    return tables_of(rows)


SMALL = gaussian_tables([0.2, 0.7, 3.0, 40.0])
MANY = gaussian_tables(0.11 * np.exp(np.arange(64) * np.log(256 / 0.11) / 63))


def encode(tables, rows, symbols, lanes=None):
    encoder = Encoder(tables)
    encoder.push(np.array(rows, int), np.array(symbols, int))
    return encoder.flush(lanes)


def decode(tables, rows, lanes, data):
    decoder = Decoder(tables, data, lanes)
    symbols = decoder.pull(np.array(rows, int))
    decoder.finish()
    return symbols


def drawn(tables, rows, seed):
    """Symbols distributed as the tables say; about the last bin's share of them are escapes."""
    slots = np.random.default_rng(seed).integers(0, 65536, len(rows))
    where = np.searchsorted(tables._bin_ends, (rows << 16) + slots, "right")
    return where - tables._first[rows] + tables.offsets[rows]


def photograph(count, seed=0, tables=MANY):
    """Rows and symbols that resemble those of a photograph: mostly narrow rows."""
    random_numbers = np.random.default_rng(seed)
    rows = np.minimum(random_numbers.exponential(12, count), 50).astype(int)
    return rows, drawn(tables, rows, seed + 1)


# The documented stream


def documented():
    """(tables, rows, symbols, bytes, trace) of the example in RANS.md."""
    example = DOCUMENT.split("## Example")[1]
    lines = [line for line in example.splitlines() if re.match(r"\| \d", line)]
    numbers = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    tables = tables_of([([int(c) for c in cells[2].split()], int(cells[1])) for cells in numbers if len(cells) == 3])
    trace = [cells for cells in numbers if len(cells) == 8]
    dump = re.search(r"```hexdump\n(.*?)```", example, re.DOTALL)[1]
    data = b"".join(bytes.fromhex(line.split("|")[0]) for line in dump.splitlines())
    return tables, [int(c[2]) for c in trace], [int(c[6]) for c in trace], data, trace


def test_documented_example_encodes_to_its_bytes():
    tables, rows, symbols, data, _ = documented()
    assert len(tables) == 2 and len(rows) == 18 and len(data) == 15
    lanes, found = encode(tables, rows, symbols, lanes=2)
    assert (lanes, found.hex(" ")) == (2, data.hex(" "))


def test_documented_example_decodes_to_its_symbols():
    tables, rows, symbols, data, _ = documented()
    assert decode(tables, rows, 2, data).tolist() == symbols


def test_documented_trace_is_that_of_the_referee():
    tables, rows, symbols, data, trace = documented()
    referee = RefereeDecoder(rows_of(tables), data, 2)
    assert [referee.pull(row) for row in rows] == symbols
    referee.finish()
    columns = "{} {} {} {:09x} {} {} {} {:09x}"
    assert [columns.format(*step) for step in referee.trace] == [" ".join(cells) for cells in trace]


def test_literal_bytes_of_an_empty_stream():
    assert encode(SMALL, [], []) == (1, bytes.fromhex("000004"))
    assert decode(SMALL, [], 1, bytes.fromhex("000004")).tolist() == []


# There and back


@st.composite
def any_tables(draw):
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        inner = draw(st.sets(st.integers(1, 65535), min_size=1, max_size=draw(st.sampled_from([1, 3, 40]))))
        rows.append(([0, *sorted(inner), 65536], draw(st.integers(-60, 60))))
    return tables_of(rows)


@st.composite
def any_stream(draw):
    tables = draw(any_tables())
    near, far = st.integers(-70, 70), st.integers(-SYMBOL_LIMIT, SYMBOL_LIMIT)
    symbol = st.tuples(st.integers(0, len(tables) - 1), near | near | far)
    pairs = draw(st.lists(symbol, max_size=draw(st.sampled_from([3, 100]))))
    return tables, [row for row, _ in pairs], [symbol for _, symbol in pairs]


lane_counts = st.none() | st.integers(1, 40)


@deterministic
@given(any_stream(), lane_counts, st.data())
def test_symbols_return_however_the_calls_are_cut(stream, lanes, data):
    tables, rows, symbols = stream
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=5)))
    parts = list(zip([0, *cuts], [*cuts, len(rows)]))
    whole = encode(tables, rows, symbols, lanes)
    encoder = Encoder(tables)
    for start, stop in parts:
        encoder.push(np.array(rows[start:stop], np.int32), np.array(symbols[start:stop], np.int32))
    assert encoder.flush(lanes) == whole

    assert decode(tables, rows, *whole).tolist() == symbols
    decoder = Decoder(tables, whole[1], whole[0])
    assert [s for start, stop in parts for s in decoder.pull(np.array(rows[start:stop], int)).tolist()] == symbols
    decoder.finish()


@deterministic
@given(any_stream(), lane_counts)
def test_referee_decodes_the_same(stream, lanes):
    tables, rows, symbols = stream
    lanes, data = encode(tables, rows, symbols, lanes)
    referee = RefereeDecoder(rows_of(tables), data, lanes)
    assert [referee.pull(row) for row in rows] == symbols
    referee.finish()


@pytest.mark.parametrize("lanes", [1, 7, 8, 100, 1000, rans.MAX_LANES])
def test_steps_and_scalar_loops_make_the_same_stream(lanes, monkeypatch):
    rows, symbols = photograph(5000)
    stream = encode(MANY, rows, symbols, lanes)
    monkeypatch.setattr(rans, "SCALAR_LANES", 0 if lanes < rans.SCALAR_LANES else 10**6)
    assert encode(MANY, rows, symbols, lanes) == stream
    assert (decode(MANY, rows, *stream) == symbols).all()


def test_a_row_may_depend_on_the_symbol_before_it():
    chains, steps = 50, 64
    random_numbers = np.random.default_rng(3)
    symbols = drawn(SMALL, np.full(chains * steps, 1), 4).reshape(steps, chains)

    def next_row(row, symbol):
        return (row + symbol + 1) % len(SMALL)

    row, encoder = random_numbers.integers(0, len(SMALL), chains), Encoder(SMALL)
    first = row
    for step in symbols:
        encoder.push(row, step)
        row = next_row(row, step)
    lanes, data = encoder.flush(16)

    row, decoder = first, Decoder(SMALL, data, lanes)
    for step in symbols:
        found = decoder.pull(row)
        assert (found == step).all()
        row = next_row(row, found)
    decoder.finish()


def test_results_have_the_shape_of_the_rows():
    rows, symbols = photograph(120)
    encoder = Encoder(MANY)
    encoder.push(rows.reshape(2, 3, 20), symbols.reshape(2, 3, 20))
    lanes, data = encoder.flush()
    assert (lanes, data) == encode(MANY, rows, symbols)
    found = Decoder(MANY, data, lanes).pull(rows.reshape(2, 3, 20))
    assert found.shape == (2, 3, 20) and found.dtype == np.int32
    assert (found.ravel() == symbols).all()


def test_look_up_tables_and_searching_find_the_same_symbols(monkeypatch):
    rows, symbols = photograph(20_000)
    stream = encode(MANY, rows, symbols, 32)
    for price in (0, 10**9):
        monkeypatch.setattr(rans, "LOOKUP_PRICE", price)
        fresh = Tables(MANY.cdf, MANY.lengths, MANY.offsets)
        assert (decode(fresh, rows, *stream) == symbols).all()
        assert (fresh._lookup is None) == (price > 0)
    # More rows than may have a table: the rest is searched for.
    monkeypatch.setattr(rans, "LOOKUP_PRICE", 0)
    monkeypatch.setattr(rans, "MAX_LOOKUPS", 20)
    fresh, decoder = Tables(MANY.cdf, MANY.lengths, MANY.offsets), Decoder(MANY, stream[1], 32)
    decoder.tables = fresh
    found = np.concatenate([decoder.pull(part) for part in np.array_split(rows, 2000)])
    assert (found == symbols).all() and 0 < fresh._places <= 20


@pytest.mark.parametrize("first", [0, 5, 40])
def test_rows_of_more_than_256_bins_are_searched_beside_those_that_have_a_look_up_table(first, monkeypatch):
    monkeypatch.setattr(rans, "LOOKUP_PRICE", 0)
    lengths = np.array([5, 257, 258, 1000], np.int32)
    cdf = np.concatenate([np.linspace(0, 65536, n).astype(np.int32) for n in lengths])
    tables = Tables(cdf, lengths, -(lengths // 2))
    rng = np.random.default_rng(first)
    rows = np.concatenate([rng.integers(2, 4, first), rng.integers(0, 4, 3000)])
    symbols = rng.integers(-140, 141, rows.size)  # escapes among them
    lanes, data = encode(tables, rows, symbols, 24)
    decoder = Decoder(tables, data, lanes)
    found = np.concatenate([decoder.pull(rows[:first]), decoder.pull(rows[first:])])
    decoder.finish()
    assert (found == symbols).all() and tables._places == 2


def test_joined_tables_code_as_each_of_them():
    joined = Tables.join(SMALL, MANY, SMALL)
    assert len(joined) == 2 * len(SMALL) + len(MANY)
    rows, symbols = photograph(1000)
    assert encode(joined, rows + len(SMALL), symbols) == encode(MANY, rows, symbols)


def test_extreme_symbols_return_from_extreme_rows():
    rare_first, rare_last = [0, 1, 65535, 65536], [0, 65534, 65535, 65536]
    tables = tables_of([(rare_first, SYMBOL_LIMIT - 4), (rare_last, -SYMBOL_LIMIT), ([0, 65535, 65536], 0)])
    symbols = [SYMBOL_LIMIT, -SYMBOL_LIMIT, SYMBOL_LIMIT - 4, 0, 1, -1, 127, -128] * 3
    for row in range(3):
        for lanes in (1, 3, 16):
            stream = encode(tables, [row] * len(symbols), symbols, lanes)
            assert decode(tables, [row] * len(symbols), *stream).tolist() == symbols


@pytest.mark.parametrize("symbol", [SYMBOL_LIMIT + 1, -SYMBOL_LIMIT - 1, 2**40, 0.5])
def test_symbols_beyond_the_limit_are_not_pushed(symbol):
    with pytest.raises(ValueError, match="symbols"):
        Encoder(SMALL).push(np.array([0]), np.array([symbol]))


@pytest.mark.parametrize("row", [-1, len(SMALL), 0.0, True])
def test_rows_that_do_not_exist_are_refused_both_ways(row):
    for call in (lambda: Encoder(SMALL).push(np.array([row]), np.array([0])),
                 lambda: Decoder(SMALL, bytes(2) + b"\4", 1).pull(np.array([row]))):  # fmt: skip
        with pytest.raises((ValueError, Corrupt)):
            call()
    with pytest.raises(ValueError, match="2 rows for 3 symbols"):
        Encoder(SMALL).push(np.zeros(2, int), np.zeros(3, int))


def test_threads_may_share_tables():
    fresh = Tables(MANY.cdf, MANY.lengths, MANY.offsets)
    jobs = [(*photograph(6000, seed), lanes) for seed, lanes in enumerate((1, 16, 40, 100) * 2)]

    def there_and_back(job):
        rows, symbols, lanes = job
        return (decode(fresh, rows, *encode(fresh, rows, symbols, lanes)) == symbols).all()

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(there_and_back, jobs))


def test_tables_travel_to_other_processes():
    rows, symbols = photograph(100)
    assert (decode(pickle.loads(pickle.dumps(MANY)), rows, *encode(MANY, rows, symbols)) == symbols).all()


# Size


@pytest.mark.parametrize("count", [10, 1000, 30_000, 300_000])
def test_states_take_a_200th_of_the_stream_or_three_bytes(count):
    lanes, data = encode(MANY, *photograph(count))
    assert lanes == 1 or (lanes >= rans.SCALAR_LANES and 3 * lanes <= len(data) / 200)
    # and not much less, as long as that is many lanes
    assert lanes == 1 or 3 * lanes >= len(data) / 220


def test_lanes_grow_with_the_stream_up_to_a_limit():
    assert [lanes_for(size) for size in (0, 599.9, 9599, 9600, 60_000, 614_400, 10**9)] == [
        1,
        1,
        1,
        16,
        100,
        1024,
        1024,
    ]


def test_streams_are_as_long_as_their_symbols_cost():
    for count, lanes in ((0, 1), (100, 1), (3000, 1), (3000, 64), (30_000, 64), (30_000, 1000)):
        rows, symbols = photograph(count)
        symbols[:: max(count // 20, 1)] += 900  # some escapes
        _, data = encode(MANY, rows, symbols, lanes)
        bits = MANY.bits(rows, symbols).sum(dtype=float)
        # Two bits a lane, and each lane's rounding, which is 8 bits either way at random.
        assert abs(8 * (len(data) - 3 * lanes) - bits - 2 * lanes) <= 16 + 16 * lanes**0.5 + 0.0002 * bits


def test_bits_broadcast():
    rows, symbols = np.arange(4)[:, None], np.arange(-300, 300)
    bits = SMALL.bits(rows, symbols)
    assert bits.shape == (4, 600) and bits.dtype == np.float32
    for row in range(4):
        assert (SMALL.bits(row, symbols) == bits[row]).all()
    assert SMALL.bits(2, 0) == bits[2, 300]
    cdf, offset = rows_of(SMALL)[2]
    assert bits[2, 300] == pytest.approx(16 - np.log2(cdf[1 - offset] - cdf[-offset]))
    # An escape: its bin (here of frequency 1) and one byte up to 64 symbols beyond the end of the row, two further on.
    end = offset + len(cdf) - 2
    assert SMALL.bits(2, [end, end + 63, end + 64, offset - 64, offset - 65]).tolist() == [24, 24, 32, 24, 32]
    assert SMALL.bits(2, [end + 8192, end + 2**20 - 100]).tolist() == [40, 40]


@pytest.mark.parametrize("escapes", [0, 0.002])
def test_size_is_that_of_the_coder_of_compressai(escapes):
    ans = pytest.importorskip("compressai.ans")
    cdfs, lengths, offsets = [cdf for cdf, _ in rows_of(MANY)], MANY.lengths.tolist(), MANY.offsets.tolist()
    for count in (300, 5000, 100_000):
        rows, symbols = photograph(count)
        random_numbers = np.random.default_rng(5)
        symbols = np.where(random_numbers.random(count) < escapes, random_numbers.integers(-900, 900, count), symbols)
        theirs = len(ans.RansEncoder().encode_with_indexes(symbols.tolist(), rows.tolist(), cdfs, lengths, offsets))
        lanes, data = encode(MANY, rows, symbols)
        assert abs(len(data) - 3 * lanes - theirs) <= 0.001 * theirs + 16


# Damage


def outcome(tables, rows, lanes, data):
    """ "symbols" or the name of the error that decoding ends in; anything but a BitstreamError escapes."""
    try:
        found = decode(tables, rows, lanes, data)
    except BitstreamError as error:
        assert "\n" not in str(error)
        return type(error).__name__
    assert found.size == len(rows) and np.abs(found).max(initial=0) <= SYMBOL_LIMIT
    return "symbols"


def referee_outcome(tables, rows, lanes, data):
    try:
        referee = RefereeDecoder(rows_of(tables), data, lanes)
        found = [referee.pull(row) for row in rows]
        referee.finish()
    except ValueError:
        return "error"
    return "error" if any(abs(symbol) > SYMBOL_LIMIT for symbol in found) else "symbols"


def damaged_cases():
    """(rows, lanes, stream, bytes of escapes in it)."""
    rows, symbols = photograph(400)
    for lanes in (1, 5, 16, 30):
        yield rows, lanes, encode(MANY, rows, symbols, lanes)[1], 0
    symbols[::40] += 5000
    for lanes in (1, 16):
        yield rows, lanes, encode(MANY, rows, symbols, lanes)[1], 20


def test_every_truncation_is_refused():
    for rows, lanes, data, escaped in damaged_cases():
        assert outcome(MANY, rows, lanes, data) == "symbols"
        for length in range(len(data)):
            found = outcome(MANY, rows, lanes, data[:length])
            # The last byte is the first one of an escape; without it, a shorter escape may be left.
            assert found in ("Truncated", "Corrupt") or (escaped and length == len(data) - 1)
        assert outcome(MANY, rows, lanes, data[: 3 * lanes]) == "Truncated"
        assert outcome(MANY, rows, lanes, data[: 3 * lanes - 1]) == "Truncated"


def test_longer_streams_and_other_numbers_of_symbols_are_refused():
    for rows, lanes, data, escaped in damaged_cases():
        assert escaped or outcome(MANY, rows, lanes, data + b"\0") == "Corrupt"
        assert outcome(MANY, rows, lanes, data[: 3 * lanes] + b"\0\0" + data[3 * lanes :]) != "symbols"
        assert outcome(MANY, rows[:-1], lanes, data) == "Corrupt"
        assert outcome(MANY, np.append(rows, 20), lanes, data) in ("Truncated", "Corrupt")


def test_flipped_bits_end_in_symbols_or_an_error():
    outcomes = []
    for rows, lanes, data, escaped in damaged_cases():
        for bit in range(0, 8 * (len(data) - escaped), 5):
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            outcomes.append(outcome(MANY, rows, lanes, flipped))
        for bit in range(8 * (len(data) - escaped), 8 * len(data)):
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            outcome(MANY, rows, lanes, flipped)
    # Both errors have been seen. Nearly all damage to states and words shows by itself; the rest, and most of that to
    # escapes, is for the symbols CRC.
    assert {"Truncated", "Corrupt"} <= set(outcomes)
    assert outcomes.count("symbols") < 0.02 * len(outcomes)


def test_random_bytes_end_as_the_referee_says():
    random_bytes = random.Random(8)
    seen = set()
    tables = tables_of([([0, 100, 65536], 0), ([0, 30000, 65000, 65536], -1), ([0, 65535, 65536], 3)])
    for _ in range(600):
        lanes = random_bytes.choice([1, 2, 16, 17])
        rows = [random_bytes.randrange(3) for _ in range(random_bytes.randrange(25))]
        data = random_bytes.randbytes(3 * lanes + random_bytes.randrange(40))
        if random_bytes.random() < 0.5:  # damage to something valid
            symbols = [random_bytes.choice([0, 1, 1, 70, -3000]) for _ in rows]
            data = bytearray(encode(tables, rows, symbols, lanes)[1])
            if random_bytes.random() < 0.7:
                data[random_bytes.randrange(len(data))] ^= 1 << random_bytes.randrange(8)
        found = outcome(tables, rows, lanes, data)
        seen.add(found)
        assert (found == "symbols") == (referee_outcome(tables, rows, lanes, bytes(data)) == "symbols")
    assert seen == {"symbols", "Truncated", "Corrupt"}


@pytest.mark.parametrize(("escape", "error"), [
    ("80 80 80 80 01", Corrupt),  # five bytes
    ("81 00", Corrupt),  # 1, with a byte too many
    ("ff ff ff 7f", Corrupt),  # a symbol beyond the limit
    ("81", Truncated),  # no last byte
    ("", Truncated),
])  # fmt: skip
def test_escapes_that_no_encoder_writes_are_refused(escape, error):
    row, lanes = 2, 1
    _, data = encode(SMALL, [row], [500], lanes)
    written = rans._pack_escapes(SMALL._distances(np.array([row]), np.array([500])))
    assert data.endswith(written[::-1]) and len(written) == 2
    damaged = data[:-2] + bytes.fromhex(escape)[::-1]
    with pytest.raises(error):
        decode(SMALL, [row], lanes, damaged)


@pytest.mark.parametrize("lanes", [0, -1, rans.MAX_LANES + 1, 2**40])
def test_impossible_numbers_of_lanes_are_refused(lanes):
    with pytest.raises(Corrupt, match="lanes"):
        Decoder(SMALL, bytes(100), lanes)
    with pytest.raises(ValueError, match="lanes"):
        encode(SMALL, [0], [0], lanes)


def test_hostile_streams_end_fast():
    rows = np.zeros(200_000, int)
    started = time.process_time()
    for lanes in (1, 64):
        for byte in (0x00, 0x01, 0x7F, 0x80, 0xFF):
            assert outcome(SMALL, rows, lanes, bytes([byte or 1]) * 3 * lanes + bytes([byte]) * 1000) != "symbols"
    assert time.process_time() - started < 5


# Tables

GOOD = {"cdf": int32([0, 5, 65536, 0, 1, 2, 65536]), "lengths": int32([3, 4]), "offsets": int32([0, -1])}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"lengths": int32([3, 5])}, "8 entries together, found 7"),
        ({"lengths": int32([3, 3])}, "6 entries together, found 7"),
        ({"lengths": int32([-3, 10])}, "a row of -3 entries"),
        ({"lengths": int32([0, 7])}, "a row of 0 entries"),
        ({"lengths": int32([2, 5])}, "a row of 2 entries"),
        ({"lengths": int32([2**31 - 1, 2**31 - 1])}, "4294967294 entries together"),
        ({"lengths": int32([4, 3])}, "begin at 0"),
        ({"lengths": int32([7])}, "2 offsets for 1 rows"),
        ({"lengths": int32([]), "offsets": int32([])}, "0 rows"),
        ({"offsets": int32([0])}, "1 offsets for 2 rows"),
        ({"offsets": int32([0, 2**20])}, "symbols from 0 to 1048580"),
        ({"offsets": int32([0, -(2**31)])}, "symbols from -2147483648"),
        ({"cdf": int32([0, 5, 65536, 0, 1, 1, 65536])}, "rise"),
        ({"cdf": int32([0, 5, 65536, 0, 2, 1, 65536])}, "rise"),
        ({"cdf": int32([0, -5, 65536, 0, 1, 2, 65536])}, "rise"),
        ({"cdf": int32([0, 65536, 65536, 0, 1, 2, 65536])}, "rise"),
        ({"cdf": int32([0, 70000, 65536, 0, 1, 2, 65536])}, "rise"),
        ({"cdf": int32([1, 5, 65536, 0, 1, 2, 65536])}, "begin at 0"),
        ({"cdf": int32([0, 5, 65535, 0, 1, 2, 65536])}, "end at 65536"),
        ({"cdf": int32([0, 5, 65536, 0, 1, 2, 65537])}, "end at 65536"),
        ({"cdf": int32([0] * 7)}, "end at 65536"),
        ({"cdf": int32([])}, "found 0"),
        ({"cdf": GOOD["cdf"].astype(np.int64)}, "int32"),
        ({"cdf": GOOD["cdf"].astype(float)}, "int32"),
        ({"cdf": GOOD["cdf"][None]}, "one dimension"),
        ({"cdf": GOOD["cdf"].tolist()}, "not list"),
        ({"lengths": None}, "not NoneType"),
        ({"offsets": np.array(["a", "b"])}, "int32"),
        ({"cdf": np.zeros(rans.MAX_ENTRIES + 1, np.int32)}, "allowed"),
        ({"lengths": np.full(rans.MAX_ROWS + 1, 3, np.int32)}, "allowed"),
    ],
)
def test_invalid_tables_are_refused_with_the_reason(changes, reason):
    Tables(**GOOD)
    with pytest.raises(ModelError, match=reason):
        Tables(**{**GOOD, **changes})


def test_random_damage_to_tables_is_refused_or_harmless():
    random_numbers = np.random.default_rng(6)
    arrays = {"cdf": MANY.cdf, "lengths": MANY.lengths, "offsets": MANY.offsets}
    refused = 0
    for trial in range(300):
        name = list(arrays)[trial % 3]
        damaged = arrays[name].copy()
        value = random_numbers.integers(-(2**31), 2**31) >> int(random_numbers.integers(0, 31))
        damaged[random_numbers.integers(damaged.size)] = value
        try:
            tables = Tables(**{**arrays, name: damaged})
        except ModelError:
            refused += 1
            continue
        rows, symbols = photograph(200)
        assert (decode(tables, rows, *encode(tables, rows, symbols, 16)) == symbols).all()
    assert 200 < refused < 300


def test_tables_do_not_change_with_the_arrays_they_were_made_of():
    arrays = {name: array.copy() for name, array in GOOD.items()}
    tables = Tables(**arrays)
    arrays["cdf"][:] = 0
    assert tables.cdf.tolist() == GOOD["cdf"].tolist()
    with pytest.raises(ValueError, match="read-only"):
        tables.cdf[0] = 1


def test_the_coder_needs_only_numpy():
    code = (
        "import codec.latents.rans, sys;"
        "sys.exit(bool({'torch', 'compressai', 'PIL', 'scipy', 'onnxruntime'} & set(sys.modules)))"
    )
    root = Path(rans.__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0

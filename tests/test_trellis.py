"""Dependent quantisation: the trellis, its encoder and decoder, and what latents make of it."""

import itertools
from pathlib import Path

import numpy as np
import pytest

import codec
from codec import bitstream
from codec.errors import Corrupt, ModelError, Truncated
from codec.latents import rans, trellis
from codec.latents.networks import CODED_FIRST
from codec.latents.scalar import ScalarLatents
from codec.model import Model
from codec.threads import restored
from test_latents import random_latents, through_coder
from tiny import CONFIG, coding

MACHINES = {"four": trellis.FOUR, "eight": trellis.EIGHT}
SPECIFICATION = Path(codec.__file__).parent / "BITSTREAM.md"


def tables_of(text, heading):
    """Rows of integers of the Markdown table whose heading begins so."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(heading):
            next(lines)
            rows = itertools.takewhile(lambda row: row.startswith("|"), lines)
            return [[int(cell) for cell in row.strip("|").split("|")] for row in rows]
    raise AssertionError(heading)


def bits(quantiser, k):
    """A rate that differs between quantisers and signs."""
    return np.float32(1.0 + 0.3 * quantiser) + np.float32(1.7) * np.abs(k) + np.float32(0.2) * (np.asarray(k) > 0)


def cost(residual, k, quantiser, slope):
    values = trellis.reconstruct(k, quantiser) * trellis.STEP / 16
    rate = [float(bits(q, s)) for q, s in zip(quantiser, k)]
    return np.square(residual - values).sum() + slope * np.sum(rate)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    coding(folder, dependent=True)
    return folder


@pytest.fixture(scope="module")
def tensors(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "weights.safetensors")


@pytest.fixture(scope="module")
def scalar(tensors):
    return ScalarLatents(CONFIG, tensors)


# The machine


def test_the_machine_is_that_of_the_specification():
    rows = tables_of(SPECIFICATION.read_text(encoding="utf-8"), "| S | Q |")
    assert [row[0] for row in rows] == list(range(8))
    assert [row[1] for row in rows] == trellis.EIGHT.quantiser.tolist()
    assert [row[2:] for row in rows] == trellis.EIGHT.next_state.tolist()


def test_the_example_of_the_specification():
    rows = np.array(tables_of(SPECIFICATION.read_text(encoding="utf-8"), "| index | mean |"))
    index, mean, state, quantiser, table, k, v = rows.T
    asked, pulled = [], iter(k)

    def pull(rows, quantisers):
        asked.append((rows[0], quantisers[0]))
        return np.array([next(pulled)])

    found, found_quantisers = trellis.walk(index + 256 + 128 * 2, pull)
    assert found.tolist() == k.tolist() and found_quantisers.tolist() == quantiser.tolist()
    assert [row + 64 * q for row, q in asked] == table.tolist()
    assert (mean + trellis.STEP * trellis.reconstruct(found, found_quantisers)).tolist() == v.tolist()
    assert trellis.EIGHT.quantiser[state].tolist() == quantiser.tolist()


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 200])
def test_the_walk_is_that_of_chains_one_by_one(machine, count):
    k = np.random.default_rng(count).integers(-5, 6, count)
    at, chains = iter(range(count)), -(-count // 64)
    found, quantisers_ = trellis.walk(np.arange(count), lambda rows, q: k[[next(at) for _ in rows]], machine)
    expected = [None] * count
    for chain in range(chains):
        state = 0
        for n in range(chain, count, chains):
            expected[n] = int(machine.quantiser[state])
            state = machine.next_state[state][k[n] % 2]
        assert len(range(chain, count, chains)) <= 64
    assert found.tolist() == k.tolist() and quantisers_.tolist() == expected


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_every_state_is_entered_twice_and_reaches_both_quantisers(machine):
    assert sorted(machine.next_state.ravel()) == sorted(list(range(len(machine.quantiser))) * 2)
    states, parities = machine.sources()
    for way in (0, 1):
        assert (machine.next_state[states[way], parities[way]] == np.arange(len(machine.quantiser))).all()


# The search


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("slope", [0.0, 0.07, 0.5])
def test_the_search_finds_what_trying_everything_finds(machine, slope):
    rng = np.random.default_rng(1)
    for _ in range(5):
        residual = rng.laplace(0, 0.9, 4).astype(np.float32)
        k, q = trellis.choose(residual, bits, np.float32(slope), 2047, machine)
        least = np.inf
        for tried in itertools.product(range(-3, 4), repeat=4):
            state, used = 0, []
            for one in tried:
                used.append(machine.quantiser[state])
                state = machine.next_state[state][one % 2]
            least = min(least, cost(residual, np.array(tried), np.array(used), slope))
        assert cost(residual, k, q, slope) == pytest.approx(least, rel=1e-5)


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_the_search_takes_the_way_that_the_decoder_will_take_and_beats_greed(machine):
    rng = np.random.default_rng(2)
    for count in (1, 64, 500):
        residual = rng.laplace(0, 2, count).astype(np.float32)
        k, q = trellis.choose(residual, bits, np.float32(0.07), 2047, machine)
        at = iter(np.split(k, range(trellis.chains(count), count, trellis.chains(count))))
        assert np.array_equal(trellis.walk(k, lambda rows, quantiser: next(at), machine)[1], q)
        assert cost(residual, k, q, 0.07) <= cost(residual, *greedy(residual, 0.07, machine), 0.07) * (1 + 1e-6)


def greedy(residual, slope, machine):
    """Indices and quantisers by what is cheapest symbol by symbol."""
    states = np.zeros(trellis.chains(residual.size), int)
    found = []
    for n, r in enumerate(residual):
        q = machine.quantiser[states[n % len(states)]]
        options = np.arange(-30, 31)
        costs = [cost(np.array([r]), np.array([k]), np.array([q]), slope) for k in options]
        k = options[int(np.argmin(costs))]
        states[n % len(states)] = machine.next_state[states[n % len(states)]][k % 2]
        found.append((k, q))
    return np.array(found).T


def test_indices_stay_within_their_limit():
    residual = np.array([1e5, -1e5, 0, 3e3, -2e3], np.float32)
    k, _ = trellis.choose(residual, bits, np.float32(0.01), 2047)
    assert np.abs(k).max() <= 2047 and np.abs(k[[0, 1]]).min() >= 2046


def test_rates_are_those_of_the_tables(scalar):
    start = CONFIG.anchors * CONFIG.N + 256 + 128
    rates = trellis.Rates(scalar.tables, start, 64)
    rows = np.repeat(np.array([0, 9, 40, 63]), 5)
    k = np.tile([-2047, -128, 0, 127, 300], 4)
    for quantiser in (0, 1):
        expected = scalar.tables.bits(rows + start + 64 * quantiser, k)
        assert np.array_equal(rates.of(rows)(quantiser, k), expected)
        zero = scalar.tables.bits(rows + start + 64 * quantiser, 0)
        assert np.array_equal(rates.of(rows)(quantiser, 0), zero)


# Latents


@pytest.mark.parametrize("quality", [0, 4321, 10000])
def test_decoders_see_what_encoders_saw(scalar, quality):
    z, y = random_latents(16, 12)
    y[:, 0, 0] = np.linspace(-2500, 2500, CONFIG.M)  # beyond tables and limits
    encoded = scalar.encode(z, y, quality, dependent=True)
    coder = rans.Encoder(scalar.tables)
    encoded.write(coder)
    for lanes in (None, 1, 40):
        coder = rans.Encoder(scalar.tables)
        encoded.write(coder)
        number, data = coder.flush(lanes)
        decoder = rans.Decoder(scalar.tables, data, number)
        decoded = scalar.decode(decoder, 16, 12, quality, crc=encoded.crc, dependent=True)
        decoder.finish()
        assert np.array_equal(decoded, encoded.y_hat)
    assert 8 * len(data) == pytest.approx(scalar.estimate(z, y, quality, dependent=True), rel=0.001, abs=32 * 40)


def test_values_are_exact_before_they_are_shifted(tensors):
    still = {**tensors, "entropy.trellis_shrink": 0 * tensors["entropy.trellis_shrink"]}
    z, y = random_latents()
    moved, middle = (ScalarLatents(CONFIG, t).encode(z, y, 5000, dependent=True) for t in (tensors, still))
    assert moved.crc == middle.crc and all(map(np.array_equal, moved.rows, middle.rows))
    assert np.array_equal(16 * middle.y_hat, np.round(16 * middle.y_hat))
    assert 0 < np.abs(moved.y_hat - middle.y_hat).max() <= 0.31


@pytest.mark.parametrize("index", [0, CODED_FIRST - 1, CODED_FIRST, 9])
def test_passes_without_chains(scalar, index, monkeypatch):
    """Nothing coded at all, and nothing but rounded symbols."""
    predict = scalar.networks.predict

    def constant(k, known, quality):
        means, indexes = predict(k, known, quality)
        return means, np.full_like(indexes, index)

    monkeypatch.setattr(scalar.networks, "predict", constant)
    z, y = random_latents(4, 4)
    encoded = scalar.encode(z, y, 5000, dependent=True)
    assert sum(map(len, encoded.symbols[1:])) == (y.size if index >= CODED_FIRST else 0)
    coder = rans.Encoder(scalar.tables)
    encoded.write(coder)
    lanes, data = coder.flush()
    decoder = rans.Decoder(scalar.tables, data, lanes)
    assert np.array_equal(scalar.decode(decoder, 4, 4, 5000, crc=encoded.crc, dependent=True), encoded.y_hat)
    decoder.finish()


def test_models_without_tables_for_it(tensors):
    plain = {name: array for name, array in tensors.items() if "trellis" not in name}
    codes = ScalarLatents(CONFIG, plain)
    z, y = random_latents()
    assert not codes.dependent
    encoded = codes.encode(z, y, 5000)
    whole = ScalarLatents(CONFIG, tensors).encode(z, y, 5000)
    assert encoded.crc == whole.crc and np.array_equal(encoded.y_hat, whole.y_hat)
    assert np.array_equal(through_coder(codes, encoded, 5000), encoded.y_hat)
    with pytest.raises(Corrupt, match="dependent"):
        codes.decode(None, 8, 12, 5000, dependent=True)


@pytest.mark.parametrize("missing", ["cdf", "lengths", "offsets", "shrink"])
def test_half_of_the_tables_is_a_damaged_model(tensors, missing):
    with pytest.raises(ModelError, match=f"entropy.trellis_{missing}"):
        ScalarLatents(CONFIG, {name: a for name, a in tensors.items() if name != f"entropy.trellis_{missing}"})


@pytest.mark.parametrize("wrong", [np.zeros((3, 64, 3), np.float16), np.full((3, 128, 3), np.nan, np.float16)], ids=str)
def test_wrong_shifts_are_a_damaged_model(tensors, wrong):
    with pytest.raises(ModelError, match="entropy.trellis_shrink"):
        ScalarLatents(CONFIG, {**tensors, "entropy.trellis_shrink": wrong})


# Files


@pytest.fixture(scope="module")
def picture():
    y, x = np.mgrid[:90, :130]
    noise = np.random.default_rng(0).normal(0, 12, (90, 130, 3))
    return np.clip(120 + 60 * np.sin(x / 9)[..., None] + 40 * np.cos(y / 5)[..., None] + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("effort", [0, 1, 2])
def test_files_say_how_they_were_quantised(folder, picture, effort):
    coder = codec.Codec(str(folder))
    data = coder.compress(picture, 60, effort=effort)
    header = bitstream.read_header(data)
    assert header.dependent == (effort > 0) and not header.plain
    assert np.array_equal(np.asarray(coder.decompress(data)), coder.reconstruct(picture, 60, effort=effort))


def test_files_do_not_depend_on_threads_or_batches(folder, picture):
    pictures = [picture, np.tile(picture, (1, 9, 1))[:70], picture[::-1]]  # the second one is of two tiles
    files = []
    for threads in (1, 2):
        with restored():
            coder = codec.Codec(str(folder), threads=threads)
            files += [[coder.compress(p, 60) for p in pictures], coder.compress_batch(pictures, 60)]
            files.append(coder.compress_batch(pictures[::-1], 60)[::-1])
            shown = [np.asarray(image) for image in coder.decompress_batch(files[0])]
            assert all(np.array_equal(image, coder.reconstruct(p, 60)) for image, p in zip(shown, pictures))
    assert all(found == files[0] for found in files)
    assert all(bitstream.read_header(data).dependent for data in files[0])
    assert len(bitstream.unpack(files[0][1]).tiles) == 2


def test_plain_rounding_can_still_be_asked_for_and_read(folder, picture):
    model = Model.from_folder(folder)
    for dependent in (False, True):
        coded = model.encode(picture, 6000, plain=False, dependent=dependent)
        assert coded.dependent == dependent
        assert model.decode(coded, *picture.shape[:2], 6000).shape == picture.shape
    assert not model.encode(picture, 6000, plain=True).dependent


@pytest.mark.parametrize("effort", [-1, 3, 0.5, float("nan")])
def test_efforts_out_of_range(folder, picture, effort):
    coder = codec.Codec(str(folder))
    for call in (coder.compress, coder.reconstruct, lambda p, **o: coder.compress_batch([p], **o)):
        with pytest.raises(ValueError, match="effort"):
            call(picture, effort=effort)


def test_damage_is_noticed(folder, picture):
    model = Model.from_folder(folder)
    coded = model.encode(picture, 6000, plain=False)
    (tile,) = coded.tiles
    rng = np.random.default_rng(0)
    for _ in range(40):
        data = bytearray(tile.data)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        damaged = coded._replace(tiles=(bitstream.Tile(bytes(data), tile.lanes, tile.symbols_crc),))
        with pytest.raises((Corrupt, Truncated)):
            model.decode(damaged, *picture.shape[:2], 6000)
    cut = coded._replace(tiles=(bitstream.Tile(tile.data[: len(tile.data) // 2], tile.lanes, tile.symbols_crc),))
    with pytest.raises((Corrupt, Truncated)):
        model.decode(cut, *picture.shape[:2], 6000)
    with pytest.raises(Corrupt):  # the flag is wrong
        model.decode(coded._replace(dependent=False), *picture.shape[:2], 6000)


def test_it_excludes_the_plain_transform_and_flat_tiles():
    tile = bitstream.Tile(bytes(3), 1, 0)
    whole = bitstream.Container("0" * 16, 5000, 9, 9, (tile,), dependent=True)
    assert bitstream.unpack(bitstream.pack(whole)) == whole
    for other in ({"plain": True}, {"flat": True}):
        with pytest.raises(Corrupt):
            bitstream.pack(bitstream.Container("0" * 16, 5000, 9, 9, (tile,), dependent=True, **other))

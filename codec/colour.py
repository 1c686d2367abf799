"""What gamma, chromaticities and code points of a picture file mean: levels of sRGB, or an ICC profile.

Sources: PNG (W3C, third edition, section 11.3.2), ITU-T H.273 for the code points of cICP and ``nclx``, IEC 61966-2-1
for sRGB, ICC.1:2010 for profiles. White points are adapted to D50 by Bradford's matrix.
"""

import struct
from collections.abc import Sequence

import numpy as np

SRGB = ((0.3127, 0.3290), (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))  # white, red, green, blue: x and y
_D65 = SRGB[0]
# H.273, ColourPrimaries -> white, red, green, blue
_PRIMARIES = {
    1: SRGB,
    4: ((0.310, 0.316), (0.67, 0.33), (0.21, 0.71), (0.14, 0.08)),
    5: (_D65, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: (_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    7: (_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    8: ((0.310, 0.316), (0.681, 0.319), (0.243, 0.692), (0.145, 0.049)),
    9: (_D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    11: ((0.314, 0.351), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    12: (_D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    22: (_D65, (0.630, 0.340), (0.295, 0.605), (0.155, 0.077)),
}
_HDR = {16: "PQ", 18: "HLG"}  # H.273, TransferCharacteristics
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_D50 = np.array([0.9642, 1.0, 0.8249])
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)  # of ICC's parametric type 3


def hdr_name(transfer: int) -> str | None:
    """PQ or HLG, where a code point of H.273 says one of them."""
    return _HDR.get(transfer)


def code_point_profile(primaries: int, transfer: int) -> bytes | None:
    """An ICC profile for colours of these code points of H.273; None where they are, or should be taken for, sRGB."""
    curve = {4: 2.2, 5: 2.8, 8: 1.0}.get(
        transfer, _SRGB_CURVE
    )  # what has the curve of BT.709 is shown with that of sRGB
    space = _PRIMARIES.get(primaries, SRGB)
    return None if space is SRGB and curve is _SRGB_CURVE else matrix_profile(space, curve)


def chromaticity_profile(chromaticities: Sequence[float], exponent: float | None = None) -> bytes | None:
    """An ICC profile for the white, red, green and blue (x, y each) and the gamma of a PNG; None where they are sRGB's.

    Args:
        chromaticities: eight numbers.
        exponent: of gAMA, or None; within 5 % of 1 / 2.2 it means sRGB's curve, as in libpng.
    """
    space = tuple(tuple(chromaticities[n : n + 2]) for n in range(0, 8, 2))
    near_srgb = all(
        abs(a - b) < 0.002 for one, other in zip(space, SRGB, strict=True) for a, b in zip(one, other, strict=True)
    )
    if near_srgb or any(y <= 0 for _, y in space):
        return None
    curve = _SRGB_CURVE if exponent is None or means_srgb(exponent) else 1 / exponent
    try:
        return matrix_profile(space, curve)
    except (np.linalg.LinAlgError, ValueError, struct.error):  # no triangle
        return None


def means_srgb(exponent: float) -> bool:
    return abs(exponent * 2.2 - 1) <= 0.05


def srgb_levels(exponent: float, top: int) -> np.ndarray:
    """The sRGB level of each level 0 to ``top`` of samples with a gAMA exponent, of the type of the samples."""
    light = (np.arange(top + 1) / top) ** (1 / exponent)
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.floor(top * encoded + 0.5).astype(np.uint8 if top < 256 else np.uint16)


def matrix_profile(space: Sequence[Sequence[float]], curve: float | tuple[float, ...]) -> bytes:
    """A version 4 display profile.

    Args:
        space: (x, y) of white, red, green and blue.
        curve: a gamma, or _SRGB_CURVE.
    """
    white, *primaries = (np.array([x / y, 1.0, (1 - x - y) / y]) for x, y in space)
    columns = np.array(primaries).T
    columns = columns * np.linalg.solve(columns, white)
    adaptation = np.linalg.inv(_BRADFORD) @ np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white)) @ _BRADFORD
    columns = adaptation @ columns
    if not np.isfinite(columns).all() or np.abs(columns).max() > 4:
        raise ValueError("no colour space")
    parameters = curve if curve is _SRGB_CURVE else (curve,)
    trc = b"para" + bytes(4) + struct.pack(">HH", 3 if curve is _SRGB_CURVE else 0, 0)
    trc += struct.pack(f">{len(parameters)}i", *_fixed(parameters))
    tags = [
        (b"desc", _text("Colours of the picture")),
        (b"cprt", _text("CC0")),
        (b"wtpt", _xyz(_D50)),
        *((kind + b"XYZ", _xyz(column)) for kind, column in zip((b"r", b"g", b"b"), columns.T, strict=True)),
    ]
    return _profile([*tags, *((kind + b"TRC", trc) for kind in (b"r", b"g", b"b"))])


def _profile(tags):
    table, contents, places = b"", b"", {}
    start = 128 + 4 + 12 * len(tags)
    for kind, data in tags:
        if data not in places:
            places[data] = start + len(contents)
            contents += data + bytes(-len(data) % 4)
        table += kind + struct.pack(">II", places[data], len(data))
    head = struct.pack(">I4sI4s4s4s", start + len(contents), b"", 0x04200000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">iii", *_fixed(_D50))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + contents


def _xyz(values):
    return b"XYZ " + bytes(4) + struct.pack(">iii", *_fixed(values))


def _fixed(values):
    return [round(65536 * float(value)) for value in values]


def _text(words):
    data = words.encode("utf-16-be")
    return b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(data), 28) + data

"""SSIMULACRA2: how visible the damage of compression is; libjxl's measure, in NumPy, without learned features.

Both pictures go to XYB, a colour space of the eye's cone responses. At six scales, each half the size of the one
before, three maps per channel compare them: a structural similarity, and where edges appeared (rings, blocks)
or vanished (blur). Each map counts by its mean and by its 4-norm, which only strong damage raises. The 108
numbers are weighted, by weights that were fitted to people's opinions, and bent to a scale on which 100 is
identical, 90 visually lossless, 70 high, 50 medium, 30 low quality, and less than 0 is possible.

Sneyers 2022, https://github.com/cloudinary/ssimulacra2, version 2.1; formulas and constants follow the program
``ssimulacra2`` of libjxl (The JPEG XL Project Authors, BSD 3-clause). Its scores are met to 0.01, and to two
on small flat pictures, where its blur, a recursion in float32, adds noise of its own.
"""

import functools

import numpy as np

SCALES = 6
MIN_SIDE = 8  # of a picture that libjxl's program takes
C2 = 0.0009  # keeps the structural similarity of flat places defined
SIGMA = 1.5  # of the window over which means and variances are taken, in pixels

# Linear RGB -> responses of the long, middle and short cones (libjxl's "opsin absorbance").
ABSORBANCE = np.array(
    [[0.30, 0.622, 0.078], [0.23, 0.692, 0.078], [0.24342268924547819, 0.20476744424496821, 0.5518098665095536]]
)
BIAS = 0.0037930732552754493

# By channel (X, Y, B), scale (finest first), norm (mean, 4-norm) and map (similarity, appeared, vanished).
WEIGHTS = np.array([
    0, 0.0007376606707406586, 0, 0, 0.0007793481682867309, 0,
    0, 0.0004371155730107379, 0, 1.1041726426657346, 0.00066284834129271, 0.00015231632783718752,
    0, 0.0016406437456599754, 0, 1.8422455520539298, 11.441172603757666, 0,
    0.0007989109436015163, 0.000176816438078653, 0, 1.8787594979546387, 10.94906990605142, 0,
    0.0007289346991508072, 0.9677937080626833, 0, 0.00014003424285435884, 0.9981766977854967, 0.00031949755934435053,
    0.0004550992113792063, 0, 0, 0.0013648766163243398, 0, 0,
    0, 0, 0, 7.466890328078848, 0, 17.445833984131262,
    0.0006235601634041466, 0, 0, 6.683678146179332, 0.00037724407979611296, 1.027889937768264,
    225.20515300849274, 0, 0, 19.213238186143016, 0.0011401524586618361, 0.001237755635509985,
    176.39317598450694, 0, 0, 24.43300999870476, 0.28520802612117757, 0.0004485436923833408,
    0, 0, 0, 34.77906344483772, 44.835625328877896, 0,
    0, 0, 0, 0, 0, 0,
    0, 0.0008680556573291698, 0, 0, 0, 0,
    0, 0.0005313191874358747, 0, 0.00016533814161379112, 0, 0,
    0, 0, 0, 0.0004179171803251336, 0.0017290828234722833, 0,
    0.0020827005846636437, 0, 0, 8.826982764996862, 23.19243343998926, 0,
    95.1080498811086, 0.9863978034400682, 0.9834382792465353, 0.0012286405048278493, 171.2667255897307,
    0.9807858872435379,
    0, 0, 0, 0.0005130064588990679, 0, 0.00010854057858411537,
]).reshape(3, SCALES, 2, 3)  # fmt: skip

# From the weighted sum to the scale of people's opinions.
FACTOR = 0.9562382616834844
POLYNOMIAL = 6.248496625763138e-05, -0.020884521182843837, 2.326765642916932  # of distance^3, distance^2, distance
POWER = 0.6276336467831387


def ssimulacra2(original: np.ndarray, decoded: np.ndarray) -> float | None:
    """Score of one picture, at most 100; None where a side has fewer than :data:`MIN_SIDE` pixels.

    Args:
        original, decoded: uint8 (H, W, 3), sRGB, of equal shape.
    """
    if min(original.shape[:2]) < MIN_SIDE:
        return None
    linear = [_linear(pixels) for pixels in (original, decoded)]  # two of (3, H, W)
    norms = [_norms(*map(_positive_xyb, linear))]
    while len(norms) < SCALES and min(linear[0].shape[1:]) >= MIN_SIDE:
        linear = [_halve(planes) for planes in linear]
        norms.append(_norms(*map(_positive_xyb, linear)))
    by_scale = np.stack(norms, axis=1)
    # libjxl hands out its weights in this order, without gaps: with fewer scales they go to other norms.
    weights = WEIGHTS.ravel()[: by_scale.size].reshape(by_scale.shape)
    distance = FACTOR * float(np.sum(weights * by_scale))
    a, b, c = POLYNOMIAL
    distance = ((a * distance + b) * distance + c) * distance
    return 100 - 10 * distance**POWER if distance > 0 else 100.0


def _linear(pixels):
    """sRGB (H, W, 3) -> linear light (3, H, W) in [0, 1]."""
    levels = np.arange(256) / 255
    curve = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4).astype(np.float32)
    return np.ascontiguousarray(curve[pixels].transpose(2, 0, 1))


def _positive_xyb(linear):
    """XYB, shifted and stretched so that every channel is positive and about as large as the others."""
    cones = np.tensordot(ABSORBANCE.astype(np.float32), linear, 1) + np.float32(BIAS)
    long, middle, short = np.cbrt(np.maximum(cones, 0)) - np.float32(np.cbrt(BIAS))
    y = (long + middle) / 2
    return np.stack([7 * (long - middle) + np.float32(0.42), y + np.float32(0.01), short - y + np.float32(0.55)])


def _norms(one, two):
    """(3, 2, 3): channel, norm and map, of two pictures (3, H, W)."""
    return np.stack([_channel_norms(*planes) for planes in zip(one, two)])


def _channel_norms(one, two):
    mean1, mean2 = _blur(one), _blur(two)
    covariance = _blur(one * two) - mean1 * mean2
    variances = (_blur(one * one) - mean1 * mean1) + (_blur(two * two) - mean2 * mean2)
    # Without SSIM's divisor for the means: XYB is about uniform to the eye already.
    similarity = (1 - np.square(mean1 - mean2)) * (2 * covariance + C2) / (variances + C2)
    edges = (1 + np.abs(two - mean2)) / (1 + np.abs(one - mean1)) - 1
    maps = [np.maximum(values, 0).astype(np.float64) for values in (1 - similarity, edges, -edges)]
    means = [values.mean() for values in maps]
    return np.array([means, [np.mean(np.square(values) ** 2) ** 0.25 for values in maps]])


def _halve(planes):
    """Means of 2 x 2 pixels of (3, H, W), rounded up; a last row or column without a partner counts twice."""
    height, width = planes.shape[1:]
    planes = np.pad(planes, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    return planes.reshape(3, (height + 1) // 2, 2, (width + 1) // 2, 2).mean((2, 4))


def _blur(plane):
    """(H, W) under the window; beyond the border all is zero, as in libjxl."""
    return _blur_rows(_blur_rows(plane).T).T


def _blur_rows(plane):
    """Each row under the window, which is symmetric: pairs of taps are added before they are weighted."""
    width, reach = plane.shape[1], len(window()) // 2
    padded = np.pad(plane, ((0, 0), (reach, reach)))
    taps = window()[reach:].astype(plane.dtype)
    total = taps[0] * plane
    pair = np.empty_like(total)
    for offset in range(1, reach + 1):
        low, high = padded[:, reach - offset :][:, :width], padded[:, reach + offset :][:, :width]
        total += np.multiply(np.add(low, high, out=pair), taps[offset], out=pair)
    return total


@functools.cache
def window() -> np.ndarray:
    """libjxl's approximation of a Gaussian: three cosines over 2 N - 1 pixels, here in closed form.

    Charalampidis 2016, "Recursive implementation of the Gaussian filter using truncated cosine functions",
    IEEE Trans. Signal Process. 64(14); the numbers are those of its equations.
    """
    radius = round(3.2795 * SIGMA + 0.2546)  # (57)
    omega = np.array([1, 3, 5]) * np.pi / (2 * radius)
    sign = np.array([1, -1, 1])
    p = sign / np.tan(omega / 2)  # (37)
    r = sign * p**2 / np.sin(omega)  # (44)
    rho = np.exp(-0.5 * SIGMA**2 * omega**2) / radius  # (50)
    zeta = np.cross(p, r) / np.cross(p, r)[2]  # (52)
    equations = np.stack([p, r, [zeta[0], zeta[1], 1]])
    beta = np.linalg.solve(equations, [1, radius**2 - SIGMA**2, zeta @ rho])  # (53)
    return np.cos(np.outer(np.arange(1 - radius, radius), omega)) @ beta

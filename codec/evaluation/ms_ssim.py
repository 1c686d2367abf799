"""MS-SSIM: structural similarity at five scales in one number, 1 for identical pictures.

    a plane of each picture -> similarity of contrast and structure, mean over the plane ── ^0.0448 ─┐
      half the size         -> the same                                                  ── ^0.2856 ─┤
      a quarter             -> the same                                                  ── ^0.3001 ─┼─> product
      an eighth             -> the same                                                  ── ^0.2363 ─┤
      a sixteenth           -> and of luminance                                          ── ^0.1333 ─┘

Wang, Simoncelli, Bovik 2003, "Multi-scale structural similarity for image quality assessment". Window, constants,
borders and halving are those of the library pytorch_msssim, the most common one in papers on learned codecs, and so
are the values: to 6e-6 on Kodak, of which 6e-6 are the library's rounding in float32 and 4e-7 ours, measured against
float64 (benchmarks/metrics.py prints the difference).

The work is done in strips of rows that stay in the processor's cache, a third of the library's time on one core, and
a picture of any size needs little memory beside itself. Sums are taken in one order: the same pictures give the same
bits, whatever the number of threads.
"""

import numpy as np

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, finest first
SIGMA, TAPS = 1.5, 11  # of the Gaussian window, in pixels
BORDER = TAPS - 1  # rows and columns that are lost, as the window stays inside the picture
MIN_SIDE = BORDER * 2 ** (len(WEIGHTS) - 1) + 1  # pixels: the window must fit after four halvings
C1, C2 = ((k * 255) ** 2 for k in (0.01, 0.03))  # keep the quotients defined where all is black, or flat
MIDDLE = 128  # taken off the pixels, so that float32 does not lose the small variance beside the large square
STRIP = 24576  # pixels: of the four planes that are blurred together 400 kB, which fit into a cache


def ms_ssim(original: np.ndarray, decoded: np.ndarray) -> float | None:
    """Mean over the channels, at most 1; None where a side has fewer than :data:`MIN_SIDE` pixels.

    Args:
        original, decoded: uint8 (H, W, C) of equal shape.
    """
    if min(original.shape[:2]) < MIN_SIDE:
        return None
    channels = original.shape[2]
    values = [_similarity(original[:, :, channel], decoded[:, :, channel]) for channel in range(channels)]
    return min(sum(values) / channels, 1.0)  # float32 may end a rounding step above 1


def _similarity(one, two):
    """Of two planes (H, W), uint8."""
    product = 1.0
    for scale, weight in enumerate(WEIGHTS):
        if scale > 0:
            one, two = _halve(one), _halve(two)
        structure, whole = _means(one, two)
        last = scale == len(WEIGHTS) - 1
        product *= max(whole if last else structure, 0.0) ** weight  # a negative mean has no such power
    return product


def _halve(plane):
    """Means of 2 x 2 pixels, float32. Odd sides get a row or column of zeros before them, and one after."""
    height, width = plane.shape
    if height % 2 or width % 2:
        plane = np.pad(plane, [(side % 2, side % 2) for side in plane.shape])
        height, width = (side // 2 * 2 for side in plane.shape)
    even, odd = plane[0:height:2], plane[1:height:2]
    total = np.add(even[:, 0:width:2], even[:, 1:width:2], dtype=np.float32)
    total += odd[:, 0:width:2]
    total += odd[:, 1:width:2]
    total *= np.float32(0.25)
    return total


def _means(one, two):
    """Means over all places of the window: similarity of contrast and structure, and that times luminance's."""
    height, width = (side - BORDER for side in one.shape)
    rows = max(8, STRIP // one.shape[1])
    structure = whole = 0.0
    for top in range(0, height, rows):
        bottom = min(top + rows, height) + BORDER
        sums = _sums(one[top:bottom], two[top:bottom])
        structure, whole = structure + sums[0], whole + sums[1]
    return structure / (height * width), whole / (height * width)


def _sums(one, two):
    """The same of one strip (rows, W), summed. Variances and covariance do not mind that MIDDLE is missing."""
    planes = np.empty((one.shape[0], 4, one.shape[1]), np.float32)
    x, y, products, squares = planes.transpose(1, 0, 2)
    np.subtract(one, MIDDLE, out=x, dtype=np.float32)
    np.subtract(two, MIDDLE, out=y, dtype=np.float32)
    np.multiply(x, y, out=products)
    np.multiply(x, x, out=squares)
    squares += y * y

    mean1, mean2, products, squares = _blur(_blur(planes, 0), 2).transpose(1, 0, 2)
    product = mean1 * mean2  # of the means
    square = mean1 * mean1 + mean2 * mean2
    similarity = (2 * (products - product) + np.float32(C2)) / (squares - square + np.float32(C2))
    structure = similarity.sum(dtype=np.float64)

    # With m1 and m2 the means of the pixels themselves: 2 m1 m2, and m1^2 + m2^2.
    missing = np.float32(2 * MIDDLE) * (mean1 + mean2) + np.float32(2 * MIDDLE**2 + C1)
    similarity *= (2 * product + missing) / (square + missing)
    return float(structure), float(similarity.sum(dtype=np.float64))


def _window():
    """Gaussian, float64, of sum 1."""
    window = np.exp(-np.square(np.arange(TAPS) - TAPS // 2) / (2 * SIGMA**2))
    return window / window.sum()


def _blur(planes, axis):
    """float32 planes under the window along an axis, where it fits.

    Tap by tap, over the whole strip: NumPy then runs at the speed of the cache, and the order of the sums is fixed.
    """
    window = _window().astype(np.float32)
    length = planes.shape[axis] - BORDER

    def shifted(by):
        return planes[(slice(None),) * axis + (slice(by, by + length),)]

    blurred = shifted(BORDER // 2) * window[BORDER // 2]
    pair = np.empty_like(blurred)
    for tap in range(BORDER // 2):  # the window is symmetric: two places share a factor
        np.add(shifted(tap), shifted(BORDER - tap), out=pair)
        pair *= window[tap]
        blurred += pair
    return blurred

"""The float networks of a model as ONNX graphs: g_a, g_s and h_a, which follow from its config alone.

The graphs are written when a model is loaded (:mod:`codec.onnx_bytes`) and never stored. A graph file would be one more
thing that can be damaged, forged or out of step with the weights; what is not read needs no checks, the model id covers
it by covering the config, and a better graph serves old models as well. They hold no weights: initialisers are external
and come from arrays. ONNX Runtime keeps a copy of its own of them; Winograd kernels, four times as large as weights,
are inputs, of which it keeps none. What depends on the quality is an input as well, so that one session serves all:

    t + s (W_out u + b_out)  =  (t + (s W_out) u)  +  s b_out

The product with s W_out adds into t in one call. The constants s b_out pile up along the stream of residuals; instead
of being added to it they go, through the next matrix, into the bias of whatever reads the stream (:func:`tables`).

The streams are (rows, C), in the order of positions of :mod:`codec.winograd`; sizes of pictures are known at run time.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from . import winograd
from .config import ModelConfig
from .dct import PATCH
from .onnx_bytes import FLOAT, INT32, UINT8, Graph

SLOPE = 0.125  # of leaky ReLU
PARTS = 2  # convolutions at 1/8 take the tiles in that many turns, for less memory
PIXELS = 3 * 16**2  # samples of a 16 x 16 square


# What the weights file holds


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of all float weights of a model (everything whose name does not begin with "entropy.")."""
    shapes: dict[str, tuple[int, ...]] = {}
    width = config.analysis_width
    _linear(shapes, "g_a.enter", PIXELS, width)
    for i in range(config.analysis_depth):
        _block(shapes, f"g_a.blocks.{i}", width, config.anchors)
    _linear(shapes, "g_a.out", width, config.M)

    width16, width8 = config.synthesis_width16, config.synthesis_width8
    _linear(shapes, "g_s.enter", config.M, width16)
    for i in range(config.synthesis_depth16):
        _block(shapes, f"g_s.blocks16.{i}", width16, config.anchors)
    _linear(shapes, "g_s.up", width16, 4 * width8)
    for i in range(config.synthesis_depth8):
        _block(shapes, f"g_s.blocks8.{i}", width8, config.anchors)
    _conv3(shapes, "g_s.patch", width8, 3 * PATCH**2)

    if config.side_information:
        width = config.hyper_width
        _linear(shapes, "h_a.enter", config.M, width)
        for i in (1, 2):
            shapes[f"h_a.depthwise{i}.weight"] = (width, 1, 3, 3)
            shapes[f"h_a.depthwise{i}.bias"] = (width,)
            _linear(shapes, f"h_a.down{i}", 4 * width, width)
        _linear(shapes, "h_a.out", width, config.N)
        shapes["log_gain.table"] = (config.anchors, config.M)
        shapes["z_log_gain.table"] = (config.anchors, config.N)
    return shapes


def _linear(shapes, name, channels_in, channels_out):
    shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (channels_out, channels_in), (channels_out,)


def _conv3(shapes, name, channels_in, channels_out):
    shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (channels_out, channels_in, 3, 3), (channels_out,)


def _block(shapes, name, channels, anchors):
    _linear(shapes, f"{name}.mix_in", channels, channels // 2)
    _conv3(shapes, f"{name}.conv", channels // 2, channels // 2)
    _linear(shapes, f"{name}.mix_out", channels // 2, channels)
    shapes[f"{name}.scale.table"] = (anchors, channels)


# Graphs


def analysis_graph(config: ModelConfig, eight_bits: bool) -> Graph:
    """g_a.

    Inputs: ``x`` (rows, 768), squares of 16 x 16 pixels, uint8 when ``eight_bits``, otherwise float in [0, 1], samples
    in the order row, column, colour; ``neighbours`` (:class:`codec.winograd.Layout`); those of :func:`taps` and
    :func:`tables`.
    Output: ``y`` float (rows, M), not gained.
    """
    g, width = Graph("analysis"), config.analysis_width
    x = g.input("x", UINT8 if eight_bits else FLOAT, ["rows", PIXELS])
    neighbours = g.input("neighbours", INT32, ["neighbourhoods"])
    if eight_bits:
        x = g.add("Div", g.add("Cast", x, to=FLOAT), g.number(255.0))
    t = _matrix(g, x, "g_a.enter", PIXELS, width)
    for i in range(config.analysis_depth):
        t = _residual(g, t, [neighbours], f"g_a.blocks.{i}", width)
    y = _matrix(g, t, "g_a.out", width, config.M, g.input("g_a.out.bias", FLOAT, [config.M]))
    g.output(y, "y", FLOAT, ["rows", config.M])
    return g


def synthesis_graph(config: ModelConfig, rounded: bool) -> Graph:
    """g_s.

    Inputs: ``y_hat`` float (rows, M), gain undone; ``neighbours16``; ``up``, int32 rows at 1/8 as 4 * row at 1/16 +
    2 i + j; ``neighbours8.0`` and so on, in PARTS parts; ``neighbours_patch.0`` and so on, of the tiles at 1/8 that are
    wanted; those of :func:`taps` and :func:`tables`.
    Outputs: ``x_hat.0`` and so on, (16 * tiles, 192), squares of 8 x 8 pixels, samples in the order row, column,
    colour: uint8 when ``rounded``, otherwise float, not clamped, nominally in [0, 1].
    """
    g, width16, width8 = Graph("synthesis"), config.synthesis_width16, config.synthesis_width8
    y_hat = g.input("y_hat", FLOAT, ["rows16", config.M])
    neighbours16 = g.input("neighbours16", INT32, ["neighbourhoods16"])
    up = g.input("up", INT32, ["rows8"])
    neighbours8 = [g.input(f"neighbours8.{k}", INT32, [f"neighbourhoods8.{k}"]) for k in range(PARTS)]
    t = _matrix(g, y_hat, "g_s.enter", config.M, width16)
    for i in range(config.synthesis_depth16):
        t = _residual(g, t, [neighbours16], f"g_s.blocks16.{i}", width16)
    t = _matrix(g, t, "g_s.up", width16, 4 * width8, g.input("g_s.up.bias", FLOAT, [4 * width8]))
    t = g.add("Gather", g.add("Reshape", t, g.integers(-1, width8)), up, axis=0)
    for i in range(config.synthesis_depth8):
        t = _residual(g, t, neighbours8, f"g_s.blocks8.{i}", width8)
    samples = 3 * PATCH**2
    bias = g.input("g_s.patch.bias", FLOAT, [samples])
    parts = [g.input(f"neighbours_patch.{k}", INT32, [f"neighbourhoods_patch.{k}"]) for k in range(PARTS)]
    for k, x_hat in enumerate(_convolution(g, t, parts, "g_s.patch", width8, samples, bias)):
        if rounded:
            x_hat = g.add("Add", g.add("Mul", x_hat, g.number(255.0)), g.number(0.5))
            x_hat = g.add("Cast", g.add("Clip", x_hat, g.number(0.0), g.number(255.0)), to=UINT8)  # towards zero
        g.output(x_hat, f"x_hat.{k}", UINT8 if rounded else FLOAT, [f"rows.{k}", samples])
    return g


def hyper_graph(config: ModelConfig) -> Graph:
    """h_a. Input: ``y`` float (1, M, h, w), gained. Output: ``z`` float (1, N, h/4, w/4), not gained.

    Hardly 2 % of the encoder, so convolutions as they come. A matrix on a pixel_unshuffle(2) is a 2x2 convolution.
    """
    g, width = Graph("hyper_analysis"), config.hyper_width
    y = g.input("y", FLOAT, [1, config.M, "h", "w"])
    t = g.add("Mul", g.add("Sign", y), g.add("Log", g.add("Add", g.add("Abs", y), g.number(1.0))))
    t = _leaky(g, _plain_convolution(g, t, "h_a.enter", (width, config.M, 1, 1)))
    for i in (1, 2):
        t = _plain_convolution(g, t, f"h_a.depthwise{i}", (width, 1, 3, 3), group=width, pads=[1, 1, 1, 1])
        t = _leaky(g, _plain_convolution(g, t, f"h_a.down{i}", (width, width, 2, 2), strides=[2, 2]))
    z = _plain_convolution(g, t, "h_a.out", (config.N, width, 1, 1))
    g.output(z, "z", FLOAT, [1, config.N, "h4", "w4"])
    return g


def _residual(g, t, neighbours, name, channels):
    """t + s W_2 f(conv3x3 f(W_1 t)), the constant s b_2 left out; ``neighbours`` is a list of parts."""
    hidden = channels // 2
    bias = g.input(f"{name}.mix_in.bias", FLOAT, [hidden])
    u = _leaky(g, _matrix(g, t, f"{name}.mix_in", channels, hidden, bias))
    bias = g.weight(f"{name}.conv.bias", (hidden,))
    parts = _convolution(g, u, neighbours, f"{name}.conv", hidden, hidden, bias)
    u = _leaky(g, _joined(g, parts, hidden))
    return g.add("Gemm", u, g.input(f"{name}.mix_out.scaled", FLOAT, [hidden, channels]), t)


def _matrix(g, t, name, channels_in, channels_out, bias=None):
    """W t + b."""
    weight = g.weight(f"{name}.weight", (channels_out, channels_in))
    return g.add("Gemm", t, weight, bias or g.weight(f"{name}.bias", (channels_out,)), transB=1)


def _convolution(g, t, neighbours, name, channels_in, channels_out, bias):
    """3x3 convolution with replicated border, as :mod:`codec.winograd` describes it: the parts of its result."""
    taps = g.input(f"{name}.taps", FLOAT, [9, channels_in * channels_out])
    kernels = g.add("MatMul", g.weight("winograd.kernels", (36, 9)), taps)
    kernels = g.add("Reshape", kernels, g.integers(36, channels_in, channels_out))
    parts = []
    for part in neighbours:
        v = g.add("Reshape", g.add("Gather", t, part, axis=0), g.integers(36, -1))
        v = g.add("MatMul", g.weight("winograd.forward", (36, 36)), v)
        v = g.add("MatMul", g.add("Reshape", v, g.integers(36, -1, channels_in)), kernels)
        v = g.add("MatMul", g.weight("winograd.backward", (16, 36)), g.add("Reshape", v, g.integers(36, -1)))
        parts.append(g.add("Add", g.add("Reshape", v, g.integers(-1, channels_out)), bias))
    return parts


def _joined(g, parts, channels):
    """Streams (16 * some tiles, C) of some of the tiles -> the stream of all, position before tile."""
    if len(parts) == 1:
        return parts[0]
    parts = [g.add("Reshape", part, g.integers(16, -1, channels)) for part in parts]
    return g.add("Reshape", g.add("Concat", *parts, axis=1), g.integers(-1, channels))


def _plain_convolution(g, t, name, shape, **attributes):
    return g.add("Conv", t, g.weight(f"{name}.weight", shape), g.weight(f"{name}.bias", shape[:1]), **attributes)


def _leaky(g, t):
    return g.add("LeakyRelu", t, alpha=SLOPE)


# What a session is given


def initialisers(graph: Graph, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays for the external initialisers of a graph: float32, C order.

    Args:
        weights: name -> float array, as :func:`weight_shapes` has them.
    """
    made = {f"winograd.{name}": getattr(winograd, name.upper()) for name in ("forward", "kernels", "backward")}
    for name, shape in graph.weights.items():
        if name == "g_a.enter.weight":
            squares = weights[name].reshape(-1, 3, 16, 16).transpose(0, 2, 3, 1)  # row, column, colour
            made[name] = _float32(squares.reshape(shape))
        elif name == "g_a.enter.bias":  # the network sees x - 1/2
            weight = weights["g_a.enter.weight"].astype(np.float64)
            made[name] = _float32(weights[name] - 0.5 * weight.sum(1))
        elif name == "g_s.up.weight":
            made[name] = _positions_first(_float32(weights[name]), shape[0] // 4)
        elif name not in made:
            made[name] = _float32(weights[name]).reshape(shape)
    return {name: made[name] for name in graph.weights}


def taps(graph: Graph, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays for the inputs that are weights of 3x3 layers: initialisers would have their kernels made in advance."""
    made = {}
    for name in graph.inputs:
        layer, _, kind = name.rpartition(".")
        if kind == "taps":
            weight = weights[f"{layer}.weight"]
            made[name] = winograd.taps(_positions_first(weight, 3) if layer == "g_s.patch" else weight)
    return made


def tables(graph: Graph, weights: Mapping[str, np.ndarray], position: float) -> dict[str, np.ndarray]:
    """Arrays for the inputs that depend on the quality.

    Args:
        graph: of :func:`analysis_graph` or :func:`synthesis_graph`.
        position: float, between anchor qualities: 1.25 is a quarter of the way from the second to the third.
    """
    made, constant = {}, None  # constant: what is missing from every row of the stream so far
    for name in graph.inputs:
        layer, _, kind = name.rpartition(".")
        if kind == "scaled":
            block = layer.rpartition(".")[0]
            scale = interpolated(weights[f"{block}.scale.table"], position)
            made[name] = np.ascontiguousarray(_float32(weights[f"{layer}.weight"]).T * scale)
            own = scale * _float32(weights[f"{layer}.bias"])
            constant = own if constant is None else constant + own
        elif kind == "bias":
            made[name] = _float32(weights[name])
            weight = _float32(weights[f"{layer}.weight"])
            if weight.ndim == 4:
                weight = weight.sum((2, 3))
            if constant is not None:
                made[name] = made[name] + (weight * constant).sum(1)  # unlike a product, the same for any threads
            if layer == "g_s.up":
                made[name] = _positions_first(made[name], len(made[name]) // 4)
                constant = None  # from here on; what there was is in this bias
            if layer == "g_s.patch":
                made[name] = _positions_first(made[name], 3) + np.float32(0.5)  # the network makes x_hat - 1/2
    return made


def interpolated(table: np.ndarray, position: float) -> np.ndarray:
    """Table (anchors, ...) between anchors -> float32 (...)."""
    left = min(int(position), len(table) - 2)
    weight = np.float32(position - left)
    return table[left].astype(np.float32) * (1 - weight) + table[left + 1].astype(np.float32) * weight


def _positions_first(a, channels):
    """Rows in pixel_shuffle's order, channel then position, -> position then channel."""
    return np.ascontiguousarray(a.reshape(channels, -1, *a.shape[1:]).swapaxes(0, 1)).reshape(a.shape)


def _float32(a):
    return np.ascontiguousarray(a, np.float32)

"""The synthesis in narrower numbers and by other engines: what it would save of decoding, and what it does to pixels.

    python benchmarks/synthesis.py PICTURES... [--model MODEL] [--sizes 1152x896,4000x3000] [--quality 50]
        [--threads 1] [--rounds 3] [--only NAME,...]

Variants take turns with the engine as it is, float32 in ONNX Runtime. "rows" is the engine's own graph, with Winograd's
algorithm; "convolutions" the same network as plain layers. int8 is static (QDQ), with ranges of the other pictures'
latents at this quality: of all layers, or of the blocks' branches alone. Of each: time of g_s and of decoding to
memory, in seconds of the processors, which a busy machine changes little, relative to the engine's in the same round;
samples of the first picture that differ from the engine's, and by how many levels at most; and what it costs in PSNR.
Needs onnx; OpenVINO is measured where it is installed.
"""

import argparse
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime

from codec import Codec, engine, graphs
from codec.bitstream import unpack
from codec.config import STEP
from codec.evaluation.stages import fit
from codec.image_io import read_picture
from codec.quality import hundredths, position
from codec.threads import set_threads
from codec.weights import find_model

try:
    import onnx
except ImportError:  # nothing else needs it
    onnx = None

BRANCHES = ("mix_in", "conv", "mix_out")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--model")
    parser.add_argument("--sizes", default="1152x896,4000x3000")
    parser.add_argument("--quality", type=float, default=50)
    parser.add_argument("--threads", default="1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="names of variants")
    options = parser.parse_args()
    if onnx is None:
        parser.error("needs onnx: pip install onnx")
    logging.disable(logging.WARNING)  # the quantiser's advice
    coder = Codec(options.model, fallback="never")
    network = Network(coder, hundredths(options.quality))
    pictures = [read_picture(path).pixels for path in options.pictures]
    with tempfile.TemporaryDirectory() as folder:
        made = variants(network, [fit(pixels, 704, 576) for pixels in pictures[1:]], Path(folder))
        wanted = options.only.split(",") if options.only else list(made)
        for size in options.sizes.split(","):
            pixels = fit(pictures[0], *map(int, size.split("x")))
            for threads in map(int, options.threads.split(",")):
                set_threads(threads)
                compare(network, {name: made[name] for name in wanted}, pixels, threads, options.rounds)


def compare(network, made, pixels, threads, rounds):
    """Print a table of one size with one number of threads."""
    print(f"\n{pixels.shape[1]}x{pixels.shape[0]}, threads: {threads}\n")
    print("| variant | g_s | decode | g_s, CPU s | samples that differ | most | PSNR |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    data = network.coder.compress(pixels, network.quality / 100)
    y_hat = network.latents(data)
    opened, errors = {"float32 (as it is)": network.as_it_is()}, {}
    for name, make in made.items():
        print(f"making {name}", file=sys.stderr, flush=True)
        try:
            opened[name] = make(threads)
        except Exception as error:  # of engines that lack something, which is a result
            errors[name] = str(error).splitlines()[0][:110]
    times, rest, results = {name: [] for name in opened}, [], {}
    for number in range(rounds + 1):
        for name, pieces in opened.items():
            out = np.empty((STEP * y_hat.shape[1], STEP * y_hat.shape[2], 3), np.uint8)
            begun = time.process_time()
            for piece, part in pieces(y_hat):
                out[engine.in_pixels(piece)] = part
            took = time.process_time() - begun
            results[name] = out[: pixels.shape[0], : pixels.shape[1]]
            if number:
                times[name].append(took)
        begun = time.process_time()
        network.coder.decompress(data)
        if number:
            rest.append(time.process_time() - begun)
    first, *_ = opened
    base = times[first]
    for name in opened:
        own = times[name]
        g_s = statistics.median(mine / its for mine, its in zip(own, base))
        decode = statistics.median((mine + whole - its) / whole for mine, its, whole in zip(own, base, rest))
        difference = np.abs(results[name].astype(int) - results[first])
        lost = psnr_db(pixels, results[name]) - psnr_db(pixels, results[first])
        share = f"{100 * (difference > 0).mean():.3f} % | {difference.max()}"
        print(
            f"| {name} | {g_s:.2f} | {decode:.2f} | {statistics.median(own):.2f} | {share} | {lost:+.4f} dB |",
            flush=True,
        )
    for name, error in errors.items():
        print(f"| {name} | {error} | | | | | |", flush=True)


def psnr_db(a, b):
    return 10 * np.log10(255**2 / np.square(a.astype(np.float32) - b).mean(dtype=np.float64))


class Network:
    """g_s of a model at one quality, all its weights constants: ONNX models of both kinds of graph."""

    def __init__(self, coder, quality):
        self.coder, self.quality = coder, quality
        self.engine, self.config = coder.model.engine, coder.model.config
        self.weights = engine.float_weights(*engine.read_folder(find_model(coder.model_id)))
        self.position = position(quality, self.config.anchors)
        self.gain = np.exp(graphs.interpolated(self.weights["log_gain.table"], self.position))

    def latents(self, data):
        """y_hat (M, h, w) of a compressed file."""
        container, model, kept = unpack(data), self.coder.model, []
        synthesise, model.engine.synthesise_into = (
            model.engine.synthesise_into,
            lambda out, y, *_: kept.append(np.array(y[:, 0 : y.shape[1], 0 : y.shape[2]])),
        )
        try:
            model.decode(container, container.height, container.width, container.quality)
        finally:
            model.engine.synthesise_into = synthesise
        return kept[0]

    def as_it_is(self):
        return lambda y_hat: self.engine.synthesise_pieces(y_hat, self.quality)

    def rows(self):
        """The engine's graph; products that add into the stream in two nodes, as quantisers want them."""
        graph = graphs.synthesis_graph(self.config, rounded=True)
        arrays = {
            **graphs.initialisers(graph, self.weights), **graphs.taps(graph, self.weights),
            **graphs.tables(graph, self.weights, self.position),
        }  # fmt: skip
        model = onnx.load_from_string(graph.serialise())
        constants = [t for t in model.graph.initializer if t.name not in arrays]
        constants += [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
        inputs = [i for i in model.graph.input if i.name not in arrays]
        nodes = []
        for node in model.graph.node:
            node.name = node.output[0]
            if node.op_type == "Gemm":
                node.name = node.input[1].removesuffix(".weight").removesuffix(".scaled")
            if node.name.endswith("mix_out"):
                product, name = f"{node.output[0]}.product", node.name
                nodes.append(onnx.helper.make_node("MatMul", node.input[:2], [product], name))
                nodes.append(onnx.helper.make_node("Add", [product, node.input[2]], node.output, f"{name}.add"))
            else:
                nodes.append(node)
        made = onnx.helper.make_graph(nodes, "rows", inputs, model.graph.output, constants)
        return _model(made)

    def convolutions(self, ranges=None):
        """Plain layers on y (1, M, h, w), gain undone -> uint8 (1, 3, 16 h, 16 w).

        Args:
            ranges: layer of a branch -> largest magnitude of each of its inputs, (C,), which are then brought to one
                range (SmoothQuant, arXiv:2211.10438; with the share 0.7 of the inputs, as good as any of 0.5 to 1).
        """
        weights, nodes, constants = self.weights, [], []

        def constant(name, array):
            constants.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
            return name

        def add(kind, name, *inputs, **attributes):
            nodes.append(onnx.helper.make_node(kind, inputs, [name], name, **attributes))
            return name

        pads = constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1]))

        def factors(name):
            """What the inputs of a layer are divided by."""
            if not ranges or name not in ranges:
                return 1.0
            weight = np.abs(weights[f"{name}.weight"].astype(np.float32))
            return ranges[name] ** 0.7 / weight.max((0, *range(2, weight.ndim))) ** 0.3

        def layer(t, name, scale=1.0, shift=0.0):
            weight, bias = (weights[f"{name}.{kind}"].astype(np.float32) for kind in ("weight", "bias"))
            if weight.ndim == 4:
                t = add("Pad", f"{name}.pad", t, pads, mode="edge")
            else:
                weight = weight[..., None, None]
            weight = (weight * np.reshape(scale, (-1, 1, 1, 1)) * np.reshape(factors(name), (1, -1, 1, 1))).astype(
                np.float32
            )
            bias = (bias * scale + shift).astype(np.float32)
            return add("Conv", name, t, constant(f"{name}.weight", weight), constant(f"{name}.bias", bias))

        def blocks(t, name, count):
            for i in range(count):
                block = f"{name}.{i}"
                scale = graphs.interpolated(weights[f"{block}.scale.table"], self.position)
                u = t
                if ranges:
                    inverse = (1 / factors(f"{block}.mix_in")).reshape(1, -1, 1, 1).astype(np.float32)
                    u = add("Mul", f"{block}.t", t, constant(f"{block}.inverse", inverse))
                u = layer(u, f"{block}.mix_in", 1 / factors(f"{block}.conv"))
                u = add("LeakyRelu", f"{block}.u", u, alpha=graphs.SLOPE)
                u = layer(u, f"{block}.conv", 1 / factors(f"{block}.mix_out"))
                u = add("LeakyRelu", f"{block}.v", u, alpha=graphs.SLOPE)
                t = add("Add", f"{block}.add", t, layer(u, f"{block}.mix_out", scale))
            return t

        t = blocks(layer("y", "g_s.enter"), "g_s.blocks16", self.config.synthesis_depth16)
        t = add("DepthToSpace", "g_s.at8", layer(t, "g_s.up"), blocksize=2, mode="CRD")
        t = layer(
            blocks(t, "g_s.blocks8", self.config.synthesis_depth8), "g_s.patch", 255.0, 128.0
        )  # x_hat - 1/2, rounded
        t = add("Clip", "limited", t, constant("low", np.float32(0)), constant("high", np.float32(255)))
        t = add("DepthToSpace", "shuffled", t, blocksize=8, mode="CRD")
        add("Cast", "x_hat", t, to=onnx.TensorProto.UINT8)
        info = onnx.helper.make_tensor_value_info
        y = info("y", onnx.TensorProto.FLOAT, [1, self.config.M, "h", "w"])
        x_hat = info("x_hat", onnx.TensorProto.UINT8, [1, 3, "16 h", "16 w"])
        return _model(onnx.helper.make_graph(nodes, "convolutions", [y], [x_hat], constants))

    def by(self, kind, run):
        """What :meth:`as_it_is` gives, by ``run(inputs) -> outputs`` of one of the graphs."""
        if kind == "rows":
            rows = Rows(self.config, self.weights)
            rows.given = run
            return lambda y_hat: rows.synthesise_pieces(y_hat, self.quality)

        def synthesise(y_hat):
            _, height, width = y_hat.shape
            reach = self.config.synthesis_depth16 + -(-(self.config.synthesis_depth8 + 1) // 2)
            for piece in engine.pieces(height, width):
                outer = piece.grown(reach, height, width)
                y = y_hat[:, outer.top : outer.bottom, outer.left : outer.right] / self.gain[:, None, None]
                (x_hat,) = run({"y": y[None]})
                inner = engine.Piece(
                    piece.top - outer.top, piece.bottom - outer.top, piece.left - outer.left, piece.right - outer.left
                )
                yield piece, x_hat[0].transpose(1, 2, 0)[engine.in_pixels(inner)]

        return synthesise


class Rows(engine.Engine):
    """The engine with another session, whose graph has the tables of its quality inside."""

    def _session(self, kind):
        super()._session(kind)  # it prepares the tables that the engine gives
        names = ("y_hat", "up", "neighbours")

        def run(_, inputs):
            return self.given({name: array for name, array in inputs.items() if name.startswith(names)})

        return SimpleNamespace(run=run)


def _model(graph):
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def branch_ranges(network, model, ys):
    """{layer of a branch: largest magnitude of each of its inputs} over latents."""
    watched, found = onnx.ModelProto(), {}
    watched.CopyFrom(model)
    layers = [node for node in model.graph.node if node.op_type == "Conv" and node.name.endswith(BRANCHES)]
    # What a 3x3 layer reads has been padded, which changes no range.
    for node in layers:
        watched.graph.output.append(onnx.helper.make_empty_tensor_value_info(node.input[0]))
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(inputs):
        x_hat, *seen = session.run(None, inputs)
        for node, values in zip(layers, seen, strict=True):
            found[node.name] = np.maximum(found.get(node.name, 1e-6), np.abs(values[0]).max((1, 2)))
        return [x_hat]

    for y_hat in ys:
        list(network.by("convolutions", run)(y_hat))
    return found


def variants(network, calibration, folder):
    """{name: threads -> y_hat -> pieces}."""
    ys = [network.latents(network.coder.compress(pixels, network.quality / 100)) for pixels in calibration]
    kinds = {"rows": network.rows(), "convolutions": network.convolutions()}
    kinds["equalised"] = network.convolutions(branch_ranges(network, kinds["convolutions"], ys))
    files = {}
    for kind, model in kinds.items():
        files[kind] = folder / f"{kind}.onnx"
        onnx.save(model, files[kind])

    def quantised(kind, layers):
        """File of the graph with these layers in int8."""
        path = folder / f"{kind}-{'-'.join(layers)}.onnx"
        if not path.exists():
            from onnxruntime import quantization

            collected = []
            session = onnxruntime.InferenceSession(str(files[kind]), providers=["CPUExecutionProvider"])
            pieces = network.by(kind, lambda inputs: collected.append(inputs) or session.run(None, inputs))
            for y_hat in ys:
                list(pieces(y_hat))
            inputs = iter(collected)
            reader = type(
                "Reader", (quantization.CalibrationDataReader,), {"get_next": lambda self: next(inputs, None)}
            )
            names = [
                node.name for node in kinds[kind].graph.node
                if node.op_type in ("Conv", "Gemm", "MatMul") and node.name.rpartition(".")[2] in layers
            ]  # fmt: skip
            quantization.quantize_static(
                files[kind], path, reader(), per_channel=True, nodes_to_quantize=names,
                activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
            )  # fmt: skip
        return path

    def by_onnxruntime(kind, path=None, level="ORT_ENABLE_ALL", **entries):
        def make(threads):
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
            options.log_severity_level, options.enable_mem_pattern = 4, False
            options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            for key, value in entries.items():
                options.add_session_config_entry(key, value)
            file = str(path() if path else files[kind])
            session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
            return network.by(kind, lambda inputs: session.run(None, inputs))

        return make

    def by_openvino(kind, precision, path=None):
        def make(threads):
            import openvino

            settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
            model = openvino.Core().compile_model(str(path() if path else files[kind]), "CPU", settings)
            return network.by(kind, lambda inputs: list(model(inputs).values()))

        return make

    everything = (*BRANCHES, "enter", "up", "patch")
    return {
        "rows, weights constant": by_onnxruntime("rows"),
        "rows, not optimised": by_onnxruntime("rows", level="ORT_DISABLE_ALL"),
        "rows, basic optimisation": by_onnxruntime("rows", level="ORT_ENABLE_BASIC"),
        "rows, fast bfloat16 products": by_onnxruntime(
            "rows", **{"mlas.enable_gemm_fastmath_arm64_bfloat16": "1", "mlas.enable_gemm_fastmath_x64_bfloat16": "1"}
        ),
        "convolutions": by_onnxruntime("convolutions"),
        "rows, int8 mixing": by_onnxruntime("rows", lambda: quantised("rows", ("mix_in", "mix_out"))),
        "convolutions, int8 branches": by_onnxruntime("convolutions", lambda: quantised("convolutions", BRANCHES)),
        "convolutions, int8 branches, equalised": by_onnxruntime("equalised", lambda: quantised("equalised", BRANCHES)),
        "convolutions, int8": by_onnxruntime("convolutions", lambda: quantised("convolutions", everything)),
        "OpenVINO, rows, float32": by_openvino("rows", "f32"),
        "OpenVINO, rows, bfloat16": by_openvino("rows", "bf16"),
        "OpenVINO, convolutions, float32": by_openvino("convolutions", "f32"),
        "OpenVINO, convolutions, bfloat16": by_openvino("convolutions", "bf16"),
        "OpenVINO, int8 branches, equalised": by_openvino("equalised", "f32", lambda: quantised("equalised", BRANCHES)),
    }


if __name__ == "__main__":
    main()

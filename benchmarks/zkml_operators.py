"""Which ONNX operators circuits can express, found by trying: docs/zkml-operators.md.

Every operator stands alone in a model of six or more inputs. It is compiled, rows are
run through the circuit, and the answers compared with ONNX Runtime's. What fails says
why in the engine's words.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from privacy.child import Child, ChildDied, Handler, Progress
from privacy.encoding import Json
from privacy.errors import PrivacyError
from privacy.zkml.choose import run_onnx
from privacy.zkml.field import dequantize, quantize
from privacy.zkml.system import CircuitChoice, CircuitFiles, Visibility, load_backend

_TIMEOUT_S = 300.0
_CLOSE = 0.02
_ROWS = 6

_IMAGE = "s = Constant <value = int64[4] {1, 1, 6, 6}> ()\n i = Reshape(x, s)\n"
_MATRIX = "s = Constant <value = int64[3] {1, 2, 3}> ()\n m = Reshape(x, s)\n"
_ONES = "w = Constant <value = float[1,1,3,3] {1,0,1,0,2,0,1,0,1}> ()\n"
_KERNEL = "<kernel_shape = [3, 3], strides = [1, 1], pads = [0, 0, 0, 0]>"
_BOOL = "h = Constant <value = float[1] {0.25}> ()\n"
_CAST = "y = Cast <to = 1> (b)"


def _body(lines: str, *, inputs: int = 6, outputs: int = 6) -> tuple[str, int, int]:
    return lines, inputs, outputs


def _unary(*names: str) -> dict[str, tuple[str, int, int]]:
    return {name: _body(f"y = {name}(x)") for name in names}


def _reduced(*names: str) -> dict[str, tuple[str, int, int]]:
    text = "y = {} <axes = [1], keepdims = 1> (x)"
    return {name: _body(text.format(name), outputs=1) for name in names}


def _compared(*names: str) -> dict[str, tuple[str, int, int]]:
    return {name: _body(f"{_BOOL} b = {name}(x, h)\n {_CAST}") for name in names}


OPERATORS: dict[str, tuple[str, int, int]] = {
    **_unary("Identity", "Neg", "Abs", "Sign", "Floor", "Ceil", "Round"),
    **_unary(
        "Relu", "LeakyRelu", "Elu", "Selu", "HardSigmoid", "HardSwish", "Softsign"
    ),
    **_unary("Sigmoid", "Tanh", "Softplus", "Erf", "Exp", "Sin", "Cos", "Tan"),
    **_unary("Sinh", "Cosh", "Atan"),
    "Softmax": _body("y = Softmax <axis = 1> (x)"),
    "LogSoftmax": _body("y = LogSoftmax <axis = 1> (x)"),
    "Sqrt": _body("a = Abs(x)\n y = Sqrt(a)"),
    "Log": _body(f"{_BOOL} a = Abs(x)\n c = Add(a, h)\n y = Log(c)"),
    "Reciprocal": _body(f"{_BOOL} a = Abs(x)\n c = Add(a, h)\n y = Reciprocal(c)"),
    "Add": _body("y = Add(x, x)"),
    "Sub": _body(f"{_BOOL} y = Sub(x, h)"),
    "Mul": _body("y = Mul(x, x)"),
    "Div by a constant": _body(f"{_BOOL} y = Div(x, h)"),
    "Div by a value": _body(f"{_BOOL} a = Abs(x)\n c = Add(a, h)\n y = Div(x, c)"),
    "Pow, constant": _body("p = Constant <value = float[1] {2}> ()\n y = Pow(x, p)"),
    "Min": _body(f"{_BOOL} y = Min(x, h)"),
    "Max": _body(f"{_BOOL} y = Max(x, h)"),
    "Clip": _body("l = Constant <value = float {-0.5}> ()\n y = Clip(x, l)"),
    **_compared("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"),
    "And, Or, Xor, Not": _body(
        f"{_BOOL} a = Less(x, h)\n n = Not(a)\n o = Or(a, n)\n e = And(o, n)\n"
        f" b = Xor(e, a)\n {_CAST}"
    ),
    "Where": _body(f"{_BOOL} b = Less(x, h)\n y = Where(b, x, h)"),
    **_reduced("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2"),
    "ReduceSum": _body(
        "a = Constant <value = int64[1] {1}> ()\n y = ReduceSum(x, a)", outputs=1
    ),
    "ArgMax": _body("b = ArgMax <axis = 1, keepdims = 1> (x)\n" + _CAST, outputs=1),
    "ArgMin": _body("b = ArgMin <axis = 1, keepdims = 1> (x)\n" + _CAST, outputs=1),
    "TopK": _body(
        "k = Constant <value = int64[1] {3}> ()\n y, j = TopK <axis = 1> (x, k)",
        outputs=3,
    ),
    "Gather": _body(
        "j = Constant <value = int64[3] {2, 0, 5}> ()\n y = Gather <axis = 1> (x, j)",
        outputs=3,
    ),
    "Slice": _body(
        "a = Constant <value = int64[1] {1}> ()\n"
        " e = Constant <value = int64[1] {4}> ()\n y = Slice(x, a, e, a)",
        outputs=3,
    ),
    "Concat": _body("y = Concat <axis = 1> (x, x)", outputs=12),
    "Split": _body("a, b = Split <axis = 1> (x)\n y = Add(a, b)", outputs=3),
    "Pad": _body(
        "p = Constant <value = int64[4] {0, 1, 0, 1}> ()\n y = Pad(x, p)", outputs=8
    ),
    "Reshape, Transpose": _body(
        f"{_MATRIX} t = Transpose <perm = [0, 2, 1]> (m)\n"
        " f = Constant <value = int64[2] {1, 6}> ()\n y = Reshape(t, f)"
    ),
    "Gemm": _body(
        "w = Constant <value = float[6,2] {1,2,3,4,5,6,1,2,3,4,5,6}> ()\n"
        " c = Constant <value = float[2] {1, 2}> ()\n y = Gemm(x, w, c)",
        outputs=2,
    ),
    "MatMul of two values": _body(
        f"{_MATRIX} t = Transpose <perm = [0, 2, 1]> (m)\n p = MatMul(m, t)\n"
        " f = Constant <value = int64[2] {1, 4}> ()\n y = Reshape(p, f)",
        outputs=4,
    ),
    "Einsum": _body(
        f'{_MATRIX} p = Einsum <equation = "bij,bkj->bik"> (m, m)\n'
        " f = Constant <value = int64[2] {1, 4}> ()\n y = Reshape(p, f)",
        outputs=4,
    ),
    "CumSum": _body("a = Constant <value = int64 {1}> ()\n y = CumSum(x, a)"),
    "Conv": _body(
        _IMAGE + _ONES + f"c = Conv {_KERNEL} (i, w)\n y = Flatten(c)",
        inputs=36,
        outputs=16,
    ),
    "ConvTranspose": _body(
        _IMAGE + _ONES + f"c = ConvTranspose {_KERNEL} (i, w)\n y = Flatten(c)",
        inputs=36,
        outputs=64,
    ),
    "MaxPool": _body(
        _IMAGE + "c = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (i)\n"
        " y = Flatten(c)",
        inputs=36,
        outputs=9,
    ),
    "AveragePool": _body(
        _IMAGE + "c = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (i)\n"
        " y = Flatten(c)",
        inputs=36,
        outputs=9,
    ),
    "GlobalAveragePool": _body(
        _IMAGE + "c = GlobalAveragePool(i)\n y = Flatten(c)", inputs=36, outputs=1
    ),
    "BatchNormalization": _body(
        _IMAGE + "g = Constant <value = float[1] {2}> ()\n"
        " c = BatchNormalization(i, g, g, g, g)\n y = Flatten(c)",
        inputs=36,
        outputs=36,
    ),
    "InstanceNormalization": _body(
        _IMAGE + "g = Constant <value = float[1] {2}> ()\n"
        " c = InstanceNormalization(i, g, g)\n y = Flatten(c)",
        inputs=36,
        outputs=36,
    ),
    "Resize": _body(
        _IMAGE + "q = Constant <value = float[4] {1, 1, 2, 2}> ()\n"
        ' c = Resize <mode = "nearest"> (i, , q)\n y = Flatten(c)',
        inputs=36,
        outputs=144,
    ),
    "Dropout": _body("y = Dropout(x)"),
}
"""By name: the lines of a graph from `x` to `y`, and their widths."""


def measure(*, quick: bool, only: Sequence[str] = ()) -> Json:
    """Return, by operator, the largest error or why it cannot be had.

    Args:
        quick: The first ten.
        only: Operators whose names contain one of these.
    """
    names = list(OPERATORS)[: 10 if quick else None]
    names = [n for n in names if not only or any(word in n for word in only)]
    found: Json = {}
    child = Child("benchmarks.zkml_operators:handler")
    try:
        for name in names:
            try:
                found[name] = child.call({"name": name}, timeout_s=_TIMEOUT_S)
            except ChildDied:
                found[name] = {"reason": f"nothing came in {_TIMEOUT_S:.0f} s"}
            except PrivacyError as exc:
                found[name] = {"reason": exc.message}
            if "reason" in found[name]:  # a panic leaves the engine in any state
                child.close()
                child = Child("benchmarks.zkml_operators:handler")
    finally:
        child.close()
    return summary(found)


def summary(models: Json) -> Json:
    """Return the figures, with how many operators are served."""
    return {"models": models, "served": sum("error" in m for m in models.values())}


def handler() -> Handler:
    """Return what tries one operator, given its `name`."""
    backend = load_backend()

    def serve(request: Json, progress: Progress) -> Json:
        _ = progress
        lines, inputs, outputs = OPERATORS[request["name"]]
        rows = np.random.default_rng(0).uniform(-1, 1, (_ROWS, inputs))
        rows = np.round(rows * 256) / 256
        choice = CircuitChoice(10, 1024, 6, 2, 1, 17)
        with tempfile.TemporaryDirectory() as scratch:
            files = CircuitFiles(Path(scratch))
            _write(lines, inputs, outputs, files.onnx)
            clear = run_onnx(files.onnx, rows)
            bits = choice.scale_bits
            given = quantize(rows, scale_bits=bits)
            seen = Visibility(input="private")
            facts = backend.compile(files.onnx, given, choice, seen, files)
            made = [
                dequantize(
                    list(backend.witness(files, r, path, scale_bits=bits).outputs),
                    scale_bits=facts.output_scale_bits,
                )
                for r, path in zip(given, [files.root / "w"] * _ROWS, strict=True)
            ]
        error = float(
            np.abs(np.array(made) - clear).max() / max(1, np.abs(clear).max())
        )
        if error > _CLOSE:
            return {
                "reason": f"the answer is wrong, without a word: off by {error:.2g}"
            }
        return {"error": error, "lookups": facts.table_rows > 0}

    return serve


def _write(lines: str, inputs: int, outputs: int, path: Path) -> None:
    import onnx.parser

    text = (
        '<ir_version: 8, opset_import: ["" : 14]>\n'
        f"g (float[1,{inputs}] x) => (float[1,{outputs}] y) {{\n {lines}\n}}"
    )
    onnx.save(onnx.parser.parse_model(text), str(path))


def show(found: Json) -> None:
    """Print the table of the document."""
    print("| Operator | Circuit | How |")
    print("|---|---|---|")
    for name, one in found["models"].items():
        if "error" in one:
            how = "lookup table" if one["lookups"] else "arithmetic"
            print(f"| {name} | yes | {how}, error {one['error']:.1g} |")
        else:
            print(f"| {name} | no | {one['reason'][:160].replace(chr(10), ' ')} |")

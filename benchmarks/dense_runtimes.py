"""Prediction by a dense Keras model in each runtime that is installed."""

import os
import tempfile

import numpy as np


def dense_runtimes(model, x, threads):
    """A function without arguments for each runtime, by its name.

    ONNX Runtime and OpenVINO get the model as ONNX, computed in float32, with
    the shape of `x`; `control` is OpenVINO or else Keras once more.
    """
    model(np.zeros_like(x))  # Keras exports models that were called
    ways = {"Keras": lambda: model.predict_on_batch(x)}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "dense.onnx")
        try:
            model.export(path, format="onnx", verbose=False)
        except ImportError:  # no onnx, no tf2onnx
            return {**ways, "control": ways["Keras"]}
        for name, make in (
            ("ONNX Runtime", _onnxruntime),
            ("OpenVINO", _openvino),
            ("control", _openvino),
        ):
            try:
                ways[name] = make(path, x, threads)
            except ImportError:
                continue
    return {"control": ways["Keras"], **ways}


def _onnxruntime(path, x, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: x})


def _openvino(path, x, threads):
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    model.reshape(list(x.shape))
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda: request.infer([x], share_inputs=True, share_outputs=True)

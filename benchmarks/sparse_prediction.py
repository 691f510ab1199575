"""Parts of `real_sparse.py` that predict: three networks against one."""

import keras
import numpy as np
from absl import flags
from dense_runtimes import dense_runtimes
from sparse_cases import chain
from sparse_cases import compressed
from sparse_cases import rows_of

import keras_freetickets as kft
from keras_freetickets import kernels

FLAGS = flags.FLAGS


def predict_rows():
    """Three sparse networks of 4 layers against one dense one."""
    rng = np.random.default_rng(FLAGS.seed)
    dense = [
        rng.standard_normal((FLAGS.predict_size, FLAGS.predict_size)).astype(
            "float32"
        )
        / 23
        for _ in range(4)
    ]
    bias = np.zeros(FLAGS.predict_size, "float32")
    rows = []
    for batch in FLAGS.batch:
        x = rng.standard_normal((batch, FLAGS.predict_size)).astype("float32")

        def numpy(x=x):
            for kernel in dense:
                x = np.maximum(x @ kernel + bias, 0)
            return x

        rivals = {
            "NumPy": numpy,
            "control": numpy,
            **keras_ways(x),
            **onnxruntime_ways(dense, bias, x),
        }
        for sparsity in FLAGS.sparsity:
            network = kernels.CompressedNetwork(
                [
                    [
                        kernels.CompressedLayer(
                            *compressed(
                                FLAGS.predict_size,
                                FLAGS.predict_size,
                                sparsity,
                                4 * t + i,
                            ),
                            bias,
                            True,
                        )
                        for i in range(4)
                    ]
                    for t in range(3)
                ]
            )

            def three(x=x, network=network):
                return network.predict_members(x)

            case = f"predict, {size_name()}, batch {batch}, sparsity {sparsity}"
            runs = {**rivals, "three compressed": three}
            names = [name for name in rivals if name != "control"]
            rows += rows_of(case, runs, names, calls_of(batch))
    return rows


def size_name():
    return f"4 x {FLAGS.predict_size}"


def calls_of(batch):
    """Calls of a turn of prediction: a single example takes little time."""
    return max(1, FLAGS.calls * 32 // batch) if batch < 32 else FLAGS.calls


def onnxruntime_ways(dense, bias, x):
    """The dense network in ONNX Runtime, where it is installed."""
    try:
        import onnx
        import onnxruntime
    except ImportError:
        return {}
    helper = onnx.helper
    nodes, arrays, last = [], [onnx.numpy_helper.from_array(bias, "b")], "x"
    for i, kernel in enumerate(dense):
        arrays.append(onnx.numpy_helper.from_array(kernel, f"k{i}"))
        nodes.append(helper.make_node("Gemm", [last, f"k{i}", "b"], [f"g{i}"]))
        nodes.append(helper.make_node("Relu", [f"g{i}"], [f"y{i}"]))
        last = f"y{i}"
    ends = [
        helper.make_tensor_value_info(
            name, onnx.TensorProto.FLOAT, [None, x.shape[1]]
        )
        for name in ("x", last)
    ]
    graph = helper.make_graph(nodes, "dense", ends[:1], ends[1:], arrays)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = FLAGS.threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return {"ONNX Runtime": lambda: session.run(None, {"x": x})}


def keras_ways(x):
    model = keras.Sequential(
        [
            keras.Input((FLAGS.predict_size,)),
            *(
                keras.layers.Dense(FLAGS.predict_size, activation="relu")
                for _ in range(4)
            ),
        ]
    )
    model.compile(jit_compile=False)
    return {"Keras": lambda: model.predict_on_batch(x)}


def ensemble_rows():
    """`EnsembleModel.predict_on_batch` of three against one dense model's."""
    models = {
        "Keras": chain(FLAGS.predict_size, 4, None),
        "control": chain(FLAGS.predict_size, 4, None),
    }
    rows = []
    for sparsity in FLAGS.sparsity:
        members = [
            chain(FLAGS.predict_size, 4, sparsity, 4 * t) for t in range(3)
        ]
        ensemble = kft.EnsembleModel(members, pooling="mean")
        predictor = kft.serving.SparsePredictor.from_ensemble(ensemble)
        for batch in FLAGS.batch:
            rng = np.random.default_rng(FLAGS.seed)
            x = rng.standard_normal((batch, FLAGS.predict_size)).astype(
                "float32"
            )

            def call(model, x=x):
                return lambda: model.predict_on_batch(x)

            runs = {name: call(model) for name, model in models.items()}
            runs["EnsembleModel of three"] = call(ensemble)
            runs["SparsePredictor"] = lambda x=x, p=predictor: p.predict(x)
            case = (
                f"ensemble, {size_name()}, batch {batch}, sparsity {sparsity}"
            )
            rows += rows_of(case, runs, ["Keras"], calls_of(batch))
    return rows


def convolution_predict_rows():
    """One and three such networks, compressed, against one dense one."""
    dense = kft.applications.wide_resnet(16, 4)
    members = {
        sparsity: [
            kft.sparsify(
                dense, sparsity, "uniform", storage="compressed", seed=seed
            )
            for seed in range(3)
        ]
        for sparsity in FLAGS.sparsity
    }
    ensembles = {
        f"{name} compressed {sparsity}": kft.EnsembleModel(tickets[:count])
        for sparsity, tickets in members.items()
        for name, count in (("one", 1), ("three", 3))
    }
    predictor = kft.serving.SparsePredictor.from_ensemble
    predictors = {name: predictor(one) for name, one in ensembles.items()}
    rng = np.random.default_rng(FLAGS.seed)
    rows = []
    for batch in FLAGS.batch:
        x = rng.random((batch, 32, 32, 3), "float32")
        runs = dense_runtimes(dense, x, FLAGS.threads)
        rivals = [name for name in runs if name != "control"]
        for name, one in predictors.items():
            runs[name] = lambda one=one, x=x: one.predict(x)
            ensemble = ensembles[name]
            runs[f"{name}, EnsembleModel"] = lambda e=ensemble, x=x: (
                e.predict_on_batch(x)
            )
        case = f"prediction of a wide residual network 16-4, batch {batch}"
        rows += rows_of(case, runs, rivals, calls_of(batch))
    return rows

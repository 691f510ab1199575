r"""Training and prediction on the active weights alone, beside dense.

Eleven parts: `layer` (forward and backward of one product), `step` (a training
step through Keras), `attention` (the same of one attention), `convolution` (the
same of a wide residual network), `convolution_predict` (one and three of these
against a dense one in ONNX Runtime, OpenVINO and Keras), `bridge` (what a call
of the kernels costs in a program of the backend), `predict` (three sparse
networks against one dense one), `ensemble` (the same through Keras' models),
`memory` (peak resident memory that training adds, each side in a process of its
own, on Linux), `convolution_memory` (the same of a wide residual network that
is read from a file, one image of 8x8 pixels a step, so that hardly any is
activations) and `update` (what RigL's updates add to the mean step).
What is compared takes turns in one process; a second dense model is the
control. Times are of the process' processors, so that other work on the
machine counts less, and of the clock, which counts with several threads; ratios
are of medians. The rival is the faster of what `dense` lists; ONNX Runtime is
among them for prediction where it and onnx are installed.

    KERAS_BACKEND=tensorflow python benchmarks/real_sparse.py \
        --parts=layer,step,predict --output=real_sparse.json
"""

import common
import sparse_cases
import sparse_kernels
import sparse_memory
import sparse_prediction
import sparse_training
from absl import app
from absl import flags

FLAGS = flags.FLAGS
for module in (
    *(common, sparse_cases, sparse_kernels, sparse_memory),
    sparse_training,
):
    flags.adopt_module_key_flags(module)
PARTS = {
    "layer": sparse_kernels.layer_rows,
    "step": sparse_training.step_rows,
    "attention": sparse_training.attention_rows,
    "bridge": sparse_kernels.bridge_rows,
    "predict": sparse_prediction.predict_rows,
    "ensemble": sparse_prediction.ensemble_rows,
    "memory": sparse_memory.memory_rows,
    "convolution_memory": sparse_memory.convolution_memory_rows,
    "update": sparse_training.update_rows,
    "convolution": sparse_training.convolution_rows,
    "convolution_predict": sparse_prediction.convolution_predict_rows,
}
flags.DEFINE_list("parts", list(PARTS), "Parts to run.")


def main(_):
    sparse_cases.limit_threads(FLAGS.threads)
    if FLAGS.memory_side:
        sparse_memory.memory_side()
        return
    common.save_parts(PARTS, FLAGS.parts)


if __name__ == "__main__":
    app.run(main)

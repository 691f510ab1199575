"""Graph convolution, and a small network of two of them."""

import typing

import keras
from keras import ops

from keras_freetickets.arguments import check_count
from keras_freetickets.arguments import check_number
from keras_freetickets.graphs.graph import Graph
from keras_freetickets.types import Config
from keras_freetickets.types import Shape
from keras_freetickets.types import Tensor


@keras.saving.register_keras_serializable(package="keras_freetickets")
class GraphConvolution(keras.layers.Layer):
    """Graph convolution: activation(P x W + b), P the normalized adjacency.

    P = D^-1/2 (A + I) D^-1/2 is sparse and never becomes a matrix: features
    are gathered along the edges and summed for each node. `sparsify` masks the
    feature transform W like the kernel of a dense layer, and never the edges.

    The whole graph is one example. A model trains on a batch of one:
    `model.fit(x[None], y[None], sample_weight=weights[None])`, with a weight
    of 0 for nodes that are not in the training split. A batch of several holds
    several sets of features of the same graph.

    Args:
        units: Positive integer, number of output features.
        graph: `Graph`.
        activation: As for `keras.layers.Dense`.
        use_bias: Whether to add a bias.
        kernel_initializer: As for `keras.layers.Dense`; Glorot's uniform
            distribution by default, as in tkipf/gcn.
        bias_initializer: As for `keras.layers.Dense`.
        kernel_regularizer: As for `keras.layers.Dense`.
        bias_regularizer: As for `keras.layers.Dense`.
        kernel_constraint: As for `keras.layers.Dense`.
        bias_constraint: As for `keras.layers.Dense`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Float tensor `(batch, nodes, features)`; the output has the
            shape `(batch, nodes, units)`.

    Raises:
        TypeError: If `graph` is not a `Graph`.
        ValueError: If `units` is not a positive integer, or inputs do not
            have one row for each node.

    Example:

    ```python
    graph = kft.graphs.undirected(pairs, num_nodes=2708)
    inputs = keras.Input((2708, 1433))
    x = GraphConvolution(16, graph, activation="relu")(inputs)
    model = keras.Model(inputs, GraphConvolution(2, graph)(x))
    sparse = kft.sparsify(model, sparsity=0.9)
    ```

    Reference:
        Kipf and Welling, 2017, arXiv:1609.02907.
    """

    def __init__(
        self,
        units: int,
        graph: Graph,
        activation: typing.Any = None,
        use_bias: bool = True,
        kernel_initializer: typing.Any = "glorot_uniform",
        bias_initializer: typing.Any = "zeros",
        kernel_regularizer: typing.Any = None,
        bias_regularizer: typing.Any = None,
        kernel_constraint: typing.Any = None,
        bias_constraint: typing.Any = None,
        **kwargs: typing.Any,
    ) -> None:
        super().__init__(**kwargs)
        check_count("units", units)
        if not isinstance(graph, Graph):
            raise TypeError(
                "`graph` must be a keras_freetickets.graphs.Graph. Received: "
                f"graph of type {type(graph).__name__}"
            )
        self.units = units
        self.graph = graph
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.rows, self.columns, self.values = graph.propagation()

    def build(self, input_shape: Shape) -> None:
        self._check_shape(input_shape)
        self.kernel = self.add_weight(
            name="kernel",
            shape=(input_shape[-1], self.units),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(self.units,),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )
        self.built = True

    def _check_shape(self, shape):
        nodes = self.graph.num_nodes
        if len(shape) != 3 or shape[1] != nodes or shape[2] is None:
            raise ValueError(
                f"`inputs` must have the shape (batch, {nodes}, features), one "
                "row for each node of the graph; a model of one graph takes "
                f"x[None]. Received: inputs of shape {tuple(shape)}"
            )

    def call(self, inputs: Tensor) -> Tensor:
        self._check_shape(inputs.shape)
        x = self._propagate(ops.matmul(inputs, self.kernel))
        if self.bias is not None:
            x = ops.add(x, self.bias)
        return self.activation(x)

    def _propagate(self, x):
        nodes = self.graph.num_nodes
        # (batch, nodes, units) -> (nodes, batch * units), for one sum.
        batch = ops.shape(x)[0]
        x = ops.reshape(ops.transpose(x, (1, 0, 2)), (nodes, -1))
        values = ops.convert_to_tensor(self.values, dtype=x.dtype)
        moved = ops.take(x, self.columns, axis=0) * values[:, None]
        x = ops.segment_sum(moved, self.rows, num_segments=nodes)
        x = ops.reshape(x, (nodes, batch, self.units))
        return ops.transpose(x, (1, 0, 2))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.units)

    def get_config(self) -> Config:
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "units": self.units,
            "graph": serialize(self.graph),
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            **{
                name: serialize(getattr(self, name))
                for name in (
                    "kernel_initializer",
                    "bias_initializer",
                    "kernel_regularizer",
                    "bias_regularizer",
                    "kernel_constraint",
                    "bias_constraint",
                )
            },
        }

    @classmethod
    def from_config(cls, config: Config) -> "GraphConvolution":
        graph = config["graph"]
        if isinstance(graph, dict):
            graph = keras.saving.deserialize_keras_object(graph)
        return cls(**{**config, "graph": graph})


def graph_network(
    graph: Graph,
    num_features: int,
    num_classes: int = 2,
    hidden: int = 16,
    dropout: float = 0.5,
    l2: float = 0.0,
) -> keras.Model:
    """A classifier of nodes: two graph convolutions with ReLU between them.

    Args:
        graph: `Graph`.
        num_features: Positive integer, features of a node.
        num_classes: Integer, at least 2. Class 1 of two is the rare one.
        hidden: Positive integer, units of the first convolution. Defaults to
            16, as in wulongfeng/CaliRare.
        dropout: Float in [0, 1), rate between the convolutions. Defaults to
            0.5, as there.
        l2: Non-negative float, weight of the squared kernels in the loss.
            Zero by default.

    Returns:
        Keras model from features `(batch, nodes, num_features)` to logits
        `(batch, nodes, num_classes)`.

    Raises:
        TypeError: If `graph` is not a `Graph`.
        ValueError: If a number is out of range.

    Example:

    ```python
    model = graph_network(graph, num_features=x.shape[-1])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
    model.fit(x[None], y[None], sample_weight=weights[None], epochs=200)
    ```
    """
    check_count("num_features", num_features)
    check_count("num_classes", num_classes, least=2)
    check_number("dropout", dropout, "[0, 1)")
    check_number("l2", l2, "[0, inf)")

    def decay():
        return keras.regularizers.L2(l2) if l2 else None

    x = inputs = _input(graph, num_features)
    x = GraphConvolution(
        hidden, graph, activation="relu", kernel_regularizer=decay()
    )(x)
    x = keras.layers.Dropout(dropout)(x)
    x = GraphConvolution(num_classes, graph, kernel_regularizer=decay())(x)
    return keras.Model(inputs, x)


def _input(graph, num_features):
    # A wrong type is named by the layer.
    nodes = graph.num_nodes if isinstance(graph, Graph) else None
    return keras.Input((nodes, num_features))

"""Times influence functions of all training nodes against training again.

```shell
taskset -c 1 python benchmarks/influence.py --output=benchmarks/influence.json
```

The graph is the block model of `kft.graphs`. The convex model is logistic
regression on features that are propagated twice, trained to its minimum. Ways:
`LeaveOneOut`; training again without a node by Keras (full batch, Adam, from
new weights), by L-BFGS (SciPy, from zeros), and by Newton's method from the
trained weights, the fastest way that a convex model of few weights allows.
Those are run for a few nodes and extrapolated to all. "graph network" is two
graph convolutions: influence on the last layer, against training again by
Keras. Seconds are those of the processor, so that other work on the machine
does not count; what is compiled is included.
"""

import time

import common
import keras
import numpy as np
from absl import app
from absl import flags
from common import FLAGS
from common import new_report
from common import save
from keras import ops

from keras_freetickets import graphs

flags.adopt_module_key_flags(common)
flags.DEFINE_integer("nodes", 20000, "Nodes of the graph.", lower_bound=100)
flags.DEFINE_float("train_share", 0.1, "Share of nodes to train on.", 0.01, 0.5)
flags.DEFINE_float("degree", 10.0, "Mean number of neighbours.", 1.0)
flags.DEFINE_integer("features", 64, "Features of a node.", lower_bound=4)
flags.DEFINE_integer(
    "retrained", 50, "Nodes that are left out by training.", lower_bound=3
)
flags.DEFINE_integer(
    "retrained_networks", 3, "The same of the graph network.", lower_bound=3
)
flags.DEFINE_bool("network", True, "Whether to time the graph network too.")
flags.DEFINE_integer("steps", 200, "Steps of Adam.", lower_bound=1)
flags.DEFINE_float("l2", 0.001, "Weight of the squared weights.", 1e-6)


def make_data():
    inside = 2 * FLAGS.degree / FLAGS.nodes
    train = round(FLAGS.train_share * FLAGS.nodes)
    rare = round(0.12 * train)
    return graphs.block_model(
        FLAGS.nodes,
        inside=min(1.0, inside),
        across=min(1.0, inside / 6),
        num_features=FLAGS.features,
        num_rare_train=rare,
        num_other_train=train - rare,
        seed=FLAGS.seed,
    )


class Convex:
    """Two-class logistic regression: one logit for each class, none fixed."""

    def __init__(self, features, labels, weights):
        self.x = np.concatenate([features, np.ones((len(features), 1))], 1)
        self.y, self.weights = labels.astype("float64"), weights
        self.l2 = FLAGS.l2

    def value_and_gradient(self, theta, weights):
        """Of the difference of the logits, whose minimum is the same.

        Two columns of weights that share an L2 penalty are at the minimum
        opposite to each other: half the difference each.
        """
        z = self.x @ theta
        signs = 2 * self.y - 1
        losses = np.logaddexp(0, -signs * z)
        p = 1 / (1 + np.exp(-z))
        count = len(z)
        value = weights @ losses / count + 0.5 * self.l2 * theta @ theta
        gradient = self.x.T @ (weights * (p - self.y)) / count
        return value, gradient + self.l2 * theta, p

    def newton(self, theta, weights):
        for _ in range(50):
            _, gradient, p = self.value_and_gradient(theta, weights)
            scale = weights * p * (1 - p) / len(p)
            hessian = (self.x.T * scale) @ self.x
            hessian += self.l2 * np.eye(len(theta))
            step = np.linalg.solve(hessian, gradient)
            theta = theta - step
            if np.abs(step).max() < 1e-8:
                break
        return theta

    def lbfgs(self, weights):
        from scipy import optimize

        return optimize.minimize(
            lambda theta: self.value_and_gradient(theta, weights)[:2],
            np.zeros(self.x.shape[1]),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 1000, "ftol": 1e-12, "gtol": 1e-8},
        ).x

    def network(self, theta=None):
        head = keras.layers.Dense(
            2,
            use_bias=False,
            kernel_regularizer=keras.regularizers.L2(self.l2),
        )
        inputs = keras.Input((self.x.shape[1],))
        model = keras.Model(inputs, head(inputs))
        if theta is not None:
            head.kernel.assign(np.stack([-theta, theta], axis=1) / 2)
        return model

    def adam(self, trainer, weights):
        model = trainer(self.x, self.y, weights)
        return ops.convert_to_numpy(model.layers[-1].kernel) @ [-1, 1]

    def without(self, k):
        weights = self.weights.copy()
        weights[k] = 0
        return weights

    def residual(self, theta, k):
        return abs(self.y[k] - 1 / (1 + np.exp(-self.x[k] @ theta)))


class Trainer:
    """Trains one model again and again from its first weights.

    It is traced once, which a loop of new models would pay for each time.
    """

    def __init__(self, model):
        self.model, self.first = model, model.get_weights()
        model.compile(
            keras.optimizers.Adam(0.05),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,
        )
        model.optimizer.build(model.trainable_variables)
        self.slots = [
            ops.convert_to_numpy(v) for v in model.optimizer.variables
        ]

    def __call__(self, x, y, weights):
        self.model.set_weights(self.first)
        for slot, value in zip(
            self.model.optimizer.variables, self.slots, strict=True
        ):
            slot.assign(value)
        for _ in range(FLAGS.steps):
            self.model.train_on_batch(x, y, weights)
        return self.model


def seconds_of(function, *arguments):
    begun = time.process_time()
    found = function(*arguments)
    return found, time.process_time() - begun


def again(report, name, function, nodes, all_nodes, influence):
    """A row of a way that trains again, for some of the nodes."""
    begun = time.process_time()
    residuals = [function(k) for k in nodes]
    seconds = (time.process_time() - begun) / len(nodes) * all_nodes
    row = {
        "way": name,
        "seconds": seconds,
        "times_influence": seconds / influence["seconds"],
    }
    pairs = [influence["residuals"][k] for k in nodes], residuals
    row["nodes_trained"] = len(nodes)
    row["correlation"] = float(np.corrcoef(*pairs)[0, 1])
    row["largest_gap"] = float(np.abs(np.subtract(*pairs)).max())
    show(report, row)


def show(report, row):
    report["rows"].append(row)
    figures = [f"{k} {v:.4g}" for k, v in row.items() if k != "way"]
    print(f"{row['way']}: {', '.join(figures)}", flush=True)


def convex(report, data, weights):
    features = data.graph.propagate(data.x, 2)[data.train]
    problem = Convex(features, data.y[data.train], weights[data.train])
    # The mean is over the training nodes alone.
    problem.weights = problem.weights * len(data.train) / len(weights)
    theta = problem.newton(np.zeros(problem.x.shape[1]), problem.weights)
    model = problem.network(theta)

    def influence():
        left_out = graphs.LeaveOneOut(
            model,
            problem.x.astype("float32"),
            problem.y,
            problem.weights,
            damping=0.0,
        )
        return left_out, left_out.residuals()

    (left_out, residuals), seconds = seconds_of(influence)
    show(
        report,
        {
            "way": "influence",
            "seconds": seconds,
            "steps": left_out.num_iterations,
            "nodes": len(residuals),
        },
    )
    found = {"seconds": seconds, "residuals": residuals}
    random = np.random.default_rng(FLAGS.seed)
    count = min(FLAGS.retrained, len(data.train))
    nodes = random.choice(len(data.train), count, replace=False)
    trainer = Trainer(problem.network())
    trainer(problem.x, problem.y, problem.weights)  # traced before it is timed
    ways = {
        "Adam (Keras) from new weights": lambda k: problem.adam(
            trainer, problem.without(k)
        ),
        "L-BFGS (SciPy) from zeros": lambda k: problem.lbfgs(
            problem.without(k)
        ),
        "Newton from the trained weights": lambda k: problem.newton(
            theta, problem.without(k)
        ),
    }
    for name, way in ways.items():
        again(
            report,
            name,
            lambda k, way=way: problem.residual(way(k), k),
            nodes,
            len(data.train),
            found,
        )


def network(report, data, weights):
    keras.utils.set_random_seed(FLAGS.seed)
    trainer = Trainer(
        graphs.graph_network(
            data.graph, FLAGS.features, dropout=0.0, l2=FLAGS.l2
        )
    )

    def trained(sample_weight):
        return trainer(data.x[None], data.y[None], sample_weight[None])

    model = trained(weights)

    def influence():
        left_out = graphs.LeaveOneOut(
            model,
            data.x[None],
            data.y[None],
            weights[None],
            variables=model.layers[-1].trainable_variables,
        )
        return left_out.residuals()

    residuals, seconds = seconds_of(influence)
    show(
        report,
        {
            "way": "graph network: influence, last layer",
            "seconds": seconds,
            "nodes": len(residuals),
        },
    )
    found = {
        "seconds": seconds,
        "residuals": dict(zip(data.train, residuals, strict=True)),
    }

    def residual(k):
        without = weights.copy()
        without[k] = 0
        logits = trained(without)(data.x[None])
        p = ops.convert_to_numpy(ops.softmax(logits))[0, k, 1]
        return abs(data.y[k] - p)

    random = np.random.default_rng(FLAGS.seed)
    again(
        report,
        "graph network: Adam (Keras), all layers",
        residual,
        random.choice(data.train, FLAGS.retrained_networks, replace=False),
        len(data.train),
        found,
    )


def main(_):
    report = new_report()
    data = make_data()
    weights = graphs.class_weights(data.y, data.train)
    print(
        f"{FLAGS.nodes} nodes, {len(data.graph.edges) // 2} edges, "
        f"{len(data.train)} training nodes"
    )
    convex(report, data, weights)
    save(report)
    if FLAGS.network:
        network(report, data, weights)
        save(report)


if __name__ == "__main__":
    app.run(main)

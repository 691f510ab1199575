"""Several tickets as one model: the mean of their probabilities."""

import copy

import keras
import numpy as np
from keras import ops

from keras_freetickets import data
from keras_freetickets import keras_adapter
from keras_freetickets.arguments import is_integer
from keras_freetickets.ensembles import member_selection
from keras_freetickets.ensembles import packed_file
from keras_freetickets.ensembles.members import check_members
from keras_freetickets.ensembles.members import revived
from keras_freetickets.ensembles.members import state_of
from keras_freetickets.ensembles.members import uncompiled
from keras_freetickets.ensembles.outputs import probabilities
from keras_freetickets.ensembles.outputs import renormalized
from keras_freetickets.ensembles.outputs import settings_of
from keras_freetickets.ensembles.ticket_files import load_ticket
from keras_freetickets.ensembles.ticket_files import models_of
from keras_freetickets.ensembles.ticket_files import ticket_paths
from keras_freetickets.layers.parameters import CountsParameters
from keras_freetickets.layers.sparse import Sparse
from keras_freetickets.metrics import diversity
from keras_freetickets.metrics import validation
from keras_freetickets.metrics.scores import Accuracy
from keras_freetickets.metrics.scores import NegativeLogLikelihood
from keras_freetickets.metrics.scores import NegativeLogLikelihoodLoss


class _Untracked:
    """Hides a model from Keras, which would save its weights too."""

    def __init__(self, model):
        self.model = model


@keras.saving.register_keras_serializable(package="keras_freetickets")
class EnsembleModel(
    CountsParameters,
    keras_adapter.CompilesAnywhere,
    keras_adapter.RefusesLegacyFiles,
    keras_adapter.KeepsState,
    keras.Model,
):
    """Averages the class probabilities of several tickets.

    One member's graph is kept, with the weights of all members stacked; each
    keeps its own masks and batch-normalization statistics. The model comes
    compiled with accuracy and the negative log-likelihood of what it returns,
    for labels that are integers or one-hot, and cannot be trained.

    Args:
        members: List of built Keras models of the same architecture with one
            output, `(batch, ..., classes)`, or `(batch, ..., 1)` with the
            probability or logit of class 1.
        from_logits: Whether the members return logits. `None` to tell by
            their last layer: probabilities after a softmax, or the sigmoid of
            one column; logits if it is linear and the loss that the members
            were compiled with says so.
        ignore_class: Integer, the label that the compiled loss and metrics,
            and `select_members`, do not count. `None` (default) for that of
            the members' loss, if it has one.
        name: Name of the model.
        template: Serialized member; used in loading.
        num_members: Integer; used in loading.
        **kwargs: What Keras adds when it loads a model.

    Raises:
        TypeError: If a member is not a Keras model.
        ValueError: If there are no members, or they differ in inputs, classes
            or architecture, were trained as regressors, or logits cannot be
            told from probabilities.

    Example:

    ```python
    ensemble = keras_freetickets.EnsembleModel([ticket_0, ticket_1, ticket_2])
    ensemble.evaluate(x, y)
    ensemble.export("saved_model")
    ```

    Reference:
        Mean of probabilities as in VITA-Group/FreeTickets
        (ensemble_freetickets.py).
    """

    # Whatever the members return.
    returns_probabilities = True

    def __init__(
        self,
        members=None,
        from_logits=None,
        ignore_class=None,
        name=None,
        template=None,
        num_members=None,
        **kwargs,
    ):
        super().__init__(name=name, trainable=False, **_without(kwargs))
        validation.check_ignore_class(ignore_class)
        if from_logits is not None and not isinstance(from_logits, bool):
            raise ValueError(
                "`from_logits` must be True, False or None. "
                f"Received: from_logits={from_logits}"
            )
        if template is None:
            check_members([] if members is None else members)
            from_logits, ignored = settings_of(members, from_logits)
            ignore_class = ignored if ignore_class is None else ignore_class
            template = uncompiled(members[0])
            num_members = len(members)
        self._config = template
        self.num_members = num_members
        model = revived(template)
        self._template = _Untracked(model)
        self.from_logits = from_logits
        self.ignore_class = ignore_class
        self._stacks = [
            self._stack(i, v) for i, v in enumerate(state_of(model))
        ]
        self._view = None
        self.built = True
        for i, member in enumerate(members or []):
            self._set_member(i, member)
        if members:
            keras_adapter.copy_adapted_state(members[0], model)
        self.compile(
            loss=NegativeLogLikelihoodLoss(ignore_class),
            metrics=[
                Accuracy(ignore_class=ignore_class),
                NegativeLogLikelihood(ignore_class=ignore_class),
            ],
        )

    def _stack(self, i, variable):
        path = variable.path.replace("/", "_")
        return self.add_weight(
            name=f"{i:04d}_{path}",
            shape=(self.num_members, *variable.shape),
            dtype=variable.dtype,
            initializer="zeros",
            trainable=False,
            autocast=False,
        )

    def load_own_variables(self, store):
        super().load_own_variables(store)
        self._derive()

    def _derive(self):
        """What follows from the stacks' values, after they have changed."""
        # What adapted layers derived from their weights, they derive anew,
        # and functions that were traced with the old are outdated.
        _assign(self._template.model, self._stacks, 0)
        self._view = self.predict_function = self.test_function = None

    def _set_values(self, values):
        for stack, value in zip(self._stacks, values, strict=True):
            stack.assign(value)
        self._derive()

    def _values(self):
        return [ops.convert_to_numpy(stack.value) for stack in self._stacks]

    def _set_member(self, i, member):
        model = self._template.model
        found = {
            id(own): theirs
            for own, theirs in keras_adapter.paired_variables(model, member)
        }
        for stack, own in zip(self._stacks, state_of(model)):
            variable = found[id(own)]
            values = ops.convert_to_numpy(stack.value).copy()
            values[i] = ops.convert_to_numpy(variable.value)
            stack.assign(values)

    @classmethod
    def from_tickets(cls, source, **kwargs):
        """Makes an ensemble of tickets on disk.

        Args:
            source: A directory as the callback `EDST` or a method of
                `keras_freetickets.recipes` writes it, or a list of
                directories and `.keras` files, e.g. those of several `DST`
                runs.
            **kwargs: Further arguments of `EnsembleModel`.

        Returns:
            An `EnsembleModel`.

        Raises:
            ValueError: If there are no tickets, or one cannot be read.

        Example:

        ```python
        EnsembleModel.from_tickets(["run/seed_0", "run/seed_1"])
        ```
        """
        sources = source if isinstance(source, (list, tuple)) else [source]
        paths = [path for item in sources for path in ticket_paths(item)]
        tickets = [load_ticket(path) for path in paths]
        try:
            check_members(tickets)
        except ValueError as error:
            raise ValueError(
                f"`source` names tickets that make no ensemble, {paths}: "
                f"{error}"
            ) from error
        return cls(tickets, **kwargs)

    @classmethod
    def from_packed(cls, path):
        """Makes the ensemble that `save_packed` wrote.

        Args:
            path: Path of the file.

        Returns:
            An `EnsembleModel`, compiled.

        Raises:
            ValueError: If the file is missing, damaged or another, or names a
                class that Keras does not know or does not deem safe.

        Example:

        ```python
        EnsembleModel.from_packed("run/ensemble.npz").evaluate(x, y)
        ```
        """
        try:
            config, masked_kernels = packed_file.read(path)
            ensemble = cls.from_config(config)
            values = packed_file.decoded(masked_kernels, ensemble._values())
        except Exception as error:
            raise ValueError(
                "`path` must be a file as `save_packed` writes it. "
                f"Received: path={path} ({type(error).__name__}: {error})"
            ) from error
        ensemble._set_values(values)
        return ensemble

    def save_packed(self, path, dtype=None):
        """Writes the ensemble in little space; `from_packed` reads it.

        Masks are stored as bits, and of masked or stripped kernels only the
        values that count. The format is that of docs/packed_file.md, which
        NumPy reads. Loading gives back every bit, with `dtype=None`.

        Args:
            path: Path that ends with ".npz".
            dtype: `"float16"` to round values to half precision, for half the
                space; variables keep their dtype. `None` (default) to store
                values as they are.

        Raises:
            ValueError: If the path ends otherwise, `dtype` is another, or a
                value is too large for it. An older file stays as it is.

        Example:

        ```python
        ensemble.save_packed("run/ensemble.npz", dtype="float16")
        ```
        """
        model, masks = self._template.model, self._places_of_masks()
        stacks = [
            packed_file.Stack(variable.path, values, masks.get(i))
            for i, (variable, values) in enumerate(
                zip(state_of(model), self._values())
            )
        ]
        packed_file.write(path, self.get_config(), stacks, dtype)

    def with_members(self, source):
        """Makes an ensemble of these members and others behind them.

        Args:
            source: A built Keras model of the members' architecture, the path
                of a ticket or of a directory of tickets, or a list of these.

        Returns:
            An `EnsembleModel`. This one stays as it is.

        Raises:
            ValueError: If a ticket cannot be read, or does not agree with the
                members; it is numbered as in the new ensemble.

        Example:

        ```python
        larger = ensemble.with_members(["run/seed_7/ticket_0.keras", model])
        ```
        """
        sources = source if isinstance(source, (list, tuple)) else [source]
        added = [model for item in sources for model in models_of(item)]
        if not added:
            raise ValueError(
                "`source` must name one ticket or more. Received: source=[]"
            )
        own = [self.member(i) for i in range(self.num_members)]
        try:
            check_members(own + added)
        except ValueError as error:
            raise ValueError(
                f"`source` must be tickets that agree with the members: {error}"
            ) from error
        return type(self)(
            own + added, self.from_logits, self.ignore_class, self.name
        )

    def without_members(self, indices):
        """Makes an ensemble of the members but some.

        Args:
            indices: Integer in [0, num_members), or a list of them.

        Returns:
            An `EnsembleModel`, the others in their order. This one stays as
            it is.

        Raises:
            ValueError: If there is no such member, or none would be left.

        Example:

        ```python
        smaller = ensemble.without_members([0, 2])
        ```
        """
        listed = isinstance(indices, (list, tuple, np.ndarray))
        dropped = [_as_index(i) for i in (indices if listed else [indices])]
        kept = [i for i in range(self.num_members) if i not in dropped]
        known = all(i in range(self.num_members) for i in dropped)
        if not known or not kept:
            raise ValueError(
                "`indices` must name members to remove, integers in "
                f"[0, {self.num_members}), and leave one or more. "
                f"Received: indices={indices}"
            )
        return self._subset(kept)

    def _subset(self, indices):
        config = {**self.get_config(), "num_members": len(indices)}
        ensemble = type(self).from_config(config)
        ensemble._set_values([values[indices] for values in self._values()])
        return ensemble

    def select_members(
        self, x, y=None, metric="nll", max_members=None, batch_size=32
    ):
        """Chooses members by what their mean scores on validation data.

        The best member first, then, one at a time and each once, the one that
        improves the mean of the probabilities most; of the ensembles on the
        way the best is taken. Of equals the member of the lower number, and
        the smaller ensemble.

        Args:
            x: Inputs that the members were not trained on, or a
                `tf.data.Dataset` of batches of inputs and labels (weights are
                not used).
            y: Labels `(examples, ...)`, integers, or one-hot
                `(examples, ..., classes)`. Not for a dataset.
            metric: `"nll"` (default, as in Neural Ensemble Search) or
                `"accuracy"`.
            max_members: Positive integer, the largest size to try. `None`
                (default) for all.
            batch_size: Positive integer.

        Returns:
            A `MemberSelection`: its `ensemble` is an `EnsembleModel` of the
            `members` chosen; `order` is that in which members were added,
            `scores` has the score at each size.

        Raises:
            ValueError: If an argument is out of range, labels are no classes
                or not as many as the inputs, or there are no examples.

        Example:

        ```python
        selection = ensemble.select_members(x_validation, y_validation)
        selection.ensemble.evaluate(x_test, y_test)
        ```

        Reference:
            Caruana et al., 2004, "Ensemble selection from libraries of
            models", ICML; without replacement and by likelihood as in Zaidi
            et al., 2021, arXiv:2006.08573, which keeps a size given.
        """
        member_selection.check_metric(metric)
        x, y = data.as_arrays(x, y)
        order, scores, best = member_selection.forward_selection(
            self._distributions(x, batch_size),
            y,
            metric,
            max_members,
            self.ignore_class,
        )
        chosen = order[:best]
        return member_selection.MemberSelection(
            self._subset(chosen), chosen, order, scores
        )

    def stacks_of(self, choose):
        """The stacks of some variables of the members.

        Args:
            choose: Function from a member to a list of its variables.

        Returns:
            List of variables of the shape `(members, ...)`.
        """
        model = self._template.model
        places = {id(v): i for i, v in enumerate(state_of(model))}
        return [self._stacks[places[id(v)]] for v in choose(model)]

    def _places_of_masks(self):
        """Maps the place of a masked kernel's stack to that of its mask's."""
        model = self._template.model
        places = {id(v): i for i, v in enumerate(state_of(model))}
        return {
            places.get(id(masked.kernel)): places.get(id(masked.mask))
            for layer in keras_adapter.sublayers(model)
            if isinstance(layer, Sparse)
            for masked in layer.masked_kernels
        }

    def _print_summary(self, show, **kwargs):
        # The ensemble itself has stacks of weights, and no layers.
        show(f'Ensemble "{self.name}" of {self.num_members} members like this:')
        self.member(0).summary(**kwargs)
        show("All members:")

    def member(self, index):
        """Returns a copy of one member, a model of its own.

        Args:
            index: Integer in [0, num_members).

        Returns:
            A Keras model, not compiled; a `SparseModel` if the members were.

        Raises:
            ValueError: If there is no such member.
        """
        if index not in range(self.num_members):
            raise ValueError(
                f"`index` must be in [0, {self.num_members}). "
                f"Received: index={index}"
            )
        model = revived(self._config)
        _assign(model, self._stacks, index)
        return model

    def _member_probabilities(self, inputs):
        """Tensor of shape `(members, batch, ..., classes)`."""
        model = self._template.model
        cut = len(model.trainable_variables)
        outputs, mask = [], None
        for i in range(self.num_members):
            values = [ops.convert_to_tensor(s)[i] for s in self._stacks]
            y, _ = model.stateless_call(
                values[:cut], values[cut:], inputs, training=False
            )
            mask = keras_adapter.mask_of(y)
            outputs.append(probabilities(y, self.from_logits))
        stacked = ops.stack(outputs)
        keras_adapter.set_mask(stacked, mask)
        return stacked

    def call(self, inputs, training=None):
        stacked = self._member_probabilities(inputs)
        mean = ops.mean(stacked, axis=0)
        # What the members mask, such as padded tokens, is not scored.
        keras_adapter.set_mask(mean, keras_adapter.mask_of(stacked))
        return mean

    def compute_output_shape(self, input_shape):
        return self._template.model.compute_output_shape(input_shape)

    def predict_members(self, x, batch_size=32):
        """Class probabilities of each member.

        Args:
            x: What `predict` takes: arrays, or a `tf.data.Dataset` of inputs
                or of inputs and targets.
            batch_size: Integer, for arrays.

        Returns:
            Array of shape `(members, examples, ..., classes)`, or
            `(members, examples, ..., 1)` of class 1.
        """
        if self._view is None:
            # Kept, as Keras traces each model anew.
            self._view = _Untracked(_Members(self))
        view = self._view.model
        stacked = view.predict(x, batch_size=batch_size, verbose=0)
        return np.moveaxis(stacked, 1, 0)

    def predict_uncertainty(self, x, batch_size=32):
        """What the ensemble predicts, how unsure it is, and why.

        Args:
            x: As for `predict_members`.
            batch_size: Integer, for arrays.

        Returns:
            Dict of arrays. `"probabilities"`, `(examples, ..., classes)`: the
            mean of the members'. And of shape `(examples, ...)`:
            `"predictive_entropy"`, all uncertainty, in nats, in
            [0, log(classes)]; its parts, `"expected_entropy"`, which each
            member sees, and `"mutual_information"`, which they differ in;
            `"variation_ratio"`, the share of members that do not choose the
            class most choose, in [0, 1).

        Raises:
            ValueError: If what members return are no distributions over the
                classes.

        Example:

        ```python
        found = ensemble.predict_uncertainty(x)
        disputed = np.argsort(-found["mutual_information"])[:10]
        ```

        Reference:
            Depeweg et al., 2018, arXiv:1710.07283; the functions are those of
            `keras_freetickets.metrics`.
        """
        members = self._distributions(x, batch_size)
        found = {
            function.__name__: ops.convert_to_numpy(function(members))
            for function in (
                diversity.predictive_entropy,
                diversity.expected_entropy,
                diversity.mutual_information,
                diversity.variation_ratio,
            )
        }
        return {"probabilities": members.mean(axis=0), **found}

    def _distributions(self, x, batch_size):
        """Members' probabilities, which sum to one."""
        members = self.predict_members(x, batch_size)
        if self._template.model.outputs[0].dtype in ("float16", "bfloat16"):
            members = renormalized(members)
        if not validation.is_distribution(members):
            raise ValueError(
                "`x` must be inputs for which the members return "
                "probabilities (`from_logits=True` is for members that return "
                f"logits). Received: from_logits={self.from_logits}, outputs "
                f"in [{members.min():.4g}, {members.max():.4g}]"
            )
        return members

    def train_step(self, *args, **kwargs):
        raise RuntimeError(
            "An EnsembleModel cannot be trained: its members are, each as a "
            "SparseModel with the callbacks EDST or DST."
        )

    def quantize(self, *args, **kwargs):
        raise ValueError(
            "An EnsembleModel holds its members' weights and no layers to "
            "quantize: quantize the members, sparse ones as `strip` returns "
            "them, and make an EnsembleModel of these. "
            f"Received: a call of quantize for model {self.name!r}"
        )

    def get_config(self):
        keras_adapter.refuse_legacy_config(self)
        return {
            "template": copy.deepcopy(self._config),
            "num_members": self.num_members,
            "from_logits": self.from_logits,
            "ignore_class": self.ignore_class,
            "name": self.name,
        }

    def export(self, filepath, *args, **kwargs):
        """Writes a SavedModel with the signature `serving_default`.

        Args:
            filepath: Directory to write.
            *args: As for `keras.Model.export`.
            **kwargs: As for `keras.Model.export`. `input_signature` defaults
                to the members' inputs with a free batch dimension.
        """
        if not args and "input_signature" not in kwargs:
            kwargs["input_signature"] = [self._input_specs()]
        kwargs.setdefault("verbose", False)
        return super().export(filepath, *args, **kwargs)

    def _input_specs(self):
        """The members' inputs in their structure, with a free batch size."""
        return data.input_specs(self._template.model)


def _assign(model, stacks, index):
    """Gives a model the values of one member."""
    for stack, variable in zip(stacks, state_of(model)):
        variable.assign(ops.convert_to_numpy(stack.value)[index])
    keras_adapter.copy_adapted_state(model, model)


def _without(kwargs):
    """Keras adds `trainable` and `dtype` when it loads a model."""
    return {k: v for k, v in kwargs.items() if k not in ("trainable", "dtype")}


@keras.saving.register_keras_serializable(package="keras_freetickets")
class _Members(keras_adapter.KeepsState, keras.Model):
    """The view of an ensemble that returns all members' probabilities."""

    def __init__(self, ensemble):
        super().__init__(name="members")
        self.ensemble = ensemble

    def call(self, inputs):
        stacked = self.ensemble._member_probabilities(inputs)
        return ops.swapaxes(stacked, 0, 1)


def _as_index(value):
    """An integer, or `None` if it is something else."""
    return int(value) if is_integer(value) else None

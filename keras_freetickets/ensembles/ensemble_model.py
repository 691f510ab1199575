"""Several tickets as one model, which pools what they predict."""

import copy
import typing
from collections.abc import Callable
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_freetickets import data
from keras_freetickets import keras_adapter
from keras_freetickets import packed_file
from keras_freetickets.arguments import is_integer
from keras_freetickets.ensembles import member_selection
from keras_freetickets.ensembles import pooling as pools
from keras_freetickets.ensembles import uncertainty
from keras_freetickets.ensembles.evaluation import loss_and_metrics
from keras_freetickets.ensembles.member_stacks import MemberStacks
from keras_freetickets.ensembles.members import check_members
from keras_freetickets.ensembles.members import state_of
from keras_freetickets.ensembles.members import uncompiled
from keras_freetickets.ensembles.outputs import probabilities
from keras_freetickets.ensembles.outputs import renormalized
from keras_freetickets.ensembles.outputs import settings_of
from keras_freetickets.ensembles.ticket_files import load_ticket
from keras_freetickets.ensembles.ticket_files import models_of
from keras_freetickets.ensembles.ticket_files import ticket_paths
from keras_freetickets.layers.export_guard import GuardsExport
from keras_freetickets.layers.parameters import CountsParameters
from keras_freetickets.metrics import validation
from keras_freetickets.types import PathLike
from keras_freetickets.types import Tensor

# What `with_members` and `from_tickets` read.
_Source: typing.TypeAlias = keras.Model | PathLike


class _Untracked:
    """Hides a model from Keras, which would save its weights too."""

    def __init__(self, model: keras.Model):
        self.model = model


@keras.saving.register_keras_serializable(package="keras_freetickets")
class EnsembleModel(
    CountsParameters,
    keras_adapter.CompilesAnywhere,
    keras_adapter.RefusesLegacyFiles,
    keras_adapter.KeepsState,
    GuardsExport,
    keras.Model,
):
    """Predicts with several tickets: classifiers or regressors.

    One member's graph is kept, with the weights of all members stacked; each
    keeps its own masks and batch-normalization statistics. The model cannot
    be trained. It comes compiled for `evaluate`: an ensemble of classifiers
    with accuracy and the negative log-likelihood, for labels that are
    integers or one-hot; of regressors with the mean squared error, or the
    Gaussian negative log-likelihood if they predict variances. One whose
    pooling is a function is not compiled.

    Args:
        members: List of built Keras models of the same architecture with one
            output. Classifiers return `(batch, ..., classes)`, or
            `(batch, ..., 1)` with the probability or logit of class 1;
            regressors `(batch, ..., outputs)`.
        from_logits: Whether classifiers return logits. `None` (default) to
            tell by their last layer: probabilities after a softmax, or the
            sigmoid of one column; logits if it is linear and the loss that
            the members were compiled with says so.
        ignore_class: Integer, a label that the compiled loss and metrics and
            `select_members` leave out. `None` (default) takes the one of the
            members' loss, if it has one.
        name: Name of the model.
        pooling: How the members' outputs become the ensemble's. Of
            classifiers: `"mean_probability"`, or `"mean_logits"`, the softmax
            of the mean of the logits. Of regressors: `"mean"`, or
            `"mean_and_variance"` if they return means and then as many
            variances, `(batch, ..., 2 * outputs)`, and so does the ensemble,
            by the law of total variance. Or a function from the members'
            outputs, stacked to `(members, batch, ...)`, to a tensor
            `(batch, ...)`; to save the ensemble, register it with
            `keras.saving.register_keras_serializable`. `None` (default) to
            tell by the members' loss: `"mean"` if it is one of regression,
            `"mean_and_variance"` if it is
            `keras_freetickets.ensembles.GaussianNegativeLogLikelihood`, else
            `"mean_probability"`.
        template: Serialized member; used in loading.
        num_members: Integer; used in loading.
        **kwargs: What Keras adds when it loads a model.

    Raises:
        TypeError: If a member is not a Keras model.
        ValueError: If there are no members, or they differ in inputs, outputs
            or architecture, or nothing tells what they return: probabilities,
            logits or the numbers of a regression.

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

    def __init__(
        self,
        members: Sequence[keras.Model] | None = None,
        from_logits: bool | None = None,
        ignore_class: int | None = None,
        name: str | None = None,
        pooling: pools.Pooling | None = None,
        template: dict[str, typing.Any] | None = None,
        num_members: int | None = None,
        **kwargs: typing.Any,
    ) -> None:
        super().__init__(name=name, trainable=False, **_without(kwargs))
        pooling = pools.pooling_of(pooling)
        validation.check_ignore_class(ignore_class)
        if from_logits is not None and not isinstance(from_logits, bool):
            raise ValueError(
                "`from_logits` must be True, False or None. "
                f"Received: from_logits={from_logits}"
            )
        pools.check_pooling(pooling, from_logits)
        if template is None:
            members = [] if members is None else members
            check_members(members)
            found = settings_of(members, from_logits, pooling)
            pooling, from_logits = found.pooling, found.from_logits
            if ignore_class is None:
                ignore_class = found.ignore_class
            template = uncompiled(members[0])
            num_members = len(members)
        # Ensembles saved before there was `pooling` have none.
        self.pooling = "mean_probability" if pooling is None else pooling
        self.num_members = typing.cast(int, num_members)
        self._stacks = MemberStacks(self, template, self.num_members)
        self.from_logits = from_logits
        self.ignore_class = ignore_class
        self._view: _Untracked | None = None
        self.built = True
        for i, member in enumerate(members or []):
            self._stacks.set_member(i, member)
        if members:
            keras_adapter.copy_adapted_state(members[0], self._stacks.graph)
            self._stacks.sparse_pass.refresh()
        compiled_with = loss_and_metrics(self.pooling, ignore_class)
        if compiled_with is not None:
            self.compile(**compiled_with)

    @property
    def holds_compressed(self) -> bool:
        """Whether the members have a compressed layer."""
        return self._stacks.sparse_pass.is_compressed

    @property
    def is_classifier(self) -> bool:
        """Whether the ensemble is known to be one of classifiers."""
        return self.pooling in pools.CLASSIFICATION

    @property
    def returns_probabilities(self) -> bool:
        """Whether it returns probabilities, whatever its members return."""
        return self.is_classifier

    def load_own_variables(self, store: typing.Any) -> None:
        super().load_own_variables(store)
        self._derive()

    def _derive(self) -> None:
        """Updates what depends on the stacks' values, after a change."""
        self._stacks.refresh_graph()
        self._view = self.predict_function = self.test_function = None

    def _set_values(self, values: list[np.ndarray]) -> None:
        self._stacks.set_values(values)
        self._derive()

    @classmethod
    def from_tickets(
        cls,
        source: PathLike | Sequence[PathLike],
        **kwargs: typing.Any,
    ) -> typing.Self:
        """Makes an ensemble of tickets on disk.

        Args:
            source: A directory as the callback `EDST` or a recipe of
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
        sources: typing.Any = (
            source if isinstance(source, (list, tuple)) else [source]
        )
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
    def from_packed(cls, path: PathLike) -> typing.Self:
        """Makes the ensemble that `save_packed` wrote.

        Args:
            path: Path of the file.

        Returns:
            An `EnsembleModel`, compiled.

        Raises:
            ValueError: If the file is missing, damaged or of another kind, or
                names a class that Keras does not know or considers unsafe.

        Example:

        ```python
        EnsembleModel.from_packed("run/ensemble.npz").evaluate(x, y)
        ```
        """
        try:
            config, records = packed_file.read(path)
            ensemble = cls.from_config(config)
            likes = ensemble._stacks.values()
            values = ensemble._stacks.completed(
                packed_file.decoded(records, likes)
            )
        except Exception as error:
            raise ValueError(
                "`path` must be a file as `save_packed` writes it. "
                f"Received: path={path} ({type(error).__name__}: {error})"
            ) from error
        ensemble._set_values(values)
        return ensemble

    def save_packed(self, path: PathLike, dtype: str | None = None) -> None:
        """Writes the ensemble to a small file, which `from_packed` reads.

        Of masked or stripped kernels only the active values are stored, and
        the gaps between them; of compressed ones the values and their
        positions by output. docs/packed_file.md describes the format, which
        NumPy reads. With `dtype=None` loading gives back every bit; otherwise
        it gives back the rounded values, and masks as they are.

        Args:
            path: Path that ends with ".npz".
            dtype: `"float16"` to round values to half precision, or `"int8"`
                to round kernels to 8 bits with a scale for each unit, and the
                rest (biases, statistics) to half precision where that keeps
                three digits; variables keep their dtype. `None` (default) to
                store values as they are.

        Raises:
            ValueError: If the path has another ending, `dtype` is something
                else, a value is too large for it, or the pooling is a
                function that is not registered. An older file is kept.

        Example:

        ```python
        ensemble.save_packed("run/ensemble.npz", dtype="float16")
        ```
        """
        masks = self._stacks.places_of_masks()
        pointers = self._stacks.places_of_pointers()
        following = self._stacks.following()
        stacks = [
            packed_file.Stack(
                variable.path,
                values,
                masks.get(i),
                i in following,
                pointers.get(i),
            )
            for i, (variable, values) in enumerate(
                zip(
                    state_of(self._stacks.graph),
                    self._stacks.values(),
                    strict=True,
                )
            )
        ]
        packed_file.write(path, self.get_config(), stacks, dtype)

    def arrays_by_path(self) -> dict[str, np.ndarray]:
        """The values of all members, for programs without Keras.

        Returns:
            Dict from the path of a member's variable to an array
            `(members, ...)`.

        Example:

        ```python
        predictor = keras_freetickets.serving.SparsePredictor(
            ensemble.get_config(), ensemble.arrays_by_path()
        )
        ```
        """
        return self._stacks.arrays_by_path()

    def with_members(self, source: _Source | Sequence[_Source]) -> typing.Self:
        """Makes a larger ensemble: these members, then others.

        Args:
            source: A built Keras model of the members' architecture, the path
                of a ticket or of a directory of tickets, or a list of these.

        Returns:
            A new `EnsembleModel`; this one does not change.

        Raises:
            ValueError: If a ticket cannot be read, or does not agree with the
                members. The message counts members as in the new ensemble.

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
            own + added,
            self.from_logits,
            self.ignore_class,
            self.name,
            self.pooling,
        )

    def without_members(self, indices: int | Sequence[int]) -> typing.Self:
        """Makes a smaller ensemble, without some of the members.

        Args:
            indices: Integer in [0, num_members), or a list of them.

        Returns:
            A new `EnsembleModel`, the other members in their order; this one
            does not change.

        Raises:
            ValueError: If a member does not exist, or none would be left.

        Example:

        ```python
        smaller = ensemble.without_members([0, 2])
        ```
        """
        listed = isinstance(indices, (list, tuple, np.ndarray))
        given = typing.cast(Sequence[int], indices if listed else [indices])
        dropped = [_as_index(i) for i in given]
        kept = [i for i in range(self.num_members) if i not in dropped]
        known = all(i in range(self.num_members) for i in dropped)
        if not known or not kept:
            raise ValueError(
                "`indices` must name members to remove, integers in "
                f"[0, {self.num_members}), and leave one or more. "
                f"Received: indices={indices}"
            )
        return self._subset(kept)

    def _subset(self, indices: list[int]) -> typing.Self:
        config = {**self._settings(), "num_members": len(indices)}
        ensemble = type(self).from_config(config)
        ensemble._set_values(
            [values[indices] for values in self._stacks.values()]
        )
        return ensemble

    def select_members(
        self,
        x: typing.Any,
        y: Tensor | None = None,
        metric: str | None = None,
        max_members: int | None = None,
        batch_size: int = 32,
    ) -> member_selection.MemberSelection:
        """Chooses the members whose mean scores best on validation data.

        The best member first, then, one at a time and each once, the one that
        improves the mean of the predictions most; the best of the ensembles
        on the way is returned. Among equals the member of the lower number
        is taken, and the smaller ensemble.

        Args:
            x: Inputs that the members were not trained on, or a
                `tf.data.Dataset` of batches of inputs and labels (weights are
                not used).
            y: Labels `(examples, ...)`, integers, or one-hot
                `(examples, ..., classes)`; targets `(examples, ...,
                outputs)` of regressors. `None` (default) for a dataset.
            metric: For classifiers `"nll"` (default, as in Neural Ensemble
                Search) or `"accuracy"`; for regressors `"mse"` (default), of
                the means if they return variances too.
            max_members: Positive integer, the largest size to try. `None`
                (default) for all.
            batch_size: Positive integer.

        Returns:
            A `MemberSelection`: its `ensemble` is an `EnsembleModel` of the
            chosen `members`; `order` is that in which members were added,
            `scores` has the score at each size.

        Raises:
            ValueError: If an argument is out of range, labels are not classes
                or not as many as the inputs, there are no examples, or the
                pooling is a function.

        Example:

        ```python
        selection = ensemble.select_members(x_validation, y_validation)
        selection.ensemble.evaluate(x_test, y_test)
        ```

        Reference:
            Caruana et al., 2004, "Ensemble selection from libraries of
            models", ICML; without replacement and by likelihood as in Zaidi
            et al., 2021, arXiv:2006.08573, which keeps a given size.
        """
        self._check_named_pooling("select_members")
        metric = member_selection.metric_of(metric, self.is_classifier)
        x, y = data.as_arrays(x, y)
        if self.is_classifier:
            members = self._distributions(x, batch_size)
        else:
            members, _ = self._means_and_variances(x, batch_size)
        order, scores, best = member_selection.forward_selection(
            members,
            y,
            metric,
            max_members,
            self.ignore_class,
        )
        chosen = order[:best]
        return member_selection.MemberSelection(
            self._subset(chosen), chosen, order, scores
        )

    def stacks_of(
        self, choose: Callable[[keras.Model], list[keras.Variable]]
    ) -> list[keras.Variable]:
        """Returns the stacked values of some variables of the members.

        Args:
            choose: Function from a member to a list of its variables.

        Returns:
            List of variables of the shape `(members, ...)`.
        """
        return self._stacks.stacks_of(choose)

    def _print_summary(
        self, show: Callable[[str], typing.Any], **kwargs: typing.Any
    ) -> None:
        # The ensemble itself has stacks of weights, and no layers.
        show(f'Ensemble "{self.name}" of {self.num_members} members like this:')
        self.member(0).summary(**kwargs)
        show("All members:")

    def member(self, index: int) -> keras.Model:
        """Returns a copy of one member.

        Args:
            index: Integer in [0, num_members).

        Returns:
            A Keras model, not compiled; a `SparseModel` if the members were.

        Raises:
            ValueError: If there is no member of this index.
        """
        if index not in range(self.num_members):
            raise ValueError(
                f"`index` must be in [0, {self.num_members}). "
                f"Received: index={index}"
            )
        return self._stacks.member(index)

    def _member_probabilities(self, inputs: typing.Any) -> Tensor:
        """What members predict, `(members, batch, ..., classes)`."""
        if self.is_classifier:
            return self._stacks.outputs(
                inputs, lambda y: probabilities(y, self.from_logits)
            )
        return self._stacks.outputs(inputs, pools.widened)

    def call(
        self, inputs: typing.Any, training: bool | None = None
    ) -> typing.Any:
        if self.pooling == "mean_logits":
            stacked = self._stacks.outputs(
                inputs, lambda y: ops.cast(y, "float32")
            )
        else:
            stacked = self._member_probabilities(inputs)
        pooled = self._pooled(stacked)
        # What the members mask, such as padded tokens, is not scored.
        if keras.tree.is_nested(pooled):
            return pooled
        keras_adapter.set_mask(pooled, keras_adapter.mask_of(stacked))
        return pooled

    def _pooled(self, stacked: Tensor) -> typing.Any:
        if callable(self.pooling):
            return self.pooling(stacked)
        if self.pooling == "mean_logits":
            return pools.mean_of_logits(stacked, bool(self.from_logits))
        if self.pooling == "mean_and_variance":
            return pools.mean_and_variance(stacked)
        return ops.mean(stacked, axis=0)

    def compute_output_shape(self, input_shape: typing.Any) -> typing.Any:
        shape = self._stacks.graph.compute_output_shape(input_shape)
        if not callable(self.pooling):
            return shape
        stacked = keras.KerasTensor((self.num_members, *shape))
        pooled = pools.Pool(self.pooling)(stacked)
        return keras.tree.map_structure(lambda tensor: tensor.shape, pooled)

    def predict_members(
        self, x: typing.Any, batch_size: int = 32
    ) -> np.ndarray:
        """What each member predicts: probabilities, or a regressor's numbers.

        Args:
            x: What `predict` takes: arrays, or a `tf.data.Dataset` of inputs
                or of inputs and targets.
            batch_size: Integer, for arrays.

        Returns:
            Array of probabilities, `(members, examples, ..., classes)`, or
            `(members, examples, ..., 1)` of class 1; of regressors, and if
            `pooling` is a function, the members' outputs as they are,
            `(members, examples, ..., outputs)`.
        """
        if self._view is None:
            # Kept, as Keras traces every new model again.
            self._view = _Untracked(_Members(self))
        view = self._view.model
        stacked = view.predict(x, batch_size=batch_size, verbose=0)
        return np.moveaxis(stacked, 1, 0)

    def predict_uncertainty(
        self, x: typing.Any, batch_size: int = 32
    ) -> dict[str, np.ndarray]:
        """What the ensemble predicts, how uncertain it is, and why.

        Args:
            x: As for `predict_members`.
            batch_size: Integer, for arrays.

        Returns:
            Dict of arrays. Of classifiers: `"probabilities"`,
            `(examples, ..., classes)`, the mean of the members'. And of shape
            `(examples, ...)`: `"predictive_entropy"`, the whole uncertainty,
            in nats, in [0, log(classes)]; its parts, `"expected_entropy"`,
            that of the single members, and `"mutual_information"`, their
            disagreement; `"variation_ratio"`, the share of members that do
            not choose the class that most choose, in [0, 1).

            Of regressors, each `(examples, ..., outputs)`: `"mean"`, and
            `"variance"`, in squared units of the targets. With
            `pooling="mean"` that is the variance of the members' predictions
            (divided by the number of members): it tells where they disagree
            and knows nothing of the noise of the targets. With
            `pooling="mean_and_variance"` it is the variance of the mixture of
            their distributions, and has two parts: `"expected_variance"`, the
            mean of their variances, the noise that they predict, and
            `"variance_of_means"`, their disagreement.

        Raises:
            ValueError: If classifiers return values that are not
                distributions over the classes, or the pooling is a function.

        Example:

        ```python
        found = ensemble.predict_uncertainty(x)
        disputed = np.argsort(-found["mutual_information"])[:10]
        ```

        Reference:
            Depeweg et al., 2018, arXiv:1710.07283; the functions are those of
            `keras_freetickets.metrics`.
        """
        self._check_named_pooling("predict_uncertainty")
        if self.is_classifier:
            return uncertainty.of_classifiers(
                self._distributions(x, batch_size)
            )
        return uncertainty.of_regressors(
            *self._means_and_variances(x, batch_size)
        )

    def _check_named_pooling(self, method: str) -> None:
        if callable(self.pooling):
            raise ValueError(
                f"`{method}` needs a pooling that is given by name, which says "
                "what the members' outputs mean; see `predict_members` for "
                f"these. Received: pooling={self.pooling!r}"
            )

    def _means_and_variances(
        self, x: typing.Any, batch_size: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Members' means and, if they return them, variances."""
        members = self.predict_members(x, batch_size)
        if self.pooling == "mean":
            return members, None
        means, variances = np.split(members, 2, axis=-1)
        return means, variances

    def _distributions(self, x: typing.Any, batch_size: int) -> np.ndarray:
        """Members' probabilities, which sum to one."""
        members = self.predict_members(x, batch_size)
        if self._stacks.graph.outputs[0].dtype in ("float16", "bfloat16"):
            members = renormalized(members)
        if not validation.is_distribution(members):
            raise ValueError(
                "`x` must be inputs for which the members return "
                "probabilities (`from_logits=True` is for members that return "
                f"logits). Received: from_logits={self.from_logits}, outputs "
                f"in [{members.min():.4g}, {members.max():.4g}]"
            )
        return members

    def train_step(self, *args: typing.Any, **kwargs: typing.Any) -> None:
        raise RuntimeError(
            "An EnsembleModel cannot be trained: its members are, each as a "
            "SparseModel with the callbacks EDST or DST."
        )

    def quantize(self, *args: typing.Any, **kwargs: typing.Any) -> None:
        raise ValueError(
            "An EnsembleModel holds its members' weights and no layers to "
            "quantize: quantize the members, sparse ones as `strip` returns "
            "them, and make an EnsembleModel of these. "
            f"Received: a call of quantize for model {self.name!r}"
        )

    def get_config(self) -> dict[str, typing.Any]:
        keras_adapter.refuse_legacy_config(self)
        return {
            **self._settings(),
            "pooling": pools.pooling_config(self.pooling),
        }

    def _settings(self) -> dict[str, typing.Any]:
        """Arguments of another ensemble of such members."""
        return {
            "template": copy.deepcopy(self._stacks.config),
            "num_members": self.num_members,
            "from_logits": self.from_logits,
            "ignore_class": self.ignore_class,
            "name": self.name,
            "pooling": self.pooling,
        }

    def export(
        self, filepath: PathLike, *args: typing.Any, **kwargs: typing.Any
    ) -> typing.Any:
        """Writes a SavedModel with the signature `serving_default`.

        Args:
            filepath: Directory to write.
            *args: As for `keras.Model.export`.
            **kwargs: As for `keras.Model.export`. `input_signature` defaults
                to the members' inputs with a free batch dimension.

        Raises:
            ValueError: If a layer is compressed.
        """
        if not args and "input_signature" not in kwargs:
            kwargs["input_signature"] = [self._input_specs()]
        kwargs.setdefault("verbose", False)
        return super().export(filepath, *args, **kwargs)

    def _input_specs(self) -> typing.Any:
        """Specs of the members' inputs, with a free batch dimension."""
        return data.input_specs(self._stacks.graph)


def _without(kwargs: dict[str, typing.Any]) -> dict[str, typing.Any]:
    """Arguments without `trainable` and `dtype`, which loading adds."""
    return {k: v for k, v in kwargs.items() if k not in ("trainable", "dtype")}


@keras.saving.register_keras_serializable(package="keras_freetickets")
class _Members(keras_adapter.KeepsState, keras.Model):
    """The view of an ensemble that returns what all members predict."""

    def __init__(self, ensemble: EnsembleModel):
        super().__init__(name="members")
        self.ensemble = ensemble

    def call(self, inputs: typing.Any) -> Tensor:
        stacked = self.ensemble._member_probabilities(inputs)
        return ops.swapaxes(stacked, 0, 1)


def _as_index(value: typing.Any) -> int | None:
    """An integer, or `None` for anything else."""
    return int(value) if is_integer(value) else None

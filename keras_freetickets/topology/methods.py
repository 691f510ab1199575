"""Sparse-training methods: each is its difference to `Method`."""

import math
import numbers

import keras
from keras import ops

from keras_freetickets.topology import criteria
from keras_freetickets.topology import schedules
from keras_freetickets.topology.drop_and_grow import drop_and_grow
from keras_freetickets.topology.drop_and_grow import fraction_of

_REGROWN = ("keep", "reset")
_ROUNDING = ("ceil", "floor")


def _is_integer(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(
            f"`{name}` must be one of {list(choices)}. Received: {name}={value}"
        )


def _check_schedule(schedule):
    """Its first value, as later ones are only known in the compiled step."""
    first = schedule(ops.convert_to_tensor(0))
    try:
        first = float(first)
    except (TypeError, ValueError):
        pass
    if not isinstance(first, float) or not 0.0 <= first <= 1.0:
        raise ValueError(
            "`drop_fraction` must be in [0, 1]: the fraction of active "
            f"weights that an update replaces. Received: {first} at step 0"
        )


@keras.saving.register_keras_serializable(package="keras_freetickets")
class Method:
    """Drop-and-grow of every masked kernel at a fixed interval.

    Every `update_interval` optimizer updates each layer drops a fraction of
    its active connections and grows as many. Subclasses change a hook:
    `budget`, `drop_score`, `grow_score`, `observe`, `transform_gradients`;
    what they keep for each connection is declared in `connection_state`, a
    dict from name to dtype.

    Args:
        update_interval: Positive integer, optimizer updates (not
            micro-batches, not epochs) from one topology update to the next;
            the first comes with the `update_interval`-th. Defaults to 1000
            (FreeTickets, CIFAR, batches of 128).
        drop_fraction: Float in [0, 1] or a schedule of
            `keras_freetickets.topology.schedules`: the share of active
            weights that an update replaces, counted in steps of 1/10,000
            (what a schedule gives beyond [0, 1] is cut off).
            Defaults to 0.5 (FreeTickets).
        drop: `"magnitude"` (default: SET, RigL, FreeTickets), `"random"` or a
            callable of `Connections`.
        growth: `"gradient"` (default: RigL, FreeTickets' README), `"random"`
            or a callable of `Connections`.
        stop: Integer, no topology update comes after this many optimizer
            updates; `None` for no end (FreeTickets, ITOP).
        regrown: Whether a connection that is dropped and grown by one update
            keeps its value and optimizer slots (`"keep"`: RigL, JaxPruner,
            ITOP) or starts anew (`"reset"`: FreeTickets' CIFAR code).
        grown_value: Float, the value of new connections. Defaults to 0 (all
            code bases). Their optimizer slots start at the initial value.
        rounding: `"ceil"` (FreeTickets, ITOP) or `"floor"` (RigL) of the
            number of replaced connections.
        apply_on_update: Whether the optimizer also moves the weights in a
            step that updates the topology (FreeTickets, ITOP: yes; RigL: no).
        seed: Integer in [0, 2**31) that makes random growth and ties
            reproducible.

    Raises:
        ValueError: If an argument is out of range or of the wrong type.

    Example:

    ```python
    method = Method(update_interval=100, drop_fraction=0.3, growth="random")
    model.attach(method)
    ```

    Reference:
        Liu et al., 2022, arXiv:2106.14568 (FreeTickets).
    """

    # Name -> dtype of what the method keeps for each connection.
    connection_state = {}

    def __init__(
        self,
        update_interval=1000,
        drop_fraction=0.5,
        drop="magnitude",
        growth="gradient",
        stop=None,
        regrown="keep",
        grown_value=0.0,
        rounding="ceil",
        apply_on_update=True,
        seed=0,
    ):
        if not _is_integer(update_interval) or update_interval < 1:
            raise ValueError(
                "`update_interval` must be a positive number of optimizer "
                f"updates. Received: update_interval={update_interval}"
            )
        _check_choice("regrown", regrown, _REGROWN)
        _check_choice("rounding", rounding, _ROUNDING)
        if stop is not None and (not _is_integer(stop) or stop < 0):
            raise ValueError(
                "`stop` must be a number of optimizer updates or None. "
                f"Received: stop={stop}"
            )
        if not _is_integer(seed) or not 0 <= seed < 2**31:
            raise ValueError(
                "`seed` must be an integer in [0, 2**31). "
                f"Received: seed={seed}"
            )
        number = isinstance(grown_value, numbers.Real)
        if not number or not math.isfinite(grown_value):
            raise ValueError(
                "`grown_value` must be a finite number, the value of new "
                f"connections. Received: grown_value={grown_value}"
            )
        if not isinstance(apply_on_update, bool):
            raise ValueError(
                "`apply_on_update` must be True or False. "
                f"Received: apply_on_update={apply_on_update}"
            )
        self.update_interval = int(update_interval)
        self.drop_fraction = schedules.get(drop_fraction)
        _check_schedule(self.drop_fraction)
        self.drop = drop
        self.growth = growth
        self.stop = stop
        self.regrown = regrown
        self.grown_value = grown_value
        self.rounding = rounding
        self.apply_on_update = apply_on_update
        self.seed = int(seed)
        self._drop_score = criteria.get_drop(drop)
        self._grow_score = criteria.get_growth(growth)

    def drop_score(self, connections):
        """Scores active connections; those with the lowest score are dropped.

        A hook, called in the compiled step for each kernel that changes: use
        `keras.ops`. NaN and infinite scores go first. By default the
        criterion that was given as `drop`.

        Args:
            connections: `Connections` of one kernel, its values those after
                the optimizer's step.

        Returns:
            Float tensor of the kernel's shape; what it says of absent
            connections does not matter.
        """
        return self._drop_score(connections)

    def grow_score(self, connections):
        """Scores absent connections; those with the highest score are grown.

        A hook, called as `drop_score` is. NaN and infinite scores come last.
        By default the criterion that was given as `growth`.

        Args:
            connections: `Connections` of one kernel, as for `drop_score`;
                what was just dropped is still active in its mask.

        Returns:
            Float tensor of the kernel's shape; what it says of connections
            that were kept does not matter.
        """
        return self._grow_score(connections)

    def budget(self, connections, fraction):
        """How many connections each layer drops and grows.

        A hook. By default both are the fraction of the active connections, so
        that counts stay what they are.

        Args:
            connections: List of `Connections`.
            fraction: Float tensor, the share to replace.

        Returns:
            Two lists of `int32` scalars, dropped and grown.
        """
        counts = [
            fraction_of(
                ops.sum(ops.cast(c.mask, "int32")), fraction, self.rounding
            )
            for c in connections
        ]
        return counts, counts

    def observe(self, connections):
        """New state of each connection; a hook called in every step.

        Args:
            connections: List of `Connections`, before the optimizer's step.

        Returns:
            List of dicts from the names in `connection_state` to tensors of
            the kernel's shape.
        """
        return [c.state for c in connections]

    def transform_gradients(self, gradients, connections):
        """What the optimizer gets in place of the dense gradients; a hook.

        Args:
            gradients: List of dense gradients, one for each masked kernel. It
                is masked after this.
            connections: List of `Connections`.

        Returns:
            List of tensors of the same shapes.
        """
        return gradients

    def update(self, connections, fraction, seed):
        """Chooses which connections stay and which come.

        Args:
            connections: List of `Connections` of the kernels that change.
            fraction: Float tensor, the share to replace.
            seed: Integer tensor, of ties and random growth.

        Returns:
            List of pairs `(kept, grown)` of boolean tensors; the new mask is
            their union.
        """
        drop_counts, grow_counts = self.budget(connections, fraction)
        scores = (self.drop_score, self.grow_score)
        return drop_and_grow(
            connections, drop_counts, grow_counts, scores, seed
        )

    def get_config(self):
        return {
            "update_interval": self.update_interval,
            "drop_fraction": keras.saving.serialize_keras_object(
                self.drop_fraction
            ),
            "drop": self.drop,
            "growth": self.growth,
            "stop": self.stop,
            "regrown": self.regrown,
            "grown_value": self.grown_value,
            "rounding": self.rounding,
            "apply_on_update": self.apply_on_update,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class RigL(Method):
    """Drop by magnitude, grow by the dense gradient.

    The paper lets the drop fraction fall along a cosine and stops after 75 %
    of the optimizer updates. Both need the length of the run, so the defaults
    here are those of RigL's code, a constant and no end; the example shows
    the paper's for a run of 100,000 updates.

    Args:
        update_interval: Defaults to 100 (RigL's flag).
        drop_fraction: Float in [0, 1] or a schedule. Defaults to 0.3 (RigL's
            flag, constant there too).
        **kwargs: As in `Method`; `rounding="floor"` and
            `apply_on_update=False` are RigL's own and the defaults here.

    Raises:
        ValueError: As for `Method`.

    Example:

    ```python
    steps = 100_000 * 3 // 4
    cosine = schedules.Cosine(0.3, decay_steps=steps)
    model.attach(RigL(update_interval=100, drop_fraction=cosine, stop=steps))
    ```

    Reference:
        Evci et al., 2020, arXiv:1911.11134; google-research/rigl.
    """

    def __init__(self, update_interval=100, drop_fraction=0.3, **kwargs):
        kwargs.setdefault("growth", "gradient")
        kwargs.setdefault("rounding", "floor")
        kwargs.setdefault("apply_on_update", False)
        super().__init__(update_interval, drop_fraction, **kwargs)


@keras.saving.register_keras_serializable(package="keras_freetickets")
class SET(Method):
    """Drop by magnitude, grow at random.

    The original drops a fraction of the positive weights and the same
    fraction of the negative ones, each the closest to zero; here, as in RigL's
    and JaxPruner's SET, the sign does not matter.

    Args:
        update_interval: Defaults to 1500 (ITOP's setting for SET at batches
            of 128; the original updates once an epoch).
        drop_fraction: Float in [0, 1] or a schedule. Defaults to 0.3 (SET's
            code).
        **kwargs: As in `Method`.

    Raises:
        ValueError: As for `Method`.

    Example:

    ```python
    model.attach(SET(update_interval=1500))
    ```

    Reference:
        Mocanu et al., 2018, arXiv:1707.04780.
    """

    def __init__(self, update_interval=1500, drop_fraction=0.3, **kwargs):
        kwargs.setdefault("growth", "random")
        super().__init__(update_interval, drop_fraction, **kwargs)

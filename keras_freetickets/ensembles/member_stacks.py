"""The weights of an ensemble's members, stacked, and one graph for all."""

import typing
from collections.abc import Callable
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_freetickets import keras_adapter
from keras_freetickets.ensembles.members import revived
from keras_freetickets.ensembles.members import state_of
from keras_freetickets.ensembles.sparse_pass import SparsePass
from keras_freetickets.layers.compressed import Compressed
from keras_freetickets.layers.sparse import Sparse
from keras_freetickets.types import Tensor


class MemberStacks:
    """The values of all members: a stack `(members, ...)` for each variable.

    It is not a layer: Keras, which saves what it finds in a model's
    attributes, would save the weights of the graph beside the stacks.

    Args:
        ensemble: The Keras model that owns the stacks.
        config: Serialized member.
        num_members: Positive integer.

    Attributes:
        graph: A Keras model, the members' graph, with the values of the first.
        variables: List of the stacks, in the order of `state_of(graph)`.
    """

    def __init__(
        self,
        ensemble: keras.Model,
        config: dict[str, typing.Any],
        num_members: int,
    ) -> None:
        self.config = config
        self.num_members = num_members
        self.graph = revived(config)
        self.variables = [
            ensemble.add_weight(
                name=f"{i:04d}_{variable.path.replace('/', '_')}",
                shape=(num_members, *variable.shape),
                dtype=variable.dtype,
                initializer="zeros",
                trainable=False,
                autocast=False,
            )
            for i, variable in enumerate(state_of(self.graph))
        ]
        self.sparse_pass = SparsePass(
            self.graph, config, num_members, self.arrays_by_path
        )
        for stack in self.variables if self.sparse_pass.is_compressed else []:
            _tell(stack, self.sparse_pass.outdate)

    def arrays_by_path(self) -> dict[str, np.ndarray]:
        """Dict of the stacks' values by the path of a member's variable."""
        paths = [variable.path for variable in state_of(self.graph)]
        return dict(zip(paths, self.values(), strict=True))

    def values(self) -> list[np.ndarray]:
        """List of the stacks' values, as arrays."""
        return [ops.convert_to_numpy(stack.value) for stack in self.variables]

    def set_values(self, values: list[np.ndarray]) -> None:
        """Gives the stacks other values.

        Args:
            values: List of arrays, as `values` returns them.
        """
        for stack, value in zip(self.variables, values, strict=True):
            stack.assign(value)

    def set_member(self, index: int, member: keras.Model) -> None:
        """Takes over the values of one member.

        Args:
            index: Integer in [0, num_members).
            member: A built Keras model of the members' architecture.
        """
        found = {
            id(own): theirs
            for own, theirs in keras_adapter.paired_variables(
                self.graph, member
            )
        }
        for stack, own in zip(
            self.variables, state_of(self.graph), strict=True
        ):
            values = ops.convert_to_numpy(stack.value).copy()
            values[index] = ops.convert_to_numpy(found[id(own)].value)
            stack.assign(values)

    def refresh_graph(self) -> None:
        """Gives the graph the values of the first member, after a change.

        Adapted layers derive values from their weights, which functions
        traced earlier hold as constants.
        """
        self._assign_to(self.graph, 0)
        self.sparse_pass.refresh()

    def member(self, index: int) -> keras.Model:
        """A copy of one member, not compiled.

        Args:
            index: Integer in [0, num_members).
        """
        model = revived(self.config)
        self._assign_to(model, index)
        return model

    def _assign_to(self, model: keras.Model, index: int) -> None:
        for stack, variable in zip(
            self.variables, state_of(model), strict=True
        ):
            variable.assign(ops.convert_to_numpy(stack.value)[index])
        keras_adapter.copy_adapted_state(model, model)

    def stacks_of(
        self, choose: Callable[[keras.Model], list[keras.Variable]]
    ) -> list[keras.Variable]:
        """The stacks of some variables.

        Args:
            choose: Function from a member to a list of its variables.
        """
        places = self._places()
        return [self.variables[places[id(v)]] for v in choose(self.graph)]

    def places_of_masks(self) -> dict[int | None, int | None]:
        """Maps the index of a masked kernel's stack to that of its mask's."""
        places = self._places()
        return {
            places.get(id(masked.kernel)): places.get(id(masked.mask))
            for layer in keras_adapter.sublayers(self.graph)
            if isinstance(layer, Sparse)
            for masked in layer.masked_kernels
        }

    def places_of_pointers(self) -> dict[int, int]:
        """Maps the index of compressed values to that of their row pointers."""
        places = self._places()
        return {
            places[id(layer.values)]: places[id(layer.row_pointers)]
            for layer in self._compressed()
        }

    def following(self) -> set[int]:
        """Indices of the stacks that follow from others.

        They are the positions of compressed kernels by input.
        """
        places = self._places()
        return {
            places[id(variable)]
            for layer in self._compressed()
            for variable in layer.position_variables[2:]
        }

    def completed(
        self, values: Sequence[np.ndarray | None]
    ) -> list[np.ndarray]:
        """Values of all stacks, from those that do not follow from others.

        Args:
            values: List of arrays, `None` for those of `following`, or for
                none of them.

        Returns:
            List of arrays.

        Raises:
            ValueError: If positions are wrong, or others are missing.
        """
        found = list(values)
        places = self._places()
        for layer in self._compressed():
            at = [places[id(v)] for v in layer.position_variables]
            pointers, columns, *_ = (found[i] for i in at)
            if pointers is None or columns is None:
                continue
            if all(found[i] is not None for i in at):
                continue
            members = [
                layer.positions_of(*both)
                for both in zip(pointers, columns, strict=True)
            ]
            for i, arrays in zip(at, zip(*members, strict=True), strict=True):
                found[i] = np.stack(arrays)
        missing = [i for i, value in enumerate(found) if value is None]
        if missing:
            raise ValueError(f"variables {missing} are missing")
        return [value for value in found if value is not None]

    def _compressed(self) -> list[Compressed]:
        parts = keras_adapter.sublayers(self.graph)
        return [part for part in parts if isinstance(part, Compressed)]

    def _places(self) -> dict[int, int]:
        return {id(v): i for i, v in enumerate(state_of(self.graph))}

    def outputs(
        self, inputs: typing.Any, read: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """What all members return for a batch, stacked.

        Args:
            inputs: A batch of inputs.
            read: Function that each member's outputs pass through.

        Returns:
            Tensor `(members, batch, ...)`, with the mask of the outputs.
        """
        if self.sparse_pass.serves(inputs):
            return read(self.sparse_pass.outputs(inputs))
        cut = len(self.graph.trainable_variables)
        outputs, mask = [], None
        for i in range(self.num_members):
            values = [ops.convert_to_tensor(s)[i] for s in self.variables]
            y, _ = self.graph.stateless_call(
                values[:cut], values[cut:], inputs, training=False
            )
            mask = keras_adapter.mask_of(y)
            outputs.append(read(y))
        stacked = ops.stack(outputs)
        keras_adapter.set_mask(stacked, mask)
        return stacked


def _tell(variable: keras.Variable, told: Callable[[], None]) -> None:
    """Has a function called whenever the variable was assigned."""

    def assign(value: typing.Any) -> typing.Any:
        result = type(variable).assign(variable, value)
        told()
        return result

    variable.assign = assign

"""What an update of a compressed kernel is told, and what it answers."""

import typing

# How active weights are ranked, and absent ones.
DROP = {"magnitude": 0, "random": 1, "signed_magnitude": 2}
GROWTH = {"gradient": 0, "random": 1}
# Where a new value comes from, if not from another place.
BORN, SPARE = -1, -2


class UpdateSettings(typing.NamedTuple):
    """Integers that decide an update, in the order of the kernel's array.

    Attributes:
        parts: Ten-thousandths of the weights to replace.
        rounding: What is added before the division by 10,000.
        drop_key: Key of the hash that ranks equal weights, its 32 bits as a
            signed integer.
        growth_key: The same for absent weights.
        drop: A value of `DROP`.
        growth: A value of `GROWTH`.
        keeps_regrown: 1 if a weight that is dropped and grown in one update
            keeps its value.
    """

    parts: typing.Any
    rounding: typing.Any
    drop_key: typing.Any
    growth_key: typing.Any
    drop: typing.Any
    growth: typing.Any
    keeps_regrown: typing.Any

"""Addresses of one process in code that numba keeps for the next.

A number in compiled code is there for good, and an address is another one in
each process. So code has names for addresses, as a program has for what lies in
another library, and each process says what they stand for before it runs or
loads such code. Importing this imports numba.
"""

import typing

from keras_freetickets.kernels.vectors import extending
from keras_freetickets.kernels.vectors import ir
from keras_freetickets.kernels.vectors import types
from keras_freetickets.optional import import_optional

_BYTES, _WORD = ir.ArrayType(ir.IntType(8), 0), ir.IntType(64)


def name_address(name: str, address: int) -> None:
    """Says what a name in compiled code stands for, in this process.

    Args:
        name: String, unlike those of all that the process has loaded; or the
            name of a function of a library, which
            `numba.types.ExternalFunction` calls.
        address: Integer, of what stays where it is.
    """
    import_optional("llvmlite.binding").add_symbol(name, address)


@extending.intrinsic(prefer_literal=True)
def address_of(typing_context: typing.Any, name: typing.Any) -> typing.Any:
    """The address that a name stands for: a literal, given before."""
    if not isinstance(name, types.StringLiteral):
        return None

    def emit(context, builder, signature, arguments):
        known = builder.module.globals
        text = name.literal_value
        place = known.get(text) or ir.GlobalVariable(
            builder.module, _BYTES, text
        )
        return builder.ptrtoint(place, _WORD)

    return types.uint64(name), emit

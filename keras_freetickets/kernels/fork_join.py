"""Threads within one call of a compiled kernel. Importing this imports numba.

A call makes the system's threads (`pthreads`) and waits for them, which takes
some ten microseconds each. So nothing is kept: two models may train at once,
and a forked process misses no threads. Numba's own layer that needs no library
allows only one caller at a time.

No address is part of compiled code, so that numba keeps it between processes
(see `addresses`).
"""

import os
import typing

import numpy as np

from keras_freetickets.kernels.addresses import address_of
from keras_freetickets.kernels.addresses import name_address
from keras_freetickets.kernels.compiled import compiled
from keras_freetickets.kernels.threads import address
from keras_freetickets.kernels.vectors import extending
from keras_freetickets.kernels.vectors import ir
from keras_freetickets.kernels.vectors import numba
from keras_freetickets.kernels.vectors import pointer

types = numba.types
carray = numba.carray
int64 = numba.int64
# Where it is false, LLVM drops the calls below, whose names nothing would have.
_HAS_THREADS = os.name == "posix"
# Words of a record: what a thread reads and writes.
_PART, _PARTS, _ARGUMENTS, _FAILED, _THREAD, _WORDS = range(6)
_BYTE = ir.IntType(8).as_pointer()
_WORD = ir.IntType(64)
_create = types.ExternalFunction(
    "pthread_create", types.int32(*[types.uintp] * 4)
)
_join = types.ExternalFunction(
    "pthread_join", types.int32(types.uintp, types.uintp)
)


name_address("keras_freetickets_threads", address())


@compiled
def threads_of_process() -> int:
    """The address of `threads.settings`, in compiled functions."""
    return address_of("keras_freetickets_threads")


@compiled
def parts_of(work: int, threads: int) -> int:
    """Among how many threads a call is shared out.

    Args:
        work: Integer, weights times examples.
        threads: Integer, the address of `threads.settings`.
    """
    if not _HAS_THREADS:
        return 1
    most, work_of_a_part = carray(pointer(threads), 2, int64)
    return max(1, min(most, work // work_of_a_part))


@extending.intrinsic
def _call(
    typing_context: typing.Any, task: typing.Any, record: typing.Any
) -> typing.Any:
    """Calls a C function, of an address, with another address."""

    def emit(context, builder, signature, arguments):
        kind = ir.FunctionType(_BYTE, [_BYTE]).as_pointer()
        task = builder.inttoptr(arguments[0], kind)
        builder.call(task, [builder.inttoptr(arguments[1], _BYTE)])
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp), emit


@compiled
def _run_task(task: int, arguments: int, parts: int) -> None:
    """Calls a task for each part, the first in this thread."""
    records = np.zeros((parts, _WORDS), np.uint64)
    joins = np.zeros(parts, np.bool_)
    for part in range(parts):
        records[part, _PART], records[part, _PARTS] = part, parts
        records[part, _ARGUMENTS] = arguments
    first = records.ctypes.data
    if _HAS_THREADS:
        for part in range(1, parts):
            record = first + 8 * _WORDS * part
            joins[part] = _create(record + 8 * _THREAD, 0, task, record) == 0
    for part in range(parts):
        if not joins[part]:  # the first, and what the system refused
            _call(task, first + 8 * _WORDS * part)
    failed = np.uint64(0)
    for part in range(parts):
        if _HAS_THREADS and joins[part]:
            _join(records[part, _THREAD], 0)
        failed |= records[part, _FAILED]
    if failed != np.uint64(0):
        raise MemoryError


@extending.intrinsic
def run_parts(
    typing_context: typing.Any,
    function: typing.Any,
    parts: typing.Any,
    arguments: typing.Any,
) -> typing.Any:
    """Calls `function(part, parts, arguments)` for each part, in threads.

    They end before it returns; the first part is called in this one.
    `function` is compiled and raises nothing but `MemoryError`, `parts` is an
    integer, `arguments` a tuple.
    """
    of_part = typing_context.resolve_function_type(
        function, (types.int64, types.int64, arguments), {}
    )
    run_task = typing_context.resolve_value_type(_run_task)
    of_task = typing_context.resolve_function_type(
        run_task, (types.uintp, types.uintp, types.int64), {}
    )

    def emit(context, builder, signature, values):
        found = function.dispatcher.get_compile_result(of_part)
        context.add_linking_libs([found.library])
        kind = context.get_value_type(arguments)
        task = _emit_task(context, builder.module, found.fndesc, of_part, kind)
        with builder.goto_entry_block():
            kept = builder.alloca(kind)
        builder.store(values[2], kept)
        addresses = [builder.ptrtoint(one, _WORD) for one in (task, kept)]
        call = context.get_function(run_task, of_task)
        call(builder, [*addresses, values[1]])
        return context.get_dummy_value()

    return types.void(function, types.int64, arguments), emit


def _emit_task(context, module, description, signature, kind):
    """Emits the C function that reads a record and calls a compiled one."""
    name = module.get_unique_name(f"task.{description.mangled_name}")
    task = ir.Function(module, ir.FunctionType(_BYTE, [_BYTE]), name)
    task.linkage = "internal"
    builder = ir.IRBuilder(task.append_basic_block())
    record = builder.bitcast(task.args[0], _WORD.as_pointer())

    def place(i):
        return builder.gep(record, [ir.Constant(_WORD, i)])

    part, parts, kept = (
        builder.load(place(i)) for i in (_PART, _PARTS, _ARGUMENTS)
    )
    arguments = builder.load(builder.inttoptr(kept, kind.as_pointer()))
    status, _ = context.call_internal_no_propagate(
        builder, description, signature, [part, parts, arguments]
    )
    failed = builder.zext(status.is_error, _WORD)
    builder.store(failed, place(_FAILED))
    builder.ret(ir.Constant(_BYTE, None))
    return task

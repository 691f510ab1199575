"""Signatures that show all arguments of a class; unknown ones are errors."""

import difflib
import inspect
from typing import Any
from typing import ClassVar


class ShowsArguments:
    """Base of classes whose signature lists what their `**kwargs` accept.

    A class passes its `**kwargs` to its base class, or to the class in
    `forwards_to`. Class attributes:

    - `forwards_to`: another class that receives the `**kwargs`, and the
      `*args` if `__init__` has them;
    - `defaults`: dict of defaults that differ from those of the base classes;
      pass them as `**{**self.defaults, **kwargs}`.

    An argument that is not in the signature raises a `TypeError` that names
    the class that was called.
    """

    defaults: ClassVar[dict[str, Any]] = {}

    __signature__: ClassVar[inspect.Signature]

    def __new__(cls, *args, **kwargs):
        cls._check_arguments(kwargs)
        return super().__new__(cls)

    @classmethod
    def _check_arguments(cls, given):
        """Raises for arguments that are not in the signature."""
        _check_names(cls, given)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        above: Any = super(cls, cls)
        cls.defaults = {**above.defaults, **cls.defaults}
        cls.__signature__ = _signature(cls)


def _signature(cls):
    """The signature of a class, with its `**kwargs` spelled out."""
    _, *own = inspect.signature(cls.__init__).parameters.values()
    if own and own[0].kind is inspect.Parameter.VAR_POSITIONAL:
        own = [*_positional(cls), *own[1:]]
    if own and own[-1].kind is inspect.Parameter.VAR_KEYWORD:
        own = [*own[:-1], *_forwarded(cls, {one.name for one in own})]
    own = [
        one.replace(default=cls.defaults.get(one.name, one.default))
        for one in own
    ]
    return inspect.Signature(own)


def _above(cls):
    """The class that receives a class's `**kwargs`, or `None`."""
    above = cls.__dict__.get("forwards_to")
    if above is None:
        shown = (b for b in cls.__mro__[1:] if "__signature__" in vars(b))
        above = next(shown, None)
    return above


def _positional(cls):
    """The positional arguments of the class above."""
    above = _above(cls)
    shown = above.__signature__.parameters.values() if above else ()
    place = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [one for one in shown if one.kind is place]


def _forwarded(cls, known):
    """The keyword arguments of the class above that are not known yet."""
    above = _above(cls)
    if above is None:  # the receiver is known only when the class is called
        yield inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)
        return
    variadic = (
        inspect.Parameter.VAR_POSITIONAL,
        inspect.Parameter.VAR_KEYWORD,
    )
    for one in above.__signature__.parameters.values():
        if one.name not in known and one.kind not in variadic:
            yield one.replace(kind=inspect.Parameter.KEYWORD_ONLY)


def _check_names(cls, given):
    known = inspect.signature(cls).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values()):
        return
    for name, value in given.items():
        if name in known:
            continue
        near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
        near = near or [one for one in known if name in one or one in name]
        hint = f" (did you mean `{near[0]}`?)" if near else ""
        raise TypeError(
            f"{cls.__name__} has no argument `{name}`{hint}. Its arguments "
            f"are: {', '.join(known)}. Received: {name}={value!r}"
        )

"""Signatures that show all arguments of a class, and refuse others by name."""

import difflib
import inspect
from typing import Any
from typing import ClassVar


class ShowsArguments:
    """Base of classes whose signature shows what their `**kwargs` take.

    A class passes its `**kwargs` to its base class, or to `forwards_to` if it
    names one. Class attributes:

    - `forwards_to`: another class, which takes the `**kwargs`, and the
      `*args` where `__init__` has them;
    - `defaults`: dict of the defaults in which a class differs from those
      above it, to be passed on as `**{**self.defaults, **kwargs}`.

    An argument that the signature does not show is refused in the name of the
    class that was called.
    """

    defaults: ClassVar[dict[str, Any]] = {}

    __signature__: ClassVar[inspect.Signature]

    def __new__(cls, *args, **kwargs):
        cls._check_arguments(kwargs)
        return super().__new__(cls)

    @classmethod
    def _check_arguments(cls, given):
        """Refuses arguments that the signature does not show."""
        _check_names(cls, given)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        above: Any = super(cls, cls)
        cls.defaults = {**above.defaults, **cls.defaults}
        cls.__signature__ = _signature(cls)


def _signature(cls):
    """The signature of a class, its `**kwargs` spelled out."""
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
    """The class that takes what a class does not name itself, or `None`."""
    above = cls.__dict__.get("forwards_to")
    if above is None:
        shown = (b for b in cls.__mro__[1:] if "__signature__" in vars(b))
        above = next(shown, None)
    return above


def _positional(cls):
    """The arguments that may be given by place to the class above."""
    above = _above(cls)
    shown = above.__signature__.parameters.values() if above else ()
    place = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [one for one in shown if one.kind is place]


def _forwarded(cls, known):
    """What may be given by keyword, of the class that takes the rest."""
    above = _above(cls)
    if above is None:  # whatever takes them is known only when it is called
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

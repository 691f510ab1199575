"""Recipes by name: `get("edst", sparsity=0.8)`."""

import difflib
import inspect
import typing
from collections.abc import Callable

from keras_freetickets.recipes.recipe import Recipe

_RECIPES: dict[str, type[Recipe]] = {}
_Class = typing.TypeVar("_Class", bound=type[Recipe])


def register(name: str) -> Callable[[_Class], _Class]:
    """Class decorator that makes a recipe available to `get` by a name.

    Args:
        name: String that no other recipe has.

    Returns:
        Function from a subclass of `Recipe` to that class, unchanged.

    Raises:
        ValueError: If the name is taken by another class.
        TypeError: If what is decorated is not a subclass of `Recipe`.

    Example:

    ```python
    @keras_freetickets.recipes.register("narrow_dense")
    @dataclasses.dataclass(kw_only=True)
    class NarrowDense(keras_freetickets.recipes.Dense):
        epochs: int = 20
    ```
    """

    def decorator(kind: _Class) -> _Class:
        if not (inspect.isclass(kind) and issubclass(kind, Recipe)):
            raise TypeError(
                f"`register` decorates subclasses of Recipe. Received: {kind!r}"
            )
        taken = _RECIPES.setdefault(name, kind)
        if (taken.__module__, taken.__qualname__) != (
            kind.__module__,
            kind.__qualname__,
        ):
            raise ValueError(
                "`name` must be one that no other recipe has. "
                f"Received: name={name!r}, which is {taken.__name__}"
            )
        _RECIPES[name] = kind  # a notebook's cell may run twice
        return kind

    return decorator


def get(recipe: str | Recipe, **settings: typing.Any) -> Recipe:
    """Makes a recipe from its name.

    Args:
        recipe: `"dense"`, `"static"`, `"dst"`, `"edst"`,
            `"prune_and_finetune"`, `"lottery_ticket_rewinding"`,
            `"snapshot"`, `"mimo"`, a name given to `register`, or a `Recipe`,
            which is returned as it is.
        **settings: Arguments of the recipe's class.

    Returns:
        A `Recipe`.

    Raises:
        ValueError: If there is no such name, or a setting is unknown to the
            recipe or out of range.
        TypeError: If `recipe` is neither a name nor a `Recipe`.

    Example:

    >>> get("edst", num_members=5).num_members
    5
    """
    if isinstance(recipe, Recipe):
        if settings:
            raise ValueError(
                "`settings` are for a recipe given by name. "
                f"Received: recipe={recipe} and {sorted(settings)}"
            )
        return recipe
    kind = class_of(recipe)
    known = inspect.signature(kind).parameters
    for name in settings:
        if name not in known:
            raise ValueError(
                f"`settings` must be arguments of {kind.__name__}, which are "
                f"{sorted(known)}. Received: {name}={settings[name]!r}"
                f"{_hint(name, known)}"
            )
    return kind(**settings)


def class_of(name: str) -> type[Recipe]:
    """The class of a recipe.

    Args:
        name: String, as for `get`.

    Returns:
        A subclass of `Recipe`.

    Raises:
        ValueError: If the name is not registered.
        TypeError: If it is not a string.

    Example:

    >>> class_of("dst").__name__
    'DST'
    """
    if not isinstance(name, str):
        raise TypeError(
            "`recipe` must be a name or a Recipe. "
            f"Received: recipe={name!r} of type {type(name).__name__}"
        )
    if name not in _RECIPES:
        raise ValueError(
            f"`recipe` must be one of {names()}. Received: recipe={name!r}"
            f"{_hint(name, _RECIPES)}"
        )
    return _RECIPES[name]


def names() -> list[str]:
    """The names of all registered recipes, sorted.

    Returns:
        List of strings.

    Example:

    >>> "edst" in names()
    True
    """
    return sorted(_RECIPES)


def _hint(name: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""

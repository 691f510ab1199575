import keras
import pytest

from keras_freetickets import recipes
from keras_freetickets.recipes import registry

NAMES = [
    "dense",
    "dst",
    "edst",
    "lottery_ticket_rewinding",
    "mimo",
    "prune_and_finetune",
    "snapshot",
    "static",
]


def test_names():
    ours = [
        name
        for name in recipes.names()  # other tests register their own
        if recipes.class_of(name).__module__.startswith("keras_freetickets.")
    ]
    assert ours == NAMES
    kinds = {recipes.class_of(name) for name in NAMES}
    assert kinds == {
        value
        for value in vars(recipes).values()
        if isinstance(value, type)
        and issubclass(value, recipes.Recipe)
        and value is not recipes.Recipe
    }


def test_settings_are_those_of_the_class():
    made = recipes.get("edst", sparsity=0.9, num_members=5)
    assert made == recipes.EDST(sparsity=0.9, num_members=5)
    assert recipes.get(made) is made


def test_a_recipe_of_your_own(monkeypatch):
    monkeypatch.setattr(registry, "_RECIPES", dict(registry._RECIPES))

    def define():
        @recipes.register("wide")
        class Wide(recipes.Dense):
            pass

        return Wide

    kind = define()
    assert isinstance(recipes.get("wide", epochs=3), kind)
    again = define()  # a notebook's cell that is run twice
    assert recipes.class_of("wide") is again is not kind
    with pytest.raises(ValueError, match="name='wide', which is Wide"):
        recipes.register("wide")(recipes.Static)
    assert recipes.class_of("wide") is again
    with pytest.raises(TypeError, match="decorates subclasses of Recipe"):
        recipes.register("model")(keras.Model)
    assert "model" not in recipes.names()


@pytest.mark.parametrize(
    "error, name, settings, message",
    [
        (ValueError, "edts", {}, "recipe='edts' \\(did you mean 'edst'"),
        (ValueError, "dense", {"sparsity": 0.5}, "Received: sparsity=0.5"),
        (ValueError, "dst", {"num_member": 2}, "did you mean 'num_members'"),
        (ValueError, "dense", {"epochs": 0}, "`epochs` must be a positive"),
        (ValueError, recipes.Dense(), {"epochs": 1}, "for a recipe given by"),
        (TypeError, None, {}, "`recipe` must be a name or a Recipe"),
        (TypeError, recipes.Dense, {}, "`recipe` must be a name or a Recipe"),
    ],
)
def test_bad_arguments(error, name, settings, message):
    with pytest.raises(error, match=message):
        recipes.get(name, **settings)

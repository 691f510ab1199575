"""A compiled step serves whatever equals what it was traced with."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_freetickets as kft
from keras_freetickets.topology import GMP
from keras_freetickets.topology import NDSNN
from keras_freetickets.topology import SET
from keras_freetickets.topology import SNFS
from keras_freetickets.topology import RigL
from keras_freetickets.topology import schedules
from keras_freetickets.topology.methods.method import program_traits
from keras_freetickets.trainers.compiled_steps import SharedPrograms
from keras_freetickets.trainers.compiled_steps import frozen

TRACED = []


class Counted(RigL):
    """Notes each time that a step is traced with it."""

    settings_from_views = True  # what it notes is no part of an update

    def __init__(self, update_interval, drop_fraction=0.3):
        super().__init__(
            update_interval, drop_fraction=drop_fraction, apply_on_update=True
        )

    def transform_gradients(self, gradients, context):
        TRACED.append(self.update_interval)
        return gradients


def network():
    keras.utils.set_random_seed(1)
    dense = keras.Sequential(
        [keras.Input((10,)), layers.Dense(12), layers.Dense(3)]
    )
    model = kft.sparsify(dense, 0.6, "uniform", seed=2)
    model.compile("adam", "mse")
    return model


def data():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(16, 10)).astype("float32")
    return x, generator.normal(size=(16, 3)).astype("float32")


def traces_of_fit(model, method=None):
    """How often a fit with a method traces its hook."""
    TRACED.clear()
    callbacks = [] if method is None else [kft.callbacks.DropAndGrow(method)]
    model.fit(
        *data(), batch_size=4, shuffle=False, verbose=0, callbacks=callbacks
    )
    return len(TRACED)


def test_an_equal_method_finds_the_compiled_step_of_before():
    model = network()
    assert traces_of_fit(model, Counted(update_interval=1)) > 0
    assert traces_of_fit(model, Counted(update_interval=1)) == 0
    updates = int(model.update_state.update_count.numpy())
    assert updates == 8
    # Another one never, and the first is still known after it.
    assert traces_of_fit(model, Counted(update_interval=2)) > 0
    assert int(model.update_state.update_count.numpy()) == updates + 2
    masks = [np.array(r.mask.value) for r in model.masked_kernels]
    assert traces_of_fit(model) == 0  # without a method
    for mask, record in zip(masks, model.masked_kernels, strict=True):
        np.testing.assert_array_equal(mask, record.mask.value)
    assert traces_of_fit(model, Counted(update_interval=1)) == 0
    # A method that was changed in place is another.
    method = Counted(update_interval=1)
    assert traces_of_fit(model, method) == 0
    method.rounding = "ceil"
    assert traces_of_fit(model, method) > 0
    # So is any after the model was compiled again.
    model.compile("adam", "mse")
    assert traces_of_fit(model, Counted(update_interval=1)) > 0
    assert len(model.run._compiled_steps._kept) == 2


def test_fits_that_share_a_step_end_as_those_that_do_not():
    shared, apart = network(), network()
    for _ in range(2):
        traces_of_fit(shared, Counted(update_interval=1))
        traces_of_fit(apart, Counted(update_interval=1))
        apart.run._compiled_steps = type(apart.run._compiled_steps)()
        apart.make_train_function(force=True)
    for a, b in zip(shared.variables, apart.variables, strict=True):
        np.testing.assert_array_equal(a.value, b.value)


def test_what_a_method_works_out_when_it_is_attached_counts():
    # The same ramp from other masks is another table of counts.
    ramps = []
    for removed in (0, 0, 1):
        model, ramp = network(), GMP(0.8, end_step=2, update_interval=1)
        model.masked_kernels[0].initial -= removed
        model.attach(ramp)
        ramps.append(frozen(ramp))
    assert ramps[0] == ramps[1]
    assert ramps[0] != ramps[2]


def test_side_by_side_finds_its_step_too():
    members = [network(), network()]
    together = kft.SideBySide(members)
    assert traces_of_fit(together, Counted(update_interval=1)) > 0
    assert traces_of_fit(together, Counted(update_interval=1)) == 0
    assert traces_of_fit(together, Counted(update_interval=2)) > 0


def test_the_line_that_says_that_a_step_compiles(capsys):
    keras.config.enable_interactive_logging()
    model, line = network(), "Compiling the training step of Counted"

    def printed(**arguments):
        callback = kft.callbacks.DropAndGrow(Counted(update_interval=1))
        model.fit(*data(), callbacks=[callback], **arguments)
        return capsys.readouterr().out

    assert line not in printed(verbose=0)
    model.compile("adam", "mse")
    assert printed(verbose=2).count(line) == 1
    assert line not in printed(verbose=2)


@pytest.mark.parametrize(
    "one, other, equal",
    [
        (1, 1, True),
        (1, 1.0, False),
        (1, True, False),
        (float("nan"), float("nan"), True),
        (np.float32(2), np.float32(2), True),
        (np.zeros(2), np.zeros(2), True),
        (np.zeros(2), np.zeros(2, "float32"), False),
        (np.zeros((1, 2)), np.zeros((2, 1)), False),
        ([1, (2,)], [1, (2,)], True),
        ([1, (2,)], [1, [2]], False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        (len, len, True),
        (lambda c: 0, lambda c: 0, False),
        (object(), object(), False),
        (RigL(), RigL(), True),
        (RigL(), RigL(seed=1), False),
        (RigL(), SET(), False),
        (RigL(drop_fraction=0.2), RigL(drop_fraction=0.3), False),
        (schedules.Cosine(0.3, 10), schedules.Cosine(0.3, 10), True),
        (schedules.Cosine(0.3, 10), schedules.Cosine(0.3, 20), False),
        # Its schedule is a method of its own.
        (NDSNN(0.8, end_step=2000), NDSNN(0.8, end_step=2000), True),
        (NDSNN(0.8, end_step=2000), NDSNN(0.9, end_step=2000), False),
        (kft.losses.MOON(9), kft.losses.MOON(9), True),
        (kft.losses.MOON(9), kft.losses.MOON(9, alpha=2.0), False),
    ],
)
def test_what_counts_as_equal(one, other, equal):
    assert (frozen(one) == frozen(other)) is equal
    assert frozen(one) == frozen(one)


def test_later_changes_are_seen():
    method = RigL()
    before = frozen(method)
    method.drop_fraction = schedules.Cosine(0.3, 10)
    assert frozen(method) != before
    held = keras.Variable(1.0)
    assert frozen([held]) == frozen([held])
    assert frozen([held]) != frozen([keras.Variable(1.0)])


@pytest.mark.parametrize("build", [RigL, SET, SNFS])
def test_programs_of_an_update_are_told_apart_by_what_is_in_them(build):
    """Not by the interval, the fraction or the seed, which come as arrays."""

    def traits(method):
        return frozen(program_traits(method))

    plain = traits(build())
    scalars = {"start_step": 3, "stop_step": 9, "seed": 5}
    assert plain == traits(
        build(update_interval=7, drop_fraction=0.25, **scalars)
    )
    assert plain == traits(build(drop_fraction=schedules.Cosine(0.3, 10)))
    assert plain != traits(build(rounding="floor" if build != RigL else "ceil"))
    assert plain != traits(build(growth=lambda view: view.kernel))
    # Another class may read them in an update, as a ramp reads its interval.
    own = type("Own", (build,), {})
    assert traits(own()) != plain
    assert traits(own()) == traits(own())
    assert traits(own()) != traits(own(seed=5))
    ramps = [GMP(0.8, end_step=60, update_interval=i) for i in (20, 30)]
    assert traits(ramps[0]) != traits(ramps[1])


def test_models_of_equal_shapes_share_the_program_of_an_update(monkeypatch):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("elsewhere the whole step is one program")
    from keras_freetickets.trainers import tensorflow

    programs = SharedPrograms()
    monkeypatch.setattr(tensorflow, "_PROGRAMS", programs)
    x, y = data()
    for seed in range(3):
        model = network()
        model.attach(RigL(seed + 1, 0.1 + 0.1 * seed, seed=seed))
        masks = [np.array(r.mask.value) for r in model.masked_kernels]
        for _ in range(seed + 2):
            model.train_on_batch(x, y)
        assert int(model.update_state.update_count.numpy()) == 1
        for record, old in zip(model.masked_kernels, masks, strict=True):
            new = np.array(record.mask.value)
            dropped = np.floor(np.float32(0.1 + 0.1 * seed) * old.sum())
            assert 0 < (old & ~new).sum() <= dropped
    assert len(programs._kept) == 1


class Settings:
    """A schedule that says nothing of itself."""

    def __init__(self, value):
        self.value = value

    def __call__(self, step):
        return keras.ops.cast(self.value, "float32")

    def of_step(self, step):
        return self(step)


RATE = 0.1


def of_a_global(step):
    return keras.ops.cast(RATE, "float32")


def test_what_a_schedule_looks_at_is_part_of_it(monkeypatch):
    settings, rates = Settings(0.1), {"rate": 0.1}

    def of_what_is_around(step):
        return keras.ops.cast(rates["rate"], "float32")

    schedules_now = [
        settings,
        settings.of_step,
        of_what_is_around,
        of_a_global,
    ]
    before = [frozen(schedule) for schedule in schedules_now]
    assert [frozen(schedule) for schedule in schedules_now] == before
    assert frozen(Settings(0.1)) != before[0]  # another object
    settings.value = rates["rate"] = 0.2
    monkeypatch.setitem(globals(), "RATE", 0.2)
    for schedule, old in zip(schedules_now, before, strict=True):
        assert frozen(schedule) != old


def test_what_a_schedule_works_out_of_its_settings_is_no_change():
    schedule = schedules.Cosine(0.3, 10)
    before = frozen(schedule)
    schedule(keras.ops.convert_to_tensor(0))
    assert frozen(schedule) == before


def test_a_schedule_changed_in_place_is_traced_again():
    model, schedule = network(), Settings(0.0)

    def traces():
        method = Counted(update_interval=1, drop_fraction=schedule)
        return traces_of_fit(model, method)

    assert traces() > 0
    assert float(model.update_state.replaced.numpy()) == 0.0
    assert traces() == 0
    schedule.value = 0.5
    assert traces() > 0
    assert float(model.update_state.replaced.numpy()) > 0.1


def test_models_of_equal_methods_and_shapes_share_the_program_of_an_update():
    """Only what is traced decides: settings, places and the float type."""
    programs, made = SharedPrograms(), []

    def get(*traits):
        return programs.get([*traits], lambda: made.append(1) or len(made))

    assert get(RigL(10, 0.3), [0, 1]) == get(RigL(10, 0.3), [0, 1]) == 1
    assert get(RigL(10, 0.3), [0, 2]) == 2
    assert get(RigL(10, 0.4), [0, 1]) == 3
    changed = RigL(10, 0.3)
    assert get(changed, [0, 1]) == 1
    changed.rounding = "nearest"
    assert get(changed, [0, 1]) == 4
    for i in range(100):  # only the last ones are kept
        get(RigL(10, 0.3, seed=i), [5])
    assert get(RigL(10, 0.3), [0, 1]) == 105

"""Which steps are reduced, and how many."""

import pytest

from keras_freetickets.resolution import Annealed
from keras_freetickets.resolution import Bernoulli
from keras_freetickets.resolution import Periodic
from keras_freetickets.resolution import Schedule


def flags(schedule, count):
    return [schedule.is_reduced(step, count) for step in range(count)]


def test_periodic():
    assert flags(Periodic(), 10) == [True, False] * 4 + [False] * 2
    two_of_three = flags(Periodic(2, 3, until=1.0), 7)
    assert two_of_three == [True, True, False, True, True, False, True]
    # A period as long as the training: all reduced steps come first.
    assert flags(Periodic(4, 10, until=1.0), 10) == [True] * 4 + [False] * 6
    assert not any(flags(Periodic(0, 1), 10))


@pytest.mark.parametrize(
    "schedule, share",
    [
        (Periodic(1, 4, until=0.8), 0.2),
        (Bernoulli(0.5, until=0.8), 0.4),
        (Annealed(0.8, until=0.5), 0.2),
    ],
)
def test_shares(schedule, share):
    # Three standard deviations of 10,000 draws.
    assert schedule.share(10_000) == pytest.approx(share, abs=0.015)


@pytest.mark.parametrize("kind", [Bernoulli, Annealed])
def test_randomness_follows_from_seed_and_step(kind):
    assert flags(kind(0.5), 200) == flags(kind(0.5), 200)
    assert flags(kind(0.5), 200) != flags(kind(0.5, seed=1), 200)
    assert not any(flags(kind(0.0), 50))
    assert not any(flags(kind(1.0, until=0.5), 100)[50:])


def test_the_probability_falls():
    steps = flags(Annealed(1.0, until=1.0), 10_000)
    quarters = [sum(steps[i : i + 2500]) / 2500 for i in range(0, 10_000, 2500)]
    expected = [0.875, 0.625, 0.375, 0.125]
    assert quarters == pytest.approx(expected, abs=0.03)
    assert steps[0]


@pytest.mark.parametrize(
    "make, said",
    [
        (
            lambda: Periodic(3, 2),
            "`reduced` must be at most `period`.*period=2",
        ),
        (lambda: Periodic(-1), "`reduced`"),
        (lambda: Periodic(1, 0), "`period`"),
        (lambda: Periodic(until=1.5), "`until`"),
        (lambda: Bernoulli(2.0), "`probability`"),
        (lambda: Bernoulli(seed=-1), "`seed`"),
        (lambda: Annealed(until=0.0), "`until`"),
    ],
)
def test_bad_arguments(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_the_base_class_is_abstract():
    with pytest.raises(NotImplementedError):
        Schedule().is_reduced(0, 1)

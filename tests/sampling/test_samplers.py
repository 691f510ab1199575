"""Newton's proposal against transition matrices of all states."""

import itertools

import numpy as np
import pytest

from keras_freetickets.sampling import DiscreteSampler
from keras_freetickets.sampling import effective_sample_size
from keras_freetickets.sampling import energies
from keras_freetickets.sampling import proposals
from keras_freetickets.sampling import samplers


def all_states(coordinates, levels=2):
    return np.array(list(itertools.product(range(levels), repeat=coordinates)))


def target(energy, states):
    logs = energy(states)
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()


def log_kernels(energy, states, alpha, kind="ordinal", levels=2):
    """log q(x' | x) of all pairs, and log Z_alpha of the bits' proposal."""
    values = energies.evaluate(energy, states)
    if kind == "ordinal":
        local = energies.forward_differences(energy, states, values, levels)
        logs = proposals.ordinal_log_probabilities(states, local, alpha, levels)
    else:
        local = energies.level_energies(energy, states, values, levels)
        logs = proposals.categorical_log_probabilities(states, local, alpha)
    kernel = np.stack(
        [
            proposals.log_probability(
                np.repeat(one[None], len(states), axis=0), logs
            )
            for one in states
        ],
        axis=1,
    )
    return kernel, local


def adjusted(energy, states, logs):
    """Transition matrix of MANA."""
    values = energy(states)
    ratio = values[None] - values[:, None] + logs.T - logs
    matrix = np.exp(logs + np.minimum(ratio, 0))
    np.fill_diagonal(matrix, 0)
    np.fill_diagonal(matrix, 1 - matrix.sum(axis=1))
    return matrix


def stationary(matrix):
    """By the linear equations, in double precision."""
    count = len(matrix)
    equations = np.vstack([matrix.T - np.eye(count), np.ones(count)])
    wanted = np.append(np.zeros(count), 1.0)
    return np.linalg.lstsq(equations, wanted, rcond=None)[0]


def quadratic(coordinates, seed=0):
    random = np.random.default_rng(seed)
    a = random.normal(size=(coordinates, coordinates)) / 2
    a = a + a.T
    b = random.normal(size=coordinates)
    return lambda x: np.einsum("si,ij,sj->s", x, a, x) + x @ b


def rugged(coordinates, levels=2, seed=0):
    """A table of energies: no structure."""
    table = np.random.default_rng(seed).normal(size=levels**coordinates)
    powers = levels ** np.arange(coordinates)
    return lambda x: table[x @ powers]


def facility(coordinates=8, scale=20.0, cost=1.0, seed=0):
    """Each customer takes the best open facility; one costs."""
    worth = np.random.default_rng(seed).random((20, coordinates))

    def energy(x):
        best = (worth[None] * x[:, None]).max(axis=2)
        return scale * best.mean(axis=1) - cost * x.sum(axis=1)

    return energy


KINDS = [("ordinal", 2, 6), ("ordinal", 4, 3), ("categorical", 3, 4)]


@pytest.mark.parametrize("kind, levels, coordinates", KINDS)
@pytest.mark.parametrize("alpha", [0.3, 1.0, 5.0])
def test_mana_is_reversible_with_its_target(kind, levels, coordinates, alpha):
    states = all_states(coordinates, levels)
    energy = rugged(coordinates, levels)
    logs, _ = log_kernels(energy, states, alpha, kind, levels)
    np.testing.assert_allclose(np.exp(logs).sum(axis=1), 1, atol=1e-12)
    matrix, pi = adjusted(energy, states, logs), target(energy, states)
    flow = pi[:, None] * matrix
    assert np.abs(flow - flow.T).max() < 1e-12
    np.testing.assert_allclose(stationary(matrix), pi, atol=1e-10)


def test_una_on_a_quadratic_energy():
    """Its stationary distribution is Z_alpha times the target."""
    states, energy = all_states(7), quadratic(7)
    for alpha in (0.2, 1.0):
        logs, local = log_kernels(energy, states, alpha)
        shift = local * (1 - 2 * states) / 2 - 1 / (2 * alpha)
        normalizer = np.logaddexp(0, shift).sum(axis=1)
        pi = target(lambda x, z=normalizer: energy(x) + z, states)
        np.testing.assert_allclose(stationary(np.exp(logs)), pi, atol=1e-10)


def ising_ring(x):
    """2x2 spins, each edge counted twice."""
    spins = 2 * x - 1
    adjacent = np.zeros((4, 4))
    for i, j in [(0, 1), (0, 2), (1, 3), (2, 3)]:
        adjacent[i, j] = adjacent[j, i] = 1
    pairs = np.einsum("si,ij,sj->s", spins, adjacent, spins)
    return 0.25 * pairs + 0.2 * spins.sum(axis=1)


def test_una_on_the_ising_ring_stays_below_its_bound():
    states = all_states(4)
    pi = target(ising_ring, states)
    errors = []
    for alpha in (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0):
        logs, _ = log_kernels(ising_ring, states, alpha)
        errors.append(np.abs(stationary(np.exp(logs)) - pi).sum())
    expected = [8.0e-5, 0.0118, 0.0612, 0.136, 0.289, 0.490, 0.677]
    np.testing.assert_allclose(errors, expected, rtol=6e-3)
    assert errors == sorted(errors)
    # Z exp(-1 / (2 alpha) - lambda_min / 2) with lambda_min = -2, where Z
    # normalizes exp(x^T A x + b^T x) of the bits, which is 1 at x = 0.
    normalizer = np.exp(ising_ring(states) - ising_ring(states[:1])).sum()
    assert normalizer == pytest.approx(9.844, abs=5e-4)
    for alpha, error in zip((0.05, 0.1), errors[:2], strict=True):
        assert error <= normalizer * np.exp(-1 / (2 * alpha) + 1)


def test_acceptance_and_gap_on_a_facility_energy():
    """Shapes of the curves, not their digits."""
    states, energy = all_states(8), facility()
    pi = target(energy, states)
    distance = (states[:, None] != states[None]).sum(axis=2)
    acceptance, flips, gaps = [], [], []
    for alpha in (0.2, 0.5, 1.0, 2.0, 20.0):
        logs, _ = log_kernels(energy, states, alpha)
        kernel, matrix = np.exp(logs), adjusted(energy, states, logs)
        ratio = energy(states)[None] - energy(states)[:, None] + logs.T - logs
        accepted = kernel * np.exp(np.minimum(ratio, 0))
        acceptance.append(pi @ accepted.sum(axis=1))
        flips.append(pi @ (kernel * distance).sum(axis=1))
        symmetric = np.sqrt(pi)[:, None] * matrix / np.sqrt(pi)[None]
        values = np.linalg.eigvalsh((symmetric + symmetric.T) / 2)
        gaps.append(1 - np.abs(np.sort(values)[:-1]).max())
    assert acceptance == sorted(acceptance, reverse=True)
    assert acceptance[0] > 0.9
    assert flips == sorted(flips)
    # Too small steps and too bold ones mix slowly.
    assert gaps[0] < gaps[1] < gaps[2] < gaps[3] > gaps[4]


def test_modular_energies_accept_by_their_normalizers():
    weights = np.array([1.5, -0.3, 0.0, 2.0, -1.0])
    states = all_states(5)

    def energy(x):
        return x @ weights

    logs, local = log_kernels(energy, states, 0.7)
    shift = local * (1 - 2 * states) / 2 - 1 / 1.4
    normalizer = np.logaddexp(0, shift).sum(axis=1)
    values = energy(states)
    ratio = values[None] - values[:, None] + logs.T - logs
    expected = normalizer[:, None] - normalizer[None]
    np.testing.assert_allclose(ratio, expected, atol=1e-12)


def test_batched_and_looped_proposals_are_equal():
    """The sheet's formulas, one coordinate after another."""
    random = np.random.default_rng(0)
    energy, alpha = rugged(6), 0.6
    states = random.integers(0, 2, (20, 6))
    uniforms = random.random((20, 6))
    values = energies.evaluate(energy, states)
    local = energies.forward_differences(energy, states, values, 2)
    logs = proposals.ordinal_log_probabilities(states, local, alpha, 2)
    found = proposals.draw(states, logs, uniforms)
    weights = proposals.log_probability(found, logs)
    for x, u, proposed, weight in zip(
        states, uniforms, found, weights, strict=True
    ):
        total = 0.0
        for i in range(6):
            on, off = x.copy(), x.copy()
            on[i], off[i] = 1, 0
            difference = energy(on[None])[0] - energy(off[None])[0]
            logit = -0.5 * difference * (2 * x[i] - 1) - 1 / (2 * alpha)
            p = 1 / (1 + np.exp(-logit))
            flips = u[i] <= p
            assert proposed[i] == (1 - x[i] if flips else x[i])
            total += np.log(p if flips else 1 - p)
        assert weight == pytest.approx(total, abs=1e-12)


def test_categorical_bits_are_ordinal_ones_with_half_the_alpha():
    states, energy = all_states(5), rugged(5)
    one, _ = log_kernels(energy, states, 1.0, "categorical")
    other, _ = log_kernels(energy, states, 0.5, "ordinal")
    np.testing.assert_allclose(one, other, atol=1e-12)


def ising(width, coupling, field):
    index = np.arange(width * width).reshape(width, width)
    pairs = np.concatenate(
        [
            np.stack([index[:, :-1].ravel(), index[:, 1:].ravel()], axis=1),
            np.stack([index[:-1].ravel(), index[1:].ravel()], axis=1),
        ]
    )

    def energy(x):
        spins = 2.0 * x - 1
        product = spins[:, pairs[:, 0]] * spins[:, pairs[:, 1]]
        return 2 * coupling * product.sum(axis=1) + field * spins.sum(axis=1)

    return energy


def test_mana_finds_the_marginals_of_ising_spins():
    energy = ising(4, 0.1, 0.2)
    states = all_states(16)
    exact = target(energy, states) @ states
    samples = DiscreteSampler(alpha=0.5, seed=1).run(
        energy, np.zeros((16, 16), int), steps=1500, burn_in=100
    )
    for site in range(16):
        chain = samples.states[:, :, site].astype(float)
        error = chain.std() / np.sqrt(effective_sample_size(chain))
        assert abs(chain.mean() - exact[site]) < 4 * error


@pytest.mark.parametrize(
    "method, kind, levels",
    [
        ("mana", "ordinal", 3),
        ("mana", "categorical", 3),
        ("gibbs", "ordinal", 2),
        ("gibbs", "categorical", 3),
        ("locally_balanced", "ordinal", 2),
        ("locally_balanced", "categorical", 3),
    ],
)
def test_exact_samplers_find_their_target(method, kind, levels):
    energy = rugged(3, levels, seed=2)
    states = all_states(3, levels)
    pi = target(energy, states)
    sampler = DiscreteSampler(method=method, kind=kind, levels=levels, seed=3)
    samples = sampler.run(energy, states[:10], steps=2500, burn_in=300)
    for one, wanted in zip(states, pi, strict=True):
        hits = (samples.states == one).all(axis=2).astype(float)
        error = np.sqrt(wanted * (1 - wanted) / effective_sample_size(hits))
        assert abs(hits.mean() - wanted) < 4.5 * error


def test_alpha_is_tuned_and_rejections_cost_no_evaluation():
    calls = []
    base = facility(8, scale=30.0, cost=2.0)

    def energy(x):
        calls.append(len(x))
        return base(x)

    samples = DiscreteSampler(seed=0).run(
        energy, np.zeros((32, 8), int), steps=200, burn_in=400
    )
    assert 0.55 < samples.acceptance < 0.75
    # A step asks for the proposals and for their neighbours.
    assert samples.evaluations == sum(calls) == 32 * 9 * 601


def test_decay_freezes_a_chain():
    energy = facility(8)
    samples = DiscreteSampler(alpha=2.0, decay=0.97, seed=0).run(
        energy, np.zeros((4, 8), int), steps=300
    )
    assert samples.alpha == samplers._SMALLEST
    ends = samples.states[:, -20:]
    assert (ends == ends[:, :1]).all()


@pytest.mark.parametrize("scale", [1e4, -1e4, 0.0])
@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("method", samplers._METHODS)
def test_edges(scale, value, method):
    """All zeros or ones, huge differences, one coordinate."""
    for coordinates in (1, 5):
        start = np.full((3, coordinates), value)
        samples = DiscreteSampler(method=method, alpha=0.5).run(
            lambda x: scale * x.sum(axis=1), start, steps=20
        )
        assert np.isfinite(samples.energies).all()
        assert 0 <= samples.acceptance <= 1
        if scale and method != "una":
            assert (samples.energies[:, -1] >= samples.energies[:, 0]).all()


def ones(states):
    return np.ones(len(states))


WRONG_ENERGIES = {
    "NaN": (lambda x: ones(x) * np.nan, "must return finite values"),
    "infinite": (lambda x: ones(x) * -np.inf, "must return finite values"),
    "one value": (lambda x: 1.0, "one value for each state"),
    "too many axes": (lambda x: ones(x)[:, None], "one value for each state"),
    "integers": (lambda x: x.sum(axis=1), "must return float32 or float64"),
    "half": (lambda x: ones(x).astype("float16"), "must return float32 or"),
}


@pytest.mark.parametrize("case", WRONG_ENERGIES)
def test_wrong_energies(case):
    energy, message = WRONG_ENERGIES[case]
    with pytest.raises(ValueError, match=message):
        DiscreteSampler().run(energy, np.zeros((2, 3), int), steps=2)


class WithDifferences:
    """An energy that says what its differences are."""

    def __init__(self, differences):
        self.differences = differences

    def __call__(self, states):
        return ones(states)


WRONG_DIFFERENCES = {
    "NaN": (lambda x: x * np.nan, "must return finite values"),
    "one value": (ones, r"each coordinate of each state.*shape \(2, 3\)"),
    "integers": (lambda x: x, "must return float32 or float64"),
}


@pytest.mark.parametrize("method", ["mana", "locally_balanced"])
@pytest.mark.parametrize("case", WRONG_DIFFERENCES)
def test_wrong_differences(case, method):
    differences, message = WRONG_DIFFERENCES[case]
    sampler = DiscreteSampler(method=method)
    energy = WithDifferences(differences)
    with pytest.raises(ValueError, match=f"`energy.differences` .*{message}"):
        sampler.run(energy, np.zeros((2, 3), int), steps=2)


def test_an_energy_is_callable():
    with pytest.raises(TypeError, match="`energy` must be a function"):
        DiscreteSampler().run(1.0, np.zeros((2, 3), int), steps=2)


@pytest.mark.parametrize(
    "start",
    [
        np.zeros(3, int),
        np.zeros((2, 3)),
        np.full((2, 3), 2),
        np.full((2, 3), -1),
        np.zeros((0, 3), int),
    ],
)
def test_wrong_starts(start):
    with pytest.raises(ValueError, match="`start` must"):
        DiscreteSampler().run(ones, start, steps=2)


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "newton"},
        {"kind": "binary"},
        {"levels": 1},
        {"alpha": 0},
        {"alpha": float("nan")},
        {"decay": 0},
        {"decay": 1.1},
        {"seed": -1},
    ],
)
def test_wrong_settings(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        DiscreteSampler(**settings)


def test_progress_is_reported():
    rows = []
    DiscreteSampler().run(
        ones, np.zeros((2, 3), int), steps=150, burn_in=50, callback=rows.append
    )
    assert rows[-1]["step"] == rows[-1]["steps"] == 200
    assert len(rows) == 100

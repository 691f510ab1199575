#!/bin/bash
# numba 0.68.1, numpy 2.4.6, no other package. Needs Python 3.11:
# PYTHON=python3.11 (the default).
#
# One would have guessed: `njit(cache=True)` keeps two functions apart that one
# factory made, as the index of its cache has a digest of what they close over.
#
# What happens: a number that counts in each process is part of the name of a
# compiled function. One process compiles `times(2)` as its second function. Another
# one finds it in the cache, compiles `times(3)`, as its second function too, and
# links both into a third function: both have one name, and one of them is called
# twice. The numbers are wrong, without a word. Where the two need arrays of other
# sizes, memory would be written that is not theirs.
#
# Output seen:
#   first process: [20.]
#   second process: [30.] [30.]
#   the same with an empty cache: [20.] [30.]
#
# Exits with 0 as long as this is so.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numba==0.68.1 numpy==2.4.6
cat > "$folder/made.py" <<'PYTHON'
import numba
import numpy as np


def times(factor):
    @numba.njit(cache=True)
    def multiplied(x):
        y = np.empty_like(x)
        for i in range(len(x)):
            y[i] = x[i] * factor
        return y

    return multiplied


@numba.njit
def first_of_the_process(x):
    return x


TEN = np.array([10.0])
PYTHON
cat > "$folder/one.py" <<'PYTHON'
import made

made.first_of_the_process(1.0)
print(made.times(2)(made.TEN))
PYTHON
cat > "$folder/two.py" <<'PYTHON'
import made
import numba

double, triple = made.times(2), made.times(3)


@numba.njit
def both(x):
    return double(x), triple(x)


print(*both(made.TEN))
PYTHON
cd "$folder"
export NUMBA_CACHE_DIR="$folder/cache"
first=$(venv/bin/python one.py)
second=$(venv/bin/python two.py)
rm -r "$folder/cache"
empty=$(venv/bin/python two.py)
echo "first process: $first"
echo "second process: $second"
echo "the same with an empty cache: $empty"
[ "$first" = "[20.]" ] && [ "$second" != "[20.] [30.]" ] \
    && [ "$empty" = "[20.] [30.]" ]

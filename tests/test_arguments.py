import numpy as np
import pytest

from keras_freetickets.arguments import check_count


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "3"])
def test_counts(value):
    with pytest.raises(ValueError, match="`num_bins` must be a positive"):
        check_count("num_bins", value)
    with pytest.raises(ValueError, match="`num_bins` must be at least 2"):
        check_count("num_bins", 1, least=2)
    check_count("num_bins", np.int64(1))

"""Words and their numbers."""

import pytest

from keras_freetickets.contrastive import Vocabulary


def test_words_and_tokens():
    vocabulary = Vocabulary(["A shoe", "a  Bag"])
    assert vocabulary.words == ["a", "bag", "shoe"] and len(vocabulary) == 6
    found = vocabulary.encode(["a bag", "the SHOE", ""], 3)
    assert found.tolist() == [[3, 4, 0], [2, 5, 0], [0, 0, 0]]
    assert vocabulary.encode([], 3).shape == (0, 3)


def test_bad_arguments():
    vocabulary = Vocabulary(["a b c"])
    with pytest.raises(ValueError, match=r"at most length=2 words.*3 words"):
        vocabulary.encode(["a b", "a b c"], 2)
    with pytest.raises(ValueError, match="`length`"):
        vocabulary.encode(["a"], 0)
    with pytest.raises(ValueError, match="list of strings"):
        vocabulary.encode("a b", 2)
    with pytest.raises(ValueError, match="list of strings"):
        Vocabulary([1])
    with pytest.raises(ValueError, match="must have a word"):
        Vocabulary([" "])

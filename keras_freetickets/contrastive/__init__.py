"""Two towers that learn from pairs, such as captions and images.

See docs/confident_learning.md.
"""

from keras_freetickets.contrastive.learned_scale import LearnedScale
from keras_freetickets.contrastive.masked_tokens import MaskedTokens
from keras_freetickets.contrastive.masked_tokens import masked_token_loss
from keras_freetickets.contrastive.objective import Contrastive
from keras_freetickets.contrastive.retrieval import pair_cosines
from keras_freetickets.contrastive.retrieval import recall_at
from keras_freetickets.contrastive.retrieval import similarities
from keras_freetickets.contrastive.vocabulary import Vocabulary

__all__ = [
    "Contrastive",
    "LearnedScale",
    "MaskedTokens",
    "Vocabulary",
    "masked_token_loss",
    "pair_cosines",
    "recall_at",
    "similarities",
]

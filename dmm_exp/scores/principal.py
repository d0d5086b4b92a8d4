"""Principal components of the train × train datamodel matrix: groups of examples with similar effects on models.

Georgiev et al., ICLR 2025, arXiv 2410.23232, take forget sets from the ends of such components (sets 4 to 9).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse.linalg import aslinearoperator, svds
from torch import Tensor


def principal_projections(outputs: Tensor, masks: Tensor, *, count: int = 2, penalty: float = 1.0) -> Tensor:
    """Return the projections of every training example's datamodel on the first components, ``[n_train, count]``.

    Row x of the datamodel matrix holds the ridge weights of all training examples in predicting the margin on training
    example x; columns are centred. The matrix is never formed: it is a product of factors with as many rows or columns
    as the pool has members, and the components come from products with vectors. A component's sign is such that its
    largest projection in absolute value is positive.

    Args:
        outputs: ``[members, n_train]`` margins of the pool on training points.
        masks: ``[members, n_train]`` bool, the examples of each member's training.
        count: number of components.
        penalty: of the ridge regression, in multiples of the mean squared singular value.
    """
    n_train = masks.shape[1]
    outputs = outputs.double() - outputs.double().mean(0)
    inclusion = masks.double() - masks.double().mean(0)
    gram = inclusion @ inclusion.T
    gram.diagonal().add_(penalty * gram.diagonal().mean())
    weights = torch.linalg.solve(gram, outputs).numpy()  # [members, n_train]: row x of the matrix is weights[:, x]ᵀ Z
    sources = inclusion.numpy()
    left = weights - weights.mean(1, keepdims=True)  # centred over examples x

    matrix = aslinearoperator(left.T) @ aslinearoperator(sources)
    vectors, values, _ = svds(matrix, k=count, v0=np.random.default_rng(0).standard_normal(n_train))
    assert vectors is not None
    order = np.argsort(-values)
    projections = vectors[:, order] * values[order]
    largest = projections[np.abs(projections).argmax(0), np.arange(count)]
    return torch.from_numpy(np.ascontiguousarray(projections * np.sign(largest)))

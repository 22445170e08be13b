"""Lassos for one or many targets as estimators of scikit-learn, each solved to a certificate (extra ``sklearn``).

``base`` has what all of them do, ``lasso`` those of a given strength, and ``cross_validation`` those that choose it.
"""

from __future__ import annotations

from simplicit.errors import MissingExtraError

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise MissingExtraError("simplicit.sklearn needs scikit-learn: pip install 'simplicit[sklearn]'") from error

from simplicit.sklearn.cross_validation import BallLassoCV, ElasticNetCV, LassoCV
from simplicit.sklearn.lasso import BallLasso, ElasticNet, Lasso

__all__ = ["BallLasso", "BallLassoCV", "ElasticNet", "ElasticNetCV", "Lasso", "LassoCV"]

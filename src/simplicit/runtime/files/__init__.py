"""A network's weights on disk, small where they are sparse, and back into its class."""

from simplicit.runtime.files.folder import SavedWeights, save
from simplicit.runtime.files.loading import load_weights

__all__ = ["SavedWeights", "load_weights", "save"]

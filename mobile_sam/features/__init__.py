"""Teacher features on disk: computed once, shared by runs and projects, verified on each read."""

from mobile_sam.features.arrays import identity, open_arrays
from mobile_sam.features.encoding import FeatureError
from mobile_sam.features.store import FeatureStore

__all__ = ["FeatureError", "FeatureStore", "identity", "open_arrays"]

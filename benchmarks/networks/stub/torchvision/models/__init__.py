"""Nothing: timm does without ``feature_extraction``."""

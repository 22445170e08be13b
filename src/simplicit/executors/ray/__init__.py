"""Blocks of rows on a Ray cluster: ``cluster`` is about reaching or starting one, ``actor`` about a worker on it, and
``executor`` puts works and blocks there."""

from simplicit.executors.ray.executor import Ray

__all__ = ["Ray"]

"""What is known of this machine."""

from __future__ import annotations

from importlib import metadata

from simplicit.machine import NOT_INSTALLED, versions


def test_versions_are_those_installed_and_a_source_without_an_installation_is_said() -> None:
    found = versions("no-such-package")
    assert found["torch"] == metadata.version("torch")
    assert found["no-such-package"] == NOT_INSTALLED

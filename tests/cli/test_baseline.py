"""``simplicit baseline`` as a user meets it."""

from __future__ import annotations

import json

import pytest

from command_line import Run, files, manifest, one_line


def test_folder_and_json(run: Run) -> None:
    words = ("baseline", "--arch", "8", "--epochs", "2", "--output", "b", "--json")
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    figures = json.loads(out)
    assert (figures["folder"], figures["widths"], figures["bias"]) == ("b", [64, 8, 10], True)
    assert files() == ["b", "b/config.json", "b/run.json", "b/weights.safetensors"]
    assert manifest("b")["command"] == ["simplicit", *words]
    assert manifest("b")["results"]["test_accuracy"] == figures["test_accuracy"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--arch", "64x32"), "--arch '64x32': expected the widths"),
        (("--arch", "none"), "--arch 'none': expected the widths"),
        (("--arch", "9" * 5000), "expected the widths"),
        (("--arch", "100000000-100000000"), "149,0"),
        (("--activation", "cosine"), "--activation: 'cosine' is unknown"),
        (("--epochs", "0"), "--epochs must be an integer of at least 1"),
        (("--learning-rate", "0"), "--learning-rate must be"),
        (("--seed", "-3"), "--seed must be"),
        (("--seed", "99999999999999999999999"), "--seed must be"),
        (("--data", "mnist"), "'mnist'"),
    ],
)
def test_bad_options(run: Run, words: tuple[str, ...], told: str) -> None:
    one_line(run("baseline", *words), told)
    assert files() == []

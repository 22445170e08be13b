"""Networks are evaluated in at least float32, and how they were called is found again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import simplicit as sp
from simplicit.errors import DataError
from simplicit.network import capture_graph
from simplicit.runs.folder import Manifest
from simplicit.runs.networks import NETWORK, CallRecord, classes_of, evaluated, open_model


class Words(nn.Module):
    """Token ids, a mask and numbers, with a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(9, 4), nn.Linear(7, 3)

    def forward(self, ids: Tensor, attention_mask: Tensor, values: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        words = (self.table(ids) * attention_mask.unsqueeze(-1)).sum(1)
        return {"words": words, "logits": self.head(torch.cat([words * scale, values], 1))}


def test_a_call_is_found_again() -> None:
    net = Words().eval()
    ids, mask = torch.randint(9, (5, 6)), torch.ones(5, 6, dtype=torch.int64)
    given = {"ids": ids, "attention_mask": mask, "values": torch.rand(5, 3), "scale": 2.0}
    record = CallRecord.of(capture_graph(net, given, output="logits"))
    again = CallRecord.from_config(json.loads(json.dumps(record.to_config())))
    assert again == record
    example = again.example()
    assert example["ids"].dtype == torch.int64
    assert example["attention_mask"].tolist() == [[1] * 5 + [0]] * 2
    assert (example["values"].shape, example["scale"]) == ((2, 3), 2.0)
    model = sp.from_torch(net, example, output=again.output)
    torch.testing.assert_close(model.predict(given), net(**given)["logits"].detach())


def test_one_input_is_an_array_again() -> None:
    record = CallRecord.of(capture_graph(nn.Linear(4, 2).eval(), torch.rand(3, 4)))
    assert record.alone
    assert record.example().shape == (2, 4)


def test_networks_in_half_precision_compute_in_float32() -> None:
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)).eval().bfloat16()
    inputs = torch.rand(300, 6)
    wide = evaluated(net)
    assert {value.dtype for value in wide.parameters()} == {torch.float32}
    assert {value.dtype for value in net.parameters()} == {torch.bfloat16}
    assert classes_of(net, inputs).tolist() == wide(inputs).argmax(1).tolist()


def test_a_run_that_does_not_say_how_its_network_is_called(tmp_path: Path) -> None:
    (tmp_path / NETWORK).mkdir()
    Manifest("fit", results={"call": {"inputs": {}}}).write(tmp_path)
    with pytest.raises(DataError, match="damaged, its results do not say how the network is called"):
        open_model(tmp_path)

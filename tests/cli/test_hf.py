"""``simplicit fit --hf``: from a Hugging Face folder and texts to a folder of the same class."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import Run, files, manifest, one_line, settings
from pretrained import SENTENCES, claimed, folder_of

needs_transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="the extra hf is not installed")
BERT = {"architectures": ["BertModel"]}
SHORT = ("--texts", "texts.txt", "--sparsity", 50)


@pytest.fixture
def texts(run: Run) -> Path:
    """A file of sentences in the current folder."""
    path = Path("texts.txt")
    path.write_text("\n".join(SENTENCES) + "\n")
    return path


# --- without transformers ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("texts")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--hf", "nowhere", *SHORT), "--hf nowhere: no such folder"),
        (("--hf", "pickled", *SHORT), "--hf pickled: has its weights as a pickle, pytorch_model.bin"),
        (("--hf", "net"), "a network of --hf needs --texts, a file with one text a line, or --data"),
        (("--hf", "net", "--texts", "none.txt"), "--texts none.txt: no such file"),
        (("--hf", "net", *SHORT, "--data", "digits"), "--data: texts are the samples already"),
        (("--hf", "net", *SHORT, "--length", 1), "--length must be an integer of at least 2, got 1"),
        (("--hf", "net", "--data", "digits", "--length", 5), "--length: goes with --texts"),
        (("--hf", "net", *SHORT, "--model", "a:b"), "name one network"),
        (("--hf", "both", *SHORT), "--hf both: an encoder-decoder takes two sequences"),
        (("--hf", "net", *SHORT), "--hf net: has no tokenizer"),
        (("--model", "a:b", *SHORT), "--texts texts.txt: need a network with a tokenizer; name its folder with --hf"),
    ],
)
def test_mistakes(run: Run, words: tuple[object, ...], told: str) -> None:
    claimed(Path("pickled"), ("pytorch_model.bin",), **BERT)
    claimed(Path("net"), ("model.safetensors",), **BERT)
    claimed(Path("both"), ("model.safetensors",), **BERT, is_encoder_decoder=True)
    before = files()
    one_line(run("fit", *words, "--output", "out"), told)
    assert files() == before


def test_transformers_is_not_installed(run: Run, texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    claimed(Path("net"), ("model.safetensors", "tokenizer.json"), **BERT)
    one_line(run("fit", "--hf", "net", "--texts", texts), "transformers: pip install 'simplicit[hf]'")


# --- with it ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A folder of a class of transformers; for reading only."""
    made: dict[str, Path] = {}

    def folder(kind: str, **options: Any) -> Path:
        if kind not in made:
            made[kind] = folder_of(kind, tmp_path_factory.mktemp("hf") / kind, **options)
        return made[kind]

    return folder


@needs_transformers
@pytest.mark.slow
def test_an_encoder_from_its_folder_to_a_report(run: Run, texts: Path, pretrained: Callable[..., Path]) -> None:
    import transformers

    source = pretrained("BertModel")
    words = ("fit", "--hf", source, "--texts", texts, "--length", 8, "--sparsity", 50)
    code, out, err = run(*words, "--output", "f")
    assert (code, err) == (0, "")
    for told in ("12 texts,", "cosine to the baseline's, mean", "texts to be fitted on are longer than 8 tokens"):
        assert told in out
    names = ["README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert files("f") == ["network", *(f"network/{name}" for name in names), "rows.json", "run.json"]
    results = manifest("f")["results"]
    assert (results["head"], results["texts"], results["samples"], results["sparsity"]) == ("embeddings", 12, 48, 50.0)
    assert settings("f")["texts"] == "../texts.txt"
    assert Path("f", settings("f")["hf"]).resolve() == source
    card = Path("f/network/README.md").read_text(encoding="utf-8")
    assert "Fitted on 48 samples, without labels: lines of texts.txt, 8 tokens each." in card
    assert "Measured on 12 texts of texts.txt that were held out." in card
    assert f"| cosine to the baseline's, mean |  | {results['measures']['cosine']:.4f} |" in card
    assert 'net = BertModel.from_pretrained("FOLDER")' in card
    net = transformers.BertModel.from_pretrained("f/network")
    dense = transformers.BertModel.from_pretrained(source)
    layers = [layer for layer in net.encoder.modules() if isinstance(layer, torch.nn.Linear)]
    assert sum(int(layer.weight.count_nonzero()) for layer in layers) == results["non_zeros"]
    assert torch.equal(net.embeddings.word_embeddings.weight, dense.embeddings.word_embeddings.weight)
    assert Path("f/network/tokenizer.json").read_text() == (source / "tokenizer.json").read_text()
    tokens = transformers.AutoTokenizer.from_pretrained("f/network")(["the cat sees"])
    assert tokens["input_ids"] == [[2, 5, 7, 10, 3]]
    code, out, _ = run("eval", "f", "--json", "--output", "e")
    assert code == 0
    found = json.loads(out)["evaluation"]
    assert found["measures"] == pytest.approx(results["measures"])
    assert files("e") == ["evaluation.json", "run.json"]
    assert found["measures"]["cosine"] > 0.9
    code, out, _ = run("bench", "f", "--batch", 2, "--seconds", 0.001, "--json")
    assert code == 0
    assert json.loads(out)["left_out"] == {}
    assert all(row["difference"] < 1e-4 for row in json.loads(out)["measurements"])
    one_line(run("bench", "f", "--data", "digits"), "--data digits: f was fitted on texts")


@needs_transformers
@pytest.mark.slow
def test_what_else_is_made_of_a_fit_on_texts(run: Run, texts: Path, pretrained: Callable[..., Path]) -> None:
    pytest.importorskip("onnxruntime")
    words = ("fit", "--hf", pretrained("BertModel"), "--texts", texts, "--length", 6, "--sparsity", 50)
    assert run(*words, "--output", "f")[0] == 0
    assert run("fit", "--config", "f", "--output", "g")[0] == 0
    assert Path("f/network/model.safetensors").read_bytes() == Path("g/network/model.safetensors").read_bytes()
    one_line(run(*words[:-2], "--recipe", "certified"), "--recipe certified: is trained on attacked inputs")
    one_line(run("attack", "f"), "there is no box of small changes")
    one_line(run("certify", "f"), "there is no box of small changes")
    one_line(run("eval", "f", "--eps", "0.1"), "--eps: f was fitted on texts, which are not attacked")
    code, out, _ = run("export", "f", "--output", "m.onnx")
    assert (code, "checked by onnxruntime" in out) == (0, True)
    assert run("export", "f", "--output", "w.safetensors")[0] == 0
    Path("others.txt").write_text("the old cat hears a bird\nthe red dog likes the tree\na small house and a tree\n")
    code, out, _ = run("eval", "f", "--test-texts", "others.txt", "--json")
    assert (code, json.loads(out)["evaluation"]["texts"]) == (0, 3)
    assert run("report", "f", "g", "--output", "r")[0] == 0
    page = Path("r/report.html").read_text()
    assert "cosine" in page
    Path("texts.txt").write_text("another text\nand one more\n")
    one_line(run("eval", "f"), "texts changed since that run")


@needs_transformers
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options", "measures"),
    [
        (
            "BertForMaskedLM",
            {"dtype": torch.bfloat16},
            ["agreement", "baseline_found", "baseline_pseudo_perplexity", "found", "pseudo_perplexity"],
        ),
        ("GPT2LMHeadModel", {"n_positions": 24, "n_inner": 24}, ["agreement", "baseline_perplexity", "perplexity"]),
        ("BertForSequenceClassification", {"num_labels": 3}, ["accuracy", "agreement", "baseline_accuracy"]),
        ("BertForTokenClassification", {"num_labels": 3}, ["agreement"]),
    ],
)
def test_every_head(
    run: Run, texts: Path, pretrained: Callable[..., Path], kind: str, options: dict[str, Any], measures: list[str]
) -> None:
    import transformers

    words: tuple[object, ...] = ("fit", "--hf", pretrained(kind, **options), "--texts", texts, "--sparsity", 30)
    if "accuracy" in measures:
        Path("labels.txt").write_text("\n".join(["LABEL_1", "2", "0"] * 4))
        words = (*words, "--labels", "labels.txt")
    code, out, err = run(*words, "--output", "f")
    assert (code, err) == (0, "")
    results = manifest("f")["results"]
    assert sorted(results["measures"]) == measures
    assert results["measures"]["agreement"] > 0.5
    dtype = options.get("dtype", torch.float32)
    assert ("bfloat16 weights, fitted in float32" in out) == (dtype == torch.bfloat16)
    net = getattr(transformers, kind).from_pretrained("f/network", dtype="auto")
    assert net.dtype == dtype
    code, out, _ = run("eval", "f", "--json")
    assert json.loads(out)["evaluation"]["measures"] == pytest.approx(results["measures"])


@needs_transformers
@pytest.mark.slow
def test_bad_folders_that_transformers_reads(run: Run, texts: Path, pretrained: Callable[..., Path]) -> None:
    source = pretrained("BertModel")

    def refused(told: str, change: Callable[[Path], object], *words: object) -> None:
        shutil.rmtree("net", ignore_errors=True)
        shutil.copytree(source, "net")
        change(Path("net"))
        one_line(run("fit", "--hf", "net", "--texts", texts, *words, "--output", "f"), told)

    def configured(**values: Any) -> Callable[[Path], object]:
        return lambda folder: (folder / "config.json").write_text(
            json.dumps(json.loads((folder / "config.json").read_text()) | values)
        )

    def untokenised(folder: Path) -> None:
        (folder / "tokenizer.json").unlink()
        (folder / "vocab.txt").write_text("odd\n")
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "AlbertTokenizer"}')

    def cut(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:500])

    refused("the weights miss classifier.bias", configured(architectures=["BertForTokenClassification"]))
    refused("have another shape than those of a BertModel", configured(hidden_size=32))
    refused("is a Unheard, which transformers", configured(architectures=["Unheard"]))
    refused("is a pipeline, which transformers", configured(architectures=["pipeline"]))
    refused("cannot be loaded as a BertModel", cut)
    refused("has no vocabulary", untokenised)
    refused("--length: the network takes at most 24 tokens, got 25", lambda _: None, "--length", 25)
    refused("a text of one token takes 3 with those around it, got 2", lambda _: None, "--length", 2)
    refused("--samples must be between 1 and the 48 texts to be fitted on, got 49", lambda _: None, "--samples", 49)


@needs_transformers
@pytest.mark.slow
def test_images_for_a_network_of_a_folder(run: Run, tmp_path: Path) -> None:
    sizes = {"image_size": 8, "patch_size": 4, "num_channels": 1, "num_labels": 10}
    source = folder_of("ViTForImageClassification", tmp_path / "vit", **sizes)
    words = ("--hf", source, "--data", "digits", "--samples", 60, "--sparsity", 50)
    code, _, err = run("fit", *words, "--output", "f")
    assert (code, err) == (0, "")
    assert manifest("f")["results"]["agreement"] > 0.5
    assert run("attack", "f", "--eps", 0.01, "--samples", 5, "--steps", 2, "--restarts", 1, "--queries", 2)[0] == 0
    assert run("eval", "f", "--eps", 0.01, "--pgd-steps", 1, "--attack-samples", 5)[0] == 0
    assert run("report", "f", "--output", "r")[0] == 0

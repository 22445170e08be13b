"""Small networks: recurrences, transformers, and what takes integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from networks.entry import SAMPLES, Inputs, Maker, of

TOKENS = 11


def _recurrence(make: Callable[[], nn.Module], width: int, steps: int = 6) -> Maker:
    def forward(net: Any, x: Tensor) -> Any:
        return net.head(net.cell(x)[0][:, -1])

    return lambda: (of(forward, cell=make(), head=nn.Linear(width, 3)), torch.randn(SAMPLES, steps, 8))


def _cell(make: Callable[[], nn.Module]) -> Maker:
    def forward(net: Any, x: Tensor) -> Any:
        state = None
        for step in range(4):
            state = net.cell(x[:, step], state)
        return net.head(state[0] if isinstance(state, tuple) else state)

    return lambda: (of(forward, cell=make(), head=nn.Linear(10, 3)), torch.randn(SAMPLES, 4, 8))


def _sequence_first() -> tuple[nn.Module, Inputs]:
    def forward(net: Any, x: Tensor) -> Any:
        return net.head(net.cell(x.transpose(0, 1))[1].squeeze(0))

    return of(forward, cell=nn.GRU(8, 10), head=nn.Linear(10, 3)), torch.randn(SAMPLES, 5, 8)


def _given_state() -> tuple[nn.Module, Inputs]:
    def forward(net: Any, x: Tensor, h: Tensor, c: Tensor) -> Any:
        new = net.cell(x, (h, c))
        return {"y": net.head(torch.relu(new[0])), "h": new[0], "c": new[1]}

    net = of(forward, cell=nn.LSTMCell(8, 10), head=nn.Linear(10, 1))
    return net, {"x": torch.randn(SAMPLES, 8), "h": torch.randn(SAMPLES, 10), "c": torch.randn(SAMPLES, 10)}


def _encoder_layer(**options: Any) -> Maker:
    def made() -> tuple[nn.Module, Inputs]:
        layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, **options)
        return nn.Sequential(layer, nn.Flatten(), nn.Linear(80, 3)), torch.randn(SAMPLES, 5, 16)

    return made


def _encoder() -> tuple[nn.Module, Inputs]:
    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, norm_first=True)
    net = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(16), enable_nested_tensor=False)
    return nn.Sequential(nn.Linear(8, 16), net), torch.randn(SAMPLES, 5, 8)


def _masked_encoder() -> tuple[nn.Module, Inputs]:
    def forward(net: Any, src: Tensor, padding: Tensor) -> Any:
        return net.encoder(src, src_key_padding_mask=padding)

    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
    net = of(forward, encoder=nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    padding = torch.arange(5) >= torch.randint(2, 6, (SAMPLES, 1))
    return net, {"src": torch.randn(SAMPLES, 5, 16), "padding": padding}


def _decoder() -> tuple[nn.Module, Inputs]:
    net = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 2, 24, batch_first=True), 1)
    return net, (torch.randn(SAMPLES, 4, 16), torch.randn(SAMPLES, 5, 16))


def _transformer() -> tuple[nn.Module, Inputs]:
    def forward(net: Any, source: Tensor, target: Tensor) -> Any:
        mask = nn.Transformer.generate_square_subsequent_mask(4).to(source)
        return net.head(net.body(source, target, tgt_mask=mask, tgt_is_causal=True))

    body = nn.Transformer(16, 2, 1, 1, 24, batch_first=True)
    net = of(forward, body=body, head=nn.Linear(16, 3))
    return net, (torch.randn(SAMPLES, 5, 16), torch.randn(SAMPLES, 4, 16))


def _ids(*shape: int) -> Tensor:
    return torch.randint(TOKENS, (SAMPLES, *shape))


def _embedding() -> tuple[nn.Module, Inputs]:
    net = nn.Sequential(nn.Embedding(TOKENS, 6), nn.Flatten(), nn.Linear(30, 8), nn.ReLU(), nn.Linear(8, 3))
    return net, _ids(5)


def _embedding_bag(mode: str) -> Maker:
    def made() -> tuple[nn.Module, Inputs]:
        bag = nn.EmbeddingBag(TOKENS, 6, mode=mode)
        return nn.Sequential(bag, nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), _ids(5)

    return made


def _one_hot() -> tuple[nn.Module, Inputs]:
    def forward(net: Any, ids: Tensor) -> Any:
        hot = nn.functional.one_hot(ids, TOKENS).to(net.a.weight.dtype)
        return net.b(torch.relu(net.a(hot.flatten(1))))

    return of(forward, a=nn.Linear(5 * TOKENS, 8), b=nn.Linear(8, 3)), _ids(5)


def _text_cnn() -> tuple[nn.Module, Inputs]:
    def forward(net: Any, ids: Tensor) -> Any:
        x = net.tokens(ids).transpose(1, 2)
        return net.head(torch.cat([torch.relu(c(x)).amax(2) for c in (net.two, net.three)], dim=1))

    convolutions = {"two": nn.Conv1d(6, 5, 2), "three": nn.Conv1d(6, 5, 3)}
    return of(forward, tokens=nn.Embedding(TOKENS, 6, padding_idx=0), head=nn.Linear(10, 3), **convolutions), _ids(7)


def _mean_of_tokens() -> tuple[nn.Module, Inputs]:
    def forward(net: Any, ids: Tensor) -> Any:
        mask = (ids != 0).to(net.tokens.weight.dtype).unsqueeze(2)
        mean = (net.tokens(ids) * mask).sum(1) / mask.sum(1).clamp(min=1)
        return net.head(torch.tanh(mean))

    return of(forward, tokens=nn.Embedding(TOKENS, 6), head=nn.Linear(6, 3)), _ids(5)


def _positions() -> tuple[nn.Module, Inputs]:
    def forward(net: Any, ids: Tensor) -> Any:
        places = torch.arange(ids.shape[1]).unsqueeze(0).expand(ids.shape[0], -1)
        return net.encoder(net.tokens(ids) * 4.0 + net.places(places))

    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
    return of(forward, tokens=nn.Embedding(TOKENS, 16), places=nn.Embedding(5, 16), encoder=layer), _ids(5)


def _table_columns() -> tuple[nn.Module, Inputs]:
    def forward(net: Any, numbers: Tensor, category: Tensor) -> Any:
        return net.head(torch.relu(net.hidden(torch.cat([numbers, net.kinds(category)], dim=1))))

    net = of(forward, kinds=nn.Embedding(TOKENS, 4), hidden=nn.Linear(10, 8), head=nn.Linear(8, 1))
    return net, {"numbers": torch.randn(SAMPLES, 6), "category": _ids()}


def _language_model() -> tuple[nn.Module, Inputs]:
    def forward(net: Any, ids: Tensor) -> Any:
        hidden = net.cell(net.tokens(ids))[0]
        return hidden @ net.tokens.weight.t()

    return of(forward, tokens=nn.Embedding(TOKENS, 10), cell=nn.LSTM(10, 10, batch_first=True)), _ids(6)


RECURRENT: dict[str, Maker] = {
    "rnn-tanh": _recurrence(lambda: nn.RNN(8, 10, batch_first=True), 10),
    "rnn-relu-2-layers": _recurrence(lambda: nn.RNN(8, 10, 2, nonlinearity="relu", batch_first=True), 10),
    "lstm": _recurrence(lambda: nn.LSTM(8, 10, batch_first=True), 10),
    "lstm-bidirectional": _recurrence(lambda: nn.LSTM(8, 10, 2, bidirectional=True, batch_first=True), 20),
    "lstm-projection": _recurrence(lambda: nn.LSTM(8, 10, proj_size=4, batch_first=True), 4),
    "lstm-160-steps": _recurrence(lambda: nn.LSTM(8, 10, 3, batch_first=True), 10, steps=160),
    "gru": _recurrence(lambda: nn.GRU(8, 10, batch_first=True), 10),
    "gru-sequence-first": _sequence_first,
    "rnn-cell": _cell(lambda: nn.RNNCell(8, 10)),
    "lstm-cell": _cell(lambda: nn.LSTMCell(8, 10)),
    "gru-cell": _cell(lambda: nn.GRUCell(8, 10)),
    "lstm-cell-state-given": _given_state,
    "transformer-encoder-layer": _encoder_layer(),
    "transformer-encoder-layer-gelu-pre-norm": _encoder_layer(activation="gelu", norm_first=True),
    "transformer-encoder": _encoder,
    "transformer-encoder-padded": _masked_encoder,
    "transformer-decoder": _decoder,
    "transformer": _transformer,
    "embedding": _embedding,
    "embedding-bag-mean": _embedding_bag("mean"),
    "embedding-bag-max": _embedding_bag("max"),
    "one-hot": _one_hot,
    "text-cnn": _text_cnn,
    "mean-of-tokens": _mean_of_tokens,
    "token-positions": _positions,
    "table-columns": _table_columns,
    "language-model-tied": _language_model,
}

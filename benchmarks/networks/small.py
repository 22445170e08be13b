"""The family of small torch networks: layers, activations, recurrences and idioms."""

from networks.activations import ACTIVATIONS
from networks.attentions import ATTENTIONS
from networks.entry import Maker
from networks.idioms import IDIOMS
from networks.layers import LAYERS
from networks.recurrent import RECURRENT

PACKAGES: tuple[str, ...] = ()
ENTRIES: dict[str, Maker] = LAYERS | ACTIVATIONS | RECURRENT | ATTENTIONS | IDIOMS


def prepare() -> None:
    """Nothing is needed but torch."""

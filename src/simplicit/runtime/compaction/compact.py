r"""``compact``: a network or a model with the same outputs, without what these do not depend on, or what is constant.

Let z = W x + b. Where column k of W is zero in every row that is read, x_k need not be there; where x_k is the constant
c, W_k c goes into b. Both take away rows of whatever makes x, with its norm and its bias, and what only these read goes
the same way, from the outputs down to the inputs. Nothing is approximated: outputs differ by rounding, since sums are
shorter.
"""

from __future__ import annotations

from typing import Any, overload

from torch import nn

from simplicit.checks import refused
from simplicit.implicit import ImplicitModel
from simplicit.runtime.compaction.models import compact_model
from simplicit.runtime.compaction.module import CompactNetwork
from simplicit.runtime.compaction.networks import compact_network


@overload
def compact(net: ImplicitModel) -> ImplicitModel: ...


@overload
def compact(net: nn.Module, example: Any) -> CompactNetwork: ...


def compact(net: nn.Module | ImplicitModel, example: Any = None) -> CompactNetwork | ImplicitModel:
    """Take out of a network, or of a model, what its outputs do not depend on, and what is constant; exactly.

    Neurons, channels and attention heads go that nobody reads, or whose value is always the same, which biases take up:
    what structured pruning leaves as zeros. They go through activations, batch norms, pooling, residual sums,
    concatenations, gates, attention and embeddings. A channel of a residual stream goes where all that is added to it
    is constant, or nobody reads it. Kept are those that a norm of a whole sample reads (a layer norm over fewer
    channels is another one), those whose constant a padded convolution sees beside the zeros of its border, single
    ones of a grouped convolution's group, the hidden states of recurrent layers, and all inputs and outputs.

    Parameters
    ----------
    net : nn.Module or ImplicitModel
    example : array, tensor, tuple or mapping of them, or batches of these
        Inputs of a network, samples first, in the form in which it is called from then on; two samples are taken. A
        model takes none.

    Returns
    -------
    CompactNetwork or ImplicitModel
        For a network a module that is called and answers as it does, with smaller parameters under their old names; a
        network in half precision gives one in float32, which ``.to(dtype)`` rounds. For a model a model of the same
        inputs and outputs.

    Raises
    ------
    InputError
        ``net`` or ``example`` is not of this form, or not finite; they do not fit; the network changes its own buffers
        in evaluation mode, or is random.
    UnsupportedOperationError
        The network cannot be traced, for instance because its control flow depends on the input.
    """
    if isinstance(net, ImplicitModel):
        if example is not None:
            raise refused("example", "a model says itself what its inputs are; leave it out")
        return compact_model(net)
    if example is None:
        raise refused("example", "give samples that the network takes, at least one")
    return compact_network(net, example)

"""What happens between y and the bytes, without torch: latents behind one contract.

    scalar      y, z  <->  symbols: quantised latents with a hyperprior and four context passes
    vector      y     <->  symbols: codes, residual vector quantisation
    hierarchy   y, z  <->  symbols: two levels of codes
    quantisers  residuals of a pass <-> symbols: plain rounding, dependent quantisation
    trellis     the states of dependent quantisation, the search of the encoder
    quadtree    positions of the passes; the walk through them, which encoder, decoder, estimator and counter share
    networks    h_s and the context networks
    integer     their layers: exact integer functions
    rans        symbols <-> bytes: tables and coder

Every kind has

    encode(...)     -> Encoded: symbols and their rows, in the order of the file, and what the decoder will see
    decode(coder)   -> the same y_hat; ``coder`` has ``pull(rows) -> symbols``
    estimate(...)   -> bits, from the tables

and ``tables``, the CDF rows that the coder needs. What comes from a weights file is checked before it is used:
:class:`codec.errors.ModelError` says what is wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from ..config import ModelConfig
    from .coded import Latents


def from_tensors(config: ModelConfig, tensors: Mapping[str, np.ndarray]) -> Latents:
    """The latents of a model: ScalarLatents, VectorLatents or HierarchicalLatents.

    Args:
        config: ModelConfig. tensors: ``{name: array}`` of its weights file.

    Raises:
        ModelError: a tensor is missing, damaged, or does not fit the config.
    """
    if config.scalar:
        from .scalar import ScalarLatents

        return ScalarLatents(config, tensors)
    if config.side_information:
        from .hierarchy import HierarchicalLatents

        return HierarchicalLatents(config, tensors)
    from .vector import VectorLatents

    return VectorLatents(config, tensors)

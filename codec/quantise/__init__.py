"""Learned quantisation: everything in this codec that rounds or chooses, and how gradients get through it.

Rounding is a staircase: its derivative is zero almost everywhere, so gradient descent learns nothing through it.
Two replacements are used, and both keep the forward value honest:

* the straight-through estimator (STE; Bengio, Leonard, Courville 2013, arXiv:1308.3432): the forward value is the
  rounded one, the backward pass pretends that rounding was the identity;
* additive uniform noise (Balle, Laparra, Simoncelli 2017, arXiv:1611.01704): the density of ``y + U(-1/2, 1/2)``
  at the integers is the probability of the rounded ``y``, so that the rate has a true gradient.

The latents use both at once ("mixed": Minnen, Singh 2020, arXiv:2007.08739): noise for the rate, STE for what the
synthesis and the entropy networks see. The weights and activations of the integer entropy networks use the STE with
learned step sizes (LSQ: Esser et al. 2020, arXiv:1902.08153). Their alternatives stand beside them:

    reference       the idea in NumPy, without autograd
    ste             straight-through: rounding, sign, ternary, nearest codebook entry, argmax; clipped; LSQ; stochastic
                    rounding, signs and binary neurons; the rotation trick
    rounding        quantisers of latents, LATENT_QUANTISERS by name
    codebook        codebooks: VQ, residual and hierarchical VQ, SimVQ, finite scalar quantisation, categorical codes
    weights         binary, ternary and n-bit weights and activations, WEIGHT_QUANTISERS by name; layers
    attention       hard attention
    estimators      Gumbel-softmax, ReinMax, score function, reparameterised noise, finite differences: ESTIMATORS by
                    name

docs/experiments/quantisation.md explains and measures them; ``codec study gradients`` repeats the measurement. The
names below are loaded on first use, so that :mod:`codec.quantise.reference` needs no torch.
"""

import importlib
import typing

if typing.TYPE_CHECKING:
    from .attention import (
        hard_attention,
    )
    from .codebook import (
        CategoricalQuantiser,
        Codebook,
        Deferred,
        FiniteScalarQuantiser,
        HierarchicalVectorQuantiser,
        ResidualVectorQuantiser,
        SimVQ,
        VectorQuantiser,
        commit_codebooks,
        discard_codebooks,
    )
    from .estimators import (
        ESTIMATORS,
        categorical_kl,
        exponential_temperature,
        gumbel_softmax,
        reinmax,
    )
    from .reference import (
        ste_backward,
        straight_through_quantise,
    )
    from .rounding import (
        LATENT_QUANTISERS,
        LatentQuantiser,
        add_uniform_noise,
        latent_quantiser,
    )
    from .ste import (
        argmax_ste,
        clipped_round_ste,
        lsq,
        nearest,
        nearest_ste,
        rotation_trick,
        round_half_up,
        round_ste,
        sign_ste,
        stochastic_binary_ste,
        stochastic_round_ste,
        stochastic_sign_ste,
        straight_through,
        surrogate_gradient,
        ternary_ste,
    )
    from .weights import (
        WEIGHT_QUANTISERS,
        ActivationQuantiser,
        QuantisedConv2d,
        QuantisedLinear,
        clip_binary_weights_,
        clip_weights_,
        initial_log_step,
        quantise_weights,
        requantise_ste,
        weight_quantiser,
    )

_MODULES = {
    "reference": ("ste_backward", "straight_through_quantise"),
    "ste": (
        "straight_through", "surrogate_gradient", "round_half_up", "round_ste", "clipped_round_ste", "sign_ste",
        "ternary_ste", "nearest", "nearest_ste", "argmax_ste", "lsq", "stochastic_round_ste", "stochastic_sign_ste",
        "stochastic_binary_ste", "rotation_trick",
    ),
    "rounding": ("LATENT_QUANTISERS", "LatentQuantiser", "add_uniform_noise", "latent_quantiser"),
    "codebook": (
        "CategoricalQuantiser", "Codebook", "Deferred", "FiniteScalarQuantiser", "HierarchicalVectorQuantiser",
        "ResidualVectorQuantiser", "SimVQ", "VectorQuantiser", "commit_codebooks", "discard_codebooks",
    ),
    "weights": (
        "WEIGHT_QUANTISERS", "ActivationQuantiser", "QuantisedConv2d", "QuantisedLinear", "initial_log_step",
        "clip_binary_weights_", "clip_weights_", "quantise_weights", "requantise_ste", "weight_quantiser",
    ),
    "attention": ("hard_attention",),
    "estimators": ("ESTIMATORS", "categorical_kl", "exponential_temperature", "gumbel_softmax", "reinmax"),
}  # fmt: skip
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "ESTIMATORS",
    "LATENT_QUANTISERS",
    "WEIGHT_QUANTISERS",
    "ActivationQuantiser",
    "CategoricalQuantiser",
    "Codebook",
    "Deferred",
    "FiniteScalarQuantiser",
    "HierarchicalVectorQuantiser",
    "LatentQuantiser",
    "QuantisedConv2d",
    "QuantisedLinear",
    "ResidualVectorQuantiser",
    "SimVQ",
    "VectorQuantiser",
    "add_uniform_noise",
    "argmax_ste",
    "categorical_kl",
    "clip_binary_weights_",
    "clip_weights_",
    "clipped_round_ste",
    "commit_codebooks",
    "discard_codebooks",
    "exponential_temperature",
    "gumbel_softmax",
    "hard_attention",
    "initial_log_step",
    "latent_quantiser",
    "lsq",
    "nearest",
    "nearest_ste",
    "quantise_weights",
    "reinmax",
    "requantise_ste",
    "rotation_trick",
    "round_half_up",
    "round_ste",
    "sign_ste",
    "ste_backward",
    "stochastic_binary_ste",
    "stochastic_round_ste",
    "stochastic_sign_ste",
    "straight_through",
    "straight_through_quantise",
    "surrogate_gradient",
    "ternary_ste",
    "weight_quantiser",
]


if not typing.TYPE_CHECKING:  # which would take any name to be there

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

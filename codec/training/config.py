"""What a training run is: one small object, stored with every checkpoint."""

import json
from dataclasses import dataclass, field

from ..config import STRIDE, ModelConfig
from ..errors import ModelError
from ..quantise import LATENT_QUANTISERS


@dataclass
class TrainingConfig:
    """Settings of a run.

    Attributes:
        pictures: files and folders of training pictures; folders are searched recursively, and again while it runs.
        output: folder for checkpoints, logs and exported weights.
        resume: checkpoint file, folder of a run, or folder of exported weights to continue from, or the name of an
            installed model: its id, "eyes" or "psnr"; empty to start anew.
        valid: folder of validation pictures; empty for none.
        architecture: JSON object of ModelConfig fields that differ from the defaults, for instance '{"M": 256}'. When
            resuming, of those that differ from the weights' own: depths and widths may grow from exported weights, and
            the new network computes the same as the old one at first.
        latents: "scalar", "vq", "hvq" or "dvae": rounded, or made of codes (ModelConfig). For new models.
        quantiser: what stands for rounding of scalar latents while training; a name in quantise.LATENT_QUANTISERS.
            Quantisers with a temperature cool down as the run goes on.
        codebook: how the codebooks of "vq" and "hvq" learn: "ema", moving averages, or "loss", the codebook loss.
        entropy_bits: of the weights of the integer entropy networks, 1 to 8. For new models.
        steps: stop after this many optimiser steps in all; 0 for no limit.
        max_minutes: stop after this much wall-clock time; 0 for no limit. The learning rate reaches its end at
            whichever limit comes first.
        batch, crop: pictures per step and process, and their side in pixels (multiple of 64).
        downscale: probability that a crop is taken from a randomly downscaled picture (factor 1 to 2).
        drawn: share of crops that are drawings (drawings.py), with their loss scaled down to that of photographs.
        white: weight of what the linear parts of the transforms do to white noise beyond what the DCT does.
        lr, warmup: peak learning rate, steps of linear warm-up.
        decay: fraction of the run, at its end, in which the learning rate falls linearly to zero. Averaged weights are
            good at the peak already, so that a run can go on from there: ``hold/`` keeps the weights before the decay.
        muon: size of the orthogonalised steps of the matrices inside blocks and entropy networks; 0: Adam for all.
        prior_lr: learning rate of the gain of z, of steps of quantised weights and of priors, relative to lr.
        skeleton_steps: after so many steps the rate of the transforms' linear parts falls with 1 / sqrt(step); what
            they learn at first is soon outweighed by the noise of learning on.
        freeze: names of parameters, or their beginnings, that stay as they are, with commas between; "encoder" stands
            for all that only the encoder reads.
        clip: largest gradient norm.
        ema: decay of the exponential moving average of the weights, which is what is validated and exported; less in
            runs of less than 4 / (1 - ema) steps.
        eyes: share of the distortion that is SSIMULACRA2 instead of squared error (eyes.py), 0 to 1, for weights that
            have been trained without.
        dependent: quantise as files do, by the trellis (dependent.py), with the tables of the weights that the run goes
            on from; a last stage.
        balance: exponent of the loss weight lmbda ** -balance. 0.5 makes every quality weigh about the same.
        precision: "bf16" (autocast; quantisation, rates and skeletons stay in float32), "float32", or "auto":
            whichever multiplies faster on this machine.
        device: "auto", "cpu", "cuda".
        devices: number of processes, one per GPU or CPU share.
        threads: PyTorch threads per process; 0 leaves the default.
        compile: torch.compile the transforms.
        fit_crops: crops that the tables of the export are fitted to when the run has come to its end; 0 leaves them as
            training has them, and the model without dependent quantisation.
        cache_gib: memory for decoded pictures, in GiB.
        checkpoint_minutes, validate_minutes: how often to write, and to validate.
        tensorboard: also write TensorBoard events.
        seed: seed of everything random.
    """

    pictures: list = field(default_factory=list)
    output: str = "runs/default"
    resume: str = ""
    valid: str = ""
    architecture: str = "{}"
    latents: str = "scalar"
    quantiser: str = "mixed"
    codebook: str = "ema"
    entropy_bits: int = 8
    steps: int = 0
    max_minutes: float = 0.0
    batch: int = 8
    crop: int = 192
    downscale: float = 0.5
    drawn: float = 0.05
    white: float = 5.0
    lr: float = 3e-3
    warmup: int = 100
    decay: float = 0.2
    muon: float = 0.3
    prior_lr: float = 5.0
    skeleton_steps: int = 600
    freeze: str = ""
    clip: float = 1.0
    ema: float = 0.999
    eyes: float = 0.0
    dependent: bool = False
    balance: float = 0.5
    precision: str = "auto"
    device: str = "auto"
    devices: int = 1
    threads: int = 0
    compile: bool = False
    fit_crops: int = 256
    cache_gib: float = 8.0
    checkpoint_minutes: float = 2.0
    validate_minutes: float = 10.0
    tensorboard: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """ValueError for settings that cannot work, before anything is loaded."""
        if self.crop < STRIDE or self.crop % STRIDE:
            raise ValueError(f"crop is {self.crop}; it must be a multiple of {STRIDE}")
        if self.batch < 1 or self.devices < 1:
            raise ValueError("batch and devices must be at least 1")
        if self.quantiser not in LATENT_QUANTISERS:
            raise ValueError(f"quantiser is {self.quantiser!r}; there are {', '.join(LATENT_QUANTISERS)}")
        if self.dependent and self.quantiser != "mixed":
            raise ValueError("dependent quantisation is a quantiser of its own; leave quantiser out")
        if self.codebook not in ("ema", "loss"):
            raise ValueError(f"codebook is {self.codebook!r}; there are ema and loss")
        if self.fit_crops < 0:
            raise ValueError("fit_crops must not be negative")
        for name in ("decay", "drawn", "downscale", "eyes"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be between 0 and 1")
        if self.precision not in ("auto", "bf16", "float32"):
            raise ValueError(f"precision is {self.precision!r}; there are auto, bf16 and float32")

    def model_config(self) -> ModelConfig:
        """ModelConfig with this run's architecture; ValueError or ModelError on bad JSON or unknown fields."""
        return ModelConfig.from_dict(
            {"latents": self.latents, "entropy_bits": self.entropy_bits, **json.loads(self.architecture)}
        )

    def check_latents(self, model: ModelConfig) -> None:
        """ModelError for a setting that latents of this kind do not look at, rather than leave it unheard.

        Args:
            model: ModelConfig of the new model, or of the weights that a run goes on from, which keep their own.
        """
        for name in ("latents", "entropy_bits"):
            value, own = getattr(self, name), getattr(model, name)
            if value != own and value != getattr(TrainingConfig, name) and name not in json.loads(self.architecture):
                raise ModelError(f"{name} is {value!r}, and that of the weights is {own!r}: it is for new models")
        unheard = {
            "quantiser": not model.scalar,
            "eyes": not model.scalar,
            "dependent": not model.scalar,
            "codebook": model.latents not in ("vq", "hvq"),
        }
        unheard["entropy_bits"] = "entropy_bits" in model.unused
        for name, ignored in unheard.items():
            if ignored and getattr(self, name) != getattr(TrainingConfig, name):
                raise ModelError(
                    f"{name} is {getattr(self, name)!r}, which {model.latents} latents do not look at; leave it out"
                )

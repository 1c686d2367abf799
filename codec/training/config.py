"""What a training run is: one small object, stored with every checkpoint."""

import json
from dataclasses import dataclass, field

from ..model import ModelConfig
from ..quantise import LATENT_QUANTISERS
from ..transforms import STRIDE


@dataclass
class TrainingConfig:
    """Settings of a run.

    Attributes:
        pictures: files and folders of training pictures; folders are searched recursively, and again while it runs.
        output: folder for checkpoints, logs and exported weights.
        resume: checkpoint file, folder of a run, or folder of exported weights to continue from; empty to start anew.
        valid: folder of validation pictures; empty for none.
        architecture: JSON object of ModelConfig fields that differ from the defaults, for instance '{"C8": 256}'. When
            resuming, of those that differ from the weights' own: from exported weights, deeper transforms, whose
            additional blocks start as the identity, and more bits for the activations of the entropy networks.
        latents: "scalar" or "vq"; with "vq" the model's latents are vector-quantised. For new models.
        quantiser: what stands for rounding of scalar latents while training; a name in quantise.LATENT_QUANTISERS.
            Quantisers with a temperature cool down as the run goes on.
        entropy_bits: of the weights of the integer entropy networks, 1 to 8. For new models.
        steps: stop after this many optimiser steps in all; 0 for no limit.
        max_minutes: stop after this much wall-clock time; 0 for no limit. The learning rate reaches its end at
            whichever limit comes first.
        batch, crop: pictures per step and process, and their side in pixels (multiple of 64).
        downscale: probability that a crop is taken from a randomly downscaled picture (factor 1 to 2).
        lr, lr_end, warmup: peak learning rate, final rate relative to it, steps of linear warm-up.
        hold: fraction of the run that stays at the peak; a cosine takes the rest down. Averaged weights are good at the
            peak already, so that a long hold loses little and a run can go on from any point of it.
        prior_lr: learning rate of gains, of the steps of quantised weights and of the prior of z, relative to lr.
        freeze: names of parameters, or their beginnings, that stay as they are, with commas between; "encoder" stands
            for all that only the encoder reads.
        clip: largest gradient norm.
        ema: decay of the exponential moving average of the weights, which is what is validated and exported.
        balance: exponent of the loss weight lmbda ** -balance. 0.5 makes every quality weigh about the same.
        precision: "bf16" (autocast; rounding and entropy networks stay in float32) or "float32".
        device: "auto", "cpu", "cuda".
        devices: number of processes, one per GPU or CPU share.
        threads: PyTorch threads per process; 0 leaves the default.
        compile: torch.compile the transforms.
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
    entropy_bits: int = 8
    steps: int = 0
    max_minutes: float = 0.0
    batch: int = 8
    crop: int = 256
    downscale: float = 0.5
    lr: float = 1e-3
    lr_end: float = 0.02
    warmup: int = 200
    hold: float = 0.0
    prior_lr: float = 5.0
    freeze: str = ""
    clip: float = 1.0
    ema: float = 0.999
    balance: float = 0.5
    precision: str = "bf16"
    device: str = "auto"
    devices: int = 1
    threads: int = 0
    compile: bool = False
    cache_gib: float = 8.0
    checkpoint_minutes: float = 2.0
    validate_minutes: float = 10.0
    tensorboard: bool = False
    seed: int = 0

    def __post_init__(self):
        """ValueError for settings that cannot work, before anything is loaded."""
        if self.crop < STRIDE or self.crop % STRIDE:
            raise ValueError(f"crop is {self.crop}; it must be a multiple of {STRIDE}")
        if self.batch < 1 or self.devices < 1:
            raise ValueError("batch and devices must be at least 1")
        if self.quantiser not in LATENT_QUANTISERS:
            raise ValueError(f"quantiser is {self.quantiser!r}; there are {', '.join(LATENT_QUANTISERS)}")
        if not 0 <= self.hold < 1:
            raise ValueError(f"hold is {self.hold}; it must be at least 0 and less than 1")
        if self.precision not in ("bf16", "float32"):
            raise ValueError(f"precision is {self.precision!r}; there are bf16 and float32")

    def model_config(self):
        """ModelConfig with this run's architecture; ValueError or ModelError on bad JSON or unknown fields."""
        return ModelConfig.from_dict({"latents": self.latents, "entropy_bits": self.entropy_bits, **json.loads(self.architecture)})

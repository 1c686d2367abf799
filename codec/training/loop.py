"""The training loop: Lightning Fabric for devices and precision, wall-clock schedule, checkpoints, exports."""

from __future__ import annotations

import copy
import csv
import json
import math
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.fabric import Fabric
from safetensors.torch import save as save_tensors
from torch import nn
from tqdm import tqdm

from ..config import ModelConfig
from ..engine import read_folder
from ..errors import ModelError
from ..files import StrPath, write_bytes_atomic
from ..health import PARTS, complaints, health, mean_dead, watched
from ..latents.quantisers import SLOPES, WEIGHTS
from ..nn.integer import TrainableLayer
from ..quantise import commit_codebooks, discard_codebooks
from ..weights import find_model
from .card import write_card
from .data import Crops, validation_crops
from .dependent import TENSORS, Trellis
from .eyes import Eyes
from .fitting import fit_folder
from .model import TrainableModel, grow
from .muon import Muon
from .transforms import Centre, TrainableTransforms, calibrate
from .vector_model import TrainableVectorModel

if TYPE_CHECKING:
    from .config import TrainingConfig


VALIDATION_LMBDAS = (0.0004, 0.00237841, 0.01414214, 0.08408964, 0.5)
LMBDA_MIDDLE = 0.014  # of the middle quality: there the loss is in bits per pixel
LOG_STEPS = 50
EYES_CROPS = 48  # on which prices of SSIMULACRA2 are measured


def train(config: TrainingConfig, progress: bool = True) -> Path:
    """Run, resume and finish one training run.

    Writes into ``config.output``: ``checkpoint.pt`` (everything, to resume), ``export/`` (weights.safetensors and
    config.json of the moving average, usable as a model), ``log.csv``. Each is replaced atomically, so that a run
    killed at any moment loses what happened since the last checkpoint and nothing else. A run that has come to its end
    fits the tables of its export to what is really coded (:mod:`codec.training.fitting`). ``hold/`` is the export
    before the learning rate fell, which later runs go on from.

    Args:
        config: TrainingConfig.
        progress: show a progress bar on stderr.

    Returns:
        Path of the export folder.

    Raises:
        ImageError: no pictures. ModelError: ``resume`` holds nothing to resume from.
    """
    fabric = Fabric(
        accelerator=config.device,
        devices=config.devices,
        strategy="ddp" if config.devices > 1 else "auto",
        precision="32-true",  # autocast is ours: Fabric's mixed precision would round qualities and rates as well
    )
    fabric.launch()
    config = fabric.broadcast(config)  # one time limit and one seed for all processes
    if config.threads:
        torch.set_num_threads(config.threads)
    run = _Run(config, fabric)
    if fabric.device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        run.loop(progress and fabric.global_rank == 0)
    finally:
        run.crops.close()
    export_folder = run.output / "export"
    if config.fit_crops and run.bare.config.scalar and run.done() >= 1 and fabric.global_rank == 0:
        shown = progress and fabric.global_rank == 0
        fit_folder(export_folder, export_folder, config.pictures, config.seed, shown, crops=config.fit_crops)
    return export_folder


def picture_losses(figures: Mapping[str, torch.Tensor], lmbda: torch.Tensor, balance: float) -> torch.Tensor:
    """``(bpp + lmbda mse) (lmbda / LMBDA_MIDDLE)**-balance`` for each picture: float (B,).

    ``figures`` is what the trainable model returns; where there are ``extra_bpp`` and ``extra_mse``, they count as rate
    and distortion. ``lmbda`` (B,).
    """
    rate = figures["y_bpp"] + figures["z_bpp"] + figures.get("extra_bpp", 0.0)
    loss = rate + lmbda * (figures["mse"] + figures.get("extra_mse", 0.0))
    return loss * (lmbda / LMBDA_MIDDLE) ** -balance


def learning_rate(config: TrainingConfig, step: int, done: float) -> float:
    """Rate after ``step`` steps of this run, when the fraction ``done`` of it is over: warm-up, peak, decay."""
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    falling = min(1.0, max(0.0, 1 - done) / config.decay) if config.decay else 1.0
    return config.lr * warm * falling


def average_decay(config: TrainingConfig, step: int, rate: float, anew: bool, done: float = 0.0) -> float:
    """How much of the average of the weights stays at a step of this run, when the fraction ``done`` of it is over.

    ``config.ema``, but no more than makes a quarter of the run the memory of the average: a run of a few hundred steps
    that goes on from other weights would export much of those. Less in the first steps of a run that began ``anew``,
    whose weights are to be forgotten, and less as the rate falls, when weights wander less and the average has less to
    even out.
    """
    falling = max(0.1, rate / config.lr) if step >= config.warmup and config.lr else 1.0
    young = (1 + step) / (10 + step) if anew else 1.0
    short = math.exp(-4 * done / step) if step else 1.0
    return min(min(config.ema, short) ** (1 / falling), young)


def bf16_pays() -> bool:
    """Whether this processor multiplies bf16 faster than float32: some at eight times the speed, others at half."""
    seconds = []
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(768, 768, dtype=dtype)
        a @ a
        begun = time.monotonic()
        for _ in range(20):
            a @ a
        seconds.append(time.monotonic() - begun)
    return seconds[1] < seconds[0]


class _Run:
    """State of a run: what a checkpoint holds."""

    def __init__(self, config, fabric):
        self.config, self.fabric = config, fabric
        self.output = Path(config.output)
        self.step, self.seconds, self.megapixels = 0, 0.0, 0.0
        torch.manual_seed(config.seed)
        checkpoint, self.bare, self.before = _starting_point(config)
        _freeze(self.bare, config.freeze)
        self.bare.to(fabric.device, memory_format=torch.channels_last)
        if config.compile:
            self.bare.transforms.g_a.compile()
            self.bare.transforms.g_s.compile()
        precision = config.precision
        if precision == "auto":
            precision = "bf16" if fabric.broadcast(fabric.device.type != "cpu" or bf16_pays()) else "float32"
        self.half = precision == "bf16"
        self.crops = Crops(config, fabric.global_rank)
        self.generator = torch.Generator(fabric.device)
        if config.eyes:
            self.bare.eyes = self._eyes((checkpoint or {}).get("price"))
        if config.dependent:
            self.trellis = (checkpoint or {}).get("trellis") or _trellis_tensors(config.resume)
            self.bare.trellis = Trellis(self.bare.config, {name: t.numpy() for name, t in self.trellis.items()})
        # The average of the weights is what is validated and exported.
        self.ema = copy.deepcopy(self.bare).eval().requires_grad_(False)
        self.model, *self.optimisers = fabric.setup(self.bare, *optimisers(self.bare, config, self.half))
        if checkpoint:
            self.ema.load_state_dict(checkpoint["ema"])
            for optimiser, state in zip(self.optimisers, checkpoint["optimisers"]):
                optimiser.load_state_dict(state)
            self.step, self.seconds, self.megapixels = (checkpoint[key] for key in ("step", "seconds", "megapixels"))
        self.stopping = False

    def _eyes(self, price):
        """Eyes of these prices, or of those that the model has now."""
        if price is None:
            batches = [self.crops.batch(10**9 + n) for n in range(-(-EYES_CROPS // self.config.batch))]  # of no step
            x = torch.cat([pixels[~drawn] for pixels, drawn in batches]).to(self.fabric.device).float().div_(255)
            price = self.fabric.broadcast(Eyes.measured(self.config.eyes, self.bare, x).price.tolist())
        return Eyes(self.config.eyes, price)

    def done(self):
        """Fraction of the run that is over."""
        steps = self.step / self.config.steps if self.config.steps else 0.0
        minutes = self.seconds / 60 / self.config.max_minutes if self.config.max_minutes else 0.0
        return max(steps, minutes)

    def facts(self):
        """What the exported config.json says of the training, earlier runs included."""
        return {
            "steps": self.before.get("steps", 0) + self.step,
            "minutes": round(self.before.get("minutes", 0.0) + self.seconds / 60, 1),
            "megapixels": round(self.before.get("megapixels", 0.0) + self.megapixels, 1),
        }

    def loop(self, progress):
        config, fabric = self.config, self.fabric
        main = fabric.global_rank == 0
        if main:
            self.output.mkdir(parents=True, exist_ok=True)
            log = _Log(self.output, config.tensorboard)
        previous = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)}
        valid = validation_crops(config.valid) if config.valid and main else None
        bar = tqdm(total=100, unit="%", disable=not progress, bar_format="{l_bar}{bar}| {elapsed}{postfix}")
        start, begun = time.monotonic(), self.seconds
        saved = validated = scanned = self.seconds
        sums: dict[str, Any] = {}
        logged, complained = (self.step, self.seconds), set[str]()
        try:
            while self.done() < 1 and not self._agreed_stop():
                figures = self._one_step()
                self.step += 1
                self.megapixels += self._step_megapixels()
                self.seconds = self._agreed(begun + time.monotonic() - start)
                for name, value in figures.items():
                    sums.setdefault(name, []).append(value)
                if self.step % LOG_STEPS == 0 or self.step == config.steps:
                    row = {name: torch.stack(v).mean().item() for name, v in sums.items()}
                    row.update(self._speed(*logged))
                    sums, logged = {}, (self.step, self.seconds)
                    if main:
                        log.write(self.step, self.seconds, row)
                        bar.n = round(100 * self.done(), 1)
                        bar.set_postfix_str(self._in_words(row))
                        wrong = complaints(row) if self.before.get("steps", 0) + self.step > 200 else {}
                        for part in wrong.keys() - complained:
                            bar.write(f"warning: {wrong[part]}; more training is wasted until that is understood")
                        complained = set(wrong)
                if self.seconds - scanned > 60:
                    self.crops.rescan()
                    scanned = self.seconds
                if valid is not None and self.seconds - validated > 60 * config.validate_minutes:
                    self._report(valid, log, bar)
                    validated = self.seconds
                if main and self.seconds - saved > 60 * config.checkpoint_minutes:
                    self._save()
                    saved = self.seconds
            if main:
                if valid is not None:
                    self._report(valid, log, bar)
                self._save()
        finally:
            bar.close()
            for number, handler in previous.items():
                signal.signal(number, handler)
            if main:
                log.close()
        fabric.barrier()

    def _step_megapixels(self):
        return self.config.batch * self.fabric.world_size * self.config.crop**2 / 1e6

    def _speed(self, step, seconds):
        """Rates since an earlier step, and what is left."""
        elapsed = max(self.seconds - seconds, 1e-9)
        steps = (self.step - step) / elapsed
        done = self.done()
        return {
            "steps_per_second": steps,
            "megapixels_per_second": steps * self._step_megapixels(),
            "minutes_left": self.seconds / 60 * (1 / done - 1) if done else 0.0,
        }

    def _in_words(self, row):
        dead = "/".join(f"{row[f'dead_{part}']:.2f}" for part in PARTS if f"dead_{part}" in row)
        speed = f"{row['steps_per_second']:.2f} steps/s {row['megapixels_per_second']:.2f} Mpx/s"
        health = f"z {row.get('z_share', 0):.4f} dead {dead}"
        return (
            f" step {self.step} loss {row['loss']:.4f} {row['bpp']:.3f} bpp, {health}, {speed}, "
            f"{row['minutes_left']:.0f} min left"
        )

    def _report(self, valid, log, bar):
        row = self._validate(valid)
        log.write(self.step, self.seconds, row)
        losses = " ".join(f"{row[f'valid_loss_{lmbda}']:.4f}" for lmbda in VALIDATION_LMBDAS)
        dead = "/".join(f"{row[f'dead_{part}']:.2f}" for part in PARTS if f"dead_{part}" in row)
        facts = self.facts()
        bar.write(
            f"step {facts['steps']}, {facts['minutes']} min, {facts['megapixels']:.0f} Mpx: "
            f"loss {row['valid_loss']:.4f} "
            f"({losses}), z {row.get('z_share', 0):.4f} dead {dead}"
        )

    def _autocast(self):
        return torch.autocast(self.fabric.device.type, torch.bfloat16, enabled=self.half)

    def _inputs(self, step):
        """``(x, quality, drawn, rng)`` of a step, which depend on the seed, the rank and the step alone."""
        config = self.config
        number = self.before.get("steps", 0) + step  # so that a run on exported weights sees other crops
        rng = np.random.default_rng([config.seed, self.fabric.global_rank, number, 10**6])
        pixels, drawn = self.crops.batch(number)
        x = pixels.to(self.fabric.device, non_blocking=True).float().div_(255)
        x = x.contiguous(memory_format=torch.channels_last)
        # One quality from each of B equal strata: uniform over the batch, less noisy than independent draws.
        strata = (rng.permutation(config.batch) + rng.random(config.batch)) / config.batch
        quality = torch.tensor(100 * strata, dtype=torch.float32, device=x.device)
        return x, quality, drawn.to(x.device), rng

    def _one_step(self):
        config = self.config
        x, quality, drawn, rng = self._inputs(self.step)
        lmbda = self.bare.config.lmbda(quality)
        self.generator.manual_seed(int(rng.integers(2**62)))
        rate = learning_rate(config, self.step, self.done())
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * self._factor(group.get("role"))
        self.bare.anneal(self.done())
        look = (self.step + 1) % LOG_STEPS == 0 or self.step + 1 == config.steps
        looking: AbstractContextManager[dict[str, list[float]]] = watched(self.bare) if look else nullcontext({})
        with looking as shares, self._autocast():
            figures = self.model(x, quality, self.generator)
        losses = picture_losses(figures, lmbda, config.balance)
        if drawn.any() and not drawn.all():
            # A drawing's loss may be a hundred times a photograph's, and so would be its gradient.
            usual = losses.detach()[~drawn].mean()
            losses = losses * torch.where(drawn, (usual / losses.detach()).clamp(max=1), torch.ones_like(losses))
        loss = losses.mean()
        total = loss + config.white * self._white_noise_error() if config.white else loss
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(total)
        norm = torch.nn.utils.clip_grad_norm_(self.bare.parameters(), config.clip)
        if torch.isfinite(norm):
            for optimiser in self.optimisers:
                optimiser.step()
            for layer in self.bare.modules():
                if isinstance(layer, TrainableLayer):
                    layer.clip_weights_()
            commit_codebooks(self.bare)
            self._average(rate)
        else:
            discard_codebooks(self.bare)
        bpp = (figures["y_bpp"] + figures["z_bpp"]).detach()
        row = {
            "loss": loss.detach(),
            "bpp": bpp.mean(),
            "psnr_db": (10 * torch.log10(255**2 / figures["mse"].detach())).mean(),
            "gradient_norm": norm.detach(),
            "lr": torch.tensor(rate, device=x.device),
            **{name: torch.tensor(value) for name, value in mean_dead(shares).items()},
        }
        if self.bare.config.side_information:
            row["z_share"] = figures["z_bpp"].detach().sum() / bpp.sum()
        return row

    def _factor(self, role):
        """Learning rate of a group of parameters, relative to the run's."""
        if role == "fast":
            return self.config.prior_lr
        if role == "skeleton":
            return min(1.0, (self.config.skeleton_steps / (self.before.get("steps", 0) + self.step + 1)) ** 0.5)
        return 1.0

    def _white_noise_error(self):
        """What the transforms' linear parts make of white noise, beyond what the DCT makes of it: mean squared.

        Photographs hardly excite the finest checkerboard. There nothing but rate pulls at what is learned, and the
        linear parts forget it.
        """
        transforms, device = self.bare.transforms, self.fabric.device
        noise = 0.5 + 0.3 * torch.randn(4, 3, 64, 64, device=device, generator=self.generator)
        if self.step % 2:
            noise = noise[:, :1].expand(-1, 3, -1, -1)  # grey
        with torch.no_grad():
            plain = self._plain = self._plain or TrainableTransforms(self.bare.config).to(device)
            wanted = plain.skeleton(noise)
        return (transforms.skeleton(noise) - wanted).square().mean()

    _plain: TrainableTransforms | None = None  # transforms that have learned nothing
    trellis: dict[str, torch.Tensor] | None = None  # tensors that its Trellis is made of

    @torch.no_grad()
    def _average(self, rate):
        keep = average_decay(self.config, self.step, rate, not self.before, self.done())
        torch._foreach_lerp_([*self.ema.parameters()], [p.detach() for p in self.bare.parameters()], 1 - keep)

    @torch.no_grad()
    def _averaged(self):
        """The model of averaged weights: other state from the live model, means measured on the latest batches."""
        for own, live in zip(self.ema.buffers(), self.bare.buffers()):
            own.copy_(live)
        with self._autocast():
            first = max(self.step - 4, -self.before.get("steps", 0))
            calibrate(self.ema, (self._calibration(n) for n in range(first, self.step)))
        discard_codebooks(self.ema)
        return self.ema

    def _calibration(self, step):
        x, quality, _, rng = self._inputs(step)
        self.generator.manual_seed(int(rng.integers(2**62)))
        return x, quality, self.generator

    @torch.no_grad()
    def _validate(self, crops):
        """Loss over the validation crops of the averaged weights, overall and per lambda, and the network's health."""
        model = self._averaged()
        row, losses = {}, []
        device = self.fabric.device
        for lmbda in VALIDATION_LMBDAS:
            parts = []
            for batch in crops.split(8):
                x = batch.to(device).float().div_(255).contiguous(memory_format=torch.channels_last)
                parts.append(model(x, torch.full((len(x),), model.config.quality(lmbda), device=device)))
            figures = {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
            each = picture_losses(figures, torch.full((len(crops),), lmbda, device=device), self.config.balance)
            losses.append(each.mean().item())
            row[f"valid_bpp_{lmbda}"] = (figures["y_bpp"] + figures["z_bpp"]).mean().item()
            row[f"valid_psnr_db_{lmbda}"] = (10 * torch.log10(255**2 / figures["mse"])).mean().item()
            row[f"valid_loss_{lmbda}"] = losses[-1]
            if "ssimulacra2" in figures:
                row[f"valid_ssimulacra2_{lmbda}"] = figures["ssimulacra2"].mean().item()
        row["valid_loss"] = sum(losses) / len(losses)
        row.update(health(model, crops[:8].to(device).float().div(255)))
        if not self.bare.config.scalar:
            perplexity, used = model.perplexity(), model.first_quality() <= 100
            for stage in range(len(used)):
                if used[stage].any():
                    row[f"perplexity_{stage + 1}"] = perplexity[stage][used[stage]].mean().item()
        return row

    def _save(self):
        """The checkpoint, the exported average, and in ``hold/`` the average before the learning rate fell."""
        model = self._averaged()
        state = {
            "model": self.bare.state_dict(),
            "ema": model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step,
            "seconds": self.seconds,
            "megapixels": self.megapixels,
            "before": self.before,
            "trellis": self.trellis,
            "price": self.bare.eyes.price.tolist() if self.bare.eyes else None,
            "config": asdict(self.config),
            "architecture": asdict(self.bare.config),
        }
        part = self.output / "checkpoint.pt.part"
        torch.save(state, part)
        os.replace(part, self.output / "checkpoint.pt")
        facts = self.facts()
        export(model, self.output / "export", **facts)
        if self.done() <= 1 - self.config.decay or not (self.output / "hold").exists():
            export(model, self.output / "hold", **facts)

    def _stop(self, *_):
        self.stopping = True

    def _agreed_stop(self):
        """Whether any process was asked to stop; all must leave the loop together."""
        if self.fabric.world_size == 1:
            return self.stopping
        flag = torch.tensor(float(self.stopping), device=self.fabric.device)
        return self.fabric.all_reduce(flag, reduce_op="sum").item() > 0

    def _agreed(self, seconds):
        """The first process's clock, so that all see the same schedule."""
        return self.fabric.broadcast(seconds) if self.fabric.world_size > 1 else seconds


def trainable_model(
    config: ModelConfig, quantiser: str = "mixed", codebook: str = "ema"
) -> TrainableModel | TrainableVectorModel:
    """The trainable model of a ModelConfig.

    ``quantiser`` names that of scalar latents, ``codebook`` how the codebooks of others learn.
    """
    return TrainableModel(config, quantiser) if config.scalar else TrainableVectorModel(config, codebook)


ENCODER = ("transforms.g_a.", "transforms.h_a.", "transforms.log_gain.", "transforms.z_log_gain.")


def _freeze(model, names):
    """Exempt the parameters that a run's ``freeze`` setting names from training."""
    for prefix in filter(None, (name.strip() for name in names.split(","))):
        prefixes = ENCODER if prefix == "encoder" else (prefix,)
        found = [parameter for name, parameter in model.named_parameters() if name.startswith(prefixes)]
        if not found:
            known = ", ".join(dict.fromkeys(name.split(".")[0] for name, _ in model.named_parameters()))
            raise ModelError(f"freeze: no parameter begins with {prefix!r}; there are encoder, {known}")
        for parameter in found:
            parameter.requires_grad_(False)
        for name, module in model.named_modules():
            if isinstance(module, Centre) and name.startswith(prefixes):
                module.frozen = True


def optimisers(
    model: TrainableModel | TrainableVectorModel, config: TrainingConfig, half: bool
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside blocks and entropy networks, Adam for everything else.

    Skeletons and heads start as something; depthwise layers, gains and tables are no matrices.
    """
    matrices = set(matrix_names(model)) if config.muon else set()
    roles: dict[str, list[nn.Parameter]] = {"muon": [], "plain": [], "fast": [], "skeleton": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            role = (
                "muon"
                if name in matrices
                else "fast"
                if _learns_fast(name)
                else "skeleton"
                if _is_skeleton(name)
                else "plain"
            )
            roles[role].append(parameter)
    adam = [{"params": roles[role], "role": role} for role in ("plain", "fast", "skeleton") if roles[role]]
    found: list[torch.optim.Optimizer] = (
        [torch.optim.Adam(adam, lr=config.lr, betas=(0.9, 0.98), fused=True)] if adam else []
    )
    if roles["muon"]:
        dtype = torch.bfloat16 if half else torch.float32
        found.append(Muon(roles["muon"], lr=config.lr, size=config.muon, dtype=dtype))
    return found


def matrix_names(model: nn.Module) -> Iterator[str]:
    """Names of the parameters that are matrices inside a network."""
    for name, module in model.named_modules():
        if isinstance(module, TrainableLayer):
            inside = not module.spec.depthwise and module.spec.groups == 1 and module.log_step is None
            inside = inside and not name.startswith("heads.")
        else:
            inside = name.startswith("transforms.h_a.") and isinstance(module, torch.nn.Linear)
            inside = inside or (".blocks" in name and isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)))
        if inside:
            yield f"{name}.weight"


def _is_skeleton(name):
    return name.startswith(("transforms.g_a.", "transforms.g_s.")) and ".blocks" not in name


def _learns_fast(name):
    """Whether a parameter is a gain of z, a step size or part of a prior or codebook: of larger scale than a weight."""
    parts = name.split(".")
    fast = ("log_step", "sharpness", "shrink", "log_prior", "entries", "logits_base", "log_precision")
    return "z_log_gain" in parts or "prior" in parts[0] or parts[-1] in fast


def export(model: TrainableModel | TrainableVectorModel, folder: StrPath, **facts: Any) -> None:
    """Write ``weights.safetensors``, ``config.json`` and ``CARD.md`` of a trainable model, each atomically."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(folder / "weights.safetensors", save_tensors(model.export_tensors()))
    text = json.dumps({"architecture": asdict(model.config), "training": facts}, indent=2) + "\n"
    write_bytes_atomic(folder / "config.json", text.encode())
    write_card(folder, model.config, facts)


def read_weights(folder: StrPath) -> tuple[ModelConfig, dict[str, torch.Tensor]]:
    """``(ModelConfig, tensors)`` of exported weights: name -> tensor.

    Raises:
        ModelError: a file is missing or damaged.
    """
    config, arrays = read_folder(folder)
    return config, {name: torch.from_numpy(array) for name, array in arrays.items()}


def _trellis_tensors(weights):
    """Tables and slopes for a Trellis among the weights that a run goes on from."""
    if not weights or (Path(weights) / "checkpoint.pt").exists() or Path(weights).is_file():
        raise ModelError("dependent: goes on from exported weights with tables for dependent quantisation")
    _, tensors = read_weights(_weights_folder(weights))
    return {name: tensors[name] for name in (*TENSORS, SLOPES, WEIGHTS) if name in tensors}


def _weights_folder(name):
    """The folder of exported weights that a run's ``resume`` setting names."""
    if Path(name).exists():
        return Path(name)
    try:
        return find_model(name)
    except ModelError as error:
        raise ModelError(f"{name}: nothing to resume from; {error}") from None


def _starting_point(config):
    """``(checkpoint or None, trainable model, facts of earlier runs)`` for a run's ``resume`` setting."""
    ways = config.quantiser, config.codebook
    if not config.resume:
        own = config.model_config()
        config.check_latents(own)
        return None, trainable_model(own, *ways), {}
    path = Path(config.resume)
    if path.is_dir() and (path / "checkpoint.pt").exists():
        path = path / "checkpoint.pt"
    if path.is_file():
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            own = ModelConfig.from_dict(checkpoint["architecture"])
        except Exception as error:
            raise ModelError(f"{path}: not a checkpoint ({error})") from None
        if _changed(own, config.architecture) != own:
            raise ModelError(f"{path}: a checkpoint keeps its architecture; exported weights may grow")
        config.check_latents(own)
        if config.codebook != checkpoint["config"].get("codebook", "ema"):
            raise ModelError(f"{path}: a checkpoint keeps the way in which its codebooks learn")
        model = trainable_model(own, *ways)
        try:
            model.load_state_dict(checkpoint["model"])
        except RuntimeError:
            raise ModelError(f"{path}: of another version; go on from its exported weights") from None
        return checkpoint, model, checkpoint["before"]
    path = _weights_folder(path)
    own, tensors = read_weights(path)
    config.check_latents(own)
    model = trainable_model(own, *ways)
    try:
        model.import_tensors(tensors)
    except (KeyError, RuntimeError) as error:
        raise ModelError(f"{path}: cannot be trained on: {error}") from None
    wanted = _changed(own, config.architecture)
    if wanted != own:
        small, model = model, trainable_model(wanted, *ways)
        grow(model, small)
    return None, model, json.loads((path / "config.json").read_text(encoding="utf-8")).get("training", {})


def _changed(own, text):
    return ModelConfig.from_dict({**asdict(own), **json.loads(text)})


class _Log:
    """Rows of figures, in long form (step, minutes, name, value), appended to log.csv and perhaps TensorBoard."""

    def __init__(self, folder, tensorboard):
        path = folder / "log.csv"
        new = not path.exists()
        self._file = open(path, "a", newline="", encoding="utf-8")  # noqa: SIM115  closed by close()
        self._csv = csv.writer(self._file)
        if new:
            self._csv.writerow(["step", "minutes", "name", "value"])
        self._events = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(folder)

    def write(self, step, seconds, row):
        for name, value in row.items():
            self._csv.writerow([step, f"{seconds / 60:.2f}", name, f"{value:.6g}"])
            if self._events:
                self._events.add_scalar(name, value, step)
        self._file.flush()

    def close(self):
        self._file.close()
        if self._events:
            self._events.close()

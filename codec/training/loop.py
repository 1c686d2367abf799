"""The training loop: Lightning Fabric for devices and precision, wall-clock schedule, checkpoints, exports."""

import csv
import json
import math
import os
import signal
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric
from safetensors.torch import save as save_tensors
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from ..errors import ModelError
from ..image_io import write_bytes_atomic
from ..model import ModelConfig, config_dict, read_folder
from .config import TrainingConfig
from .data import Crops, validation_crops
from .model import TrainableModel
from .vector_model import TrainableVectorModel

VALIDATION_QUALITIES = (0, 25, 50, 75, 100)
LMBDA_MIDDLE = 0.014  # of the middle quality: there the loss is in bits per pixel


def train(config, progress=True):
    """Run, resume and finish one training run.

    Writes into ``config.output``: ``checkpoint.pt`` (everything, to resume), ``export/`` (weights.safetensors and
    config.json of the moving average, usable as a model), ``log.csv``. Each is replaced atomically, so that a run
    killed at any moment loses what happened since the last checkpoint and nothing else.

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
    return run.output / "export"


def rate_distortion_loss(figures, lmbda, balance):
    """Mean over pictures of ``(bpp + lmbda mse) (lmbda / LMBDA_MIDDLE)**-balance``.

    ``figures`` is what the trainable model returns; where it has a commitment loss, that counts as distortion.
    ``lmbda`` (B,).
    """
    loss = figures["y_bpp"] + figures["z_bpp"] + lmbda * (figures["mse"] + figures.get("commitment", 0.0))
    return (loss * (lmbda / LMBDA_MIDDLE) ** -balance).mean()


def learning_rate(config, step, done):
    """Rate at optimiser step ``step``, when the fraction ``done`` of the run is over: warm-up, peak, then cosine."""
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    falling = max(0.0, min(done, 1.0) - config.hold) / (1 - config.hold)
    cosine = 0.5 + 0.5 * math.cos(math.pi * falling)
    return config.lr * warm * (config.lr_end + (1 - config.lr_end) * cosine)


def ema_update(decay):
    """Averaging function for AveragedModel whose decay grows from 0.1 to ``decay``: early weights are forgotten."""

    @torch.no_grad()
    def update(averaged, current, count):
        n = float(count)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return update


class _Run:
    """State of a run: what a checkpoint holds."""

    def __init__(self, config, fabric):
        self.config, self.fabric = config, fabric
        self.output = Path(config.output)
        self.step, self.seconds = 0, 0.0
        torch.manual_seed(config.seed)
        checkpoint, architecture, weights = _load_resume(config)
        self.bare = trainable_model(architecture, config.quantiser)
        if weights:
            own, tensors = weights
            self.bare.import_tensors(tensors, own)
            if architecture.latents == "scalar":
                self.bare.make_room()
        if checkpoint:
            self.bare.load_state_dict(checkpoint["model"])
        _freeze(self.bare, config.freeze)
        self.bare.to(memory_format=torch.channels_last)
        if config.compile:
            self.bare.transforms.g_a.compile()
            self.bare.transforms.g_s.compile()
        fast, slow = [], []
        for name, parameter in self.bare.named_parameters():
            if parameter.requires_grad:
                (fast if _learns_fast(name) else slow).append(parameter)
        groups = [{"params": slow, "factor": 1.0}, {"params": fast, "factor": config.prior_lr}]
        optimiser = torch.optim.Adam(groups, lr=config.lr, betas=(0.9, 0.98), fused=True)
        self.model, self.optimiser = fabric.setup(self.bare, optimiser)
        self.ema = AveragedModel(self.bare, multi_avg_fn=ema_update(config.ema))
        if checkpoint:
            self.optimiser.load_state_dict(checkpoint["optimiser"])
            self.ema.load_state_dict(checkpoint["ema"])
            self.step, self.seconds = checkpoint["step"], checkpoint["seconds"]
        self.crops = Crops(config, fabric.global_rank)
        self.generator = torch.Generator(fabric.device)
        self.stopping = False

    def done(self):
        """Fraction of the run that is over."""
        steps = self.step / self.config.steps if self.config.steps else 0.0
        minutes = self.seconds / 60 / self.config.max_minutes if self.config.max_minutes else 0.0
        return max(steps, minutes)

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
        sums = {}
        try:
            while self.done() < 1 and not self._agreed_stop():
                figures = self._one_step()
                self.step += 1
                self.seconds = self._agreed(begun + time.monotonic() - start)
                for name, value in figures.items():
                    sums.setdefault(name, []).append(value)
                if self.step % 50 == 0 or self.step == config.steps:
                    row = {name: torch.stack(v).mean().item() for name, v in sums.items()}
                    sums = {}
                    if main:
                        log.write(self.step, self.seconds, row)
                        bar.n = round(100 * self.done(), 1)
                        bar.set_postfix(step=self.step, loss=f"{row['loss']:.4f}", bpp=f"{row['bpp']:.3f}")
                if self.seconds - scanned > 60:
                    self.crops.rescan()
                    scanned = self.seconds
                if valid is not None and self.seconds - validated > 60 * config.validate_minutes:
                    log.write(self.step, self.seconds, self._validate(valid))
                    validated = self.seconds
                if main and self.seconds - saved > 60 * config.checkpoint_minutes:
                    self._save()
                    saved = self.seconds
            if main:
                if valid is not None:
                    log.write(self.step, self.seconds, self._validate(valid))
                self._save()
        finally:
            bar.close()
            for number, handler in previous.items():
                signal.signal(number, handler)
            if main:
                log.close()
        fabric.barrier()

    def _autocast(self):
        return torch.autocast(self.fabric.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    def _one_step(self):
        config = self.config
        rank = self.fabric.global_rank
        rng = np.random.default_rng([config.seed, rank, self.step, 10**6])
        x = self.crops.batch(self.step).to(self.fabric.device, non_blocking=True).float().div_(255)
        x = x.contiguous(memory_format=torch.channels_last)
        # One quality from each of B equal strata: uniform over the batch, less noisy than independent draws.
        strata = (rng.permutation(config.batch) + rng.random(config.batch)) / config.batch
        quality = torch.tensor(100 * strata, dtype=torch.float32, device=x.device)
        lmbda = self.bare.config.lmbda(quality)
        self.generator.manual_seed(int(rng.integers(2**62)))
        rate = learning_rate(config, self.step, self.done())
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        if self.bare.config.latents == "scalar":
            self.bare.quantiser.anneal(self.done())
        with self._autocast():
            figures = self.model(x, quality, self.generator)
        loss = rate_distortion_loss(figures, lmbda, config.balance)
        self.optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        norm = self.fabric.clip_gradients(self.model, self.optimiser, max_norm=config.clip, error_if_nonfinite=False)
        if torch.isfinite(norm):
            self.optimiser.step()
            self.ema.update_parameters(self.bare)
        bpp = figures["y_bpp"] + figures["z_bpp"]
        return {
            "loss": loss.detach(),
            "bpp": bpp.detach().mean(),
            "z_bpp": figures["z_bpp"].detach().mean(),
            "psnr_db": (10 * torch.log10(255**2 / figures["mse"].detach())).mean(),
            "gradient_norm": norm.detach(),
            "lr": torch.tensor(rate, device=x.device),
        }

    @torch.no_grad()
    def _validate(self, crops, averaged=True):
        """Loss over the validation crops, overall and per quality, of the moving average or of the weights themselves."""
        model = (self.ema.module if averaged else self.bare).eval()
        row, losses = {}, []
        for q in VALIDATION_QUALITIES:
            parts = []
            for batch in crops.split(8):
                x = batch.to(self.fabric.device).float().div_(255).contiguous(memory_format=torch.channels_last)
                quality = torch.full((len(x),), float(q), device=x.device)
                with self._autocast():
                    parts.append(model(x, quality))
            figures = {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
            lmbda = self.bare.config.lmbda(torch.full((len(crops),), float(q), device=x.device))
            losses.append(rate_distortion_loss(figures, lmbda, self.config.balance).item())
            row[f"valid_bpp_{q}"] = (figures["y_bpp"] + figures["z_bpp"]).mean().item()
            row[f"valid_psnr_db_{q}"] = (10 * torch.log10(255**2 / figures["mse"])).mean().item()
            row[f"valid_loss_{q}"] = losses[-1]
        row["valid_loss"] = sum(losses) / len(losses)
        if self.bare.config.latents == "vq":
            perplexity, used = model.perplexity(), model.first_quality() <= 100
            for stage in range(len(used)):
                if used[stage].any():
                    row[f"perplexity_{stage + 1}"] = perplexity[stage][used[stage]].mean().item()
        self.bare.train()
        return row

    def _save(self):
        state = {
            "model": self.bare.state_dict(),
            "ema": self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "config": asdict(self.config),
            "architecture": asdict(self.bare.config),
        }
        part = self.output / "checkpoint.pt.part"
        torch.save(state, part)
        os.replace(part, self.output / "checkpoint.pt")
        export(self.ema.module, self.output / "export", steps=self.step, minutes=round(self.seconds / 60, 1))

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


def trainable_model(config, quantiser="mixed"):
    """The trainable model of a ModelConfig; ``quantiser`` names that of scalar latents."""
    return TrainableVectorModel(config) if config.latents == "vq" else TrainableModel(config, quantiser)


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


def _learns_fast(name):
    """Whether a parameter is a gain, a step size or part of a prior, whose natural scale is larger than a weight's."""
    parts = name.split(".")
    return (
        "gain" in parts[min(1, len(parts) - 1)] or "prior" in parts[0] or parts[-1] in ("log_step", "sharpness", "shrink")
    )


def export(model, folder, **facts):
    """Write ``weights.safetensors`` and ``config.json`` of a trainable model, each atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(folder / "weights.safetensors", save_tensors(model.export_tensors()))
    text = json.dumps(config_dict(model.config, training=facts), indent=2) + "\n"
    write_bytes_atomic(folder / "config.json", text.encode())


def _load_resume(config):
    """``(checkpoint or None, ModelConfig, (ModelConfig, tensors) of weights or None)`` for a run's ``resume`` setting."""
    if not config.resume:
        return None, config.model_config(), None
    path = Path(config.resume)
    if path.is_dir() and (path / "checkpoint.pt").exists():
        path = path / "checkpoint.pt"
    if path.is_file():
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            architecture = checkpoint["architecture"]
        except Exception as error:
            raise ModelError(f"{path}: not a checkpoint ({error})") from None
        own = TrainingConfig(architecture=json.dumps(architecture)).model_config()
        return checkpoint, _resumed_architecture(own, config.architecture, grow=False), None
    if not path.exists():
        raise ModelError(f"{path}: nothing to resume from")
    own, tensors = read_folder(path)
    return None, _resumed_architecture(own, config.architecture, grow=True), (own, tensors)


def _resumed_architecture(own, text, grow):
    """ModelConfig to go on with: that of the weights, deeper or finer where ``text`` asks for it and ``grow`` allows it.

    Raises:
        ModelError: ``text`` asks for anything else that the weights do not have.
    """
    wanted = ModelConfig.from_dict({**asdict(own), **json.loads(text)})
    for name, value in asdict(own).items():
        other = getattr(wanted, name)
        if other == value or grow and ("depth" in name or name == "activation_bits") and other > value:
            continue
        may = (
            "transforms may become deeper, activations of the entropy networks finer"
            if grow
            else "a checkpoint keeps its architecture, exported weights may grow deeper or finer"
        )
        raise ModelError(f"architecture: {name} of the weights is {value}, not {other}; {may}")
    return wanted


class _Log:
    """Rows of figures, in long form (step, minutes, name, value), appended to log.csv and perhaps TensorBoard."""

    def __init__(self, folder, tensorboard):
        path = folder / "log.csv"
        new = not path.exists()
        self._file = open(path, "a", newline="", encoding="utf-8")
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

"""The trainable model with vector-quantised latents: g_a, residual vector quantisation, g_s.

The gradient passes the choice of a codeword by the straight-through estimator; a commitment loss keeps the analysis
near the codewords; the codebooks follow by exponential moving averages (van den Oord et al. 2017, arXiv:1711.00937);
codewords that nobody chooses are restarted on vectors of the batch.
"""

import copy
import math

import torch
import torch.nn.functional as F
from compressai._CXX import pmf_to_quantized_cdf
from torch import distributed, nn

from ..latents.vector import CONTEXTS, MAGNITUDES, squared_error_per_bit
from ..nn.dct import coarse_deviation
from ..quantise import straight_through
from ..nn.vector import choose, contexts, from_groups, histories, to_groups
from .transforms import TrainableTransforms

COMMITMENT = 0.25  # weight beside the distortion; 0.25 in the VQ-VAE paper
CODEBOOK_DECAY = 0.98  # of the averages behind the codebooks
STATISTICS_DECAY = 0.99  # of what a pair gains and costs
DEAD = 0.02  # codewords chosen less often than this, as a share of 1 / codes, are restarted
MARGIN = 10.0  # codebooks learn from pictures down to this much below the quality from which on they are used
NEVER = 200.0


class TrainableVectorModel(nn.Module):
    """Rate and distortion of a batch, differentiable; same interface as training.model.TrainableModel."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.transforms = TrainableTransforms(config)
        groups, codes = config.M // config.code_dim, config.codes
        pairs = (config.stages, groups)
        # Prior: logits = base + sharpness * how large the codeword is, with a sharpness per context.
        self.log_prior = nn.Parameter(torch.zeros(*pairs, codes))
        self.sharpness = nn.Parameter(torch.zeros(*pairs, CONTEXTS))
        self.register_buffer("codebooks", torch.zeros(*pairs, codes, config.code_dim))
        self.register_buffer("counts", torch.zeros(*pairs, codes))
        self.register_buffer("sums", torch.zeros(*pairs, codes, config.code_dim))
        self.register_buffer("gained", torch.zeros(pairs))  # squared error per vector that a pair takes away
        self.register_buffer("cost", torch.zeros(pairs))  # its bits per vector
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        # What a pair gains and costs before it was measured: as if each stage took away three quarters.
        energy = coarse_deviation(config.M).square().view(groups, -1).sum(1)
        self.gained += 0.75 * energy * 0.25 ** torch.arange(config.stages)[:, None]
        self.cost += 0.5 * math.log2(codes)

    def first_quality(self):
        """Quality (stages, groups) from which on each pair is worth its bits; never falling with the stage."""
        config = self.config
        worth_while = 3 * self.cost / (255**2 * self.gained.clamp_min(1e-9))  # the lmbda at which gain equals cost
        quality = 100 * torch.log(worth_while / config.lmbda_min) / math.log(config.lmbda_max / config.lmbda_min)
        quality = quality.cummax(0).values.clamp(0, NEVER)
        quality[0, 0] = 0  # the lowest frequencies are always there
        return quality

    def forward(self, x, quality, generator=None):
        """Bits and squared error per picture.

        Args:
            x: float (B, 3, H, W) in [0, 1]; H and W multiples of 64.
            quality: float (B,) in [0, 100].
            generator: source of the restarts' randomness.

        Returns:
            dict of float tensors (B,): ``y_bpp`` and ``z_bpp`` (zero) in bits per pixel, ``mse`` and ``commitment`` on
            the scale of 0 to 255.
        """
        batch, _, height, width = x.shape
        y = self.transforms.analyse(x, quality).float()
        with torch.autocast(x.device.type, enabled=False):
            y_hat, y_bits = self._quantise(y, quality, generator)
        commitment = (y - y_hat.detach()).square().flatten(1).sum(1) / (3 * height * width)
        x_hat = self.transforms.synthesise(straight_through(y, y_hat), quality)
        pixels = height * width
        return {
            "y_bpp": y_bits / pixels,
            "z_bpp": torch.zeros_like(y_bits),
            "mse": 255**2 * (x_hat - x).square().flatten(1).mean(1),
            "commitment": 255**2 * COMMITMENT * commitment,
        }

    def _quantise(self, y, quality, generator):
        """``(y_hat, bits)``: sum of codewords (B, M, h, w) without gradient, and bits (B,) with the prior's."""
        config = self.config
        batch, _, height, width = y.shape
        residual = to_groups(y.detach(), config.code_dim).contiguous()  # (G, n, d)
        total = torch.zeros_like(residual)
        first = self.first_quality()
        per_vector = quality.repeat_interleave(height * width)
        penalty = squared_error_per_bit(config.lmbda(per_vector))[:, None]  # (n, 1)
        magnitude = residual.new_zeros(residual.shape[0], batch, height, width, dtype=torch.int64)
        bits = 0.0
        for s in range(config.stages):
            if self.training and self.seen == 0:
                self._start_codebooks(s, residual, generator)
            log_base = F.log_softmax(self.log_prior[s], -1) / math.log(2)  # (G, K)
            index = choose(residual, self.codebooks[s], penalty * -log_base.detach()[:, None])  # (G, n)
            codeword = self.codebooks[s].gather(1, index[..., None].expand(-1, -1, config.code_dim))
            used = first[s][:, None] <= per_vector  # (G, n)
            taken = (residual.square() - (residual - codeword).square()).sum(2)

            before, magnitude = magnitude, self._magnitudes(s).gather(1, index) * used
            magnitude = magnitude.view(-1, batch, height, width)
            earlier = [F.pad(magnitude, (0,) * 6 + (i, 0))[: len(magnitude)] for i in (1, 2, 3)]
            row = contexts(histories(earlier, before), magnitude).flatten(1)  # (G, n)
            index_bits = -self._log2_prior(s, row).gather(2, index[..., None])[..., 0]
            bits = bits + (index_bits * used).view(-1, batch, height * width).sum((0, 2))

            if self.training:
                near = first[s][:, None] - MARGIN <= per_vector
                self._follow(s, residual, index, near, generator)
                self._measure(s, taken, index_bits.detach(), near)
            step = codeword * used[..., None]
            residual, total = residual - step, total + step
        if self.training:
            self.seen += 1
        return from_groups(total, batch, height, width), bits

    def _magnitudes(self, s):
        """Classes (G, K) of the codewords of stage s, by length relative to the codebook's rms."""
        length = self.codebooks[s].norm(dim=2)
        usual = length.square().mean(1, keepdim=True).sqrt().clamp_min(1e-12)
        return sum((length > factor * usual).long() for factor in (0.25, 0.75, 1.25)[: MAGNITUDES - 1])

    def _log2_prior(self, s, row=None):
        """log2 of the probabilities (G, n, K) of stage s for the contexts ``row`` (G, n); all contexts without it."""
        length = self.codebooks[s].norm(dim=2)
        length = length / length.amax(1, keepdim=True).clamp_min(1e-12)
        logits = self.log_prior[s][:, None] + self.sharpness[s][:, :, None] * length[:, None]  # (G, CONTEXTS, K)
        table = F.log_softmax(logits, -1) / math.log(2)
        return table if row is None else table.gather(1, row[..., None].expand(-1, -1, self.config.codes))

    # --- Codebooks by moving averages --------------------------------------------------------------------------------

    @torch.no_grad()
    def _start_codebooks(self, s, residual, generator):
        """Random vectors of the first batch; codeword 0 is the zero vector and stays it."""
        self.codebooks[s] = self._sample(residual, generator)
        self.codebooks[s, :, 0] = 0
        self.counts[s] = 1 / self.config.codes
        self.sums[s] = self.codebooks[s] / self.config.codes

    @torch.no_grad()
    def _follow(self, s, residual, index, near, generator):
        """Move the codewords to the mean of the vectors that chose them, and restart those that none chose."""
        weight = near.to(residual.dtype)
        chosen = torch.zeros_like(self.counts[s]).scatter_add_(1, index, weight)
        sums = torch.zeros_like(self.sums[s])
        sums.scatter_add_(1, index[..., None].expand_as(residual), residual * weight[..., None])
        if distributed.is_initialized():
            distributed.all_reduce(chosen), distributed.all_reduce(sums)
        heard = chosen.sum(1, keepdim=True) > 0  # groups without any vector stay as they are
        share = chosen / chosen.sum(1, keepdim=True).clamp_min(1)
        mean = sums / chosen.sum(1, keepdim=True).clamp_min(1)[..., None]
        rate = (1 - CODEBOOK_DECAY) * heard
        self.counts[s].lerp_(share, rate.expand_as(share))
        self.sums[s].lerp_(mean, rate[..., None].expand_as(mean))
        known = self.counts[s] > DEAD / self.config.codes
        self.codebooks[s] = torch.where(
            known[..., None], self.sums[s] / self.counts[s].clamp_min(1e-12)[..., None], self.codebooks[s]
        )
        if self.seen % 20 == 19:
            dead = (~known & heard)[..., None]
            fresh = self._sample(residual, generator)
            self.codebooks[s] = torch.where(dead, fresh, self.codebooks[s])
            self.counts[s] = torch.where(dead[..., 0], 1 / self.config.codes, self.counts[s])
            self.sums[s] = torch.where(dead, fresh / self.config.codes, self.sums[s])
        self.codebooks[s, :, 0] = 0

    def _sample(self, residual, generator):
        """Random vectors (G, K, d) of each group's (G, n, d), the same in all processes."""
        shape = (self.config.codes,)
        which = torch.randint(residual.shape[1], shape, generator=generator, device=residual.device)
        vectors = residual[:, which]
        if distributed.is_initialized():
            distributed.broadcast(vectors, 0)
        return vectors

    @torch.no_grad()
    def _measure(self, s, taken, bits, near):
        """Average what each pair of stage s takes away and costs, over the pictures that may use it."""
        number = near.sum(1)
        for average, values in ((self.gained, taken), (self.cost, bits)):
            total = (values * near).sum(1)
            count = number.to(total.dtype)
            if distributed.is_initialized():
                distributed.all_reduce(total), distributed.all_reduce(count)
            mean = total / count.clamp_min(1)
            average[s] = torch.where(count > 0, average[s].lerp(mean, 1 - STATISTICS_DECAY), average[s])

    def perplexity(self):
        """2^entropy of the choices in each codebook (stages, groups): how many codewords are really in use."""
        share = self.counts / self.counts.sum(-1, keepdim=True).clamp_min(1e-12)
        return 2 ** -(share * share.clamp_min(1e-12).log2()).sum(-1)

    # --- Weights files -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def export_tensors(self):
        """Everything that a weights file holds: half-precision transforms and codebooks, integer tables."""
        tensors = {name: t.to(torch.float16) for name, t in self.transforms.folded().items()}
        rounded = copy.deepcopy(self)
        rounded.codebooks.copy_(self.codebooks.half())  # so that magnitudes and lengths are those of the file
        log2_prior = torch.stack([rounded._log2_prior(s) for s in range(self.config.stages)]).cpu()
        vq = {
            "codebooks": rounded.codebooks.to(torch.float16),
            "magnitudes": torch.stack([rounded._magnitudes(s) for s in range(self.config.stages)]).to(torch.int8),
            "bits": (-F.log_softmax(self.log_prior, -1) / math.log(2)).to(torch.float16),
            "first_quality": (100 * self.first_quality()).ceil().int(),
            "frequencies": _frequencies(log2_prior),
            # The rest lets training continue.
            "log_prior": self.log_prior.to(torch.float16),
            "sharpness": self.sharpness.to(torch.float16),
            "counts": self.counts.to(torch.float16),
            "gained": self.gained.clone(),
            "cost": self.cost.clone(),
        }
        tensors.update({f"entropy.vq.{name}": t for name, t in vq.items()})
        return {name: t.detach().cpu().contiguous() for name, t in tensors.items()}

    @torch.no_grad()
    def import_tensors(self, tensors):
        """Take the weights of a file with this model's architecture."""
        self.transforms.unfold({k: v.float() for k, v in tensors.items() if not k.startswith("entropy.")})
        for name in ("codebooks", "counts", "gained", "cost", "log_prior", "sharpness"):
            getattr(self, name).copy_(tensors[f"entropy.vq.{name}"])
        self.sums.copy_(self.codebooks * self.counts[..., None])
        self.seen.fill_(1)


def _frequencies(log2_prior):
    """16-bit frequencies, less one and wrapped to int16, of (..., K) probabilities and an unused tail: (..., K + 1)."""
    rows = log2_prior.double().exp2().flatten(0, -2)
    table = torch.empty(len(rows), rows.shape[1] + 1, dtype=torch.int32)
    for i, row in enumerate(rows.tolist()):
        table[i] = torch.tensor(pmf_to_quantized_cdf([*row, 0.0], 16), dtype=torch.int32).diff()
    return (table - 1).to(torch.int16).view(*log2_prior.shape[:-1], -1)

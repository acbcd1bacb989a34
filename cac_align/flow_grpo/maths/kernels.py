"""One step of a flow-matching sampler as a Gaussian: mean and std of the next latents, and their log-prob.

With x = (1 - sigma) x0 + sigma eps and velocity v = eps - x0, every kernel is the Euler step minus a pull along the
predicted noise, plus fresh noise:

    x' = x + (sigma' - sigma) v  -  pull * (x + (1 - sigma) v)  +  std * eps'

which is mu = (1 - sigma') x0_hat + a x1_hat with a = sigma' - pull. Kernels differ in ``std`` and ``pull`` alone:

==============  ==========================================================  ==============================
kernel          std                                                         pull
==============  ==========================================================  ==============================
``wan_linear``  s sqrt(h), s = sigmas[1] * sigma                            s^2 h / (2 sigma)
``flow``        s sqrt(h), s = noise_level * sqrt(sigma / (1 - sigma*))     s^2 h / (2 sigma)
``dance``       s sqrt(h), s = noise_level                                  s^2 h / (2 sigma)
``cps``         sigma' sin(noise_level pi / 2)                              sigma' - sqrt(sigma'^2 - std^2)
``precise``     sigma' sqrt(1 - rho^(noise_level^2))                        sigma' - sqrt(sigma'^2 - std^2)
``ode``         0                                                           0
==============  ==========================================================  ==============================

with h = sigma - sigma', rho = sigma' (1 - sigma) / (sigma (1 - sigma')), and sigma* = min(sigma, sigmas[1]): only the
first sigma of a schedule lies above ``sigmas[1]``, so this is the clamp "on step 0", and it fires whether sigma_0 is 1
(FlowMatchEuler) or 0.999999 (UniPC), where a test for equality does not and the noise of the first step explodes.
Sources: Flow-GRPO (arXiv 2505.05470), DanceGRPO (2505.07818), Flow-CPS (2509.05952), Precise.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import torch

Kernel = Literal["wan_linear", "flow", "dance", "cps", "precise", "ode"]
KERNELS: tuple[str, ...] = get_args(Kernel)
#: Kernels whose noise is set by ``noise_level``.
WITH_NOISE_LEVEL = ("flow", "dance", "cps", "precise")
#: Kernels that need ``sigmas[1]``.
WITH_SIGMA_MAX = ("wan_linear", "flow")


class Coefficients(NamedTuple):
    """``mean = sample * x + velocity * v``; all three are float64 on the CPU, of the shape of the sigmas."""

    sample: torch.Tensor
    velocity: torch.Tensor
    std: torch.Tensor


class Transition(NamedTuple):
    """``mean`` of the next latents, of their shape; ``std`` broadcastable to it. fp32, or fp64 where the input was."""

    mean: torch.Tensor
    std: torch.Tensor


def check_kernel(kernel: str, noise_level: float | None) -> None:
    """Raises ValueError for an unknown kernel, or a noise level missing or out of range."""
    if kernel not in KERNELS:
        raise ValueError(f"kernel={kernel!r} is unknown; choose one of {', '.join(map(repr, KERNELS))}")
    if kernel not in WITH_NOISE_LEVEL:
        return
    if noise_level is None:
        raise ValueError(f"kernel={kernel!r} needs a noise_level; pass one, for example 0.3")
    high = 1.0 if kernel == "cps" else math.inf
    if not 0 <= noise_level <= high or not math.isfinite(noise_level):
        rule = "lie in [0, 1], where sin(pi/2 * noise_level) grows" if kernel == "cps" else "be finite and at least 0"
        raise ValueError(f"noise_level={noise_level!r} of kernel {kernel!r} must {rule}; 0 makes the step an ODE step")


def coefficients(
    kernel: str,
    sigma: float | torch.Tensor,
    sigma_next: float | torch.Tensor,
    *,
    noise_level: float | None = None,
    sigma_max: float | None = None,
    last_step_noise: bool = False,
) -> Coefficients:
    """Factors of sample, velocity and noise in a step, in float64.

    Args:
        kernel: see the table above.
        sigma, sigma_next: noise levels of this and the next latents, 0 <= sigma_next < sigma <= 1.
        noise_level: eta; read by ``flow``, ``dance``, ``cps`` and ``precise`` only.
        sigma_max: ``sigmas[1]``, the second entry of the schedule, at every step. ``wan_linear`` needs it; ``flow``
            needs it where sigma reaches 1.
        last_step_noise: keep the noise of ``wan_linear``, ``flow`` and ``dance`` on the step to sigma_next = 0, as the
            public Wan code does. By default that step is an ODE step, so that no noise stays in the video.

    Raises:
        ValueError: an unknown kernel, a noise level or a sigma out of range, or a missing ``sigma_max``.
    """
    check_kernel(kernel, noise_level)
    now, then = (torch.as_tensor(value, dtype=torch.float64, device="cpu") for value in (sigma, sigma_next))
    if not bool(((then >= 0) & (then < now) & (now <= 1)).all()):
        raise ValueError(
            f"sigma={sigma} and sigma_next={sigma_next} must satisfy 0 <= sigma_next < sigma <= 1; "
            "pass neighbouring entries of scheduler.sigmas, not timesteps"
        )
    if sigma_max is not None and not 0 < sigma_max <= 1:
        raise ValueError(f"sigma_max={sigma_max} must lie in (0, 1]; pass scheduler.sigmas[1]")
    step = now - then  # h
    if kernel in ("cps", "precise"):
        share = math.sin(float(noise_level or 0) * math.pi / 2) if kernel == "cps" else _precise(now, then, noise_level)
        std = then * share
        # Fresh noise takes the place of old: what is left of the old has sigma'^2 - std^2, and both together sigma'^2.
        pull = then - (then.square() - std.square()).clamp(min=0).sqrt()
    else:
        rate = _rate(kernel, now, then, noise_level, sigma_max, last_step_noise)  # s
        # Euler-Maruyama of the SDE whose latents are distributed as the ODE's: its drift makes up for the noise.
        std, pull = rate * step.sqrt(), rate.square() * step / (2 * now)
    return Coefficients(1 - pull, -step - pull * (1 - now), std)  # the equation above, sorted by x, v and eps'


def _precise(now: torch.Tensor, then: torch.Tensor, noise_level: float | None) -> torch.Tensor:
    """sqrt(1 - rho^(eta^2)); by expm1, because rho is close to 1 where steps are short."""
    if not noise_level:
        return torch.zeros_like(now)
    log_rho = (then / now).log() + torch.log1p(-now) - torch.log1p(-then)  # below 0; -inf at now = 1 and then = 0
    return (-torch.expm1(noise_level**2 * log_rho)).clamp(min=0).sqrt()


def _rate(
    kernel: str,
    now: torch.Tensor,
    then: torch.Tensor,
    noise_level: float | None,
    sigma_max: float | None,
    last_step_noise: bool,
) -> torch.Tensor:
    """Std per square root of sigma: s of the table."""
    noisy = torch.ones_like(now) if last_step_noise else (then > 0).to(now)
    if kernel == "ode":
        return torch.zeros_like(now)
    if kernel == "dance":
        return noisy * float(noise_level or 0)
    if kernel == "wan_linear":
        if sigma_max is None:
            raise ValueError(
                "kernel='wan_linear' needs sigma_max, the second sigma of the schedule; pass scheduler.sigmas[1]"
            )
        return noisy * sigma_max * now
    clamped = now if sigma_max is None else now.clamp(max=sigma_max)  # sigma*: at sigma = 1 the noise would be endless
    if bool((clamped >= 1).any()):
        raise ValueError(
            f"kernel='flow' divides by 1 - sigma, which is 0 at sigma={now.max().item()}; "
            "pass sigma_max=scheduler.sigmas[1]"
        )
    return noisy * float(noise_level or 0) * (now / (1 - clamped)).sqrt()


def transition(
    kernel: str,
    sample: torch.Tensor,
    velocity: torch.Tensor,
    sigma: float | torch.Tensor,
    sigma_next: float | torch.Tensor,
    *,
    noise_level: float | None = None,
    sigma_max: float | None = None,
    last_step_noise: bool = False,
) -> Transition:
    """Mean and std of the next latents (flow_grpo equations of the module docstring). Differentiable in ``velocity``.

    Args:
        kernel: ``wan_linear``, ``flow``, ``dance``, ``cps``, ``precise`` or ``ode``.
        sample: (B, ...) latents at ``sigma``.
        velocity: (B, ...) output of the transformer, guidance folded in.
        sigma, sigma_next: floats, or tensors of shape (B,) or broadcastable to ``sample``.
        noise_level, sigma_max, last_step_noise: see :func:`coefficients`.

    Returns:
        The arithmetic is fp32 whatever the input, fp64 if either input is. ``std`` is 0 for a deterministic step.

    Raises:
        ValueError: see :func:`coefficients`; or ``sample`` and ``velocity`` differ in shape.

    Example:
        >>> x, v = torch.tensor([0.3], dtype=torch.float64), torch.tensor([-0.2], dtype=torch.float64)
        >>> step = transition("dance", x, v, 0.9, 0.85, noise_level=0.3)
        >>> round(step.mean.item(), 10), round(step.std.item(), 10)
        (0.3093, 0.0670820393)
    """
    if sample.shape != velocity.shape:
        raise ValueError(f"sample {tuple(sample.shape)} and velocity {tuple(velocity.shape)} must have the same shape")
    now, then = _per_sample(sigma, sample), _per_sample(sigma_next, sample)  # (B, 1, ...), or as they are
    factors = coefficients(
        kernel, now, then, noise_level=noise_level, sigma_max=sigma_max, last_step_noise=last_step_noise
    )
    dtype = torch.float64 if torch.float64 in (sample.dtype, velocity.dtype) else torch.float32
    x, v, std = (factor.to(device=sample.device, dtype=dtype) for factor in factors)
    return Transition(x * sample.to(dtype) + v * velocity.to(dtype), std)  # mean: (B, ...)


def _per_sample(sigma: float | torch.Tensor, sample: torch.Tensor) -> float | torch.Tensor:
    if not isinstance(sigma, torch.Tensor) or sigma.ndim != 1 or sample.ndim == 1:
        return sigma
    if len(sigma) not in (1, len(sample)):
        raise ValueError(f"{len(sigma)} sigmas for a batch of {len(sample)}; pass one sigma, or one per sample")
    return sigma.reshape(-1, *[1] * (sample.ndim - 1))


def batch_mean(values: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Mean over all dimensions but the first, (B, ...) to (B,).

    Args:
        weights: broadcastable to ``values``, of mean 1 per sample, as :mod:`~cac_align.flow_grpo.maths.credit` makes
            them. Weights that are all 1 give exactly the plain mean.
    """
    if weights is not None:
        if weights.ndim > values.ndim or torch.broadcast_shapes(weights.shape, values.shape) != values.shape:
            raise ValueError(
                f"weights {tuple(weights.shape)} must be broadcastable to the latents {tuple(values.shape)}; "
                "latents of shape (B, C, T, H, W) take (B, 1, T, H, W)"
            )
        values = values * weights.to(values)
    return values if values.ndim < 2 else values.reshape(values.shape[0], -1).mean(1)  # (B,)


def log_prob(
    sample_next: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor | float,
    weights: torch.Tensor | None = None,
    *,
    constants: bool = True,
) -> torch.Tensor:
    """Log-density of ``sample_next`` under N(mean, std^2), *averaged* over the latent elements, not summed: (B,).

    The average makes the ratio of two policies the D-th root of the true one, D elements; clip ranges are small for
    this reason. ``sample_next`` counts as data and carries no gradient.

    Args:
        sample_next, mean: (B, ...).
        std: positive, broadcastable.
        weights: weight of each latent cell, see :func:`batch_mean`; for credit that knows where the anomaly is.
        constants: False leaves 1 / (2 std^2), the norm and log 2 pi out: -(sample_next - mean)^2, as Flow-CPS and the
            public code that follows it have it for ``cps``. Steps with little noise then count less.

    Raises:
        ValueError: if ``std`` is 0: a deterministic step has no density.
    """
    std = _positive(std, mean)
    error = sample_next.detach().to(mean) - mean  # (B, ...)
    if not constants:
        return -batch_mean(error.square(), weights)
    error = error / std
    return batch_mean(-0.5 * error.square() - std.log() - 0.5 * math.log(2 * math.pi), weights)


def log_ratio(
    sample_next: torch.Tensor,
    mean: torch.Tensor,
    old_mean: torch.Tensor,
    std: torch.Tensor | float,
    weights: torch.Tensor | None = None,
    *,
    constants: bool = True,
) -> torch.Tensor:
    """``log_prob(x', mean, std) - log_prob(x', old_mean, std)``, (B,), without the cancellation of that difference.

    The two log-probs are of order 1 and differ by 1e-6, where fp32 keeps one digit; this form keeps all of them, and is
    exactly 0 where the means are equal. Without ``constants`` (:func:`log_prob`) it is 2 std^2 times what it is with
    them.
    """
    std = _positive(std, mean)
    if not constants:
        shift = mean - old_mean.detach().to(mean)  # (B, ...)
        return batch_mean(2 * shift * (sample_next.detach().to(mean) - old_mean.detach().to(mean) - shift / 2), weights)
    shift = (mean - old_mean.detach().to(mean)) / std  # (B, ...): how far the policy has moved
    noise = (sample_next.detach().to(mean) - old_mean.detach().to(mean)) / std  # (B, ...): eps, as it was drawn
    # noise^2 / 2 - (noise - shift)^2 / 2, multiplied out: the large squares cancel here and not in fp32.
    return batch_mean(shift * (noise - shift / 2), weights)


def guard_log_ratio(
    sample_next: torch.Tensor,
    mean: torch.Tensor,
    old_mean: torch.Tensor,
    std: torch.Tensor | float,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Log-ratio of GRPO-Guard (RatioNorm), (B,): the mean of eps * (mean - old_mean), eps being the noise drawn.

    Equal to ``(log_ratio + mean(shift^2) / (2 std^2)) * std``: unlike the raw ratio it is unbiased under the old
    policy, so both clip sides fire alike.
    """
    std = _positive(std, mean)
    noise = (sample_next.detach().to(mean) - old_mean.detach().to(mean)) / std  # (B, ...)
    # Without the -shift^2 / 2 of the raw ratio, which pulls it below 1 wherever the policy goes.
    return batch_mean(noise * (mean - old_mean.detach().to(mean)), weights)


def _positive(std: torch.Tensor | float, mean: torch.Tensor) -> torch.Tensor:
    std = torch.as_tensor(std, dtype=mean.dtype, device=mean.device)
    if not bool((std > 0).all()):
        raise ValueError(
            f"std={std.min().item()} must be above 0: an ODE step has no log-prob; "
            "leave it out of the SDE window (the last step is one unless last_step_noise is set)"
        )
    return std

"""The published formulas, one by one and in plain floats: what the one closed form of the package is held against.

Written from the equations as their authors print them (drift, score and x0/x1 forms), not from the package.
"""

from __future__ import annotations

import math

import numpy as np

#: The noise level each kernel is usually run with.
USUAL = {"wan_linear": None, "flow": 0.7, "dance": 0.3, "cps": 0.8, "precise": 1.5}


def shifted(u, shift):
    return shift * u / (1 + (shift - 1) * u)


def old_sigmas(steps, shift):
    """UniPC flow sigmas of diffusers up to 0.36."""
    u = np.linspace(1, 1 / 1000, steps + 1)
    return [*np.flip(shifted(1 - u, shift))[:-1].tolist(), 0.0]


def new_sigmas(steps, shift):
    """UniPC flow sigmas of diffusers since 2026-01-22."""
    u = np.linspace(1, 1 / 1000, steps + 1)[:-1]
    sigmas = shifted(u, shift)
    sigmas[0] -= 1e-6
    return [*sigmas.tolist(), 0.0]


def euler_sigmas(steps, shift):
    """FlowMatchEuler: the shift is applied to the ends and then again to every sigma."""
    ends = shifted(np.array([1.0, 1 / 1000]), shift)
    return [*shifted(np.linspace(ends[0], ends[1], steps), shift).tolist(), 0.0]


def wan_linear(x, v, sigmas, i, eta):
    now, then = sigmas[i], sigmas[i + 1]
    dt, s = then - now, sigmas[-1] + (sigmas[1] - sigmas[-1]) * now
    mean = x * (1 + s**2 * dt / (2 * now)) + v * (1 + s**2 * (1 - now) / (2 * now)) * dt
    return mean, s * math.sqrt(-dt)


def flow(x, v, sigmas, i, eta):
    now, then = sigmas[i], sigmas[i + 1]
    dt = then - now
    s = eta * math.sqrt(now / (1 - (sigmas[1] if i == 0 else now)))
    drift = v + s**2 / (2 * now) * (x + (1 - now) * v)
    return x + drift * dt, s * math.sqrt(-dt)


def dance(x, v, sigmas, i, eta):
    now, then = sigmas[i], sigmas[i + 1]
    dt, clean = then - now, x - now * v
    score = -(x - (1 - now) * clean) / now**2
    return x + v * dt - 0.5 * eta**2 * score * dt, eta * math.sqrt(-dt)


def cps(x, v, sigmas, i, eta):
    now, then = sigmas[i], sigmas[i + 1]
    clean, noise = x - now * v, x + (1 - now) * v
    angle = eta * math.pi / 2
    return (1 - then) * clean + then * math.cos(angle) * noise, then * math.sin(angle)


def precise(x, v, sigmas, i, eta):
    now, then = sigmas[i], sigmas[i + 1]
    clean, noise = x - now * v, x + (1 - now) * v
    rho = then * (1 - now) / (now * (1 - then))
    keep = rho ** (eta**2 / 2)
    return (1 - then) * clean + then * keep * noise, then * math.sqrt(1 - keep**2)


KERNELS = {"wan_linear": wan_linear, "flow": flow, "dance": dance, "cps": cps, "precise": precise}


def gaussian(value, mean, std):
    """Mean log-density over the elements."""
    return float(np.mean(-((value - mean) ** 2) / (2 * std**2) - math.log(std) - 0.5 * math.log(2 * math.pi)))

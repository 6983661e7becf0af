"""The official classes of losses with a state for every sample, restated densely in plain torch.

Each has forward(x, y, index) -> loss and its state as attributes, named as in the official code. Scores are formed and
kept in full, moving averages are plain numbers with a running bound b against overflow where the official code has one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def numbers(n: int, value: float = 0.0) -> Tensor:
    return torch.full((n,), value, dtype=torch.float64)


class Bimodal:
    """zhqiu/contrastive-learning-iSogCLR, bimodal_exps: SogCLR_Loss; with learn=True SogCLR_DRO_Loss."""

    def __init__(self, n, gamma, tau, learn=False, rho=0.0, eta=0.0, beta=0.9, low=0.005, high=1.0):
        self.gamma, self.learn, self.rho, self.eta, self.beta, self.low, self.high = (
            gamma,
            learn,
            rho,
            eta,
            beta,
            low,
            high,
        )
        self.s, self.b, self.u = ([numbers(n), numbers(n)] for _ in range(3))
        self.tau = [numbers(n, tau), numbers(n, tau)]

    def __call__(self, x, y, index):
        sim, total = x @ y.T, 0.0
        for side, scores in enumerate((sim, sim.T)):
            diffs, tau = scores - sim.diagonal()[:, None], self.tau[side][index]
            scaled = (diffs / tau[:, None]).detach()
            old, b = self.b[side][index], torch.maximum(self.b[side][index], scaled.amax(1))
            e = (scaled - b[:, None]).exp()  # with the diagonal
            g = e.sum(1) / (len(x) - 1)
            s = (1 - self.gamma) * self.s[side][index] * (old - b).exp() + self.gamma * g
            self.b[side][index], self.s[side][index] = b, s
            weights = e / (s[:, None] + 1e-10)
            total = total + ((weights * diffs).sum(1) / (len(x) - 1)).mean()
            if self.learn:
                grad = s.log() + b + self.rho - (weights * scaled).sum(1) / (len(x) - 1)
                self.u[side][index] = (1 - self.beta) * self.u[side][index] + self.beta * grad.clamp(-5, 5)
                self.tau[side][index] = (tau - self.eta * self.u[side][index]).clamp(self.low, self.high)
        return total

    def log_mean(self):
        return torch.stack([s.log() + b for s, b in zip(self.s, self.b, strict=True)])


class Unimodal:
    """The same, unimodal_exps: SogCLR_DRO_Loss. learn=False, clip=None: LibAUC's GCLoss_v1, with enable_isogclr as
    learn, in the epochs after the first."""

    def __init__(self, n, gamma, tau, learn=False, rho=0.0, eta=0.0, beta=0.9, low=0.05, high=1.0, clip=3.0):
        self.gamma, self.learn, self.rho, self.eta, self.beta, self.low, self.high = (
            gamma,
            learn,
            rho,
            eta,
            beta,
            low,
            high,
        )
        self.clip, self.s, self.u, self.tau, self.epoch = clip, numbers(n), numbers(n), numbers(n, tau), 0

    def __call__(self, x, y, index):
        n, views = len(x), torch.cat([x, y])
        sim, others = views @ views.T, 1.0 - torch.eye(n, dtype=x.dtype).repeat(2, 2)
        positive = torch.cat([sim.diagonal(n), sim.diagonal(-n)])
        scaled = (sim / self.tau[index].repeat(2)[:, None]).detach()
        e = scaled.exp() * others
        g = e.sum(1) / (2 * n - 2)
        s = g if self.epoch == 0 else (1 - self.gamma) * self.s[index].repeat(2) + self.gamma * g
        self.s[index] = (s[:n] + s[n:]) / 2
        weights = e / s[:, None]
        loss = (weights * sim).sum(1) / (2 * n - 2) - positive
        if self.learn:
            grad = s.log() + self.rho - (weights * scaled).sum(1) / (2 * n - 2)
            grad = (grad[:n] + grad[n:]) / 2
            grad = grad if self.clip is None else grad.clamp(-self.clip, self.clip)
            self.u[index] = (1 - self.beta) * self.u[index] + self.beta * grad
            self.tau[index] = (self.tau[index] - self.eta * self.u[index]).clamp(self.low, self.high)
        return (loss[:n] + loss[n:]).mean()

    def log_mean(self):
        return self.s.log()[None]


class LibAUC:
    """GCLoss_v2: images and texts. learn: temperature_scheme "individual_learnable"."""

    def __init__(self, n, gamma, tau, learn=False, rho=0.0, eta=0.0, beta=0.9, low=0.005, high=0.05):
        self.gamma, self.learn, self.rho, self.eta, self.beta, self.low, self.high = (
            gamma,
            learn,
            rho,
            eta,
            beta,
            low,
            high,
        )
        self.s, self.b, self.u = ([numbers(n), numbers(n)] for _ in range(3))
        self.tau = [numbers(n, tau), numbers(n, tau)]

    def __call__(self, x, y, index):
        sim, others, total = x @ y.T, 1.0 - torch.eye(len(x), dtype=x.dtype), 0.0
        for side, scores in enumerate((sim, sim.T)):
            diffs, tau = scores - sim.diagonal()[:, None], self.tau[side][index]
            scaled = (diffs / tau[:, None]).detach()
            old, b = self.b[side][index], torch.maximum(self.b[side][index], scaled.amax(1))
            e = (scaled - b[:, None]).exp() * others
            gamma = 1.0 if self.s[side][index].sum() == 0 else self.gamma
            s = (1 - gamma) * self.s[side][index] * (old - b).exp() + gamma * e.sum(1) / (len(x) - 1)
            self.b[side][index], self.s[side][index] = b, s = b, s.clamp(min=1e-20)
            p = e / s[:, None]
            total = total + (p * diffs).sum(1).mean() / 2  # not divided by the number of negatives
            if self.learn:
                grad = s.log() + self.rho + b - (p * scaled).sum(1) / (len(x) - 1)
                self.u[side][index] = (1 - self.beta) * self.u[side][index] + self.beta * grad
                self.tau[side][index] = (tau - self.eta * self.u[side][index]).clamp(self.low, self.high)
        return total

    log_mean = Bimodal.log_mean


class FastCLIP:
    """Optimization-AI/fast_clip, FastCLIPLoss, on one process: anchors' part with detached candidates, then candidates'
    part with detached anchors. tau: a tensor; multiply: --multiply_tau."""

    def __init__(self, n, gamma, epochs, rho=0.0, multiply=False):
        self.gamma_min, self.epochs, self.rho, self.multiply, self.epoch = gamma, epochs, rho, multiply, 0
        self.u, self.b = [numbers(n), numbers(n)], [numbers(n), numbers(n)]

    @property
    def gamma(self):
        if self.epoch >= self.epochs:
            return self.gamma_min
        return 0.5 * (1 + math.cos(math.pi * self.epoch / self.epochs)) * (1 - self.gamma_min) + self.gamma_min

    def sums(self, anchors, candidates, positive, scale, bound):
        """sum_j e^(h_ij scale - bound) over j != i, / (B - 1); scale, bound: (B, 1) or a number."""
        others = 1.0 - torch.eye(len(anchors), dtype=anchors.dtype)
        h = (anchors @ candidates.T - positive[:, None]) * scale
        return ((h - bound).exp() * others).sum(1) / (len(anchors) - 1), h.detach(), others

    def averaged(self, side, index, g, fall=1.0):
        old = self.u[side][index]
        u = (1 - self.gamma) * old * fall + self.gamma * g
        self.u[side][index] = u = torch.where(old < 1e-35, g, u) if self.gamma < 1 else u
        return u

    def __call__(self, x, y, index, tau):
        scale, sides = 1.0 / tau, ((x, y), (y, x))
        here, there, us = 0.0, 0.0, []
        for side, (a, c) in enumerate(sides):
            g = self.sums(a, c.detach(), (x * y).sum(1), scale, 0.0)[0]
            u = self.averaged(side, index, g.detach())
            g2 = self.sums(a.detach(), c, (x * y).sum(1).detach(), scale, 0.0)[0]
            here, there, us = here + (g / (u + 1e-14)).mean(), there + (g2 / (u + 1e-14)).mean(), [*us, u]
        loss = (here + there) / 2
        if self.multiply:
            loss = loss / scale.detach() + self.rho / scale + (us[0].log() + us[1].log()).mean() / 2 / scale
        return loss

    def log_mean(self):
        return torch.stack([u.log() + b for u, b in zip(self.u, self.b, strict=True)])


class FastCLIPIndividual(FastCLIP):
    """FastCLIPLossIndividual."""

    def __init__(self, n, gamma, epochs, rho, tau, rate):
        super().__init__(n, gamma, epochs, rho)
        self.tau, self.rate = [numbers(n, tau), numbers(n, tau)], rate
        self.m, self.v = [numbers(n), numbers(n)], [numbers(n), numbers(n)]

    def __call__(self, x, y, index):
        total = 0.0
        for side, (a, c) in enumerate(((x, y), (y, x))):
            tau, old = self.tau[side][index], self.b[side][index]
            scale, positive = 1.0 / tau[:, None], (x * y).sum(1)
            _, h, others = self.sums(a.detach(), c.detach(), positive.detach(), scale, 0.0)
            b = torch.maximum(old, h.amax(1))
            g = self.sums(a, c.detach(), positive, scale, b[:, None])[0]
            g2 = self.sums(a.detach(), c, positive.detach(), scale, b[:, None])[0]
            u = self.averaged(side, index, g.detach(), (old - b).exp())
            self.b[side][index] = b
            total = total + (g / (u + 1e-14) + g2 / (u + 1e-14)).mean() / 2
            spread = ((h - b[:, None]).exp() * others * h).sum(1) / (u + 1e-14) / (len(x) - 1)
            grad = ((u + 1e-14).log() + b + self.rho - spread).clamp(-5, 5)
            first, second = (0.9, 0.999) if self.epoch else (0.0, 0.0)
            m = self.m[side][index] = first * self.m[side][index] + (1 - first) * grad
            v = self.v[side][index] = second * self.v[side][index] + (1 - second) * grad**2
            m, v = m / (1 - first ** (self.epoch + 1)), v / (1 - second ** (self.epoch + 1))
            self.tau[side][index] = (tau - self.rate * m / (v.sqrt() + 1e-8)).clamp(0.01, 1.0)
        return total

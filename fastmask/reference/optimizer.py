"""The rules of optimizers: what becomes of a weight and of the state kept for it."""

import numpy as np


def sgd(w, g, lr):
    """w = w - lr g."""
    return (w - g * lr,)


def momentum(w, g, m, lr, momentum):
    """m = momentum m - lr g;   w = w + m."""
    m = m * momentum - g * lr
    return w + m, m


def nesterov(w, g, m, lr, momentum):
    """m = momentum m - lr g;   w = w + momentum m - lr g."""
    m = m * momentum - g * lr
    return w + (m * momentum - g * lr), m


def rmsprop(w, g, v, lr, rho, one_less_rho, epsilon):
    """v = rho v + (1 - rho) g^2;   w = w - lr g / sqrt(v + epsilon)."""
    v = v * rho + g * g * one_less_rho
    return w - g * lr / np.sqrt(v + epsilon), v


def rmsprop_momentum(w, g, v, m, lr, rho, one_less_rho, epsilon, momentum):
    """m = momentum m + the step of `rmsprop`;   w = w - m."""
    v = v * rho + g * g * one_less_rho
    m = m * momentum + g * lr / np.sqrt(v + epsilon)
    return w - m, v, m


def rmsprop_centered(w, g, v, a, lr, rho, one_less_rho, epsilon):
    """a = rho a + (1 - rho) g;   w = w - lr g / sqrt(v - a^2 + epsilon)."""
    v = v * rho + g * g * one_less_rho
    a = a * rho + g * one_less_rho
    return w - g * lr / np.sqrt(v - a * a + epsilon), v, a


def rmsprop_centered_momentum(w, g, v, m, a, lr, rho, one_less_rho, epsilon, momentum):
    """m = momentum m + the step of `rmsprop_centered`;   w = w - m."""
    v = v * rho + g * g * one_less_rho
    a = a * rho + g * one_less_rho
    m = m * momentum + g * lr / np.sqrt(v - a * a + epsilon)
    return w - m, v, m, a


def adam(w, g, m, v, alpha, one_less_beta_1, one_less_beta_2, epsilon):
    """m = m + (1 - beta_1) (g - m);   v = v + (1 - beta_2) (g^2 - v);   w = w - alpha m / (sqrt(v) + epsilon)."""
    m = m + (g - m) * one_less_beta_1
    v = v + (g * g - v) * one_less_beta_2
    return w - m * alpha / (np.sqrt(v) + epsilon), m, v


def amsgrad(w, g, m, v, largest, alpha, one_less_beta_1, one_less_beta_2, epsilon):
    """As `adam`, but with the largest v so far."""
    m = m + (g - m) * one_less_beta_1
    v = v + (g * g - v) * one_less_beta_2
    largest = np.maximum(largest, v)
    return w - m * alpha / (np.sqrt(largest) + epsilon), m, v, largest

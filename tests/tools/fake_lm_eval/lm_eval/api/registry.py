# SPDX-License-Identifier: Apache-2.0
"""lm-eval's list of models."""
MODELS = {}


def register_model(name):
    return lambda kind: MODELS.setdefault(name, kind)

"""Runs clients with the package that is first on the path.

    PYTHONPATH=PACKAGE python run_clients.py WEIGHTS IMAGE OUTPUT CLIENT...

OUTPUT is a file of `torch.save`: what each client answers, by its name.
"""

import sys
from importlib import import_module
from typing import Any

import cv2
import numpy as np
import torch

import mobile_sam


def plain(value: Any) -> Any:
    """The same with tensors for arrays, and tuples for all that unpacks like one."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(map(plain, value)) if type(value) is list else tuple(map(plain, value))
    return value


def main(weights: str, path: str, target: str, *clients: str) -> None:
    torch.set_num_threads(1)
    image = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)
    answers: dict[str, Any] = {"package": mobile_sam.__file__}
    for client in clients:
        answers[client] = plain(import_module(f"clients.{client}").run(weights, image))
    torch.save(answers, target)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Trains net.py on 1,500 of scikit-learn's 1,797 digits (some seconds) and writes its weights: train.py OUT."""

import sys

import torch
from net import digits
from safetensors.torch import save_file
from sklearn.datasets import load_digits

TRAINED_ON = 1500
"""The digits after these are left for tests."""


def main() -> None:
    torch.manual_seed(0)
    data = load_digits()
    images = torch.tensor(data.images[:TRAINED_ON, None], dtype=torch.float32)
    labels = torch.tensor(data.target[:TRAINED_ON])
    net = digits()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(15):
        for batch in torch.randperm(TRAINED_ON).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimizer.step()
    save_file(net.state_dict(), sys.argv[1])


if __name__ == "__main__":
    main()

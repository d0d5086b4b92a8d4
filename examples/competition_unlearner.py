"""An unlearner as people wrote them for the NeurIPS 2023 competition: a plain training loop over one network.

PYTHONPATH=examples python -m dmm_exp unlearner=function unlearner.function=competition_unlearner.unlearn
"""

import torch
from torch.nn import functional


def unlearn(net, retain_loader, forget_loader, val_loader, epochs=2, lr=0.05, noise=0.02):
    """Disturb the weights a little, then fine-tune on what is retained."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += noise * torch.randn_like(parameter)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    net.train()
    for _ in range(epochs):
        for inputs, labels in retain_loader:
            optimizer.zero_grad()
            functional.cross_entropy(net(inputs), labels).backward()
            optimizer.step()
    return net.eval()

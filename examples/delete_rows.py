"""Delete ten memorized rows from a network trained on scikit-learn's digits, and compare with retrained networks.

python examples/delete_rows.py
"""

import torch
from sklearn.datasets import load_digits

from dmm_exp import prepare, train, unlearn

images, labels = (torch.tensor(values) for values in load_digits(return_X_y=True))
images = images.float() / 16
torch.manual_seed(0)
known, unseen = (images[:1400], labels[:1400]), (images[1400:], labels[1400:])
net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
other = train(net, unseen)  # it never saw the rows of `known`
losses = torch.nn.functional.cross_entropy(other(known[0]), known[1], reduction="none")
rows = losses.topk(10).indices  # the hardest rows: only a network that memorized them knows them
net = train(net, known)
pool = prepare(net, known, "sgd_one_cycle", "pool", size=600, validation=unseen)  # once
result = unlearn(net, known, forget=rows, pool=pool, verify=20)  # as often as need be
print(result)
result.save("unlearned")

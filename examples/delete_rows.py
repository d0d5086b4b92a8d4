"""Delete twenty rows from a network trained on scikit-learn's digits, and compare with networks retrained without them.

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
net = train(net, known, recipe="sgd_one_cycle")
pool = prepare(net, known, "sgd_one_cycle", "pool", size=200, validation=unseen)  # once
result = unlearn(net, known, forget=range(20), pool=pool, verify=20)  # as often as need be
print(result)
result.save("unlearned")

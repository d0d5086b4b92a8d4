"""The benchmark for GPUs takes the same steps on a CPU, at small size."""

import re

import pytest
import torch

resnet9 = pytest.importorskip("benchmarks.resnet9", reason="benchmarks/ is not part of the installed package")


@pytest.mark.slow
def test_the_benchmark_for_gpus_runs_at_small_size(monkeypatch):
    everything = resnet9.everything
    monkeypatch.setattr(resnet9, "everything", lambda *a: [one for one in everything(*a) if one.step != "compiled"])
    found = resnet9.measure(resnet9.SMALL)
    assert "| step=eager, members=together, memory=rows |" in found
    assert "2 processes of it on the device make" in found
    (members,) = re.findall(r"Fastest: .*, (\d+) members;", found)  # as timed here and now
    assert f"| {members} ResNet-9, 1 epochs, batch 16: a Trainer with a worker DataLoader each |" in found


def test_the_operations_of_an_image_are_those_of_the_paper():
    assert resnet9.operations_of_an_image(64) == pytest.approx(1.74e9, rel=0.01)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured():
    assert resnet9.main().startswith("Not measured")

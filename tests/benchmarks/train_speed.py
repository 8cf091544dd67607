"""Images per second of a training step for each model, and the share of it that augmentation costs.

    make bench-train ARGS="--models convnet wrn16_1 --size 32"

A measurement, no test: figures depend on the machine and on what else runs there.
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F

from components.common.learning.augment import strong, weak
from components.common.learning.devices import pick_device
from components.common.learning.seeding import stream
from components.common.models import MODELS, ModelSpec, build_model


def median_seconds(work, repeats: int) -> float:
    """Median wall-clock time of one call, after two that warm up."""
    times = []
    for turn in range(repeats + 2):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if turn >= 2:
            times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def measure(name: str, *, channels: int, size: int, batch: int, repeats: int) -> str:
    """One line of the table."""
    device = pick_device()
    spec = ModelSpec(num_classes=10, channels=channels, image_size=size, mean=(0.5,) * channels, std=(0.25,) * channels)
    torch.manual_seed(0)
    model = build_model(name, spec).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    images = torch.randint(0, 256, (batch, channels, size, size), dtype=torch.uint8, device=device)
    labels = torch.randint(0, 10, (batch,), device=device)
    generator = stream(0, "bench", device=device)

    def step() -> None:
        loss = F.cross_entropy(model(weak(images, generator, mirror=True)), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    whole = median_seconds(step, repeats)
    plain = median_seconds(lambda: weak(images, generator, mirror=True), repeats)
    hard = median_seconds(lambda: strong(images, generator, mirror=True), repeats)
    parameters = sum(p.numel() for p in model.parameters())
    return (
        f"| {name} | {parameters / 1e6:.2f} M | {batch / whole:,.0f} | "
        f"{100 * plain / whole:.1f} % | {100 * hard / whole:.1f} % |"
    )


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=sorted(MODELS), choices=sorted(MODELS))
    parser.add_argument("--channels", type=int, default=3, choices=(1, 3))
    parser.add_argument("--size", type=int, default=32, help="side in pixels")
    parser.add_argument("--batch", type=int, default=128, help="images per step")
    parser.add_argument("--repeats", type=int, default=10, help="timed steps per model")
    given = parser.parse_args()
    device = pick_device()
    print(
        f"{given.channels} x {given.size} x {given.size} pixels, batches of {given.batch}, {device}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    print("| model | parameters | images/s | weak augmentation | strong augmentation |")
    print("| --- | --- | --- | --- | --- |")
    for name in given.models:
        line = measure(name, channels=given.channels, size=given.size, batch=given.batch, repeats=given.repeats)
        print(line, flush=True)


if __name__ == "__main__":
    main()

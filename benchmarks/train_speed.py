"""Images per second of a training step for each model, and the share of it that augmentation costs.

    make bench-train                                              # all models; writes the table of docs/models.md
    make bench-train ARGS="--models convnet wrn16_1 --size 32"    # some, at that size; only shows them

A measurement, no test: figures depend on the machine and on what else runs there.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from components.common.learning.augment import strong, weak
from components.common.learning.devices import pick_device
from components.common.learning.scoring import predict
from components.common.learning.seeding import stream
from components.common.models import MODELS, ModelSpec, build_model

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
START, END = "<!-- speed -->", "<!-- end of speed -->"
HEAD = "| model | parameters | pixels | training, images/s | inference, images/s | weak | strong |"
# What the network is made for; everything else is for images of about 32 pixels.
LARGE = dict.fromkeys(("resnet18", "resnet50", "vit_b_16"), 224)


def median_seconds(work, repeats: int) -> float:
    """Median time of one call, after two that warm up: CPU time with one thread, else by the clock.

    CPU time is what the call would take on an idle core, and hardly depends on what else runs.
    """
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    now = time.process_time if alone else time.perf_counter
    times = []
    for turn in range(repeats + 2):
        start = now()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if turn >= 2:
            times.append(now() - start)
    return sorted(times)[len(times) // 2]


def measure(name: str, *, channels: int, size: int, batch: int, repeats: int) -> str:
    """One line of the table; large images go in smaller batches, as they would."""
    device = pick_device()
    size = size or LARGE.get(name, 32)
    batch = batch if size <= 64 else max(2, batch // 16)
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
    scored = median_seconds(lambda: predict(model, images), repeats)
    plain = median_seconds(lambda: weak(images, generator, mirror=True), repeats)
    hard = median_seconds(lambda: strong(images, generator, mirror=True), repeats)
    parameters = sum(p.numel() for p in model.parameters())
    return (
        f"| {name} | {parameters / 1e6:.2f} M | {channels} x {size} x {size} | {_rate(batch / whole)} | "
        f"{_rate(batch / scored)} | {100 * plain / whole:.1f} % | {100 * hard / whole:.1f} % |"
    )


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def write(lines: list[str]) -> None:
    """Puts the table into its page."""
    head, mark, rest = PAGE.read_text().partition(START)
    PAGE.write_text("\n".join([head + mark, *lines, END]) + rest.partition(END)[2])


def main() -> None:
    """Shows the table as Markdown, and writes it if it has all models at their own sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=sorted(MODELS), choices=sorted(MODELS))
    parser.add_argument("--channels", type=int, default=3, choices=(1, 3))
    parser.add_argument("--size", type=int, default=0, help="side in pixels; 0 for what each is made for")
    parser.add_argument("--batch", type=int, default=128, help="images per step")
    parser.add_argument("--repeats", type=int, default=10, help="timed steps per model")
    given = parser.parse_args()
    device = pick_device()
    lines = [
        f"Batches of {given.batch}, of large images {max(2, given.batch // 16)}; {device}, "
        f"{torch.get_num_threads()} thread(s), torch {torch.__version__.partition('+')[0]}.",
        "",
        HEAD,
        "|" + " --- |" * HEAD.count(" | ") + " --- |",
    ]
    print("\n".join(lines))
    for name in given.models:
        lines.append(measure(name, channels=given.channels, size=given.size, batch=given.batch, repeats=given.repeats))
        print(lines[-1], flush=True)
    if given.models == sorted(MODELS) and not given.size:
        write(lines)


if __name__ == "__main__":
    main()

"""Every registered attack keeps the promises of ``attacks.base``, on real digits and, where given, on CIFAR-10."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from components.common.attacks.base import (
    ATTACKS,
    Attack,
    AttackConfig,
    Injection,
    fixed_noise,
    make_attack,
    poison_indices,
)
from components.common.attacks.low_frequency import LowFrequency, dct_matrix
from components.common.contracts.errors import ConfigError
from components.common.datasets.base import load

TARGET = 3
QUICK = {"label_consistent": {"surrogate_steps": 8, "pgd_steps": 3}}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    # The tensors are small: on a shared runner, threads that wait for each other cost many times what they give.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Images:
    images: Tensor
    labels: Tensor


def _load(name: str) -> Images:
    data = load(name, train_limit=700, holdout_limit=10, image_size=0, seed=1)
    rows = slice(0, data.n_train)
    return Images(torch.from_numpy(data.images[rows]), torch.from_numpy(data.labels[rows]).long())


@pytest.fixture(scope="module", params=["mnist5k", "cifar10"])
def real(request: pytest.FixtureRequest) -> Images:
    if request.param == "mnist5k":
        return _load("mnist5k")
    folder = os.environ.get("UNTAINT_TEST_CIFAR10")
    if not folder:
        pytest.skip("UNTAINT_TEST_CIFAR10 names no folder of CIFAR-10 Parquet files")
    return _load(f"parquet:{folder}")


def build(name: str, data: Images, *, rate: float = 0.05, seed: int = 0, **options: float) -> Attack:
    config = AttackConfig(
        name=name, poison_rate=rate, target_label=TARGET, seed=seed, options={**QUICK.get(name, {}), **options}
    )
    return make_attack(config, num_classes=10, image_shape=tuple(data.images.shape[1:]))


@pytest.fixture(scope="module", params=sorted(ATTACKS))
def case(request: pytest.FixtureRequest, real: Images) -> tuple[Attack, Images, Injection]:
    attack = build(request.param, real)
    return attack, real, attack.inject(real.images, real.labels)


def test_all_planned_attacks_are_registered() -> None:
    # The benchmark's blocks name these; a missing one would silently shrink the benchmark.
    assert list(ATTACKS) == sorted(
        "adaptive_blend adaptive_patch all_to_all badnets blended bpp ftrojan label_consistent low_frequency sig tact "
        "trojan_patch two_triggers wanet".split()
    )


def test_exactly_the_asked_share_is_poisoned_and_cover_is_disjoint(case: tuple[Attack, Images, Injection]) -> None:
    attack, data, injection = case
    assert int(injection.is_poisoned.sum()) == round(0.05 * len(data.labels))
    assert int(injection.is_cover.sum()) == round(attack.cover_ratio * 0.05 * len(data.labels))
    assert not (injection.is_poisoned & injection.is_cover).any()


def test_labels_change_as_the_attack_says(case: tuple[Attack, Images, Injection]) -> None:
    attack, data, injection = case
    poisoned = injection.is_poisoned
    # Only poison may change a label: cover and clean samples keep the truth.
    assert torch.equal(injection.labels[~poisoned], data.labels[~poisoned])
    before, after = data.labels[poisoned], injection.labels[poisoned]
    if attack.clean_label:
        assert (before == TARGET).all()
        assert torch.equal(before, after)
    elif attack.all_to_all:
        assert torch.equal(after, (before + 1) % 10)
    else:
        targets = {int(attack.test_target(before[:1], v)) for v in range(len(attack.variants))}
        assert set(after.tolist()) == targets
        assert not set(before.tolist()) & targets


def test_untouched_samples_are_bit_identical_and_poisoned_ones_are_not(case: tuple[Attack, Images, Injection]) -> None:
    _, data, injection = case
    differs = (injection.images != data.images).flatten(1).any(dim=1)
    assert not differs[~injection.is_changed].any()
    # A faint effect may vanish by rounding on a single image, not on many.
    assert differs[injection.is_poisoned].float().mean() > 0.95


def test_the_injected_set_has_the_form_of_the_given_one(case: tuple[Attack, Images, Injection]) -> None:
    _, data, injection = case
    assert injection.images.dtype == torch.uint8
    assert injection.images.shape == data.images.shape
    assert injection.labels.dtype == torch.int64
    assert injection.is_poisoned.dtype == injection.is_cover.dtype == torch.bool


def test_same_seed_same_bits_other_seed_other_samples(real: Images) -> None:
    for name in ATTACKS:
        before = real.images.clone(), real.labels.clone()
        random_state = torch.get_rng_state()
        first, again = (build(name, real, seed=5).inject(real.images, real.labels) for _ in range(2))
        other = build(name, real, seed=6).inject(real.images, real.labels)
        assert torch.equal(first.images, again.images), name
        assert torch.equal(first.is_poisoned, again.is_poisoned), name
        assert not torch.equal(first.is_poisoned, other.is_poisoned), name
        # Neither the caller's tensors nor the global random state may move.
        assert torch.equal(real.images, before[0]), name
        assert torch.equal(real.labels, before[1]), name
        assert torch.equal(torch.get_rng_state(), random_state), name


def test_trigger_is_one_function_of_the_image_alone(case: tuple[Attack, Images, Injection]) -> None:
    attack, data, _ = case
    images, before = data.images[:40], data.images[:40].clone()
    # The evaluation builds the attack anew, with another seed for all it knows.
    twin = build(attack.config.name, data, seed=99)
    for variant in range(len(attack.variants)):
        triggered = attack.trigger(images, variant)
        assert triggered.dtype == torch.uint8
        assert triggered.shape == images.shape
        assert torch.equal(triggered, twin.trigger(images, variant))
        assert torch.equal(triggered[7:9], attack.trigger(images[7:9], variant))
        assert (triggered != images).flatten(1).any(dim=1).all()
        assert attack.trigger(images[:0], variant).shape == images[:0].shape
    assert torch.equal(images, before)


def test_pixels_outside_the_footprint_stay(case: tuple[Attack, Images, Injection]) -> None:
    attack, data, _ = case
    for variant in range(len(attack.variants)):
        mask = attack.footprint(variant)
        if mask is None:
            continue
        changed = (attack.trigger(data.images, variant) != data.images).any(dim=1).any(dim=0)
        assert not changed[~mask].any()
        assert 0 < int(mask.sum()) < mask.numel() / 4


def test_test_target_and_asr_population(case: tuple[Attack, Images, Injection]) -> None:
    attack, data, _ = case
    for variant in range(len(attack.variants)):
        target = attack.test_target(data.labels, variant)
        counts = attack.counts_for_asr(data.labels, variant)
        assert target.dtype == torch.int64
        victims = target != data.labels if attack.config.name != "tact" else data.labels == TARGET + 1
        assert torch.equal(counts, victims)
        assert bool(counts.all()) == attack.all_to_all


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 48, 40), (3, 64, 64)])
def test_every_attack_works_at_other_sizes(shape: tuple[int, int, int]) -> None:
    images = fixed_noise((60, *shape), 0).to(torch.uint8)
    data = Images(images, torch.arange(60) % 10)
    for name in ATTACKS:
        attack = build(name, data)
        assert int(attack.inject(images, data.labels).is_poisoned.sum()) == 3, name
        assert attack.trigger(images[:2]).shape == (2, *shape), name


@given(total=st.integers(1, 300), rate=st.floats(0.001, 1), share=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_poison_indices_draws_exactly_and_only_candidates(total: int, rate: float, share: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    candidates = torch.rand(total, generator=generator) < share
    count = round(rate * total)
    if count == 0 or count > int(candidates.sum()):
        with pytest.raises(ConfigError, match=r"poison_rate: expected at (most|least)"):
            poison_indices(total, rate, candidates, generator)
        return
    rows = poison_indices(total, rate, candidates, generator)
    assert len(rows) == count
    assert candidates[rows].all()
    assert (rows.diff() > 0).all()


def test_too_high_a_clean_label_rate_names_the_largest_possible(real: Images) -> None:
    largest = int((real.labels == TARGET).sum()) / len(real.labels)
    with pytest.raises(ConfigError, match=f"at most {largest:.6f}"):
        build("sig", real, rate=0.5).inject(real.images, real.labels)


@pytest.mark.parametrize("size", [2, 7, 28, 32, 224])
def test_dct_matrix_is_orthonormal(size: int) -> None:
    matrix = dct_matrix(size)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size, dtype=torch.float64), atol=1e-10, rtol=0)


def test_low_frequency_pattern_is_confined_to_its_band() -> None:
    grey = torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)
    attack = build("low_frequency", Images(grey, torch.zeros(1).long()))
    assert isinstance(attack, LowFrequency)
    change = attack.trigger(grey)[0].double() - 128
    spectrum = dct_matrix(32) @ change @ dct_matrix(32).T
    energy = spectrum.square()
    # What is left outside is the rounding to whole pixel values.
    assert energy[:, :4, :4].sum() / energy.sum() > 0.99
    assert change.abs().max() == 20


def test_sig_adds_the_sinusoid_of_its_paper() -> None:
    grey = torch.full((1, 1, 32, 32), 128, dtype=torch.uint8)
    attack = build("sig", Images(grey, torch.zeros(1).long()), delta_test=20)
    row = attack.trigger(grey)[0, 0, 5].double() - 128
    expected = 20 * torch.sin(2 * torch.pi * torch.arange(32).double() * 6 / 32)
    assert (row - expected).abs().max() <= 0.5


def test_bpp_leaves_few_levels_and_keeps_the_mean(real: Images) -> None:
    triggered = build("bpp", real).trigger(real.images[:50])
    assert len(triggered.unique()) <= 8
    # Error diffusion is what keeps brightness: plain rounding would miss this on smooth areas.
    ramp = torch.arange(32).mul(3).add(70).to(torch.uint8).expand(1, 1, 32, 32)
    attack = build("bpp", Images(ramp, torch.zeros(1).long()))
    assert abs(attack.trigger(ramp).float().mean() - ramp.float().mean()) < 4


def test_bpp_agrees_with_a_scalar_floyd_steinberg(real: Images) -> None:
    image = real.images[3:4]
    work, step = image[0].double(), 255 / 7
    channels, height, width = work.shape
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                old = float(work[c, y, x])
                new = min(7, max(0, round(old / step))) * step
                work[c, y, x] = new
                for dy, dx, weight in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
                    if y + dy < height and 0 <= x + dx < width:
                        work[c, y + dy, x + dx] += (old - new) * weight / 16
    ours = build("bpp", real).trigger(image)[0].double()
    # float32 against float64: a pixel on the edge between two levels may fall to either side and carry on.
    assert (ours - work).abs().le(1).float().mean() > 0.97


def test_wanet_moves_pixels_by_a_fraction_and_keeps_flat_areas() -> None:
    flat = torch.full((1, 3, 32, 32), 90, dtype=torch.uint8)
    attack = build("wanet", Images(flat, torch.zeros(1).long()))
    assert torch.equal(attack.trigger(flat), flat)
    ramp = torch.arange(32).mul(8).to(torch.uint8).expand(1, 3, 32, 32)
    # 8 grey levels per pixel: the largest offset is below two pixels.
    assert (attack.trigger(ramp).int() - ramp.int()).abs().max() < 16


def test_adaptive_blend_shows_half_of_the_pieces_in_training() -> None:
    images = torch.full((100, 1, 32, 32), 128, dtype=torch.uint8)
    data = Images(images, torch.arange(100) % 10)
    attack = build("adaptive_blend", data)
    injection = attack.inject(images, data.labels)
    changed = (injection.images != images)[injection.is_changed].float()
    pieces = changed.unfold(2, 8, 8).unfold(3, 8, 8).amax(dim=(1, 4, 5)).flatten(1)
    assert (pieces.sum(dim=1) == 8).all()
    assert not torch.equal(pieces[0], pieces[1])


def test_tact_poisons_its_source_class_and_covers_the_others(real: Images) -> None:
    attack = build("tact", real, rate=0.03, source_label=7)
    injection = attack.inject(real.images, real.labels)
    assert set(real.labels[injection.is_poisoned].tolist()) == {7}
    assert set(injection.labels[injection.is_poisoned].tolist()) == {TARGET}
    # A patch on the source class beside its own label would be cover against itself, one on the target class poison.
    assert not set(real.labels[injection.is_cover].tolist()) & {7, TARGET}
    with pytest.raises(ConfigError, match=r"source_label: expected one of at least 3 classes"):
        build("tact", real, source_label=TARGET)


def test_ftrojan_changes_two_frequencies_of_the_chroma_and_no_brightness() -> None:
    grey = torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)
    attack = build("ftrojan", Images(grey, torch.zeros(1).long()), magnitude=300)
    change = attack.trigger(grey)[0].double() - 128
    spectrum = dct_matrix(32) @ change @ dct_matrix(32).T
    energy = spectrum.square().sum(dim=0)
    assert (energy[15, 15] + energy[31, 31]) / energy.sum() > 0.99
    brightness = (torch.tensor([0.299, 0.587, 0.114])[:, None, None] * change).sum(dim=0)
    assert brightness.abs().max() < 0.03 * change.abs().max()


def test_two_triggers_share_the_poison_evenly(real: Images) -> None:
    attack = build("two_triggers", real)
    injection = attack.inject(real.images, real.labels)
    given = injection.labels[injection.is_poisoned]
    halves = [(given == label).sum().item() for label in (TARGET, TARGET + 1)]
    assert sum(halves) == len(given)
    assert abs(halves[0] - halves[1]) <= 1


def test_label_consistent_perturbation_stays_within_epsilon_and_raises_the_loss(real: Images) -> None:
    attack = build("label_consistent", real, surrogate_steps=60, pgd_steps=10, epsilon=16)
    injection = attack.inject(real.images, real.labels)
    inside = ~attack.footprint()
    rows = injection.is_poisoned
    change = (injection.images[rows].int() - real.images[rows].int())[..., inside]
    assert change.abs().max() <= 16
    model = attack._surrogate
    with torch.no_grad():
        clean, hard = (
            torch.nn.functional.cross_entropy(model(x[rows].float() / 255), real.labels[rows])
            for x in (real.images, attack.trigger(injection.images))
        )
    assert hard > clean


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("nonsense", {}, "expected one of adaptive_blend"),
        ("badnets", {"options": {"patchsize": 3}}, "one of: patch_size"),
        ("badnets", {"options": {"patch_size": 40}}, r"a number in \[1, 16\]"),
        ("badnets", {"cover_rate": 0.1}, "which has no cover"),
        ("badnets", {"target_label": 10}, r"a class in \[0, 9\]"),
        ("badnets", {"target_label": -1}, r"a class in \[0, 9\]"),
    ],
)
def test_a_wrong_setting_is_named(name: str, changes: dict[str, object], message: str) -> None:
    settings = {"name": name, "poison_rate": 0.1, "target_label": 0, **changes}
    with pytest.raises(ConfigError, match=message):
        make_attack(AttackConfig(**settings), num_classes=10, image_shape=(1, 28, 28))


@pytest.mark.parametrize(
    "changes", [{"poison_rate": 5.0}, {"poison_rate": 0.0}, {"poison_rate": -0.1}, {"cover_rate": 1.5}]
)
def test_a_rate_that_no_data_can_have_poisons_nothing(real: Images, changes: dict[str, float]) -> None:
    settings = {"name": "wanet", "poison_rate": 0.1, "target_label": TARGET, **changes}
    attack = make_attack(AttackConfig(**settings), num_classes=10, image_shape=tuple(real.images.shape[1:]))
    with pytest.raises(ConfigError, match=f"{next(iter(changes))}: expected at (most|least)"):
        attack.inject(real.images, real.labels)


def test_cover_rate_of_zero_means_no_cover(real: Images) -> None:
    config = AttackConfig(name="wanet", poison_rate=0.05, target_label=TARGET, cover_rate=0.0)
    attack = make_attack(config, num_classes=10, image_shape=tuple(real.images.shape[1:]))
    assert not attack.inject(real.images, real.labels).is_cover.any()

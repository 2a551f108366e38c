"""The published settings, and combinations that make no sense."""

from __future__ import annotations

import pytest

from echoic.finetune.presets import (
    M2D_SEEDS,
    PRESETS,
    TASK_PRESETS,
    FinetuneSpec,
    find_preset,
    preset_of_task,
    preset_seeds,
)
from echoic.types import ConfigError

# task: input, optimizer, lr, batch, epochs, warm-up, mixup, SpecAugment bins and frames, resize
# crop, mask (../shared/reference/m2d_clap.md, section 5.2)
TABLE = {
    "as2m": (1001, "lars", 2.0, 64, 70, 15, 0.5, 30, 192, False, 0.5),
    "as20k": (1001, "sgd", 0.5, 64, 200, 5, 0.3, 30, 192, True, 0.5),
    "esc50": (501, "sgd", 0.5, 128, 200, 5, None, 15, 48, True, 0.5),
    "spcv2": (None, "sgd", 0.5, 128, 200, 5, 0.3, 30, 48, True, 0.5),
    "vc1": (821, "adamw", 5e-4, 64, 50, 5, None, 30, 48, False, None),
}


@pytest.mark.parametrize("task", TABLE)
def test_m2d(task):
    spec = find_preset(f"m2d_{task}")
    stripes = spec.frame_augment
    frames = spec.m2d.frames
    assert TABLE[task] == (
        frames, spec.optimizer.kind, spec.lr, spec.batch_clips, spec.epochs, spec.warmup_epochs,
        spec.mixup and spec.mixup.alpha, stripes.freq_bins,
        round(stripes.time_share * (frames or 101)), spec.crop is not None,
        spec.m2d.mask and spec.m2d.mask.ratio,
    )  # fmt: skip
    assert (spec.head, spec.seed, stripes.stripes) == ("normed_linear", 43, 1)
    assert spec.lr * spec.final_lr_share == pytest.approx(1e-7)
    assert spec.optimizer.momentum == 0.9
    assert spec.m2d.freeze_patches == (task == "esc50")
    assert (spec.mixup and spec.mixup.of) == {
        "as2m": "frames", "as20k": "waves", "spcv2": "waves"
    }.get(task)  # fmt: skip
    assert spec.per_clip == ("many" if task.startswith("as") else "auto")


def test_what_only_one_task_of_m2d_has():
    of_m2d = {name: spec for name, spec in PRESETS.items() if name.startswith("m2d_")}
    drawn = [name for name, spec in of_m2d.items() if spec.draws]
    assert drawn == ["m2d_as2m"]
    draws = PRESETS["m2d_as2m"].draws
    assert (draws.clips, draws.power) == (200_000, pytest.approx(2 / 3))
    vc1 = PRESETS["m2d_vc1"]
    assert (vc1.weight_decay, vc1.optimizer.betas, vc1.optimizer.amsgrad) == (
        1e-4, (0.9, 0.95), True
    )  # fmt: skip
    decays = {name: s.weight_decay for name, s in of_m2d.items() if s.weight_decay}
    assert decays == {"m2d_vc1": 1e-4}
    assert M2D_SEEDS == (43, 44, 45)


def test_resize_crop_is_the_published_one():
    crop = PRESETS["m2d_esc50"].crop
    assert (crop.canvas, crop.least, crop.most) == (1.5, 0.6, 1.5)


def test_laions():
    tuned, probe = find_preset("laion_finetune"), find_preset("laion_linear")
    assert (tuned.lr, tuned.weight_decay, tuned.epochs) == (1e-4, 0.0, 100)
    assert (tuned.warmup_epochs, tuned.final_lr_share) == (0, 0.0)
    assert tuned.batch_clips * tuned.accumulate == probe.batch_clips == 160 * 24
    assert tuned.batch_clips <= 32
    assert (tuned.optimizer.kind, tuned.m2d, tuned.mixup, tuned.crop) == ("adamw", None, None, None)
    assert (probe.freeze, probe.head, probe.final_lr_share) == (True, "linear", 1.0)
    assert find_preset("laion_mlp").head == "mlp"
    with pytest.raises(ConfigError, match="did you mean laion_mlp"):
        find_preset("laion_mpl")


def test_a_tasks_preset_is_that_of_the_models_paper():
    asked = {
        ("esc50", "m2d"): "m2d_esc50", ("as", "m2d"): "m2d_as2m", ("us8k", "m2d"): "finetune",
        ("fsd50k", "htsat"): "laion_finetune", ("spcv2", "htsat"): "finetune",
        ("vggsound", "pann"): "laion_finetune", ("spcv2", "slap"): "slap_spcv2",
        ("as20k", "slap"): "finetune", ("esc50", "another"): "finetune",
    }  # fmt: skip
    assert {key: preset_of_task(*key) for key in asked} == asked
    assert all(name in PRESETS for each in TASK_PRESETS.values() for name in each.values())


def test_seeds_are_the_papers():
    assert preset_seeds("m2d_vc1") == M2D_SEEDS
    assert [preset_seeds(name) for name in ("laion_finetune", "m2d_nano")] == [(3407,), (0,)]


@pytest.mark.parametrize(
    ("preset", "change", "named"),
    [
        ("m2d_esc50", "freeze=true", "crop, m2d must be null"),
        ("m2d_esc50", "epochs=2", "warmup_epochs 5 is more than 2"),
        ("m2d_esc50", "batch_clips=1", "batches of 1 clip are too small for normed_linear"),
        ("m2d_esc50", "m2d.mask.ratio=1.0", "ratio"),
        ("m2d_esc50", "optimizer.kind=adagrad", "kind"),
        ("linear", "warmup_steps=9", "warmup_epochs"),
    ],
)
def test_what_makes_no_sense_is_one_line(preset, change, named):
    with pytest.raises(ConfigError) as caught:
        find_preset(preset).override([change])
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_parts_can_be_changed_one_by_one():
    spec = find_preset("m2d_as20k").override(["m2d=null", "mixup.alpha=0.1", "optimizer.kind=lars"])
    assert (spec.m2d, spec.mixup.alpha, spec.optimizer.kind) == (None, 0.1, "lars")
    assert FinetuneSpec.parse(spec.model_dump(mode="json"), where="again") == spec

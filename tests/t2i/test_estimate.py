"""Estimates, against the project's counted table and against what happens on a card that is too small."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from palate.errors import UserError
from palate.t2i.counts import _build_policy, count_reference, count_sizes, count_step, optimizer_bytes
from palate.t2i.estimate import choose_checkpointing, estimate, flops_per_pair, workload_of
from palate.t2i.memory import GIB, lasting_bytes, savings_of, training_bytes
from palate.t2i.method import Rival
from palate.t2i.methods import InPO, MaPO, RankDPO, SePPO
from palate.t2i.models.architectures import ARCHITECTURES, Part
from palate.t2i.models.meta import build_vae, family_of, make_inputs
from palate.t2i.workload import Workload
from palate.training.cards import CARDS, card_of, device_capacity, find_card
from palate.training.counting import count_forward, count_forward_backward

SD1 = Workload(ARCHITECTURES["sd1.5"], 512)
SDXL = Workload(ARCHITECTURES["sdxl"], 1024)
SD3 = Workload(replace(ARCHITECTURES["sd3-medium"], text_tokens=154), 1024)
SMALL_UNET = {
    **ARCHITECTURES["sd1.5"].network.config,
    "block_out_channels": (64, 128),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
}
SMALL = Workload(replace(ARCHITECTURES["sd1.5"], name="small", network=Part("UNet2DConditionModel", SMALL_UNET)), 512)


def saved_in_bfloat16(work):
    """GiB that autograd keeps of one image where all is bfloat16, the adapter too: the table's setting."""
    network = torch.nn.Module.to(_build_policy(work).network, dtype=torch.bfloat16)
    inputs = make_inputs(work.architecture, 1, work.resolution, torch.bfloat16)
    predict = family_of(work.architecture).predict
    return count_forward_backward(lambda: predict(network, *inputs).float().square().mean()).saved_bytes / GIB


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def sd1():
    return estimate(SD1, batch_size=16, card=find_card("h200"))


def test_sd1_has_the_counted_flops_of_a_pair(sd1):
    assert sd1.plain.tflops_per_pair == pytest.approx(5.06, rel=0.002)
    assert sd1.checkpointed.tflops_per_pair == pytest.approx(6.24, rel=0.002)
    assert flops_per_pair(replace(SD1, reference=False)) / 1e12 == pytest.approx(3.45, rel=0.002)


def test_preparation_is_the_autoencoder_and_one_prompt(sd1):
    assert sd1.preparation_tflops_per_pair == pytest.approx(2.23 + 0.013, rel=0.005)
    # CLIP-L in bfloat16 is 0.23 GiB; eight 512-pixel pictures in float32 and the autoencoder's 0.31 GiB
    assert 0.2 < sd1.text_encoding_peak_gib < 0.4
    assert 3 < sd1.vae_encoding_peak_gib < 8


def test_memory_is_the_sum_of_its_parts(sd1):
    assert sd1.weights_gib == pytest.approx((859.52e6 * 2 + 3.189e6 * 4) / GIB, rel=1e-4)
    assert sd1.gradients_gib == pytest.approx(3.189e6 * 4 / GIB, rel=1e-3)
    assert sd1.optimizer_gib == pytest.approx(3.189e6 * 8 / GIB, rel=1e-3)
    assert sd1.reference_gib == sd1.ema_gib == 0
    parts = sd1.weights_gib + sd1.gradients_gib + sd1.optimizer_gib
    assert sd1.plain.peak_gib == pytest.approx(parts + sd1.plain.activations_gib)
    assert sd1.checkpointed.activations_gib < 0.3 * sd1.plain.activations_gib


def test_autograd_keeps_what_the_table_says_and_more_under_autocast():
    in_bfloat16 = saved_in_bfloat16(SD1)
    assert in_bfloat16 == pytest.approx(0.75, rel=0.02)
    # float32 norms, and a bfloat16 copy of each adapted layer's input
    assert 1.2 < count_step(SD1, checkpointing=False).saved_bytes / GIB / 2 / in_bfloat16 < 1.6


def test_time_follows_from_flops_and_the_card(sd1):
    timing = sd1.plain.timing
    assert timing.step_seconds_floor == pytest.approx(16 * 5.06e12 / (0.8 * 989e12), rel=0.002)
    assert timing.pairs_per_second_floor == pytest.approx(16 / timing.step_seconds_floor)
    fast, slow = timing.step_seconds_expected
    assert timing.step_seconds_floor < fast < slow
    assert timing.pairs_per_second_expected == pytest.approx((16 / fast, 16 / slow))
    two = estimate(SD1, batch_size=16, card=find_card("h200"), processes=2).plain.timing
    assert two.step_seconds_floor == pytest.approx(timing.step_seconds_floor / 2)
    assert estimate(replace(SD1, precision="bf16")).plain.timing is None


def test_checkpointing_is_chosen_only_where_memory_asks_for_it():
    work = replace(SMALL, images=4)
    plain, saving = training_bytes(work, checkpointing=False), training_bytes(work, checkpointing=True)
    assert choose_checkpointing(work, int(plain / 0.89)) is False
    assert choose_checkpointing(work, int(plain / 0.91)) is True
    assert choose_checkpointing(work, int(saving / 0.89)) is True
    with pytest.raises(UserError) as refused:
        choose_checkpointing(work, int(saving / 0.91))
    message = str(refused.value)
    assert f"small at 512 pixels needs {saving / GIB:.1f} GiB even with gradient checkpointing" in message
    assert "training.micro_batch=1 saves" in message
    assert "data.resolution=256 saves" in message
    assert "\n" not in message


def test_full_tuning_holds_a_copy_gradients_and_states_and_says_what_each_saves():
    full = replace(SMALL, tuning="full", dtype="float32", resolution=64)
    weights = count_sizes(full).parameters
    lasting = lasting_bytes(full)
    assert lasting["weights"] == lasting["reference"] == lasting["gradients"] == 4 * weights
    assert lasting["optimizer"] == 8 * weights
    assert lasting_bytes(replace(full, ema=True))["ema"] == 4 * weights
    saved = savings_of(full)
    assert saved["model.reference.dtype=bfloat16"] == 2 * weights
    assert 6 * weights < saved["training.optimizer.name=adafactor"] < 8 * weights
    assert saved["model.tuning=lora"] > 16 * weights
    assert "training.precision=bf16" not in saved


def test_a_reference_on_the_cpu_still_visits_the_device():
    full = replace(SMALL, tuning="full", dtype="float32", resolution=64)
    away = replace(full, reference_device="cpu")
    visit = 4 * count_sizes(full).parameters + count_reference(full).peak_bytes
    step = count_step(full, checkpointing=True).peak_bytes
    assert step < visit
    assert training_bytes(full, True) - training_bytes(away, True) == 4 * count_sizes(full).parameters + step - visit
    assert lasting_bytes(replace(full, reference=False))["reference"] == 0


@pytest.fixture(scope="module")
def drawing():
    """SMALL with a rival, 9 groups together; and the passes through its autoencoder, counted here."""
    work = replace(SMALL, images=18, calls=10, rival=Rival(steps=10, guidance=5.0, every=30))
    vae = build_vae(work.architecture)
    pixels, latents = (torch.empty(shape, device="meta") for shape in ((8, 3, 512, 512), (8, 4, 64, 64)))  # 8 at once
    encoding, decoding = count_forward(lambda: vae.encode(pixels)), count_forward(lambda: vae.decode(latents))
    return work, sum(weight.nbytes for weight in vae.parameters()), encoding, decoding


def test_a_rivals_way_through_the_autoencoder_is_counted_in_its_chunks(drawing):
    work, weights, encoding, decoding = drawing
    lasting = lasting_bytes(work)
    assert lasting["autoencoder"] == weights
    assert lasting["reference"] == 4 * count_sizes(work).trainable
    widest = max(encoding.peak_bytes, decoding.peak_bytes)
    assert widest > count_step(work, checkpointing=True).peak_bytes
    assert training_bytes(work, True) == pytest.approx(sum(lasting.values()) + widest, rel=0.01)
    assert training_bytes(replace(work, images=20), True) - training_bytes(work, True) < 0.01 * widest
    # With room for the training pass alone nothing fits.
    with pytest.raises(UserError, match=f"small at 512 pixels needs {training_bytes(work, True) / GIB:.1f} GiB"):
        choose_checkpointing(work, training_bytes(replace(work, rival=None), True))
    trip = flops_per_pair(work) - flops_per_pair(replace(work, rival=None))
    assert trip == pytest.approx((encoding.flops_forward + decoding.flops_forward) / 8, rel=1e-3)
    # The rival is drawn, and so is not among what is prepared.
    before, without = (estimate(one).preparation_tflops_per_pair * 1e12 for one in (work, replace(work, rival=None)))
    assert without - before == pytest.approx(encoding.flops_forward / 8, rel=1e-3)


def test_a_run_keeps_an_earlier_state_before_its_first_step_and_one_every_so_many(drawing):
    work, state = drawing[0], 4 * count_sizes(drawing[0]).trainable / GIB
    kept = [estimate(work, steps=steps).references_gib / state for steps in (1, 30, 31, 100)]
    assert kept == pytest.approx([1, 1, 2, 4])
    assert estimate(SMALL, steps=100).references_gib == 0


def test_what_is_advised_is_not_refused():
    """An earlier state of the policy is kept as the policy is: the reference's switches are those of a frozen copy."""
    full = replace(SMALL, tuning="full", dtype="float32", resolution=64)
    drawing = replace(full, rival=Rival(steps=2, guidance=1.0, every=30))
    assert {name for name in savings_of(full) if "reference" in name} == {
        "model.reference.dtype=bfloat16",
        "model.reference.device=cpu",
    }
    assert {name for name in savings_of(drawing) if "reference" in name} == set()
    assert lasting_bytes(drawing)["reference"] == 4 * count_sizes(full).parameters


def test_optimizer_states_are_those_that_the_libraries_make():
    from transformers.optimization import Adafactor

    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(4, 6))
    for name, make in {
        "adamw": torch.optim.AdamW,
        "adafactor": lambda p: Adafactor(p, lr=1e-3, relative_step=False),
    }.items():
        optimizer = make(network.parameters())
        for weight in network.parameters():
            weight.grad = torch.ones_like(weight)
        optimizer.step()
        states = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
        made = sum(value.nbytes for value in states if value.dim())
        assert optimizer_bytes(network, name) == made
    network[0].requires_grad_(False)
    assert optimizer_bytes(network, "adamw") == 8 * 30


def test_a_recipe_becomes_a_workload():
    model = SimpleNamespace(path="sdxl", revision=None, tuning="lora", dtype="auto")
    model.lora, model.reference = SimpleNamespace(rank=8, targets=None), SimpleNamespace(dtype="same", device="same")
    training = SimpleNamespace(micro_batch=3, precision="bf16", optimizer=SimpleNamespace(name="adamw"), ema=0.99)
    recipe = SimpleNamespace(model=model, data=SimpleNamespace(resolution=None), training=training)
    assert workload_of(recipe) == Workload(ARCHITECTURES["sdxl"], 1024, rank=8, images=6, ema=True)
    rank, inverted = RankDPO().build(1), InPO(steps=3, corrections=1).build(1)
    assert (workload_of(recipe, rank).images, workload_of(recipe, rank, candidates=6).images) == (12, 18)
    assert (workload_of(recipe, inverted).images, workload_of(recipe, inverted).calls) == (6, 6)
    assert not workload_of(recipe, MaPO().build(1)).reference
    assert workload_of(recipe, SePPO(every=7).build(1)).rival == Rival(steps=20, guidance=5.0, every=7)
    model.tuning = "full"
    assert workload_of(recipe, resolution=512).dtype == "float32"
    assert workload_of(recipe, resolution=512).resolution == 512


def test_every_pass_of_a_method_is_counted():
    """A pair: 3.45 TFLOP forward and backward and 1.61 for a forward pass of both pictures alone."""
    forward = flops_per_pair(SD1) - flops_per_pair(replace(SD1, reference=False))
    assert flops_per_pair(replace(SD1, calls=5)) == pytest.approx(flops_per_pair(SD1) + 5 * forward)
    group = replace(SD1, images=2 * SD1.images, candidates=4)
    assert flops_per_pair(group) == pytest.approx(2 * flops_per_pair(SD1), rel=1e-3)
    assert estimate(group).micro_batch == estimate(SD1).micro_batch
    assert estimate(group).plain.activations_gib > 1.8 * estimate(SD1).plain.activations_gib


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("H200", "h200"),
        ("RTX 4090", "rtx-4090"),
        ("4090", "rtx-4090"),
        ("a100", "a100-80"),
        ("h100", "h100"),
        ("l4", "l4"),
    ],
)
def test_cards_are_found_by_the_names_that_people_use(given, name):
    assert find_card(given) is CARDS[name]


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA A100 80GB PCIe", "a100-80"),
        ("NVIDIA RTX A6000", "rtx-a6000"),
        ("NVIDIA A10G", "a10g"),
        ("NVIDIA L40", "l40"),
    ],
)
def test_cards_are_found_by_the_names_that_drivers_report(device, name):
    assert card_of(device) is CARDS[name]


def test_an_unknown_card_is_named_with_the_known_ones():
    with pytest.raises(UserError, match="--card 3dfx: unknown; palate knows b200, h200"):
        find_card("3dfx")
    assert card_of("Tesla K80") is None


def test_the_capacity_of_a_cpu_is_its_free_memory():
    assert device_capacity(torch.device("cpu")) > 2**27
    assert device_capacity(torch.device("meta")) is None


def test_the_command_prints_numbers_and_answers_again_from_its_cache(monkeypatch):
    import typer
    from typer.testing import CliRunner

    from palate.cli.estimate import estimate_command

    app = typer.Typer()
    app.command()(estimate_command)
    printed = CliRunner().invoke(app, ["sd1.5", "training.micro_batch=1", "--card", "4090", "--json"])
    assert printed.exit_code == 0, printed.output
    numbers = json.loads(printed.output)
    assert numbers["plain"]["tflops_per_pair"] == pytest.approx(5.06, rel=0.002)
    assert numbers["card_gib"] == 23
    assert numbers["batch_size"] == 16
    monkeypatch.setattr("palate.training.count_cache._remembered", {})
    monkeypatch.setattr("palate.t2i.counts._build_policy", lambda _: pytest.fail("counted anew"))
    text = CliRunner().invoke(app, ["sd1.5", "--card", "4090"]).output
    assert "859.5 M weights" in text
    assert "the run fits, gradient checkpointing off" in text


def test_a_run_that_does_not_fit_is_told_what_training_would_tell():
    from palate.cli.estimate import _verdict

    work = replace(SMALL, images=4)
    card = replace(CARDS["l4"], memory_gib=0.5 * training_bytes(work, True) / GIB)
    (line,) = _verdict(work, estimate(work), card)
    with pytest.raises(UserError) as refused:
        choose_checkpointing(work, training_bytes(work, True) // 2)
    advice = line.partition("; in GiB, ")[2]
    assert "the run does not fit, with gradient checkpointing either; " in line
    assert "training.micro_batch=1 saves" in advice
    assert str(refused.value).endswith(advice)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["sdxl", "training.batch_size=0"], "recipe sdxl: `training.batch_size` is 0, but "),
        (["sdxl", "training.batch_size=7", "training.micro_batch=2"], "training.batch_size 7 is not a multiple of 2"),
        (["tiny-sdxl-dpo", "training.stesp=0"], "recipe tiny-sdxl-dpo: unknown key `training.stesp`"),
        (["tiny-sdlx-dpo"], "there is no recipe tiny-sdlx-dpo; did you mean tiny-sdxl-dpo?"),
        (["sd35"], "it counts the models sd1.5, "),
        (["absent.yaml"], "recipe absent.yaml does not exist"),
        (
            ["sdxl-dpo", "method={name: seppo}", "model.reference.device=cpu"],
            "model.reference has no effect on seppo, whose reference is an earlier state of the policy",
        ),
        (["tiny-sd3-dpo", "data.resolution=640"], "data.resolution is 640, but tiny-sd3 takes at most 128 pixels"),
    ],
)
def test_the_command_refuses_what_training_refuses_and_names_what_was_typed(monkeypatch, tmp_path, arguments, told):
    from palate.cli.estimate import estimate_command

    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refused:
        estimate_command(arguments[0], arguments[1:])
    assert told in str(refused.value)


def test_the_command_counts_the_earlier_states_of_the_whole_run(capsys):
    from palate.cli.estimate import estimate_command

    kept = []
    for steps in (60, 61):
        estimate_command("tiny-sdxl-seppo", [f"training.steps={steps}", "method.every=30"], as_json=True)
        kept.append(json.loads(capsys.readouterr().out)["references_gib"])
    assert kept[1] / kept[0] == pytest.approx(3 / 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "plain", "checkpointed", "saved"),
    [(SDXL, 41.9, 52.2, 5.22), (replace(SDXL, resolution=512), 9.5, 11.9, 1.32), (SD3, 56.1, 73.0, 3.52)],
    ids=["sdxl-1024", "sdxl-512", "sd3-1024"],
)
def test_large_models_have_the_counted_flops_and_memory(work, plain, checkpointed, saved):
    assert flops_per_pair(work) / 1e12 == pytest.approx(plain, rel=0.01)
    assert flops_per_pair(work, checkpointing=True) / 1e12 == pytest.approx(checkpointed, rel=0.01)
    assert saved_in_bfloat16(work) == pytest.approx(saved, rel=0.1 if work is SD3 else 0.01)


@pytest.mark.slow
def test_flux_is_counted_from_its_network_alone():
    flux = Workload(ARCHITECTURES["flux-dev"], 512)
    result = estimate(flux)
    assert count_sizes(flux).trainable / 1e6 == pytest.approx(26.2, abs=0.1)
    assert result.plain.tflops_per_pair == pytest.approx(132.5, rel=0.01)
    assert result.vae_encoding_peak_gib == result.text_encoding_peak_gib == 0

"""contrastile.compat.transformers: patched models against the same models unpatched."""

import copy

import pytest
import torch

import contrastile
from contrastile.compat.transformers import patch
from contrastile.ops import pair
from support.memory import saved_bytes

from .tiny_models import (
    SPECIFICATIONS,
    Fixed,
    N,
    as_type,
    assert_equal_outputs,
    batch,
    outcome,
    tensors,
    tiny,
    transformers,
)

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
NAMES = sorted(SPECIFICATIONS)
EVERY = pytest.mark.parametrize("name", NAMES)
SOME = pytest.mark.parametrize("name", ["CLIPModel", "SiglipModel", "ClapModel"])


# ---- equal results


@EVERY
def test_losses_outputs_and_gradients_are_the_models_own(name):
    """In float64, all gradients; and in float32 as close to that as the model's own forward, within a factor of 2."""
    model, given = tiny(name), batch(name)
    double = copy.deepcopy(model).double()
    truth, grads = outcome(double, as_type(given, torch.float64))
    twin, twin_grads = outcome(model, given)
    with patch(model), patch(double):
        exact, exact_grads = outcome(double, as_type(given, torch.float64))
        found, found_grads = outcome(model, given)
    assert_equal_outputs(exact, truth)
    assert_equal_outputs(found, twin)
    assert found_grads.keys() == exact_grads.keys() == grads.keys()
    size = max(g.abs().max() for g in grads.values())
    assert found.loss.dtype == torch.float32
    torch.testing.assert_close(exact.loss, truth.loss, rtol=1e-12, atol=1e-12)
    limit = 2 * (twin.loss - truth.loss).abs() + 4 * 2**-23 * truth.loss.abs()
    assert (found.loss - truth.loss).abs() <= limit
    worst = max((twin_grads[n] - g).abs().max() for n, g in grads.items())
    for key, grad in grads.items():
        torch.testing.assert_close(exact_grads[key], grad, rtol=0, atol=1e-11 * float(size))
        assert (found_grads[key] - grad).abs().max() <= 2 * worst + 8 * 2**-23 * size, key


@EVERY
@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_every_parameter_of_the_loss_counts(name, backend):
    """Other scales, temperatures and biases than the initial ones, with a batch of other size."""
    model, given = tiny(name).eval(), batch(name, n=11, seed=7)
    shift = {"logit_scale": 1.1, "logit_bias": 3.0, "temperature": 0.3, "logit_scale_t": 0.4, "logit_scale_a": -0.7}
    parameters = dict(model.named_parameters())
    changed = [parameters[n] for n in shift if n in parameters]
    with torch.no_grad():
        for n, by in shift.items():
            if n in parameters:
                parameters[n] += by
    assert changed
    true, grads = outcome(model, given)
    with patch(model, backend=backend):
        found, found_grads = outcome(model, given)
    torch.testing.assert_close(found.loss, true.loss, rtol=4e-6, atol=4e-6)
    for n in shift.keys() & parameters.keys():
        torch.testing.assert_close(found_grads[n], grads[n], rtol=2e-5, atol=2e-6)
        assert grads[n].abs() > 1e-4  # it does something


@EVERY
def test_without_return_loss_the_model_is_as_it_was(name):
    model, given = tiny(name).eval(), batch(name)
    with torch.no_grad():
        true = model(**given)
        with patch(model):
            found, refused = model(**given), model(**given, return_loss=False)
    for x in (found, refused):
        assert type(x) is type(true) and list(x) == list(true) and "loss" not in x
        assert all(torch.equal(y, z) for y, z in zip(tensors(x), tensors(true), strict=True))


@SOME
@pytest.mark.parametrize("options", [{"output_hidden_states": True}, {"return_dict": False}], ids=str)
def test_options_of_forward(name, options):
    model, given = tiny(name).eval(), batch(name)
    true, _ = outcome(model, given, **options)
    with patch(model):
        found, _ = outcome(model, given, **options)
    if isinstance(true, tuple):  # the logits, second and third, are left out
        assert isinstance(found, tuple) and len(found) == len(true) - 2
        true = (true[0], *true[3:])
        assert all(torch.equal(x, y) for x, y in zip(tensors(found[1:]), tensors(true[1:]), strict=True))
    else:
        assert_equal_outputs(found, true)


def test_flags_of_the_dual_encoder():
    model, given = tiny("VisionTextDualEncoderModel").eval(), batch("VisionTextDualEncoderModel")
    true, _ = outcome(model, given, output_hidden_states=True)
    with patch(model):
        found, _ = outcome(model, given, output_hidden_states=True)
    assert_equal_outputs(found, true)
    assert len(found.text_model_output.hidden_states) == 3


def test_arguments_by_position():
    model, given = tiny("CLIPModel").eval(), batch("CLIPModel")
    order = (given["input_ids"], given["pixel_values"], given["attention_mask"], None, True)
    true = model(*order)
    with patch(model):
        found = model(*order)
        assert found.logits_per_text is None
        torch.testing.assert_close(found.loss, true.loss)
        with pytest.raises(TypeError, match="multiple values"):
            model(*order, return_loss=True)
        with pytest.raises(TypeError, match="positional"):
            model(*order, False, None, None)


def test_missing_modalities_are_the_models_own_matter():
    model, given = tiny("CLIPModel"), batch("CLIPModel")
    with patch(model), pytest.raises(AttributeError):
        model(input_ids=given["input_ids"], return_loss=True)
    tips, given = tiny("Tipsv2Model").eval(), batch("Tipsv2Model")
    with patch(tips):
        found = tips(pixel_values=given["pixel_values"], return_loss=True)
    assert found.loss is None and found.image_embeds is not None


def test_segmentation_needs_logits():
    model, given = tiny("GroupViTModel"), batch("GroupViTModel")
    with patch(model):
        with pytest.raises(NotImplementedError, match="output_segmentation"):
            model(**given, return_loss=True, output_segmentation=True)
        model.config.output_segmentation = True
        with pytest.raises(NotImplementedError, match="output_segmentation"):
            model(**given, return_loss=True)
        assert model(**given, return_loss=True, output_segmentation=False).loss is not None


@SOME
def test_half_precision_models_give_a_float32_loss(name):
    """The embeddings are the model's own; from there on nothing is rounded."""
    model, given = tiny(name).eval().bfloat16(), as_type(batch(name), torch.bfloat16)
    with torch.no_grad(), patch(model):
        found = model(**given, return_loss=True)
        assert found.loss.dtype == torch.float32 and found.text_embeds.dtype == torch.bfloat16
        values = {n: p.double() for n, p in model.named_parameters() if n.startswith("logit")}
        text = found.text_embeds.double()
        other = (found.audio_embeds if name == "ClapModel" else found.image_embeds).double()
        scale = {n: p.bfloat16().exp().double() for n, p in values.items() if "scale" in n}
        if name == "CLIPModel":
            true = contrastile.reference.clip_loss(text, other, scale["logit_scale"])
        elif name == "SiglipModel":
            true = contrastile.reference.siglip_loss(text, other, scale["logit_scale"], values["logit_bias"])
        else:
            true = sum(contrastile.reference.info_nce(text, other, temperature=1 / s) for s in scale.values()) / 2
    # CLAP's temperatures are exponentials in bfloat16, too: half a unit in their last place
    torch.testing.assert_close(found.loss.double(), true, rtol=2**-8 if name == "ClapModel" else 1e-6, atol=1e-6)


@SOME
def test_autocast(name):
    """As close to the float32 loss as the model's own mixed precision, which rounds its logits as well."""
    model, given = tiny(name).eval(), batch(name)
    with torch.no_grad():
        truth = model(**given, return_loss=True).loss
        with torch.autocast("cpu", torch.bfloat16):
            twin = model(**given, return_loss=True)
            with patch(model):
                found = model(**given, return_loss=True)
    assert found.loss.dtype == torch.float32
    assert_equal_outputs(found, twin)
    assert (found.loss - truth).abs() <= 2 * (twin.loss - truth).abs() + 2**-8 * truth


def test_autocast_rounds_float32_embeddings_as_their_product_would():
    """On CUDA a norm under autocast, and so the embeddings, are float32."""
    model = tiny("CLIPModel").eval()
    embeds = {name: torch.randn(9, 28, generator=torch.Generator().manual_seed(1)) for name in ("text", "image")}
    given = {"input_ids": torch.zeros(9, 3, dtype=torch.long), "pixel_values": torch.zeros(9, 1, 2, 2)}
    with torch.no_grad(), Fixed(model, embeds), patch(model), torch.autocast("cpu", torch.bfloat16):
        found = model(**given, return_loss=True)
    assert found.text_embeds.dtype == torch.float32
    rounded = (x.bfloat16() for x in (found.text_embeds, found.image_embeds))
    assert torch.equal(found.loss, contrastile.clip_loss(*rounded, model.logit_scale.detach().exp()))


# ---- memory


@SOME
def test_nothing_of_the_size_of_the_logits_is_kept(name, monkeypatch):
    """The loss of many embeddings, beyond what the encoders keep."""
    monkeypatch.setattr(pair, "STATS_BUDGET", 0)
    model = tiny(name)
    other = "audio" if name == "ClapModel" else "image"
    used = {}
    for n in (512, 1024):
        generator = torch.Generator().manual_seed(n)
        embeds = {k: torch.randn(n, 28, generator=generator) for k in ("text", other)}
        leaves = [x.requires_grad_() for x in embeds.values()]
        given = {"input_ids": torch.zeros(n, 3, dtype=torch.long)}
        given["input_features" if name == "ClapModel" else "pixel_values"] = torch.zeros(n, 1, 2, 2)
        for patched in (False, True):
            with Fixed(model, embeds):
                handle = patch(model) if patched else None
                used[patched, n] = saved_bytes(lambda *_, g=given: model(**g, return_loss=True).loss, *leaves)
                if handle is not None:
                    handle.undo()
    assert used[True, 1024] <= 2 * used[True, 512] + 8192 and used[True, 1024] <= 8 * 1024 * 28 * 4
    assert used[False, 1024] >= 1024 * 1024 * 4


# ---- training


class Batches(torch.utils.data.Dataset):
    def __init__(self, name, dtype=torch.float32):
        self.rows = as_type(batch(name, n=4 * N), dtype)

    def __len__(self):
        return 4 * N

    def __getitem__(self, i):
        return {n: x[i] for n, x in self.rows.items()}


def train(name, folder, patched, dtype=torch.float32, **options):
    """The logged losses of transformers' own Trainer, and the model."""
    library = transformers()
    pytest.importorskip("accelerate", reason="accelerate is missing")
    model = tiny(name).to(dtype)
    args = library.TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=N, num_train_epochs=2, learning_rate=1e-3, logging_steps=1,
        logging_nan_inf_filter=False, report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True, seed=5,
        **options,
    )  # fmt: skip
    handle = patch(model) if patched else None
    trainer = library.Trainer(model=model, args=args, train_dataset=Batches(name, dtype), data_collator=with_loss)
    trainer.train()
    evaluated = trainer.evaluate(Batches(name, dtype))["eval_loss"]
    if handle is not None:
        given = as_type(batch(name), dtype)
        assert model(**given, return_loss=True).logits_per_text is None
        handle.undo()
        assert model(**given, return_loss=True).logits_per_text is not None
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return torch.tensor([*losses, evaluated], dtype=torch.float64), dict(model.named_parameters())


def with_loss(rows):
    return {**torch.utils.data.default_collate(rows), "return_loss": True}


@pytest.mark.parametrize("name", ["CLIPModel", "SiglipModel", pytest.param("Siglip2Model", marks=pytest.mark.slow)])
def test_transformers_trainer_goes_step_by_step_as_without_the_patch(name, tmp_path):
    truth, end = train(name, tmp_path, False, torch.float64)
    exact, other_end = train(name, tmp_path, True, torch.float64)
    assert len(truth) == 8 + 1 and truth[7] < truth[0]
    torch.testing.assert_close(exact, truth, rtol=1e-10, atol=1e-10)
    for key, parameter in end.items():
        torch.testing.assert_close(other_end[key], parameter, rtol=1e-7, atol=1e-8)
    twin, _ = train(name, tmp_path, False)
    found, _ = train(name, tmp_path, True)
    allowed = 4 * (twin - truth).abs().cummax(0).values + 16 * 2**-23 * truth.abs()
    assert ((found - truth).abs() <= allowed).all()


def test_mixed_precision_training_by_the_trainer(tmp_path):
    """As close to float32 training as the model's own mixed precision; accelerate's wrapper does not hinder undo()."""
    truth, _ = train("CLIPModel", tmp_path, False)
    twin, _ = train("CLIPModel", tmp_path, False, bf16=True)
    found, _ = train("CLIPModel", tmp_path, True, bf16=True)
    assert (found - truth).abs().max() <= 2 * (twin - truth).abs().max()

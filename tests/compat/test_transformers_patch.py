"""What patch() does to a model, and what it leaves alone."""

import copy
import inspect
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from contrastile.compat.transformers import Patch, patch, undo

from .tiny_models import (
    SPECIFICATIONS,
    assert_equal_outputs,
    batch,
    outcome,
    tiny,
    transformers,
)

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
NAMES = sorted(SPECIFICATIONS)
EVERY = pytest.mark.parametrize("name", NAMES)
SOME = pytest.mark.parametrize("name", ["CLIPModel", "SiglipModel", "ClapModel"])


@EVERY
def test_a_patch_says_what_it_replaced_and_undoes_it(name):
    model = tiny(name)
    before, cls = dict(vars(model)), type(model)
    handle = patch(model)
    assert isinstance(model, cls) and type(model).__name__ == name and type(model).__module__ == cls.__module__
    assert list(handle.replaced) == [""] and name in handle.replaced[""] and "loss" in handle.replaced[""]
    assert name in repr(handle)
    handle.undo()
    assert type(model) is cls and vars(model).keys() == before.keys()
    handle.undo()  # harmless


def is_patched(model):
    with torch.no_grad():
        return model(**batch("CLIPModel"), return_loss=True).logits_per_text is None


def test_a_handle_undoes_its_own_patch_alone():
    model = tiny("CLIPModel")
    first = patch(model)
    first.undo()
    second = patch(model)
    first.undo()
    assert is_patched(model)
    assert undo(model) == [""] and not is_patched(model)
    third = patch(model)
    second.undo()
    assert is_patched(model)
    third.undo()
    assert not is_patched(model)


def test_undo_takes_back_what_has_no_handle():
    model = nn.ModuleDict({"clip": tiny("CLIPModel"), "other": tiny("CLIPModel")})
    with patch(model["clip"]) as handle:
        copied, unpickled = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
        with pytest.raises(ValueError, match=r"contrastile\.compat\.transformers\.undo\(model\)"):
            patch(copied)
        for other in (copied, unpickled):
            assert undo(other) == ["clip"] and undo(other) == []
            assert not is_patched(other["clip"]) and type(other["clip"]) is transformers().CLIPModel
            assert vars(other["clip"]).keys() == vars(other["other"]).keys()
            with patch(other["clip"], backend="torch"):
                assert is_patched(other["clip"])
        assert is_patched(model["clip"])
    assert not is_patched(model["clip"]) and handle.replaced


def test_new_models_of_a_patched_models_class_are_not_patched(tmp_path):
    model = tiny("CLIPModel")
    with patch(model):
        model.save_pretrained(tmp_path)
        made, loaded = type(model)(model.config), type(model).from_pretrained(tmp_path)
    for new in (made, loaded, copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert not is_patched(new)
        with patch(new):
            assert is_patched(new)
        assert type(new) is transformers().CLIPModel


def test_parametrized_models_are_refused_before_and_fine_after():
    """parametrize deletes its property from the instance's class, which a patch would have replaced."""
    model = tiny("CLIPModel")
    parametrize.register_parametrization(model, "logit_scale", nn.Identity())
    with pytest.raises(ValueError, match="parametrized"):
        patch(model)
    parametrize.remove_parametrizations(model, "logit_scale")
    parametrize.register_parametrization(model.text_projection, "weight", nn.Identity())  # of a layer: no matter
    with patch(model):
        parametrize.register_parametrization(model, "logit_scale", nn.Identity())
        assert is_patched(model)
        parametrize.remove_parametrizations(model, "logit_scale")
        assert is_patched(model)
    assert not is_patched(model)


@pytest.mark.parametrize("name", ["CLIPModel", "SiglipModel", "AlignModel", "Tipsv2Model"])
def test_errors_name_the_sides_as_they_are(name):
    model, given = tiny(name).eval(), batch(name)
    given |= {key: given[key][:4] for key in ("input_ids", "attention_mask")}
    message = r"text_features must have the shape of image_features, \(6, \d+\), got \(4, "
    with patch(model), pytest.raises(ValueError, match=message):
        model(**given, return_loss=True)


def test_a_patch_is_undone_after_an_error():
    model = tiny("CLIPModel")
    cls = type(model)
    with pytest.raises(KeyError), patch(model) as handle:
        assert isinstance(handle, Patch)
        raise KeyError
    assert type(model) is cls


def test_only_the_instance_is_patched():
    one, other = tiny("CLIPModel").eval(), tiny("CLIPModel").eval()
    given = batch("CLIPModel")
    with patch(one):
        assert one(**given, return_loss=True).logits_per_text is None
        assert other(**given, return_loss=True).logits_per_text is not None


def test_models_inside_a_module_are_found():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.clip, self.heads = tiny("CLIPModel"), nn.ModuleList([tiny("SiglipModel"), nn.Linear(2, 2)])

    wrapper = Wrapper()
    with patch(wrapper) as handle:
        assert handle.replaced == {
            "clip": "loss of CLIPModel.forward by contrastile.clip_loss",
            "heads.0": "loss of SiglipModel.forward by contrastile.siglip_loss",
        }
        assert wrapper.clip(**batch("CLIPModel"), return_loss=True).logits_per_image is None
    assert type(wrapper.clip) is transformers().CLIPModel


def test_nothing_to_patch_is_an_error():
    with pytest.raises(ValueError, match=r"nothing to patch in Linear.*CLIPModel.*SiglipModel"):
        patch(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="nothing to patch"):
        patch(tiny("CLIPModel").text_model)


def test_what_cannot_be_patched_is_named():
    model = tiny("CLIPModel")
    with pytest.raises(ValueError, match="backend"):
        patch(model, backend="fast")
    with pytest.raises(TypeError, match="memory_budget"):
        patch(model, memory_budget=1.5)
    with patch(model), pytest.raises(ValueError, match="patched already"):
        patch(model)
    model.forward = model.forward
    with pytest.raises(ValueError, match="wrapped"):
        patch(model)
    del model.forward
    handle = patch(model)
    patched = type(model)
    model.__class__ = type("Sharded", (patched,), {})  # as fully_shard does
    with pytest.raises(RuntimeError, match="changed after"):
        handle.undo()
    model.__class__ = patched
    handle.undo()

    class Own(transformers().CLIPModel):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    with pytest.raises(ValueError, match="forward of its own"):
        patch(Own(model.config))


def test_a_forward_of_another_version_is_refused(monkeypatch):
    def forward(self, input_ids=None, pixel_values=None, return_loss=None):
        return self.logit_scale

    model = tiny("CLIPModel")
    monkeypatch.setattr(transformers().CLIPModel, "forward", forward)
    with pytest.raises(ValueError, match=r"makes no use of get_image_features, get_text_features$"):
        patch(model)


def test_arguments_of_another_version_are_refused(monkeypatch):
    """Of transformers 4, for instance, whose models name flags that this one's do not."""

    def forward(self, input_ids=None, pixel_values=None, return_loss=None, output_attentions=None):
        return self.vision_model, self.text_model, self.logit_scale, self.logit_bias

    model = tiny("SiglipModel")
    monkeypatch.setattr(transformers().SiglipModel, "forward", forward)
    with pytest.raises(ValueError, match=r"it takes output_attentions$"):
        patch(model)


def test_flags_of_groupvit_are_for_its_vision_model():
    model, given = tiny("GroupViTModel").eval(), batch("GroupViTModel")
    true, _ = outcome(model, given, output_attentions=True)
    with patch(model):
        found, _ = outcome(model, given, output_attentions=True)
    assert_equal_outputs(found, true)


def test_subclasses_that_keep_forward_are_patched():
    class Mine(transformers().CLIPModel):
        pass

    model = Mine(tiny("CLIPModel").config)
    with patch(model):
        assert isinstance(model, Mine) and type(model).__name__ == "Mine"
        assert model(**batch("CLIPModel"), return_loss=True).logits_per_text is None
    assert type(model) is Mine


@SOME
def test_copies_and_pickles_stay_patched_and_the_state_is_untouched(name):
    model, given = tiny(name).eval(), batch(name)
    names, original = list(model.state_dict()), type(model)
    handle = patch(model, backend="torch")
    assert list(model.state_dict()) == names
    with torch.no_grad():
        true = model(**given, return_loss=True).loss
        stream = io.BytesIO()
        torch.save(model, stream)
        stream.seek(0)
        loaded = torch.load(stream, weights_only=False)
        shallow = model._replicate_for_data_parallel()  # what DataParallel computes with
        for other in (copy.deepcopy(model), copy.copy(model), pickle.loads(pickle.dumps(model)), loaded, shallow):
            assert type(other) is type(model) and other is not model
            if other is not shallow:  # has no parameters of its own yet
                found = other(**given, return_loss=True)
                assert found.logits_per_text is None and torch.equal(found.loss, true)
        with torch.no_grad():
            copied = copy.deepcopy(model)
            copied.text_model.zero_grad()
            next(copied.text_model.parameters()).mul_(0)  # a copy computes with its own parameters
        assert not torch.equal(copied(**given, return_loss=True).loss, true)
    unpatched = original(model.config)
    unpatched.load_state_dict(model.state_dict())
    handle.undo()
    assert type(loaded) is not original


def test_saved_and_loaded_by_transformers(tmp_path):
    model = tiny("CLIPModel")
    with patch(model):
        model.save_pretrained(tmp_path)
    loaded = transformers().AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is transformers().CLIPModel and loaded.config.architectures == ["CLIPModel"]
    assert all(
        torch.equal(x, y) for x, y in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    )


@SOME
def test_signatures_stay(name):
    model = tiny(name)
    true = inspect.signature(model.forward)
    with patch(model):
        assert inspect.signature(model.forward) == true
        assert inspect.signature(type(model).forward) == inspect.signature(type(model).__mro__[1].forward)


@pytest.mark.parametrize("name", ["CLIPModel", pytest.param("SiglipModel", marks=pytest.mark.slow)])
def test_compiled_models(name):
    model, given = tiny(name).eval(), batch(name)
    with patch(model):
        found = torch.compile(model, backend="eager", fullgraph=True)(**given, return_loss=True)
        found.loss.backward()
        grad = model.logit_scale.grad.clone()
        true, grads = outcome(model, given)
    assert found.logits_per_text is None
    torch.testing.assert_close(found.loss, true.loss)
    torch.testing.assert_close(grad, grads["logit_scale"])

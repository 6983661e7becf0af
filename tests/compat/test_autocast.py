"""backward() inside an autocast region: the gradients of every drop-in are those of a backward pass outside of it."""

import pytest
import torch

from support.inside_autocast import assert_backward_is_the_same_inside

from .calls import CALLS, Given


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_backward_inside_a_region(name, dtype):
    given = Given.made(dtype)
    leaves = [x.requires_grad_() for x in given.leaves()]
    assert_backward_is_the_same_inside(lambda: CALLS[name](given), leaves)


@pytest.mark.parametrize("name", ["CLIPModel", "SiglipModel", "ClapModel"])
def test_backward_of_a_patched_models_loss(name):
    """With respect to what the loss gets: the encoders' own products are the model's matter."""
    pytest.importorskip("transformers")
    from contrastile.compat.transformers import patch

    from .tiny_models import batch, tiny

    model, given = tiny(name).eval(), batch(name)
    for region in (torch.bfloat16, torch.float16):
        with patch(model), torch.autocast("cpu", region):
            out = model(**given, return_loss=True)
            inputs = [out[key] for key in out if key.endswith("_embeds")]
            scales = [x for key, x in model.named_parameters() if key.startswith("logit_")]
            found = torch.autograd.grad(out.loss, [*inputs, *scales], retain_graph=True)
        assert len(inputs) == 2 and scales
        assert all(map(torch.equal, found, torch.autograd.grad(out.loss, [*inputs, *scales])))

"""Tiny, randomly initialised models of transformers, batches for them, and what comes out."""

from functools import cache

import pytest
import torch
from torch import nn

N, LENGTH, PIXELS = 6, 8, 16
TEXT = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 20, "pad_token_id": 1, "bos_token_id": 97, "eos_token_id": 98,
}  # fmt: skip
VISION = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": PIXELS,
    "patch_size": 8,
}  # fmt: skip
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
BERT = TEXT | NO_DROPOUT
ALIGN_VISION = {
    "image_size": 32, "width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 24, "kernel_sizes": [3],
    "in_channels": [32], "out_channels": [16], "strides": [1], "num_block_repeats": [1], "expand_ratios": [1],
    "depthwise_padding": [], "drop_connect_rate": 0.0,
}  # fmt: skip
CLAP_AUDIO = {
    "spec_size": 32, "num_mel_bins": 8, "window_size": 4, "patch_size": 4, "patch_stride": [4, 4], "depths": [1, 1],
    "num_attention_heads": [2, 2], "patch_embeds_hidden_size": 16, "hidden_size": 32, "num_hidden_layers": 2,
    "hidden_dropout_prob": 0.0, "aff_block_r": 4,
}  # fmt: skip
GROUP_VISION = VISION | {
    "depths": [1, 1, 1], "num_group_tokens": [4, 2, 0], "num_output_groups": [4, 2, 2], "num_hidden_layers": 3,
}  # fmt: skip
TIPS_VISION = VISION | {"hidden_size": 32, "mlp_ratio": 2}

SPECIFICATIONS = {  # class: (config class, text config, config of the other side, further arguments)
    "AlignModel": ("AlignConfig", BERT, ALIGN_VISION, {"projection_dim": 8}),
    "AltCLIPModel": ("AltCLIPConfig", BERT | {"project_dim": 28}, VISION, {"projection_dim": 28}),
    "BlipModel": ("BlipConfig", BERT, VISION | {"initializer_range": 0.1}, {"projection_dim": 28}),
    "CLIPModel": ("CLIPConfig", TEXT, VISION, {"projection_dim": 28}),
    "CLIPSegModel": ("CLIPSegConfig", TEXT, VISION, {"projection_dim": 28}),
    "ChineseCLIPModel": ("ChineseCLIPConfig", BERT, VISION, {"projection_dim": 28}),
    "ClapModel": ("ClapConfig", BERT, CLAP_AUDIO, {"projection_dim": 28}),
    "GroupViTModel": (
        "GroupViTConfig", TEXT, GROUP_VISION, {"projection_dim": 28, "projection_intermediate_dim": 20}
    ),
    "MetaClip2Model": ("MetaClip2Config", TEXT, VISION, {"projection_dim": 28}),
    "OwlViTModel": ("OwlViTConfig", TEXT, VISION, {"projection_dim": 28}),
    "Owlv2Model": ("Owlv2Config", TEXT, VISION, {"projection_dim": 28}),
    "Siglip2Model": (
        "Siglip2Config", TEXT | {"projection_size": 24}, VISION | {"num_patches": 4}, {}
    ),
    "SiglipModel": ("SiglipConfig", TEXT | {"projection_size": 24}, VISION, {}),
    "Tipsv2Model": ("Tipsv2Config", TEXT, TIPS_VISION, {}),
    "VisionTextDualEncoderModel": ("VisionTextDualEncoderConfig", BERT, VISION, {"projection_dim": 28}),
}  # fmt: skip


@cache
def transformers():
    return pytest.importorskip("transformers", reason="transformers is missing", exc_type=ImportError)


def tiny(name, seed=0):
    """A model of the class, in training mode without dropout."""
    library = transformers()
    config, text, other, extra = SPECIFICATIONS[name]
    torch.manual_seed(seed)
    if name == "VisionTextDualEncoderModel":
        configs = library.CLIPVisionConfig(**other), library.BertConfig(**text)
        whole = library.VisionTextDualEncoderConfig.from_vision_text_configs(*configs, **extra)
    else:
        side = "audio_config" if name == "ClapModel" else "vision_config"
        whole = getattr(library, config)(text_config=text, **{side: other}, **extra)
    return getattr(library, name)(whole).train()


def batch(name, n=N, seed=1):
    """What the model takes, texts of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 97, (n, LENGTH), generator=generator)
    ids[:, -1] = 98
    mask = torch.ones(n, LENGTH, dtype=torch.long)
    ids[::2, 5:] = 1
    ids[::2, 4], mask[::2, 5:] = 98, 0
    given = {"input_ids": ids, "attention_mask": mask}
    if name == "ClapModel":
        return given | {"input_features": torch.randn(n, 1, 32, 8, generator=generator)}
    if name == "Siglip2Model":
        return given | {
            "pixel_values": torch.randn(n, 4, 3 * 8 * 8, generator=generator),
            "pixel_attention_mask": torch.ones(n, 4, dtype=torch.long),
            "spatial_shapes": torch.full((n, 2), 2),
        }
    size = 32 if name == "AlignModel" else PIXELS
    return given | {"pixel_values": torch.randn(n, 3, size, size, generator=generator)}


def as_type(given, dtype):
    return {n: x.to(dtype) if x.is_floating_point() else x for n, x in given.items()}


def outcome(model, given, **options):
    """Output and the gradients of all parameters, after equal random numbers (GroupViT draws some)."""
    model.zero_grad()
    torch.manual_seed(11)
    output = model(**given, return_loss=True, **options)
    loss = output[0] if isinstance(output, tuple) else output.loss
    loss.backward()
    return output, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_equal_outputs(found, true):
    """Every field, except that logits are left out."""
    assert type(found) is type(true)
    assert set(true) - set(found) == {n for n in true if n.startswith("logits_per_")}
    for name, x in found.items():
        assert type(x) is type(true[name])
        if name == "loss":
            continue
        for y, z in zip(tensors(x), tensors(true[name]), strict=True):
            assert torch.equal(y, z), name


def tensors(x):
    if isinstance(x, torch.Tensor):
        return [x]
    values = x.to_tuple() if hasattr(x, "to_tuple") else x
    return [y for value in values if value is not None for y in tensors(value)]


class Fixed:
    """A model whose encoders return given embeddings."""

    def __init__(self, model, embeds):
        self.model, self.embeds = model, embeds

    def __enter__(self):
        class Encoder(nn.Module):
            def __init__(self, x):
                super().__init__()
                self.x = [x]

            def forward(self, *_, **__):
                kind = transformers().modeling_outputs.BaseModelOutputWithPooling
                return kind(last_hidden_state=self.x[0], pooler_output=self.x[0])

        self.before = {n: m for n, m in self.model.named_children()}
        for name in self.before:
            if name.endswith("_model"):
                side = "text" if name.startswith("text") else ("audio" if "audio" in name else "image")
                setattr(self.model, name, Encoder(self.embeds[side]))
            elif name.endswith("_projection"):
                setattr(self.model, name, nn.Identity())

    def __exit__(self, *_):
        for name, module in self.before.items():
            setattr(self.model, name, module)

"""How transformers' contrastive models compute their loss, as far as that can be fused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..losses import clip_loss, info_nce, siglip_loss
from .common import autocast_features

FOR_TEXT = frozenset({"input_ids", "attention_mask", "position_ids", "token_type_ids", "inputs_embeds"})
FOR_OTHER = frozenset(
    {
        "pixel_values", "interpolate_pos_encoding", "pixel_attention_mask", "spatial_shapes", "bool_masked_pos",
        "input_features", "is_longer",
    }
)  # fmt: skip
FLAGS = frozenset({"output_attentions", "output_hidden_states"})
FOR_NONE = frozenset({"return_loss", "return_dict", "return_base_image_embeds", "output_segmentation"})
BOTH = ("text", "other")


@dataclass(frozen=True)
class Side:
    """How a forward makes the embeddings of one side."""

    name: str  # "<name>_embeds" in the output
    encoder: str  # the module or method that gets the side's arguments
    output: str  # the field of the output that holds what the encoder returned
    projection: str | None = None
    first_token: bool = False  # instead of pooler_output

    def embed(
        self, model: nn.Module, arguments: dict[str, Any], norm: Callable[[Tensor], Tensor]
    ) -> tuple[Any, Tensor]:
        """What the encoder returned, and unit embeddings."""
        output = getattr(model, self.encoder)(**arguments)
        x: Tensor = output.last_hidden_state[:, 0] if self.first_token else output.pooler_output
        x = x if self.projection is None else getattr(model, self.projection)(x)
        return output, x / norm(x)

    def names(self) -> set[str]:
        return {self.encoder} if self.projection is None else {self.encoder, self.projection}


def euclidean_norm(x: Tensor) -> Tensor:
    length: Tensor = x.norm(p=2, dim=-1, keepdim=True)
    return length


@dataclass(frozen=True)
class Loss:
    """A function of text embeddings, other embeddings and the named parameters of the model."""

    name: str
    parameters: tuple[str, ...]
    function: Callable[..., Tensor]
    reports: bool = True  # on the batch, see contrastile.metrics.InBatch

    def of(self, model: nn.Module, text: Tensor, other: Tensor, **engine: Any) -> Tensor:
        values = [getattr(model, name).to(text.device) for name in self.parameters]
        text, other = autocast_features(text, other.to(text.device))
        return self.function(text, other, *values, **engine)


def scaled(text: Tensor, other: Tensor, log_scale: Tensor, **engine: Any) -> Tensor:
    return clip_loss(other, text, log_scale.exp(), **engine)


def tempered(text: Tensor, other: Tensor, temperature: Tensor, **engine: Any) -> Tensor:
    return clip_loss(other, text, temperature.reciprocal(), **engine)


def smoothed(text: Tensor, other: Tensor, temperature: Tensor, **engine: Any) -> Tensor:
    return clip_loss(other, text, temperature.reciprocal(), label_smoothing=0.1, **engine)


def sigmoid(text: Tensor, other: Tensor, log_scale: Tensor, bias: Tensor, **engine: Any) -> Tensor:
    return siglip_loss(other, text, log_scale.exp(), bias, **engine)


def text_to_audio(text: Tensor, audio: Tensor, log_scale: Tensor, audio_log_scale: Tensor, **engine: Any) -> Tensor:
    """CLAP's model transposes its audio logits before their cross entropy: both terms are from text to audio."""
    first = info_nce(text, audio, temperature=(-log_scale).exp(), **engine)
    engine.pop("report", None)  # is that of the first
    return (first + info_nce(text, audio, temperature=(-audio_log_scale).exp(), **engine)) / 2


@dataclass(frozen=True)
class Family:
    """What a class's forward does to get its loss."""

    text: Side
    other: Side
    loss: Loss
    output: str = ""  # the output class where it is not named after the model
    shared: frozenset[str] = frozenset()  # named arguments for both encoders
    flags: frozenset[str] = frozenset()  # named arguments for the other encoder, beside FOR_OTHER
    unnamed: tuple[str, ...] = BOTH  # who gets keyword arguments that forward does not name

    def names(self) -> set[str]:
        """What the class's forward must use for this description to be right."""
        return {"return_loss", *self.text.names(), *self.other.names(), *self.loss.parameters}

    def known(self) -> set[str]:
        """All arguments the class's forward may name."""
        return {*FOR_TEXT, *FOR_OTHER, *FOR_NONE, *self.shared, *self.flags}

    def route(self, name: str, named: bool) -> tuple[bool, bool]:
        """Whether an argument goes to the text encoder, and whether to the other one."""
        if not named:
            return "text" in self.unnamed, "other" in self.unnamed
        if name in self.shared:
            return True, True
        return name in FOR_TEXT, name in FOR_OTHER or name in self.flags


SCALED = Loss("clip_loss", ("logit_scale",), scaled)
TEMPERED = Loss("clip_loss", ("temperature",), tempered)
SMOOTHED = Loss("clip_loss(label_smoothing=0.1)", ("temperature",), smoothed)
SIGMOID = Loss("siglip_loss", ("logit_scale", "logit_bias"), sigmoid, reports=False)
CLAP = Loss("info_nce", ("logit_scale_t", "logit_scale_a"), text_to_audio)

TEXT = ("text", "text_model", "text_model_output")
IMAGE = ("image", "vision_model", "vision_model_output")
AUDIO = ("audio", "audio_model", "audio_model_output")
BY_METHOD = (
    Side("text", "get_text_features", "text_model_output"),
    Side("image", "get_image_features", "vision_model_output"),
)
POOLED = (Side(*TEXT), Side(*IMAGE))
PROJECTED = (Side(*TEXT, "text_projection"), Side(*IMAGE, "visual_projection"))

FAMILIES = {
    "AlignModel": Family(Side(*TEXT, "text_projection", first_token=True), Side(*IMAGE), SMOOTHED),
    "AltCLIPModel": Family(*PROJECTED, SCALED),
    "BlipModel": Family(*PROJECTED, SCALED),
    "CLIPModel": Family(*BY_METHOD, SCALED),
    "CLIPSegModel": Family(*BY_METHOD, SCALED),
    "ChineseCLIPModel": Family(*BY_METHOD, SCALED),
    "ClapModel": Family(Side(*TEXT, "text_projection"), Side(*AUDIO, "audio_projection"), CLAP),
    "GroupViTModel": Family(*PROJECTED, SCALED, "GroupViTModelOutput", flags=FLAGS, unnamed=("text",)),
    "MetaClip2Model": Family(*BY_METHOD, SCALED),
    "OwlViTModel": Family(*PROJECTED, SCALED),
    "Owlv2Model": Family(*PROJECTED, SCALED),
    "Siglip2Model": Family(*POOLED, SIGMOID),
    "SiglipModel": Family(*POOLED, SIGMOID),
    "Tipsv2Model": Family(*POOLED, TEMPERED),
    "VisionTextDualEncoderModel": Family(*PROJECTED, SCALED, "CLIPOutput", shared=FLAGS, unnamed=()),
}

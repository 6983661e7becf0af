"""open_clip's own training loop on a tiny model.

open_clip imports torchvision for image transforms, ftfy and regex for a tokenizer, which no loss or model here uses:
where they are missing, empty stand-ins take their place during the import.
"""

import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

from .standins import forgotten_afterwards

STAND_INS = ("torchvision", "torchvision.ops", "torchvision.ops.misc", "torchvision.transforms", "ftfy", "regex")
STAND_INS += ("torchvision.transforms.functional",)
BATCHES, ROWS, PIXELS, LENGTH, WORDS = 6, 16, 16, 9, 61


class StandIn(ModuleType):
    """Has every name; none of them is of use."""

    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return sys.modules.get(f"{self.__name__}.{name}") or MagicMock(name=name)


@cache
def open_clip_modules():
    """open_clip, its training loop and its argument parser."""
    for package in ("open_clip", "open_clip_train"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is missing: pip install --no-deps -r requirements-peers.txt")
    if find_spec("transformers") is not None:
        import_module("transformers")  # open_clip's __init__ would; it must not see the stand-ins
    missing = [name for name in STAND_INS if find_spec(name.partition(".")[0]) is None]
    with forgotten_afterwards("open_clip", "open_clip_train", *(name.partition(".")[0] for name in missing)):
        sys.modules.update({name: StandIn(name) for name in missing})
        names = ("open_clip", "open_clip.coca_model", "open_clip_train.train", "open_clip_train.params")
        return SimpleNamespace(**{name.rpartition(".")[2]: import_module(name) for name in names})


def training_arguments(*flags, **more):
    """What open_clip's main() passes around, by its own parser."""
    flags = ("--device", "cpu", "--log-every-n-steps", "1", "--precision", "fp32", "--skip-scheduler", *flags)
    args = open_clip_modules().params.parse_args(list(flags))
    vars(args).update({"rank": 0, "local_rank": 0, "world_size": 1, "distributed": False, "distill": False} | more)
    args.wandb = False
    return args


def tiny_open_clip(kind, seed):
    modules = open_clip_modules()
    torch.manual_seed(seed)
    vision = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": PIXELS}
    text = {"context_length": LENGTH, "vocab_size": WORDS, "width": 32, "heads": 2, "layers": 2}
    if kind == "coca":
        tokens = {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2, "output_tokens": True}
        text |= {"embed_cls": True, "output_tokens": True, "context_length": LENGTH - 1}
        decoder = {
            "context_length": LENGTH - 1, "vocab_size": WORDS, "width": 32, "heads": 2, "layers": 2,
        }  # fmt: skip
        model = modules.coca_model.CoCa(32, decoder, text, vision | tokens)
        torch.nn.init.normal_(model.text_decoder.text_projection, std=0.1)  # open_clip leaves it uninitialised
        return model
    bias = {"init_logit_bias": -10.0, "init_logit_scale": 2.3} if kind == "siglip" else {}
    return modules.open_clip.CLIP(24, vision, text, output_dict=True, **bias)


class Batches:
    num_batches, num_samples = BATCHES, BATCHES * ROWS

    def __init__(self, dtype, length):
        generator = torch.Generator().manual_seed(5)
        self.batches = []
        for _ in range(BATCHES):
            images = torch.randn(ROWS, 3, PIXELS, PIXELS, generator=generator, dtype=torch.float64)
            texts = torch.randint(1, WORDS - 1, (ROWS, length), generator=generator)
            texts[:, -1] = WORDS - 1
            texts[::3, -3:] = torch.tensor([WORDS - 1, 0, 0])
            self.batches.append((images.to(dtype), texts))

    def __iter__(self):
        return iter(self.batches)


class Log(dict):
    """Stands in for a TensorBoard writer."""

    def add_scalar(self, name, value, step):
        if name.endswith("loss"):
            self.setdefault(name, []).append(value)


def train(kind, loss, args, dtype=torch.float32):
    """Losses of every step, {name: [value]}, and the parameters afterwards."""
    model, log = tiny_open_clip(kind, seed=3).to(dtype), Log()
    teacher = tiny_open_clip(kind, seed=4).to(dtype) if args.distill else None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    length = LENGTH - 1 if kind == "coca" else LENGTH
    data = {"train": SimpleNamespace(dataloader=Batches(dtype, length), set_epoch=lambda epoch: None)}
    open_clip_modules().train.train_one_epoch(model, data, loss, 0, optimizer, None, None, teacher, args, tb_writer=log)
    return log, {name: p.detach() for name, p in model.named_parameters()}

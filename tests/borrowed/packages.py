"""Whose tests are borrowed, and which of their names the drop-ins take."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """A package as a checkout of its repository has it."""

    repository: str
    module: str  # its import name
    names: dict[str, str]  # dotted names that are replaced, and the modules of the drop-ins
    source: str = "."  # where the checkout has the module
    tests: str = "tests"
    missing: tuple[str, ...] = ()  # modules that get a stand-in where they are missing: no loss needs them
    left_out: tuple[str, ...] = ()  # files that take minutes, or start processes without the plugin
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def folder(self) -> str:
        """Of its checkout."""
        return self.repository.rpartition("/")[2]

    def checkout(self, peers: Path) -> Path | None:
        """Below a folder of checkouts, or that folder itself."""
        for place in (peers / self.folder, peers):
            if (place / self.source / self.module / "__init__.py").exists():
                return place.resolve()  # names of tests are relative to where files really are
        return None

    def files(self, checkout: Path) -> Iterator[Path]:
        """Its files of tests that name something which is replaced, or a task that makes it."""
        short = {name.rpartition(".")[2] for name in self.names}
        named = re.compile(rf"\b({'|'.join(sorted(short | set(MAKERS)))})\b")
        for path in sorted((checkout / self.tests).rglob("test_*.py")):
            if path.name not in self.left_out and named.search(path.read_text(encoding="utf-8")):
                yield path.relative_to(checkout)


MAKERS = ("CLIPTask", "SigLIPTask", "CoCaTask", "DistillCLIPTask", "CLAPTask", "create_task")  # of open_clip


def names(module: str, *short: str, ours: str) -> dict[str, str]:
    return {f"{module}.{name}": f"contrastile.compat.{ours}" for name in short}


RANKING = ("MultipleNegativesRankingLoss", "MultipleNegativesSymmetricRankingLoss", "GISTEmbedLoss")
PACKAGES = {
    package.folder: package
    for package in (
        Package(
            "KevinMusgrave/pytorch-metric-learning", "pytorch_metric_learning",
            names("pytorch_metric_learning.losses", "NTXentLoss", "SupConLoss", "CrossBatchMemory",
                  ours="pytorch_metric_learning")
            | names("pytorch_metric_learning.utils.distributed", "DistributedLossWrapper",
                    ours="pytorch_metric_learning"),
            source="src", missing=("torchvision", "faiss", "record_keeper", "tensorboard"),
            left_out=("test_key_checking.py", "test_metric_loss_only.py", "test_distributed.py",
                      "test_cross_batch_memory.py"),
            environment=(("TEST_DEVICE", "cpu"), ("TEST_DTYPES", "float32")),
        ),
        Package(
            "lightly-ai/lightly", "lightly",
            names("lightly.loss.ntx_ent_loss", "NTXentLoss", ours="lightly")
            | names("lightly.loss.dcl_loss", "DCLLoss", "DCLWLoss", ours="lightly"),
            missing=("torchvision", "pytorch_lightning", "timm", "hydra", "omegaconf", "lightly_utils", "aenum",
                     "pytest_mock"),
        ),
        Package("RElbers/info-nce-pytorch", "info_nce", names("info_nce", "InfoNCE", "info_nce", ours="info_nce")),
        Package(
            "mlfoundations/open_clip", "open_clip",
            names("open_clip.loss", "ClipLoss", "SigLipLoss", "CoCaLoss", "DistillClipLoss", "GenLipLoss",
                  "gather_features", ours="open_clip")
            | names("open_clip.factory", "create_loss", ours="open_clip"),
            source="src", missing=("torchvision", "ftfy", "regex", "timm", "webdataset", "torchaudio"),
            left_out=("test_task_checkpoint.py", "test_naflex_genlip.py", "test_naflex_genlap.py"),
        ),
        Package(
            "huggingface/sentence-transformers", "sentence_transformers",
            names("sentence_transformers.sentence_transformer.losses", *RANKING, *(f"Cached{x}" for x in RANKING),
                  ours="sentence_transformers"),
            tests="tests/sentence_transformer/losses",
        ),
    )
}  # fmt: skip

"""Every drop-in loss as a function of features, for rules that hold for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import pytest
import torch
from torch import Tensor

from contrastile.compat import (
    colpali_engine,
    flag_embedding,
    grad_cache,
    gram,
    inf_cl,
    info_nce,
    infonce,
    memeff,
    ms_swift,
    multi_view_cl,
    nemo_automodel,
    open_clip,
    pylate,
    siglip_kernel,
    symile,
    tevatron,
)
from contrastile.compat.columns import joined
from support.lightly_modules import lightly_importable

N, D, K = 8, 16, 3
LABELS = torch.arange(N) // 2
MORE_LABELS = torch.arange(N) % 3


@dataclass
class Given:
    x: Tensor  # (N, D)
    y: Tensor
    z: Tensor
    hard: Tensor  # (N, K, D)
    scale: Tensor  # 0-dim

    @staticmethod
    def made(dtype: torch.dtype = torch.float32) -> Given:
        generator = torch.Generator().manual_seed(0)
        shapes = [(N, D)] * 3 + [(N, K, D)]
        features = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
        return Given(*features, torch.tensor(2.0))

    def leaves(self) -> list[Tensor]:
        return [self.x, self.y, self.z, self.hard, self.scale]

    @property
    def passages(self) -> Tensor:
        """(N (K + 1), D), of each row of x its own first."""
        return joined([self.y.unsqueeze(1), self.hard], 1).flatten(0, 1)

    @property
    def both(self) -> Tensor:
        return joined([self.x, self.y])


def lightly(name: str, **options: object) -> Callable[[Given], Tensor]:
    def call(g: Given) -> Tensor:
        torch.manual_seed(0)  # a memory bank starts at random
        with lightly_importable():
            return getattr(import_module("contrastile.compat.lightly"), name)(**options)(g.x, g.y)

    return call


def metric_learning(name: str, listed: bool = False) -> Callable[[Given], Tensor]:
    def call(g: Given) -> Tensor:
        pytest.importorskip("pytorch_metric_learning")
        loss = getattr(import_module("contrastile.compat.pytorch_metric_learning"), name)()
        if not listed:
            return loss(g.x, LABELS) + loss(g.x, LABELS, ref_emb=g.y, ref_labels=MORE_LABELS)
        pairs = torch.tensor([0, 2, 4, 6]), torch.tensor([1, 3, 5, 7]), torch.tensor([0, 2, 4]), torch.tensor([5, 0, 1])
        return loss(g.x, indices_tuple=pairs)

    return call


def ranking(name: str, **options: object) -> Callable[[Given], Tensor]:
    def call(g: Given) -> Tensor:
        pytest.importorskip("sentence_transformers")
        from .sentence_losses import guided_like, ours, whole

        columns = [g.x, g.y, g.z]
        return whole(ours, name, **options)(*columns, **guided_like(name, columns))

    return call


def swift(g: Given) -> Tensor:
    rows = joined([g.x.unsqueeze(1), g.y.unsqueeze(1), g.hard], 1).flatten(0, 1)
    return ms_swift.InfonceLoss()({"last_hidden_state": 0.1 * rows}, torch.tensor([1, *[0] * K] * N))


def late(name: str, g: Given) -> Tensor:
    tokens = g.x.view(N, 2, -1), g.y.view(N, 2, -1)
    negatives = (g.hard.view(N, K, 2, -1),) if "Negative" in name else ()
    return getattr(colpali_engine, name)(normalize_scores=False, temperature=1.0)(*tokens, *negatives)


ALL_HARD = {"hardness_mode": "all_negatives", "hardness_strength": 2.0}
IDS = torch.arange(N) // 2
NORMALISING: dict[str, Callable[[Given], Tensor]] = {
    "infonce": lambda g: infonce.InfoNCE()(g.both),
    "infonce, labels": lambda g: infonce.SupervisedInfoNCE()(g.x, LABELS),
    "info_nce": lambda g: info_nce.info_nce(g.x, g.y, temperature=1 / g.scale),
    "info_nce, shared": lambda g: info_nce.info_nce(g.x, g.y, g.z, temperature=1 / g.scale),
    "info_nce, paired": lambda g: info_nce.info_nce(g.x, g.y, g.hard, 1 / g.scale, negative_mode="paired"),
    "lightly NTXentLoss": lightly("NTXentLoss"),
    "lightly NTXentLoss, bank": lightly("NTXentLoss", memory_bank_size=(6, D)),
    "lightly DCLLoss": lightly("DCLLoss"),
    "lightly DCLWLoss": lightly("DCLWLoss"),
    "metric learning NTXentLoss": metric_learning("NTXentLoss"),
    "metric learning SupConLoss": metric_learning("SupConLoss"),
    "metric learning NTXentLoss, listed": metric_learning("NTXentLoss", listed=True),
    "metric learning SupConLoss, listed": metric_learning("SupConLoss", listed=True),
    "ranking": ranking("MultipleNegativesRankingLoss"),
    "ranking, hardness": ranking("MultipleNegativesRankingLoss", **ALL_HARD),
    "ranking, guided": ranking("GISTEmbedLoss", temperature=0.5),
    "memeff CLIP": lambda g: memeff.MemoryEfficientCLIPLoss()(g.x, g.y),
    "memeff CLIP, prior": lambda g: memeff.MemoryEfficientCLIPLoss(tau_plus=0.1, label_smoothing=0.1)(g.x, g.y),
    "memeff LiT": lambda g: memeff.MemoryEfficientLiTLoss()(g.x, g.y),
    "memeff Qwen3": lambda g: memeff.MemoryEfficientQwen3Loss(
        use_qq_negatives=True, use_dd_negatives=True, label_smoothing=0.1
    )(g.x, g.y, g.hard),
    "memeff Matryoshka": lambda g: memeff.MemoryEfficientMatryoshkaQwen3Loss((8, 16))(g.x, g.y, g.hard),
    "Multi-View-CL NTXent": lambda g: multi_view_cl.NTXent(multiplier=4, mv=True)(joined([g.both, g.both.flip(0)]))[0],
    "Multi-View-CL NTXent, average": lambda g: multi_view_cl.NTXent(average=True)(g.both)[0],
    "Multi-View-CL NTXentHPS": lambda g: multi_view_cl.NTXentHPS()(g.both)[0],
    "Multi-View-CL MVINFONCE": lambda g: multi_view_cl.MVINFONCE()(g.both)[0],
    "Multi-View-CL MVDHEL": lambda g: multi_view_cl.MVDHEL()(g.both)[0],
    "Multi-View-CL CL_1": lambda g: multi_view_cl.CL_1()(g.both)[0],
    "Multi-View-CL CL_2": lambda g: multi_view_cl.CL_2()(g.both)[0],
    "Multi-View-CL PVCLoss": lambda g: multi_view_cl.PVCLoss()(g.both)[0],
    "Multi-View-CL PVCLoss, arithmetic": lambda g: multi_view_cl.PVCLoss(method="arithmetic")(g.both)[0],
    "NeMo InfoNCE": lambda g: nemo_automodel.infonce_loss(g.x, g.y, g.hard, temperature=1 / g.scale),
    "NeMo distillation": lambda g: nemo_automodel.infonce_distill_loss(
        g.x, g.y, g.z, g.y, g.hard, g.hard, direction="symmetric", divergence="mse"
    ),
    "siglip_kernel module": lambda g: siglip_kernel.SigLIPPlusLoss()([g.x, g.y], IDS, IDS)["total_loss"],
    "siglip_kernel module, soft": lambda g: siglip_kernel.SigLIPPlusLoss(soft_label=True)([g.x, g.y])["total_loss"],
}
CALLS = NORMALISING | {
    "open_clip ClipLoss": lambda g: open_clip.ClipLoss()(g.x, g.y, g.scale),
    "open_clip SigLipLoss": lambda g: open_clip.SigLipLoss()(g.x, g.y, g.scale, -g.scale),
    "open_clip DistillClipLoss": lambda g: sum(open_clip.DistillClipLoss()(g.x, g.y, g.scale, g.z, g.y.flip(0), 3.0)),
    "siglip_kernel": lambda g: siglip_kernel.fused_siglip_loss(g.x, g.y, g.scale, -g.scale),
    "siglip_kernel, groups": lambda g: siglip_kernel.fused_siglip_plus_loss(g.x, g.y, g.scale, -g.scale, IDS, IDS),
    "siglip_kernel, dense": lambda g: siglip_kernel.siglip_loss_reference(g.x, g.y, g.scale, -g.scale),
    "inf_cl": lambda g: inf_cl.cal_inf_loss(g.x, g.y, scale=g.scale),
    "GRAM": lambda g: gram.volume_loss(g.x, g.y, g.z, contra_temp=g.scale),
    "GRAM, volumes": lambda g: (gram.volume_computation3(g.x, g.y, g.z) * torch.arange(N)).sum(),
    "GradCache": lambda g: grad_cache.SimpleContrastiveLoss(K)(g.x, g.passages),
    "tevatron": lambda g: tevatron.contrastive_loss(g.x, g.passages, 2.0),
    "FlagEmbedding": lambda g: flag_embedding.group_loss(g.x, g.passages, torch.full((N, K + 1), 0.25)),
    "FlagEmbedding m3": lambda g: flag_embedding.group_loss(
        g.x, g.passages, torch.full((N, K + 1), 0.25), kd_loss_type="m3_kd_loss"
    ),
    "NeMo groups": lambda g: nemo_automodel.grouped_loss(g.x, g.passages, K + 1, passage_doc_ids=torch.arange(32) % 9),
    "ms-swift": swift,
    "colpali BiEncoderLoss": lambda g: colpali_engine.BiEncoderLoss(1.0, True, filter_threshold=0.1)(g.x, g.y),
    "colpali BiPairedEncoderLoss": lambda g: colpali_engine.BiPairedEncoderLoss(1.0, True)(g.x, g.y),
    "colpali BiPairwiseNegativeCELoss": lambda g: colpali_engine.BiPairwiseNegativeCELoss(1.0)(g.x, g.y, g.hard),
    "colpali BiSigmoidLoss": lambda g: colpali_engine.BiSigmoidLoss(1.0)(g.x, g.y),
    "colpali ColbertNegativeCELoss": lambda g: late("ColbertNegativeCELoss", g),
    "pylate": lambda g: (pylate.colbert_scores(g.x.view(N, 2, -1), g.y.view(N, 2, -1)) * torch.arange(N)).sum(),
    "symile": lambda g: symile.Symile()([g.x, g.y, g.z], g.scale),
    "symile, all": lambda g: symile.Symile("n_squared")([g.x, g.y, g.z], g.scale),
    "symile, similarity": lambda g: (symile.MIPSimilarity()(g.x, [g.y, g.z]) * torch.arange(N)).sum(),
}

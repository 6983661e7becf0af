"""Papers 26 to 49."""

from .row import block, exact, no_objective, not_yet, paper

TESTS = "tests/papers/test_26_49.py::"

PAPERS = (
    paper(
        "26", "LCO-Emb", "Scaling Language-Centric Omnimodal Representation Learning", "2510.11693",
        exact(
            "InfoNCE in one direction, with the hard negatives of all",
            "loss = contrastile.info_nce(a, p, temperature=0.03, negatives=n)",
            TESTS + "test_26_lco_emb",
        ),
        exact(
            "its metrics: shared nearest neighbors, CKA and CKNNA of the features of two modalities",
            """
            A, B = F.normalize(A, dim=1), F.normalize(B, dim=1)
            knn = contrastile.metrics.mutual_knn(A, B, k=k), contrastile.metrics.cycle_knn(A, B, k=k)
            options = [dict(), dict(unbiased=True), dict(kernel="rbf", rbf_sigma=1.0)]
            kernels = [contrastile.metrics.cka(A, B, eps=1e-6, **each) for each in options]
            loss = torch.stack([*knn, *kernels, contrastile.metrics.cknna(A, B, k=k, eps=1e-6)])
            """,
            TESTS + "test_26_kernel_alignment", "metrics",
        ),
    ),
    paper(
        "27", "Diffusion-Link",
        "Diffusion-Link: Diffusion Probabilistic Model for Bridging the Audio-Text Modality Gap",
        "2510.11330",
        block(
            "relational MSE: the similarities within the predicted batch are those of the target batch",
            "loss = contrastile.in_modal_consistency(predicted, target)",
            TESTS + "test_27_topology",
        ),
    ),
    paper(
        "28", "DCD", "Dynamic Contrastive Distillation for Image-Text Retrieval", "2207.01426",
        exact(
            "distillation of given scores, the true text first, among the columns that a teacher finds hard, whose "
            "sorted scores the official code takes; its weights of the first term have no effect",
            """
            columns = contrastile.teacher_hard_negatives(teacher, K)
            loss = contrastile.dcd_loss(scores.gather(1, columns), teacher.topk(K + 1).values, alpha=0.2)
            """,
            TESTS + "test_28_dcd",
        ),
    ),
    paper(
        "29", "CoAVT",
        "CoAVT: A Cognition-Inspired Unified Audio-Visual-Text Pre-Training Model for Multimodal Processing",
        "2401.12264",
        block(
            "CLIP over the best of several query outputs",
            """
            options = dict(label_smoothing=0.1, direction="mean")
            loss = contrastile.late_interaction_info_nce(t[:, None], q, temperature=tau, **options)
            """,
            TESTS + "test_29_best_query",
        ),
    ),
    paper(
        "30", "1-to-K",
        "Improving the Consistency in Cross-Lingual Cross-Modal Retrieval with 1-to-K Contrastive Learning",
        "2406.18254",
        exact(
            "K texts of an image, one for each language; the text direction is weighted by 1 / K, as in the official "
            "code",
            """
            image, text = torch.arange(len(v)), torch.arange(len(v)).repeat_interleave(K)
            options = dict(form="out", temperature=tau)
            i2t = contrastile.multi_positive(v, t, image, text, direction="rows", **options)
            t2i = contrastile.multi_positive(v, t, image, text, direction="cols", **options)
            loss = 0.5 * (i2t + t2i / K)
            """,
            TESTS + "test_30_one_to_k",
        ),
        exact(
            "the mean rank variance of K languages",
            """
            image = torch.arange(len(v))
            options = dict(positives="same_id", row_ids=image.repeat_interleave(K), col_ids=image)
            loss = contrastile.metrics.mean_rank_variance(contrastile.retrieval.ranks(t, v, **options).view(-1, K))
            """,
            TESTS + "test_30_mean_rank_variance", "MRV",
        ),
        exact(
            "the matching head's negative text for each image, drawn from the softmax of scores with 1e-5 added",
            """
            image, text = torch.arange(len(v)), torch.arange(len(v)).repeat_interleave(K)
            others = dict(keep="other_id", row_ids=image, col_ids=text, floor=1e-5)
            draw = dict(replacement=True, generator=torch.Generator().manual_seed(seed))
            wrong = contrastile.retrieval.sample_negatives(v, t, temperature=tau, **others, **draw)[:, 0]
            loss = (v * t[wrong]).sum(1)  # what the head is given of both
            """,
            TESTS + "test_30_matching", "matching",
        ),
    ),
    paper(
        "31", "SepCLR", "Separating common from salient patterns with Contrastive Representation Learning",
        "2402.11928",
        exact(
            "alignment, uniformity and k-JEM of common and salient features",
            """
            c1, c2, kept = F.normalize(c1, dim=1), F.normalize(c2, dim=1), (y == 1)[:, None]
            r1, r2 = s1 * kept, s2 * kept  # background is 0
            common = contrastile.alignment(c1, c2) + sum(contrastile.uniformity(x, t=1.0) for x in (c1, c2))
            salient = contrastile.alignment(s1[y == 1], s2[y == 1])
            salient = salient + sum(contrastile.uniformity(x, t=1.0) for x in (r1, r2))
            empty = 0.5 * sum(s[y == 0].square().sum(1).mean() for s in (s1, s2))
            joint = [contrastile.joint_entropy(torch.cat(x, 1), t=1.0) for x in ((c1, r1), (c2, r2))]
            loss = common + b_s * salient + b_r * empty + lam * 0.5 * sum(joint)
            """,
            TESTS + "test_31_sepclr",
        ),
    ),
    paper(
        "32", "noise refinement",
        "Fine-Grained Alignment and Noise Refinement for Compositional Text-to-Image Generation",
        "2503.06506",
        no_objective("optimizes attention maps at inference; there are no embeddings"),
    ),
    paper(
        "33", "RepBlend", "Beyond Modality Collapse: Representations Blending for Multimodal Dataset Distillation",
        "2505.14705",
        exact(
            "blended representations, and class-balanced entropies with learned labels of low rank",
            """
            u = F.normalize((lam * x + (1 - lam) * x[perm]) @ W_x, dim=1)
            w = F.normalize((lam * y + (1 - lam) * y[perm]) @ W_y, dim=1)
            labels = contrastile.LowRank(diagonal, L, R, alpha=3.0)
            loss = contrastile.multilabel_contrastive(u, w, labels, logit_scale=1 / 0.07, form="wbce")
            """,
            TESTS + "test_33_repblend",
        ),
    ),
    paper(
        "34", "MIS",
        "Assessing Modality Bias in Video Question Answering Benchmarks with Multimodal Large Language Models",
        "2408.12763",
        no_objective("a score of answers with and without a modality"),
    ),
    paper(
        "35", "MIR", "Deciphering Cross-Modal Alignment in Large Vision-Language Models with Modality Integration Rate",
        "2410.07167",
        exact(
            "its metric, from the hidden states of a language model, in the official code's accurate mode",
            "loss = contrastile.metrics.modality_integration_rate(vision, text)",
            TESTS + "test_35_modality_integration_rate",
        ),
    ),
    paper(
        "36", "MV-InfoNCE and MV-DHEL", "A Principled Framework for Multi-View Contrastive Learning", "2507.06979",
        exact(
            "one softmax for each instance, as in the official code",
            "loss = contrastile.mv_infonce(U, temperature=0.5)",
            TESTS + "test_36_mv_infonce", "MV-InfoNCE",
        ),
        exact(
            "the same with only other views in the denominator, as in the paper",
            'loss = contrastile.mv_infonce(U, temperature=0.5, negatives="cross_view")',
            TESTS + "test_36_mv_infonce_of_the_paper", "MV-InfoNCE of the paper",
        ),
        exact(
            "repulsion within each view only",
            "loss = contrastile.mv_dhel(U, temperature=0.5)",
            TESTS + "test_36_mv_dhel", "MV-DHEL",
        ),
        exact(
            "its baselines: pairs of views, and each view against the mean of the others",
            """
            loss = contrastile.pairwise_aggregate(U, contrastile.nt_xent, temperature=0.5)
            loss = loss + contrastile.pairwise_aggregate(U, contrastile.nt_xent, mode="average", temperature=0.5)
            """,
            TESTS + "test_36_baselines", "PWE and AVG",
        ),
    ),
    paper(
        "37", "Mod-X", "Continual Vision-Language Representation Learning with Off-Diagonal Information", "2305.07437",
        exact(
            "CLIP, and the old model's softmax of cosines where it finds the partner; a sum over rows",
            """
            options = dict(teacher_loss="kl", filter_wrong=True, reduction="sum")
            kept = contrastile.clip_distill_loss(f, g, f_old, g_old, 1.0, **options)
            loss = contrastile.clip_loss(f, g, s) + 20 * kept
            """,
            TESTS + "test_37_mod_x",
        ),
    ),
    paper(
        "38", "MCL", "Learning the Unlearned: Mitigating Feature Suppression in Contrastive Learning", "2402.11816",
        exact(
            "only negatives of the same cluster",
            "loss = contrastile.clip_loss(f, g, s, image_groups=cluster)",
            TESTS + "test_38_mcl",
        ),
        not_yet("the sampler that makes batches of one cluster"),
    ),
    paper(
        "39", "Mixture-of-Mamba",
        "Mixture-of-Mamba: Enhancing Multi-Modal State-Space Models with Modality-Aware Sparsity", "2501.16295",
        no_objective("an architecture, trained with language-modeling and diffusion losses"),
    ),
    paper(
        "40", "CLIP-Refine", "Post-pre-training for Modality Alignment in Vision-Language Foundation Models",
        "2504.12717",
        exact(
            "the random reference of both modalities (RaFA) and the teacher blended with the pairs (HyCD), on features "
            "that are not normalized",
            """
            rafa = F.mse_loss(f_I, z) + F.mse_loss(f_T, z)
            loss = rafa + contrastile.clip_distill_loss(f_I, f_T, t_I, t_T, 1.0, alpha=0.5, teacher_loss="kl")
            """,
            TESTS + "test_40_clip_refine",
        ),
    ),
    paper(
        "41", "InterCLR", "Delving into Inter-Image Invariance for Unsupervised Visual Representations", "2008.11702",
        exact(
            "MoCo within images and MarginNCE between images",
            """
            intra = contrastile.info_nce(q, k, temperature=0.2, negatives=queue, in_batch=False)
            far = dict(temperature=0.2, negatives=bank, in_batch=False)
            inter = contrastile.margin_info_nce(q, positive, margin=-0.5, **far)
            loss = 0.75 * intra + 0.25 * inter
            """,
            TESTS + "test_41_interclr",
        ),
        exact(
            "the margin on the angle",
            """
            far = dict(temperature=0.2, negatives=bank, in_batch=False)
            loss = contrastile.margin_info_nce(q, positive, margin=m, kind="arc", **far)
            """,
            TESTS + "test_41_arc", "arc",
        ),
        exact(
            "between images with negatives of each image by index into the bank; the margin is their bias",
            """
            own = contrastile.Candidates.of_bank(bank, drawn, bias=-0.5 / 0.2)
            loss = contrastile.grouped_info_nce(q, bank[same], own, temperature=0.2)
            """,
            TESTS + "test_41_by_index", "by index",
        ),
        exact(
            "drawing them with equal probabilities from the semi-hard pool, without those of the same pseudo label",
            """
            others = dict(keep="other_id", row_ids=labels[: len(q)], col_ids=labels)
            draw = dict(pool=9, generator=torch.Generator().manual_seed(seed))
            drawn = contrastile.retrieval.semi_hard_negatives(q, bank, 4, **others, **draw)
            own = contrastile.Candidates.of_bank(bank, drawn)
            loss = contrastile.grouped_info_nce(q, positive, own, temperature=0.2)
            """,
            TESTS + "test_41_semi_hard", "semi-hard",
        ),
    ),
    paper(
        "42", "ALBEF", "Align before Fuse: Vision and Language Representation Learning with Momentum Distillation",
        "2107.07651",
        exact(
            "momentum targets with queues, both directions",
            """
            i2t = contrastile.distill_info_nce(v, w_m, v_m, temperature=tau, alpha=0.4, negatives=Q_w)
            t2i = contrastile.distill_info_nce(w, v_m, w_m, temperature=tau, alpha=0.4, negatives=Q_v)
            loss = 0.5 * (i2t + t2i)
            """,
            TESTS + "test_42_albef",
        ),
        exact(
            "the matching head's negative text for each image, drawn from the softmax of scores",
            """
            draw = dict(replacement=True, generator=torch.Generator().manual_seed(seed))
            wrong = contrastile.retrieval.sample_negatives(v, w, temperature=tau, **draw)[:, 0]
            loss = (v * w[wrong]).sum(1)  # what the head is given of both
            """,
            TESTS + "test_42_matching", "matching",
        ),
        not_yet("averaged encoders as modules"),
    ),
    paper(
        "43", "CoDiEmb",
        "CoDiEmb: A Collaborative yet Distinct Framework for Unified Representation Learning in Information Retrieval "
        "and Semantic Textual Similarity", "2508.11442",
        exact(
            "P positives of a query, each against the negatives of all queries",
            """
            negatives = p[:, P:].flatten(0, 1)
            each = [contrastile.info_nce(q, p[:, a], negatives=negatives, temperature=0.02) for a in range(P)]
            loss = sum(each) / P
            """,
            TESTS + "test_43_retrieval", "retrieval",
        ),
        exact(
            "PRO, Pearson and RankKL",
            """
            rank_kl = contrastile.rank_kl_loss(x, y, temperature=0.05)
            loss = 0.5 * contrastile.pro_loss(x, y, temperature=0.05) + 2 * contrastile.pearson_loss(x, y) + 5 * rank_kl
            """,
            TESTS + "test_43_similarity", "similarity",
        ),
    ),
    paper(
        "44", "CustomContrast",
        "CustomContrast: A Multilevel Contrastive Perspective For Subject-Driven Text-to-Image Customization",
        "2409.05606",
        block(
            "supervised contrast of the views of a subject",
            "loss = contrastile.sup_con(z, subject, temperature=0.1)",
            TESTS + "test_44_subjects",
        ),
    ),
    paper(
        "45", "M3EL", "Multi-level Matching Network for Multimodal Entity Linking", "2412.10440",
        exact(
            "weighted contrast between and within mentions and entities, of texts and of images, and the matching of "
            "whole vectors",
            """
            text = contrastile.m3el_loss(e_text, m_text, temperature=0.03)
            image = contrastile.m3el_loss(e_image, m_image, temperature=0.03)
            loss = 0.5 * (text + image) + contrastile.info_nce(mention, entity, temperature=1.0)
            """,
            TESTS + "test_45_m3el",
        ),
        exact(
            "matching scores from attention between tokens of an entity and of a mention, whole vectors beside",
            """
            norm = dict(gain=gain, shift=shift)
            local = contrastile.cross_attention_scores(entity_cls, query, keys, value, **norm).T
            loss = F.cross_entropy(0.5 * (local + mention @ entity.T), torch.arange(len(mention)))
            """,
            TESTS + "test_45_tokens", "tokens",
        ),
    ),
    paper(
        "46", "Hydra and SimLAP", "Rethinking Positive Pairs in Contrastive Learning", "2410.18200",
        exact(
            "classes paired at random, in gated subspaces",
            "loss = contrastile.hydra_loss(z, g, y, y2, logit_scale=10.0)",
            TESTS + "test_46_hydra", "Hydra",
        ),
        exact(
            "the later form, which gates the sample only",
            """
            query, key = F.normalize(z, dim=1) * g * g, F.normalize(k, dim=1)
            neither = dict(keep=("other_id", "other_group"), row_ids=y, col_ids=y_k, row_groups=y2, col_groups=y_k)
            negatives = contrastile.row_lse(query, key, scale=10.0, **neither)
            partners = dict(keep="same_id", row_ids=y2, col_ids=y_k, reduce="softplus", counts=True)
            found = contrastile.pair_reduce(query, key, scale=-10.0, row_bias=negatives, **partners)
            loss = found.rows.sum() / found.row_kept.sum()
            """,
            TESTS + "test_46_simlap", "SimLAP",
        ),
    ),
    paper(
        "47", "UrbanCLIP",
        "UrbanCLIP: Learning Text-enhanced Urban Region Profiling with Contrastive Language-Image Pretraining from the "
        "Web",
        "2310.18340",
        exact(
            "CLIP and captions",
            """
            caption = contrastile.linear_cross_entropy(hidden, W, labels, ignore_index=0)
            loss = contrastile.clip_loss(f, g, s) + caption
            """,
            TESTS + "test_47_urbanclip",
        ),
    ),
    paper(
        "48", "gradient harmonization", "Scaling Multimodal Pre-Training via Cross-Modality Gradient Harmonization",
        "2211.02077",
        block(
            "its base losses: those of VATT, between video and audio and between video and bags of texts",
            """
            vt = contrastile.mil_nce(v, t, temperature=0.07)
            loss = 0.5 * (vt + contrastile.mil_nce(v, a[:, None], temperature=0.07))
            """,
            TESTS + "test_48_base_losses", "base losses",
        ),
        block(
            "its realignment: the gradients of both, each without what points against the other",
            "loss = sum(contrastile.project_conflicting([g_va, g_vt]))",
            TESTS + "test_48_realignment", "realignment",
        ),
    ),
    paper(
        "49", "iSogCLR",
        "Not All Semantics are Created Equal: Contrastive Self-supervised Learning with Automatic Temperature "
        "Individualization", "2305.11965",
        exact(
            "its objective on one batch, with a temperature for each image and each text (RGCL)",
            """
            own, count = (x * y).sum(1), torch.tensor(len(x) - 1.0, dtype=x.dtype)
            image = contrastile.row_lse(x, y, scale=1 / tau_x, keep="other_index")
            text = contrastile.row_lse(y, x, scale=1 / tau_y, keep="other_index")
            loss = tau_x * (image - count.log() + rho) + tau_y * (text - count.log() + rho) - 2 * own
            loss = loss.mean()
            """,
            TESTS + "test_49_objective",
        ),
        exact(
            "moving averages and temperatures of every sample (RGCL), as in the official code",
            """
            official = dict(include_positive=True, warm_start=False)
            criterion = contrastile.ISogCLR(samples, temperature=0.125, rho=6.0, **official)
            loss = criterion(x, y, index)
            """,
            TESTS + "test_49_isogclr", "iSogCLR",
        ),
        exact(
            "the same with the objective (RGCL) as the value",
            """
            criterion = contrastile.RGCL(samples, temperature=0.125, t_max=0.5, rho=6.0)
            loss = criterion(x, y, index)
            """,
            TESTS + "test_49_rgcl", "RGCL",
        ),
    ),
)  # fmt: skip

"""Papers 1 to 25."""

from .row import block, exact, no_objective, paper

TESTS = "tests/papers/test_01_25.py::"

PAPERS = (
    paper(
        "1", "Cross the Gap",
        "Cross the Gap: Exposing the Intra-modal Misalignment in CLIP via Modality Inversion", "2502.04263",
        exact(
            "the cosine loss of both inversions (OTI, OVI)",
            "loss = contrastile.cosine_loss(u, f)",
            TESTS + "test_1_inversion",
        ),
        block(
            "CLIP with an intra-modal term",
            """
            loss = contrastile.clip_loss(image, text, s) + contrastile.nt_xent(view1, view2, temperature=0.1)
            """,
            TESTS + "test_1_slip", "SLIP",
        ),
        exact(
            "its figures of retrieval within a modality, which leave the query out (but not in the cut-off of AP@R)",
            """
            options = dict(positives="same_id", row_ids=labels, empty_target_action="neg")
            found = contrastile.metrics.retrieval_ranks(f, None, **options)
            at_r = found.average_precision(found.positives + 1)
            loss = torch.stack([found.average_precision(), at_r, found.r_precision(), found.hit_rate(1)])
            """,
            TESTS + "test_1_retrieval", "retrieval",
        ),
    ),
    paper(
        "2", "CUA and CUAXU", "It's Not a Modality Gap: Characterizing and Addressing the Contrastive Gap",
        "2405.18570",
        exact(
            "CLIP, uniformity within both modalities, alignment",
            "loss = contrastile.cua(X, Y, 100.0)",
            TESTS + "test_2_contrastive_gap", "CUA",
        ),
        exact(
            "the same with uniformity across modalities",
            "loss = contrastile.cuaxu(X, Y, 100.0)",
            TESTS + "test_2_contrastive_gap", "CUAXU",
        ),
    ),
    paper(
        "3", "CLIP-rocket", "Improved baselines for vision-language pre-training", "2305.08675",
        exact(
            "CLIP of the global pair and of all pairs of local views, whose labels are smoothed; keys are gathered "
            "without gradient",
            """
            images, texts = torch.cat([z_I[None], h_I]), torch.cat([z_T[None], h_T])
            options = dict(local_logit_scale=s_h, label_smoothing=0.1, detach_keys=True)
            loss = contrastile.multiview_clip_loss(images, texts, s, **options)
            """,
            TESTS + "test_3_cl2l", "CL2L",
        ),
        exact(
            "the cross-correlation of both projections",
            "loss = 0.025 * contrastile.barlow_twins_loss(v_I, v_T, off_diagonal_weight=0.005, standardize=False)",
            TESTS + "test_3_barlip", "BarLIP",
        ),
        exact(
            "predictors find the other modality's projection (BYOLIP: of an averaged encoder)",
            """
            pairs = [(p_I[0], v_T[0]), (p_T[0], v_I[0])]  # the global pair, then all pairs of local views
            pairs += [(p, v) for a in (1, 2) for b in (1, 2) for p, v in ((p_I[a], v_T[b]), (p_T[b], v_I[a]))]
            options = dict(form="squared", detach_target=True)
            loss = sum(contrastile.cosine_loss(p, v, **options) for p, v in pairs) / len(pairs)
            """,
            TESTS + "test_3_siamlip", "SiamLIP",
        ),
        exact(
            "targets from three rounds of Sinkhorn between the other views, as potentials of the rows and columns of a "
            "matrix that is not held; keys are gathered without gradient",
            "loss = contrastile.retrieval.swapped_prediction_loss(h_I, h_T, s_h, detach_keys=True)",
            TESTS + "test_3_swalip", "SwALIP",
        ),
    ),
    paper(
        "4", "TCL", "Vision-Language Pre-Training with Triple Contrastive Learning", "2202.10401",
        exact(
            "the six terms: momentum targets with queues (CMA), within each modality (IMC), global to local (LMI)",
            """
            cma = contrastile.distill_info_nce(f_I, m_T, m_I, temperature=tau, alpha=0.4, negatives=Q_T)
            cma = cma + contrastile.distill_info_nce(f_T, m_I, m_T, temperature=tau, alpha=0.4, negatives=Q_I)
            imc = contrastile.info_nce(f_I, m_I, temperature=tau, negatives=Q_I)
            imc = imc + contrastile.info_nce(f_T, m_T, temperature=tau, negatives=Q_T)
            lmi = contrastile.global_local_info_nce(f_I, l_I, temperature=tau)
            lmi = lmi + contrastile.global_local_info_nce(f_T, l_T, mask, temperature=tau)
            loss = (cma + imc + lmi) / 6
            """,
            TESTS + "test_4_tcl",
        ),
        exact(
            "several captions of an image: the hard part of the target is shared by all with its id",
            """
            loss = contrastile.distill_info_nce(
                f_I, m_T, m_I, temperature=tau, alpha=0.4, negatives=Q_T, query_ids=idx, negative_ids=queue_idx
            )
            """,
            TESTS + "test_4_fine_tuning", "fine-tuning",
        ),
        block(
            "the matching head's negative text for each image, drawn from the softmax of scores as in ALBEF",
            """
            draw = dict(replacement=True, generator=torch.Generator().manual_seed(seed))
            wrong = contrastile.retrieval.sample_negatives(f_I, f_T, temperature=tau, **draw)[:, 0]
            loss = (f_I * f_T[wrong]).sum(1)  # what the head is given of both
            """,
            TESTS + "test_4_matching", "matching",
        ),
    ),
    paper(
        "5", "CWCL", "CWCL: Cross-Modal Transfer with Continuously Weighted Contrastive Loss", "2309.14580",
        exact(
            "pairs weighted by their similarity in the frozen modality, as in published code of others (none of "
            "the authors is known)",
            "loss = contrastile.cwcl_loss(p, q, s)",
            TESTS + "test_5_cwcl",
        ),
    ),
    paper(
        "6", "CMA", "Enhanced OoD Detection through Cross-Modal Alignment of Multi-Modal Representations", "2503.18817",
        exact(
            "CLIP with its own coefficient on the log-sum-exps",
            "loss = contrastile.cma_loss(X, Y, s, lam=0.001)",
            TESTS + "test_6_cma",
        ),
        exact(
            "the score of an image, the share that known classes have of all texts",
            "loss = contrastile.metrics.neg_label_score(X, Y_id, Y_neg)",
            TESTS + "test_6_neg_label", "NegLabel",
        ),
        exact(
            "the score of an image, its largest probability among the known classes",
            "loss = contrastile.metrics.mcm_score(X, Y_id)",
            TESTS + "test_6_mcm", "MCM",
        ),
    ),
    paper(
        "7", "Symile",
        "Contrasting with Symile: Simple Model-Agnostic Representation Learning for Unlimited Modalities", "2411.01053",
        exact(
            "one random tuple for each column",
            'loss = contrastile.symile_loss(a, b, c, logit_scale=s, negatives="n", permutations=permutations)',
            TESTS + "test_7_symile", "n",
        ),
        exact(
            "all tuples as negatives",
            'loss = contrastile.symile_loss(a, b, c, logit_scale=s, negatives="n_squared")',
            TESTS + "test_7_all_tuples", "n_squared",
        ),
    ),
    paper(
        "8", "GRAM", "Gramian Multimodal Representation Learning and Alignment", "2412.11959",
        exact(
            "volumes as in the training code, whose gather detaches the other side even on one device",
            "loss = contrastile.gram_loss(t, v, a, temperature=tau, label_smoothing=0.1, detach_keys=True)",
            TESTS + "test_8_gram",
        ),
        exact(
            "a negative tuple per text, for the matching head: drawn from the softmax of minus the volume plus 1e-4",
            """
            draw = dict(floor=1e-4, replacement=True, generator=torch.Generator().manual_seed(seed))
            wrong = contrastile.retrieval.sample_negatives(t, (v, a), score="volume", temperature=tau, **draw)[:, 0]
            loss = (t * v[wrong]).sum(1)  # what the head is given of both
            """,
            TESTS + "test_8_matching", "matching",
        ),
    ),
    paper(
        "9", "MoRE",
        "MoRE: Multi-Modal Contrastive Pre-training with Transformers on X-Rays, ECGs, and Diagnostic Report",
        "2410.16239",
        exact(
            "two CLIP losses with the note as anchor; the temperature is 0.02, which the official code never learns",
            """
            loss = contrastile.clip_loss(n, x, 50.0, normalize=True) + contrastile.clip_loss(n, e, 50.0, normalize=True)
            """,
            TESTS + "test_9_more",
        ),
    ),
    paper(
        "10", "CLaMR", "CLaMR: Contextualized Late-Interaction for Multimodal Content Retrieval", "2506.06144",
        exact(
            "InfoNCE of late interaction with the best single modality; padding counts as modality 0, as in the "
            "official code",
            """
            E_q, E_d = E_q * query_mask[..., None], E_d * (modality > 0)[..., None]
            options = dict(modalities=modality, num_modalities=M + 1, reduce="mean", temperature=0.02)
            loss = contrastile.late_interaction_info_nce(E_q, E_d, query_mask=query_mask, **options)
            """,
            TESTS + "test_10_clamr",
        ),
        exact(
            "the official code's variant with hard positives, documents by their labeled modality only",
            """
            E_q, E_d = E_q * query_mask[..., None], E_d * (modality > 0)[..., None]
            options = dict(modalities=modality, num_modalities=M + 1, reduce="mean", temperature=0.02)
            own = dict(hard_positives=E_d[:, None], hard_positive_mask=(modality == label[:, None])[:, None])
            loss = contrastile.late_interaction_info_nce(E_q, E_d, query_mask=query_mask, **own, **options)
            """,
            TESTS + "test_10_hard_positives", "hard positives",
        ),
    ),
    paper(
        "11", "XBind", "Any-to-3D Generation via Hybrid Diffusion Supervision", "2411.14715",
        block(
            "the cosine of a rendering and its prompt",
            "loss = contrastile.cosine_loss(rendering, prompt.detach())",
            TESTS + "test_11_cosine",
        ),
    ),
    paper(
        "12", "COSMO", "COSMO: COntrastive Streamlined MultimOdal Model with Interleaved Pre-Training", "2401.00849",
        exact(
            "CLIP; what the configuration calls a temperature of 0.2 is the logarithm of the scale",
            "loss = contrastile.clip_loss(t, v, theta.exp())",
            TESTS + "test_12_cosmo",
        ),
    ),
    paper(
        "13", "hard contrastive loss", "Understanding the Behaviour of Contrastive Loss", "2012.09740",
        exact(
            "only the K hardest negatives (equation 9)",
            "loss = contrastile.info_nce(f, g, temperature=0.7, num_hard=K)",
            TESTS + "test_13_hard",
        ),
        exact(
            "equation 3, for which a sum over all keys is enough",
            "loss = (lam * (f @ g.sum(0)) - (1 + lam) * (f * g).sum(1)).mean()",
            TESTS + "test_13_simple", "simple",
        ),
        exact(
            "the same over the K hardest of a bank; a limit between the K-th and the next makes their sum",
            """
            scores = (x @ bank.detach().T for x in f.detach().split(1024))
            limit = torch.cat([x.topk(K + 1).values[:, -2:].mean(1) for x in scores])
            hardest = contrastile.pair_reduce(f, bank, row_bias=-limit, reduce="relu").rows + K * limit
            loss = (lam * hardest - (f * g).sum(1)).mean()
            """,
            TESTS + "test_13_hard_simple", "hard simple",
        ),
        exact(
            "equation 10",
            "loss = contrastile.uniformity(f, t=2.0)",
            TESTS + "test_13_uniformity", "uniformity",
        ),
        exact(
            "equation 11, over pairs of different items",
            "loss = contrastile.metrics.tolerance(f, labels)",
            TESTS + "test_13_tolerance", "tolerance",
        ),
    ),
    paper(
        "14", "COCONUT", "Continual Contrastive Spoken Language Understanding", "2310.02699",
        block(
            "positives from the teacher, all else from the student, only rehearsed samples as anchors",
            """
            keys = dict(keys=a_teacher[rehearsed], key_labels=y[rehearsed], keys_as="positives")
            loss = contrastile.sup_con(a, y, **keys, anchor_mask=rehearsed, temperature=0.1)
            """,
            TESTS + "test_14_rehearsal", "student and teacher",
        ),
        block(
            "supervised contrast across audio and text, both directions",
            'loss = contrastile.multi_positive(a, t, y, y, form="out", direction="sum", temperature=0.1)',
            TESTS + "test_14_across_modalities", "across modalities",
        ),
    ),
    paper(
        "15", "CLSR", "Contrastive Latent Space Reconstruction Learning for Audio-Text Retrieval", "",
        block(
            "a temperature for each pair and direction, and a reconstruction term",
            """
            loss = contrastile.info_nce(a, t, temperature=tau_a, key_temperature=tau_t, symmetric=True)
            loss = loss + F.mse_loss(reconstruction, t)
            """,
            TESTS + "test_15_temperatures",
        ),
    ),
    paper(
        "16", "CLOSE", '"I Can\'t Believe There\'s No Images! Learning Visual Tasks Using only Language Supervision"',
        "2211.09778",
        no_objective("trains on frozen embeddings with noise added; its loss is over words"),
    ),
    paper(
        "17", "DeGLA", "Decoupled Global-Local Alignment for Improving Compositional Understanding", "2504.16801",
        exact(
            "the whole objective of the code; in TGC a caption has its own negatives, as in the paper (the code's "
            "index takes others')",
            """
            base = contrastile.info_nce(v, t, temperature=1 / s, negatives=t_neg.flatten(0, 1), symmetric=True)
            igc = contrastile.grouped_info_nce(v, t, t_neg, temperature=1 / s)
            tgc = contrastile.grouped_info_nce(t, t_ema, t_neg, temperature=0.1)
            pairs = ((v, v_ema), (t, t_ema), (t_neg, t_neg_ema))
            distill = sum(F.mse_loss(x, y, reduction="sum") for x, y in pairs)
            loss = base + 0.1 * igc + 0.1 * tgc + 0.005 * distill
            """,
            TESTS + "test_17_degla",
        ),
        exact(
            "the base term of the paper: only an image's own negatives",
            "loss = contrastile.info_nce(v, t, temperature=1 / s, hard_negatives=t_neg, symmetric=True)",
            TESTS + "test_17_equation_4", "equation 4",
        ),
    ),
    paper(
        "18", "InvGC", "InvGC: Robust Cross-Modal Retrieval by Inverse Graph Convolution", "2310.13276",
        exact(
            "the moved gallery, from products of D x D instead of all similarities",
            "loss = contrastile.retrieval.invgc(T, G, r)  # the new gallery",
            TESTS + "test_18_invgc",
        ),
        exact(
            "LocalAdj, which takes the top k of each row",
            "loss = contrastile.retrieval.local_adj(T, G, r, k=k)",
            TESTS + "test_18_local_adj", "LocalAdj",
        ),
    ),
    paper(
        "19", "M3CoL",
        "Harnessing Shared Relations via Multimodal Mixup Contrastive Learning for Multimodal Classification",
        "2409.17777",
        exact(
            "mixed against clean of the other modality, with the official targets of fixed points",
            """
            b = share[:, None]
            mixed_text, mixed_image = b * text + (1 - b) * text[perm], b * image + (1 - b) * image[perm]
            options = dict(temperature=0.1, fixed_points="overwrite", normalize=True)
            loss = contrastile.mixup_info_nce(mixed_text, image, perm, share, **options)
            loss = loss + contrastile.mixup_info_nce(mixed_image, text, perm, share, **options)
            """,
            TESTS + "test_19_m3co", "M3Co",
        ),
        exact(
            "targets from the similarity of items within the second modality, with gradient",
            """
            loss = contrastile.softclip_loss(text, image, temperature=0.125)
            loss = loss + contrastile.softclip_loss(image, text, temperature=0.125)
            """,
            TESTS + "test_19_softclip", "SoftCLIP",
        ),
    ),
    paper(
        "20", "LLM-VEM",
        "Aligned with LLM: a new multi-modal training paradigm for encoding fMRI activity in visual cortex",
        "2401.03851",
        block(
            "CLIP against frozen text",
            "loss = contrastile.clip_loss(image, text.detach(), s)",
            TESTS + "test_20_frozen_text",
        ),
    ),
    paper(
        "21", "MSEA and ARC", "Explaining multimodal LLMs via intra-modal token interactions", "2509.22415",
        no_objective("explains what trained models attend to; nothing is trained"),
    ),
    paper(
        "22", "FG-CLIP 2", "FG-CLIP 2: A Bilingual Fine-grained Vision-Language Alignment Model", "2510.10921",
        exact(
            "stage 2 without its TIC term: SigLIP on short and long captions, regions, and the block of hard texts",
            """
            loss = contrastile.siglip_loss(x, short, s, b) + contrastile.siglip_loss(x, long, s, b)
            loss = loss + 0.2 * contrastile.clip_loss(v, t, s_r)
            contrast = contrastile.info_nce(v, t, temperature=1 / s_h, negatives=t_neg.flatten(0, 1), symmetric=True)
            fgt = contrastile.grouped_info_nce(v, t, t_neg, temperature=1 / s_h)
            cmr = contrastile.grouped_margin_loss(v, t, t_neg, margin=delta, temperature=1 / s_h)
            loss = loss + 0.5 * (0.6 * contrast + 3 * fgt + 0.4 * cmr)
            """,
            TESTS + "test_22_fg_clip_2",
        ),
        exact(
            "TIC, the repulsion of the k most similar texts; those above 0.95, and the text itself, stay as zeros",
            "loss = contrastile.retrieval.topk_repulsion_loss(z, k, below=0.95, fill=True)",
            TESTS + "test_22_tic", "TIC",
        ),
    ),
    paper(
        "23", "TeminAL",
        "Enhancing Audio-Language Models through Self-Supervised Post-Training with Text-Audio Pairs", "2408.09269",
        exact(
            "three orders of every pair in one batch, with weights of the same pair, of others, and of samples",
            """
            weights = dict(same_pair_weight=alpha_same, other_block_weight=alpha_cross, weights=w)
            loss = 0.8 * contrastile.block_info_nce(T, A, 3, **weights)
            """,
            TESTS + "test_23_teminal",
        ),
    ),
    paper(
        "24", "m3-Mix", "Geodesic Multi-Modal Mixup for Robust Fine-Tuning", "2203.03897",
        exact(
            "CLIP, m2-Mix and the mixtures within images, within texts and within both",
            """
            back = torch.arange(len(X)).flip(0)
            X_mix, Y_mix = contrastile.slerp(X, X.flip(0), lam), contrastile.slerp(Y, Y.flip(0), lam)
            m2 = contrastile.m2_mix(X, Y, lam, temperature=0.07)
            v = contrastile.mixup_info_nce(X_mix, Y, back, lam, temperature=0.01)
            t = contrastile.mixup_info_nce(Y_mix, X, back, lam, temperature=0.01)
            vl = 2 * contrastile.mixup_info_nce(X_mix, Y_mix, back, 0.5, temperature=0.01)
            loss = contrastile.clip_loss(X, Y, 100.0) + 0.05 * m2 + 0.05 * v + 0.1 * t + 0.01 * vl
            """,
            TESTS + "test_24_m3_mix",
        ),
        exact(
            "mixed logits only at a pair and its partner",
            """
            back = torch.arange(len(X)).flip(0)
            X_mix = contrastile.slerp(X, X.flip(0), lam)
            loss = contrastile.mixup_info_nce(X_mix, Y, back, lam, unmixed=X, temperature=0.01)
            """,
            TESTS + "test_24_original_neg", "original_neg",
        ),
    ),
    paper(
        "25", "IMA", "Implicit Multimodal Alignment: On the Generalization of Frozen LLMs to Multimodal Inputs",
        "2405.16700",
        exact(
            "the cosines of two sets of tokens in a frozen model: the mean of the largest, mean, largest and smallest",
            """
            similarity = contrastile.metrics.set_similarity
            loss = torch.stack([similarity(x, y, reduce=each) for each in ("max_mean", "mean", "max", "min")])
            """,
            TESTS + "test_25_similarities",
        ),
    ),
)  # fmt: skip

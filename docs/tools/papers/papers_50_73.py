"""Papers 50 to 73."""

from .row import block, exact, no_objective, not_yet, paper

TESTS = "tests/papers/test_50_73.py::"

PAPERS = (
    paper(
        "50", "modality bias", "MLLMs are Deeply Affected by Modality Bias", "2505.18657",
        no_objective("a position paper"),
    ),
    paper(
        "51", "CoCa", "CoCa: Contrastive Captioners are Image-Text Foundation Models", "2205.01917",
        exact(
            "CLIP and captions as in open_clip, whose contrast is the mean of both directions (the paper's own code is "
            "not public)",
            """
            caption = contrastile.linear_cross_entropy(hidden, W, labels, ignore_index=0)
            loss = contrastile.clip_loss(x, y, s) + 2 * caption
            """,
            TESTS + "test_51_coca",
        ),
    ),
    paper(
        "52", "SIGER", "Semantic Item Graph Enhancement for Multimodal Recommendation", "2508.06154",
        block(
            "an anchor finds all modalities of its item, whose sum is inside the logarithm, and two noisy views each "
            "other",
            """
            item = torch.arange(len(b))
            every, owner = torch.cat([s_v, s_t]), item.repeat(2)
            options = dict(form="in", direction="rows", temperature=0.2)
            anchor = contrastile.multi_positive(b, every, item, owner, **options)
            loss = anchor + contrastile.info_nce(z1, z2, temperature=0.2)
            """,
            TESTS + "test_52_anchors",
        ),
        block(
            "a graph of nearest neighbors by cosine, normalized by the roots of degrees, passes embeddings on",
            "loss = torch.sparse.mm(contrastile.retrieval.knn_graph(f, 3), e)",
            TESTS + "test_52_graph", "graph",
        ),
    ),
    paper(
        "53", "CoLLAP",
        "CoLLAP: Contrastive Long-form Language-Audio Pretraining with Musical Temporal Structure Augmentation",
        "2410.02271",
        block(
            "texts and songs by a softmax-weighted mean over clips, whose sharpness is learned",
            """
            options = dict(document_reduce="softmax_mean", sharpness=beta, document_mask=mask, direction="mean")
            loss = contrastile.late_interaction_info_nce(t[:, None], clips, temperature=tau, **options)
            """,
            TESTS + "test_53_clips",
        ),
    ),
    paper(
        "54", "MCR", "Balancing Multimodal Training Through Game-Theoretic Regularization", "2411.07335",
        exact(
            "each pair of a class against the other classes only, the mean over pairs",
            """
            loss = contrastile.sup_con([z0, z1], y, form="each", per_pair=True, temperature=0.5, normalize=True)
            """,
            TESTS + "test_54_contrast", "contrast",
        ),
        exact(
            "the Jensen-Shannon divergence of predictions with one modality permuted, for k = 1 (other k detach one "
            "encoder or the other)",
            """
            divergences = [contrastile.js_divergence(joint, x) for x in (permuted_0, permuted_1)]
            loss = -0.1 * sum(divergences)
            """,
            TESTS + "test_54_information", "information",
        ),
    ),
    paper(
        "55", "LLM4GTA", "Can Representation Gaps Be the Key to Enhancing Robustness in Graph-Text Alignment?",
        "2510.12087",
        block(
            "CLIP that stops where pairs are more similar than a bound",
            """
            alike = contrastile.metrics.positive_cosine(g, t)
            loss = contrastile.clip_loss(g, t, s) + lam * F.relu(alike - bound).square()
            """,
            TESTS + "test_55_gap",
        ),
    ),
    paper(
        "56", "blind faith in text", "Words or Vision: Do Vision-Language Models Have Blind Faith in Text?",
        "2503.02199",
        no_objective("an evaluation, and training with a language-modeling loss"),
    ),
    paper(
        "57", "MMRL and MMRL++",
        "MMRL++: Parameter-Efficient and Interaction-Aware Representation Learning for Vision-Language Models",
        "2505.10088",
        exact(
            "class prototypes for both features of an image, and cosines to the frozen model's",
            """
            classes = contrastile.prototype_loss(f, w, y, temperature=0.01)
            represented = contrastile.prototype_loss(r, w, y, temperature=0.01)
            loss = 0.7 * classes + 0.3 * represented
            loss = loss + lam * (contrastile.cosine_loss(f, f0) + contrastile.cosine_loss(w, w0))
            """,
            TESTS + "test_57_mmrl",
        ),
    ),
    paper(
        "58", "generative negative mining",
        "Enhancing Multimodal Compositional Reasoning of Visual Language Models with Generative Negative Mining",
        "2311.03964",
        exact(
            "CLIP; the generated negatives are rows of the batch",
            "loss = contrastile.clip_loss(image, text, s)",
            TESTS + "test_58_clip",
        ),
    ),
    paper(
        "59", "FDT",
        "Revisiting Multimodal Representation in Contrastive Learning: From Patch and Token Embeddings to Finite "
        "Discrete Tokens", "2303.14865",
        exact(
            "the best token of every code, sparsemax over the codebook and CLIP; padding scores 0, as in the official "
            "code",
            """
            loss = contrastile.fdt_loss(q_I, q_T, C, s, text_mask=mask, temperature=T, padding="zero")
            """,
            TESTS + "test_59_fdt",
        ),
    ),
    paper(
        "60", "CompA", "CompA: Addressing the Gap in Compositional Reasoning in Audio-Language Models", "2310.08753",
        exact(
            "hard negatives of the own audio (the official mask, which multiplies, is right for positive cosines "
            "alone)",
            "loss = contrastile.info_nce(a, t, temperature=1 / s, hard_negatives=t_neg, symmetric=True)",
            TESTS + "test_60_stage_2", "stage 2",
        ),
        exact(
            "further positives and negatives of each audio, any number of them in one list",
            """
            audio, count = torch.arange(len(a)), 1 + torch.bincount(owner[right], minlength=len(a))
            offsets = F.pad(torch.bincount(owner, minlength=len(a)).cumsum(0), (1, 0))  # owner does not decrease
            own = contrastile.Candidates.packed(further, offsets)
            every = contrastile.info_nce(a, first, hard_negatives=own, temperature=1 / s, reduction="none")
            texts, of = torch.cat([first, further[right]]), torch.cat([audio, owner[right]])
            scores = s * (texts * a[of]).sum(1)
            every = every + scores[: len(a)]
            a2t = (every - torch.zeros_like(every).index_add(0, of, scores) / count).mean()
            t2a = (contrastile.row_lse(texts, a, scale=s) - scores).mean()
            loss = 0.5 * (a2t + t2a)
            """,
            TESTS + "test_60_stage_3", "stage 3",
        ),
    ),
    paper(
        "61", "supervised image synthesis", "A Framework For Image Synthesis Using Supervised Contrastive Learning",
        "2412.03957",
        block(
            "supervised contrast of the codes of two branches",
            "loss = contrastile.sup_con(codes, labels, temperature=0.07)",
            TESTS + "test_61_codes",
        ),
        block(
            "positives that share one of several labels",
            """
            loss = contrastile.multi_positive(
                x, y, query_labels=labels, key_labels=labels, form="out", direction="rows", temperature=0.07
            )
            """,
            TESTS + "test_61_label_sets", "label sets",
        ),
        exact(
            "DAMSM as in AttnGAN's code: words and regions, sentences and images, other pairs of a class left out",
            """
            words = contrastile.word_region_loss(regions, e, word_mask=mask, class_ids=y)
            options = dict(image_ids=y, text_ids=y, normalize=True, direction="sum")
            whole = contrastile.clip_loss(image, sentence, 10.0, **options)
            loss = words + whole
            """,
            TESTS + "test_61_words", "words",
        ),
    ),
    paper(
        "62", "modality pairs",
        "Multimodal Emotion Recognition with Modality-Pairwise Unsupervised Contrastive Loss", "2207.11482",
        exact(
            "the other view of the sample in the other modality; its own view there is left out, as in the official "
            "code",
            """
            ids, B = torch.arange(len(Z[0])), len(Z[0]) // 2  # Z: of each modality view 1, then view 2
            pairs = [(x, y.roll(B, 0)) for x in Z for y in Z if x is not y]
            options = dict(temperature=0.07, query_ids=ids, key_ids=ids.roll(B))
            loss = 0.5 * sum(contrastile.info_nce(x, y, **options) for x, y in pairs) / len(pairs)
            """,
            TESTS + "test_62_modality_pairs",
        ),
    ),
    paper(
        "63", "DebCSE",
        "DebCSE: Rethinking Unsupervised Contrastive Sentence Embedding Learning in the Debiasing Perspective",
        "2309.07396",
        block(
            "InfoNCE of the triplets that are drawn",
            "loss = contrastile.info_nce(h, positive, temperature=0.05, negatives=negative, normalize=True)",
            TESTS + "test_63_triplets",
        ),
        block(
            "SimCSE's weight W, a logarithm, on the own negative only",
            """
            own, ids = contrastile.Candidates(negative[:, None], bias=W), torch.arange(len(h))
            options = dict(negatives=negative, query_ids=ids, negative_ids=ids, normalize=True)
            loss = contrastile.info_nce(h, positive, hard_negatives=own, temperature=0.05, **options)
            """,
            TESTS + "test_63_weighted", "weighted",
        ),
        block(
            "a pair of each sentence, drawn by semantic similarity over a propensity, the exponential of how alike the "
            "surfaces are: one product of both features",
            """
            query, key = torch.cat([h / 0.05, -surface / 0.5], 1), torch.cat([h, surface], 1)
            draw = dict(replacement=True, generator=torch.Generator().manual_seed(seed))
            drawn = contrastile.retrieval.sample_negatives(query, key, **draw)[:, 0]
            loss = (h * h[drawn]).sum(1)  # of what was drawn
            """,
            TESTS + "test_63_propensity", "propensity",
        ),
    ),
    paper(
        "64", "QCRD", "QCRD: Quality-guided Contrastive Rationale Distillation for Large Language Models", "2405.13014",
        no_objective("contrasts the losses of whole texts; there are no embeddings"),
    ),
    paper(
        "65", "semantic sensitivity",
        "Semantic Sensitivities and Inconsistent Predictions: Measuring the Fragility of NLI Models", "2401.14440",
        no_objective("an evaluation"),
    ),
    paper(
        "66", "GOPro", "GOPro: Generate and Optimize Prompts in CLIP using Self-Supervised Learning", "2308.11605",
        exact(
            "prototypes of each image, prompts that stay the same under augmentation, NT-Xent of two views",
            """
            prompts = contrastile.prototype_loss(f, t, y, temperature=1 / s)
            same = F.mse_loss(t, t1) + F.mse_loss(t, t2)
            loss = prompts + same + 0.1 * contrastile.nt_xent(u, u1, temperature=0.1, normalize=True)
            """,
            TESTS + "test_66_gopro",
        ),
    ),
    paper(
        "67", "ALIGN", "Scaling Up Visual and Vision-Language Representation Learning With Noisy Text Supervision",
        "2102.05918",
        exact(
            "the sum of both directions with smoothed labels and a learned temperature, as in coyo-align (the paper's "
            "own code is not public)",
            'loss = contrastile.clip_loss(x, y, 1 / tau, label_smoothing=0.1, direction="sum")',
            TESTS + "test_67_align",
        ),
    ),
    paper(
        "68", "SLAP", "SLAP: Siamese Language-Audio Pretraining without Negative Samples for Music Understanding",
        "2506.17815",
        exact(
            "predictions and averaged projections across and within modalities",
            """
            z_a, z_t = z_a.detach(), z_t.detach()
            multi = contrastile.cosine_loss(q_a, z_t) + contrastile.cosine_loss(q_t, z_a)
            uni = contrastile.cosine_loss(q_a, z_a) + contrastile.cosine_loss(q_t, z_t)
            loss = w * multi + (1 - w) * uni
            """,
            TESTS + "test_68_slap",
        ),
        not_yet("the averaged encoder as a module"),
    ),
    paper(
        "69", "MDI and AEI", "When Language Overrules: Revealing Text Dominance in Multimodal Large Language Models",
        "2508.10552",
        no_objective("ratios of attention between modalities"),
    ),
    paper(
        "70", "FUSION",
        "FUSION: Fully Integration of Vision-Language Representations for Deep Cross-Modal Understanding",
        "2504.09925",
        exact(
            "cosines of tokens mapped to the other space and back",
            """
            loss = 0.1 * (contrastile.cosine_loss(E_t, F_t, mask=valid) + contrastile.cosine_loss(E_v, F_v))
            """,
            TESTS + "test_70_fusion",
        ),
    ),
    paper(
        "71", "CTP and TFT", "Task-Oriented Multi-Modal Mutual Leaning for Vision-Language Models", "2303.17169",
        block(
            "prototypes of each image",
            "loss = contrastile.prototype_loss(v, t, y, temperature=0.01)",
            TESTS + "test_71_prototypes",
        ),
    ),
    paper(
        "72", "VELVET-Med",
        "VELVET-Med: Vision and Efficient Language Pre-training for Volumetric Imaging Tasks in Medicine", "2508.12108",
        block(
            "reports and volumes, and several sentences of a report against volumes",
            """
            volume = torch.arange(len(v))
            options = dict(form="out", temperature=0.07)
            loss = contrastile.clip_loss(v, report, 1 / 0.07)
            loss = loss + contrastile.multi_positive(v, sentences, volume, owner, **options)
            """,
            TESTS + "test_72_levels",
        ),
        block(
            "words of a report against regions of its volume",
            """
            options = dict(over_words=False, direction="mean")
            loss = contrastile.word_region_loss(regions, words, word_mask=mask, **options)
            """,
            TESTS + "test_72_words", "words",
        ),
    ),
    paper(
        "73", "UMT-VHD",
        "Unsupervised Modality-Transferable Video Highlight Detection with Representation Activation Sequence Learning",
        "2403.09401",
        block(
            "a moment's other view against its video's dull moments and other videos, and pictures against sound",
            """
            moments = contrastile.info_nce(r1, r2, temperature=0.1, hard_negatives=dull)
            loss = moments + contrastile.clip_loss(V, A, 10.0)
            """,
            TESTS + "test_73_moments",
        ),
    ),
)  # fmt: skip

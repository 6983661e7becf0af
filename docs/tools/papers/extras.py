"""Works that the papers build on, or that continue them."""

from .row import block, exact, not_yet, paper

TESTS = "tests/papers/test_extras.py::"

PAPERS = (
    paper(
        "x1", "TRIANGLE", "A TRIANGLE Enables Multimodal Alignment Beyond Cosine Similarity", "2509.24734",
        exact(
            "the training logit, twice the squared area",
            "loss = contrastile.triangle_loss(t, v, a, temperature=tau, label_smoothing=0.1)",
            TESTS + "test_x1_triangle",
        ),
        exact(
            "areas themselves, as in its README",
            "loss = contrastile.triangle_loss(t, v, a, temperature=tau, label_smoothing=0.1, squared=False)",
            TESTS + "test_x1_areas", "areas",
        ),
        exact(
            "a negative pair per text, for the matching head: drawn from the softmax of the training logit plus 1e-4",
            """
            draw = dict(floor=1e-4, replacement=True, generator=torch.Generator().manual_seed(seed))
            options = dict(score="squared_area", temperature=tau)
            wrong = contrastile.retrieval.sample_negatives(t, (v, a), **options, **draw)[:, 0]
            loss = (t * v[wrong]).sum(1)  # what the head is given of both
            """,
            TESTS + "test_x1_matching", "matching",
        ),
    ),
    paper(
        "x2", "GRAM, as in its README", "Gramian Multimodal Representation Learning and Alignment", "2412.11959",
        exact(
            "volumes with gradient to all modalities, in both directions",
            "loss = contrastile.gram_loss(t, v, a, temperature=tau, label_smoothing=0.1)",
            TESTS + "test_x2_gram",
        ),
        not_yet("logarithms and inverses of volumes as logits, which others use"),
    ),
    paper(
        "x3", "PMRL", "Principled Multimodal Representation Learning", "2507.17343",
        exact(
            "a softmax of singular values, and of leading directions (the sign, which the official code leaves to the "
            "solver, is that of the mean)",
            "loss = contrastile.pmrl_loss(z1, z2, z3, singular_temperature=0.05, instance_temperature=0.1)",
            TESTS + "test_x3_pmrl",
        ),
        block(
            "a negative sample per text, for the matching head: drawn from the softmax of cosines with the fusion of "
            "the others",
            """
            draw = dict(floor=1e-4, replacement=True, generator=torch.Generator().manual_seed(seed))
            wrong = contrastile.retrieval.sample_negatives(t, fused, temperature=0.1, **draw)[:, 0]
            loss = (t * fused[wrong]).sum(1)  # what the head is given of both
            """,
            TESTS + "test_x3_matching", "matching",
        ),
    ),
    paper(
        "x4", "ConFu and TriCLIP",
        "The More, the Merrier: Contrastive Fusion for Higher-Order Multimodal Alignment", "2511.21331",
        exact(
            "pairs of modalities, and each against the fusion of the other two",
            """
            pairs = [(z1, z2), (z2, z3), (z3, z1)]
            fused = [(h12, z3), (h13, z2), (h23, z1)]
            loss = sum(0.5 * contrastile.clip_loss(x, y, 1 / 0.07) for x, y in pairs + fused) / 6
            """,
            TESTS + "test_x4_confu",
        ),
    ),
    paper(
        "x5", "SigLIP", "Sigmoid Loss for Language Image Pre-Training", "2303.15343",
        exact(
            "a sigmoid for each pair",
            "loss = contrastile.siglip_loss(x, y, t.exp(), b)",
            TESTS + "test_x5_siglip",
        ),
    ),
    paper(
        "SigLIP 2", "SigLIP 2",
        "SigLIP 2: Multilingual Vision-Language Encoders with Improved Semantic Understanding, Localization, and Dense "
        "Features", "2502.14786",
        block(
            "the sigmoid loss, captions, and a student that finds the centered softmax of an averaged teacher",
            """
            loss = contrastile.siglip_loss(x, y, s, b)
            loss = loss + contrastile.linear_cross_entropy(hidden, W, labels, ignore_index=0)
            loss = loss + contrastile.dino_loss(student, teacher, center=center)
            """,
            TESTS + "test_siglip_2",
        ),
    ),
    paper(
        "x6", "DCL and DCLW", "Decoupled Contrastive Learning", "2110.06848",
        exact(
            "no positive in the denominator; the sum of both directions, as in the widely used code of others",
            'loss = contrastile.dcl(z1, z2, temperature=0.1, direction="sum")',
            TESTS + "test_x6_dcl", "DCL",
        ),
        exact(
            "the same with positives weighted, with gradient through the weights",
            'loss = contrastile.dclw(z1, z2, temperature=0.1, sigma=0.5, direction="sum")',
            TESTS + "test_x6_dclw", "DCLW",
        ),
    ),
    paper(
        "DHEL", "DHEL",
        "Bridging Mini-Batch and Asymptotic Analysis in Contrastive Learning: From InfoNCE to Kernel-Based Losses",
        "2405.18045",
        exact(
            "repulsion within each view only",
            "loss = contrastile.dhel(a, p, temperature=0.3)",
            TESTS + "test_dhel",
        ),
    ),
    paper(
        "KCL", "KCL",
        "Bridging Mini-Batch and Asymptotic Analysis in Contrastive Learning: From InfoNCE to Kernel-Based Losses",
        "2405.18045",
        exact(
            "kernels instead of a softmax",
            "loss = contrastile.kcl(a, p, kernel=kernel, t=2.0, gamma=16.0)",
            TESTS + "test_kcl",
        ),
    ),
    paper(
        "x7", "M3EL's weighted contrast", "Multi-level Matching Network for Multimodal Entity Linking", "2412.10440",
        exact(
            "two weighted blocks; the logit of an item with itself is 0, not left out",
            "loss = contrastile.m3el_loss(e, m, temperature=0.03, intra_scale=0.8, inter_scale=1.0)",
            TESTS + "test_x7_m3el",
        ),
    ),
    paper(
        "GTE", "GTE", "Towards General Text Embeddings with Multi-stage Contrastive Learning", "2308.03281",
        exact(
            "the improved contrastive loss: one sum over documents, queries, and both as the document sees them",
            """
            sides = dict(query_query=True, key_key=True, key_query=True)
            loss = contrastile.info_nce(q, d, temperature=tau, **sides)
            """,
            TESTS + "test_gte",
        ),
    ),
    paper(
        "Qwen3-Embedding", "Qwen3-Embedding",
        "Qwen3 Embedding: Advancing Text Embedding and Reranking Through Foundation Models", "2506.05176",
        exact(
            "hard negatives, other documents and queries, documents among documents; probable false negatives are "
            "masked",
            """
            sides = dict(query_query=True, key_key=True, false_negative_margin=0.1)
            loss = contrastile.info_nce(q, d, temperature=tau, hard_negatives=hard, **sides)
            """,
            TESTS + "test_qwen3_embedding",
        ),
    ),
    paper(
        "NNCLR", "NNCLR",
        "With a Little Help from My Friends: Nearest-Neighbor Contrastive Learning of Visual Representations",
        "2104.14548",
        exact(
            "the nearest neighbor in a queue as the other view's positive, one direction",
            """
            nearest = contrastile.pair_reduce(z1, queue, reduce="max").row_argmax
            loss = contrastile.info_nce(queue[nearest], p2, temperature=0.1)
            """,
            TESTS + "test_nnclr",
        ),
    ),
    paper(
        "FastCLIP", "FastCLIP",
        "FastCLIP: A Suite of Optimization Techniques to Accelerate CLIP Training with Limited Resources", "2407.01445",
        exact(
            "v0 to v3: moving averages of every sample, temperatures of four kinds",
            """
            criterion = contrastile.FastCLIP(samples, version="v2", temperature=0.125)
            loss = criterion(x, y, index)
            """,
            TESTS + "test_fastclip",
        ),
    ),
    paper(
        "SogCLR", "SogCLR (LibAUC)",
        "Provable Stochastic Optimization for Global Contrastive Learning: Small Batch Does Not Harm Performance",
        "2202.12387",
        exact(
            "moving averages of every sample, two views",
            """
            criterion = contrastile.SogCLR(samples, unimodal=True, temperature=0.125)
            loss = criterion(z1, z2, index)
            """,
            TESTS + "test_sogclr",
        ),
    ),
    paper(
        "PVC", "PVC", "Poly-View Contrastive Learning", "2403.05490",
        exact(
            "each pair of views against the negatives only",
            "loss = contrastile.pvc(U, temperature=0.2)",
            TESTS + "test_pvc", "geometric",
        ),
        block(
            "the mean over views inside the logarithm",
            'loss = contrastile.pvc(U, temperature=0.2, aggregation="arithmetic")',
            TESTS + "test_pvc_arithmetic", "arithmetic",
        ),
        not_yet("sufficient statistics"),
    ),
    paper(
        "CyCLIP", "CyCLIP", "CyCLIP: Cyclic Contrastive Language-Image Pretraining", "2205.14459",
        exact(
            "CLIP and its two consistencies, from products of D x D",
            """
            within, across = contrastile.in_modal_consistency(x, y), contrastile.cross_modal_consistency(x, y)
            loss = contrastile.clip_loss(x, y, s) + 0.25 * within + 0.25 * across
            """,
            TESTS + "test_cyclip",
        ),
    ),
    paper(
        "SupCon", "SupCon", "Supervised Contrastive Learning", "2004.11362",
        exact(
            "the mean over positives outside the logarithm",
            "loss = contrastile.sup_con(features, labels, temperature=0.07)",
            TESTS + "test_sup_con",
        ),
    ),
    paper(
        "DAMSM", "DAMSM",
        "AttnGAN: Fine-Grained Text to Image Generation with Attentional Generative Adversarial Networks", "1711.10485",
        exact(
            "its sentences: the sum of both directions, other items of the class left out",
            """
            loss = contrastile.clip_loss(cnn, rnn, 10.0, image_ids=classes, direction="sum", normalize=True)
            """,
            TESTS + "test_damsm_sentences",
        ),
        exact(
            "its words with the regions of images",
            "loss = contrastile.word_region_loss(regions, e, word_mask=mask, class_ids=classes)",
            TESTS + "test_damsm_words", "words",
        ),
    ),
    paper(
        "T2I_CL", "T2I_CL", "Improving Text-to-Image Synthesis Using Contrastive Learning", "2107.02423",
        exact(
            "NT-Xent of two branches' codes",
            "loss = contrastile.nt_xent(c1, c2, temperature=0.5, normalize=True)",
            TESTS + "test_t2i_cl",
        ),
    ),
    paper(
        "SimCSE", "SimCSE", "SimCSE: Simple Contrastive Learning of Sentence Embeddings", "2104.08821",
        exact(
            "pairs with the hard negatives of all",
            "loss = contrastile.info_nce(z1, z2, temperature=0.05, negatives=z3, normalize=True)",
            TESTS + "test_simcse", "supervised",
        ),
        exact(
            "the own hard negative weighted by W, a logarithm",
            """
            own, ids = contrastile.Candidates(z3[:, None], bias=W), torch.arange(len(z1))
            options = dict(negatives=z3, query_ids=ids, negative_ids=ids, normalize=True)
            loss = contrastile.info_nce(z1, z2, hard_negatives=own, temperature=0.05, **options)
            """,
            TESTS + "test_simcse_weighted", "weighted",
        ),
    ),
    paper(
        "NTXentLoss", "NTXentLoss of pytorch-metric-learning", "PyTorch Metric Learning", "2008.09164",
        exact(
            "each pair of a class against the other classes only, the mean over pairs",
            'loss = contrastile.sup_con(Z, label, form="each", per_pair=True, temperature=tau)',
            TESTS + "test_nt_xent_of_pairs",
        ),
    ),
    paper(
        "VATT", "VATT", "VATT: Transformers for Multimodal Self-Supervised Learning from Raw Video, Audio and Text",
        "2104.11178",
        exact(
            "bags of texts, both directions in one logarithm",
            "loss = contrastile.mil_nce(v, t, temperature=0.07, mask=mask)",
            TESTS + "test_vatt", "AsymmetricNCE",
        ),
        exact(
            "both directions apart",
            'loss = contrastile.mil_nce(v, t, temperature=0.07, joint=False, direction="sum")',
            TESTS + "test_vatt_symmetric", "SymmetricNCE",
        ),
    ),
    paper(
        "DBNorm", "QBNorm and DBNorm",
        "Balance Act: Mitigating Hubness in Cross-Modal Retrieval with Query and Gallery Banks", "2310.11612",
        exact(
            "scores of queries, each column normalized over a bank of queries",
            "loss = (20 * q @ g.T - contrastile.row_lse(g, bank, scale=20.0)).exp()",
            TESTS + "test_inverted_softmax",
        ),
        exact(
            "QBNorm: only queries whose best item is the best of some query of the bank are normalized; scores are "
            "logarithms over 20",
            "loss = contrastile.retrieval.querybank_topk(q, g, bank, 3).values",
            TESTS + "test_dynamic_inverted_softmax", "dynamic",
        ),
    ),
    paper(
        "TACT", "TACT", "Test of Time: Instilling Video-Language Models with a Sense of Time", "2301.02074",
        exact(
            "two orders of every pair in one batch, with weights of the same pair and of others",
            """
            weights = dict(same_pair_weight=alpha_same, other_block_weight=alpha_cross, weights=w)
            loss = contrastile.block_info_nce(t, v, 2, **weights)
            """,
            TESTS + "test_tact",
        ),
    ),
)  # fmt: skip

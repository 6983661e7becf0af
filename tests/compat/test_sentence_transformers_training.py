"""The package's own trainer with its losses and with ours, from the same weights over the same batches, step by step.

Truth is the package's loss on a float64 model. Its float32 run is off from that by rounding, which training multiplies;
ours may be off by as much, within a factor.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from support.sentence_encoders import WIDTH, static_encoder, transformer_encoder

from datasets import Dataset  # isort: skip  (skipped with the encoders)
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer  # isort: skip
from sentence_transformers import SentenceTransformerTrainingArguments  # isort: skip
from sentence_transformers.sentence_transformer import losses as peer  # isort: skip
from sentence_transformers.sentence_transformer.modules import StaticEmbedding  # isort: skip
from contrastile.compat import sentence_transformers as ours  # isort: skip

pytestmark = [pytest.mark.peers, pytest.mark.unpoisoned]  # deterministic algorithms would slow the trainer's own code

STEPS, ROWS = 5, 16
ALL = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
MATRYOSHKA = {"matryoshka_dims": [WIDTH, 64, 16], "matryoshka_weights": [1.0, 1.0, 0.5]}


def triplets() -> Dataset:
    """Questions with their answer and with another answer to the same kind of question."""
    things = {
        "cat": "meows", "dog": "barks", "cow": "gives milk", "bird": "builds a nest", "fish": "swims",
        "baker": "bakes bread",
        "smith": "forges iron", "painter": "mixes colours", "river": "flows to the sea", "cloud": "brings rain",
    }  # fmt: skip
    places = ("in the morning", "by the old harbour", "when nobody looks", "at the end of winter")
    rows = [(thing, does, place) for thing, does in things.items() for place in places]
    return Dataset.from_dict({
        "question": [f"What does the {thing} do {place}?" for thing, _, place in rows],
        "answer": [f"{place.capitalize()}, every {thing} {does}." for thing, does, place in rows],
        "wrong": [f"The {thing} sleeps {place}." for thing, _, place in rows],
    })  # fmt: skip


def trained(
    model: SentenceTransformer,
    loss_for: Callable[[SentenceTransformer], torch.nn.Module],
    folder: Path,
    wide: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss of every step, and the embeddings of all answers after and before training."""
    torch.manual_seed(0)
    model = model.double() if wide else model
    loss, values, data = loss_for(model), [], triplets()
    rate = 0.01 if isinstance(model[0], StaticEmbedding) else 1e-3
    before = model.encode(data["answer"][:], convert_to_tensor=True).double()
    loss.register_forward_hook(lambda module, inputs, value: values.append(value.detach().double()))
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=ROWS, learning_rate=rate, use_cpu=True,
        save_strategy="no", report_to="none", logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=data, loss=loss)
    trainer.train()
    assert loss.model is trainer.model
    after = model.encode(data["answer"][:], convert_to_tensor=True).double()
    return torch.stack(values), after, before


def assert_same_training(
    encoder: Callable[[], SentenceTransformer],
    loss_for: Callable[[object, SentenceTransformer], torch.nn.Module],
    folder: Path,
) -> None:
    """Every loss within twice the package's error and the rounding of logits, which are up to 50. The embeddings after
    training, which Adam moves by the sign of gradients that are 0 but for rounding, by their norm."""
    truth = trained(encoder(), lambda m: loss_for(peer, m), folder, wide=True)
    theirs = trained(encoder(), lambda m: loss_for(peer, m), folder, wide=False)
    mine = trained(encoder(), lambda m: loss_for(ours, m), folder, wide=False)
    losses, after, before = zip(truth, theirs, mine, strict=True)
    assert len(losses[0]) == STEPS and torch.equal(before[1], before[2])
    budget = 2.0 * ((losses[1] - losses[0]).abs().max() + 50.0 * 2.0**-23)
    assert (losses[2] - losses[0]).abs().max() <= budget <= 1e-3 * losses[0].max()
    learned = (after[0] - before[0]).norm()
    budget = 3.0 * (after[1] - after[0]).norm() + 1e-4 * learned
    assert (after[2] - after[0]).norm() <= budget <= 1e-2 * learned


RANKING = {
    "plain": {},
    "scaled": {"scale": 50.0},
    "symmetric": {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"},
    "all directions": {"directions": ALL},
    "hard": {"hardness_mode": "hard_negatives", "hardness_strength": 5.0},
    "hardness everywhere": {"directions": ALL, "hardness_mode": "all_negatives", "hardness_strength": 9.0},
}
QUICK = ("hardness everywhere", "cached gist in matryoshka")


def slow_but_for_some(names):
    return [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", slow_but_for_some(RANKING))
def test_training_a_static_encoder(name, tmp_path):
    options = RANKING[name]
    assert_same_training(
        static_encoder, lambda module, model: module.MultipleNegativesRankingLoss(model, **options), tmp_path
    )


def test_training_a_static_encoder_with_matryoshka(tmp_path):
    def loss(module, model):
        return peer.MatryoshkaLoss(model, module.MultipleNegativesRankingLoss(model), **MATRYOSHKA)

    assert_same_training(static_encoder, loss, tmp_path)


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    """Another model than the trained one: it has other weights, frozen."""
    return transformer_encoder(tmp_path_factory.mktemp("guide"), seed=1).requires_grad_(False)


def guided(name, guide, **options):
    return lambda module, model: getattr(module, name)(model, guide, temperature=0.05, **options)


def cached(**options):
    return lambda module, model: module.CachedMultipleNegativesRankingLoss(model, mini_batch_size=5, **options)


def matryoshka(inner):
    return lambda module, model: peer.MatryoshkaLoss(model, inner(module, model), **MATRYOSHKA)


TRANSFORMER = {
    "gist": lambda guide: guided("GISTEmbedLoss", guide, margin=0.05),
    "cached": lambda guide: cached(),
    "cached, all directions": lambda guide: cached(directions=ALL),
    "cached gist": lambda guide: guided("CachedGISTEmbedLoss", guide, mini_batch_size=5),
    "cached in matryoshka": lambda guide: matryoshka(cached()),
    "gist in matryoshka": lambda guide: matryoshka(guided("GISTEmbedLoss", guide, margin_strategy="relative")),
    "cached gist in matryoshka": lambda guide: matryoshka(guided("CachedGISTEmbedLoss", guide, mini_batch_size=5)),
}


@pytest.mark.parametrize("name", slow_but_for_some(TRANSFORMER))
def test_training_a_transformer(name, guide, tmp_path):
    """Dropout is on for the GradCache losses: the second forward pass must draw what the first one drew."""
    dropout = 0.1 if name.startswith("cached") else 0.0

    def encoder():
        return transformer_encoder(tmp_path / "model", seed=0, dropout=dropout)

    assert_same_training(encoder, TRANSFORMER[name](guide), tmp_path)


def test_a_guide_with_other_tokens(tmp_path):
    """Texts are decoded and tokenised again for the guide: here one that reads fewer tokens."""
    models = [transformer_encoder(tmp_path / str(seed), seed) for seed in (0, 1)]
    models[1].max_seq_length = 6
    model, short = models
    values = []
    for module in (peer, ours):
        loss = module.GISTEmbedLoss(model, short, temperature=0.05)
        assert loss.must_retokenize
        columns = [triplets()[name][:ROWS] for name in ("question", "answer", "wrong")]
        value = loss([model.preprocess(texts) for texts in columns], None)
        model.zero_grad()
        value.backward()
        values.append((value.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    (theirs, their_grads), (mine, my_grads) = values
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=0.0)
    assert len(my_grads) == len(their_grads) > 0
    largest = max(g.abs().max().item() for g in their_grads)
    for a, b in zip(my_grads, their_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6 * largest)


def test_two_losses_of_two_datasets_and_the_model_card(tmp_path):
    """The trainer swaps the model of every loss, and writes names, options and citations into the card."""
    model = static_encoder()
    losses = {"pairs": ours.MultipleNegativesRankingLoss(model, scale=30.0, directions=ALL)}
    losses["triplets"] = lambda m: ours.MultipleNegativesRankingLoss(m)
    data = triplets()
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=8, use_cpu=True, save_strategy="no",
        report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, loss=losses,
        train_dataset={"pairs": data.select_columns(["question", "answer"]), "triplets": data},
    )  # fmt: skip
    trainer.train()
    model.save(str(tmp_path / "saved"))
    card = (tmp_path / "saved" / "README.md").read_text()
    assert '"scale": 30.0' in card and '"scale": 20.0' in card
    assert "losses.html#multiplenegativesrankingloss" in card and "contrastile" not in card
    assert "@misc{oord2019representation" in card

"""Code search: two towers on a real small encoder learn to find the function that a docstring describes.

Data: the functions of Python's standard library. The query is the first paragraph of a docstring, the document is the
source code without the docstring. Whole modules are held out, so that none of their functions is seen in training.
Encoder: the token embeddings of the wordllama package, averaged; they are not changed. Each tower learns how much every
token counts and one linear map.
Metric: mean reciprocal rank (MRR) of the right function among those held out, and recall@1.
"""

from __future__ import annotations

import argparse
import ast
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

import contrastile
from common import Rival, options, progress, save_plot, verdict
from contrastile.retrieval import mine_hard_negatives, ranks

NOT_EVERYWHERE = {"distutils", "idlelib", "lib2to3", "tkinter", "turtledemo"}  # parts some installations lack
HELD_OUT = 500
QUERY_TOKENS, CODE_TOKENS = 64, 128
HARDEST, PER_QUERY = 32, 2  # a step draws PER_QUERY of the HARDEST wrong functions of each query
TEMPERATURE = 0.05


@dataclass(frozen=True)
class Function:
    module: str
    summary: str
    code: str


def functions_of(module: str, path: Path) -> Iterator[Function]:
    """The functions of a source file that have a docstring and something beside it."""
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef) or len(node.body) < 2:
            continue
        docstring = ast.get_docstring(node)
        if docstring:
            first = node.body[0]
            code = lines[node.lineno - 1 : first.lineno - 1] + lines[first.end_lineno : node.end_lineno]
            yield Function(module, docstring.partition("\n\n")[0], "\n".join(code))


def standard_library() -> list[Function]:
    root, found = Path(sysconfig.get_path("stdlib")), []
    for module in sorted(sys.stdlib_module_names - NOT_EVERYWHERE):
        for path in [root / f"{module}.py", *sorted((root / module).rglob("*.py"))]:
            if path.exists() and "test" not in path.parts:
                found += functions_of(module, path)
    return found


def split(functions: list[Function]) -> tuple[list[Function], list[Function]]:
    """(train, held out): a fifth or more of all functions, by whole modules, of which HELD_OUT are drawn.

    A held-out function is left out if its docstring or its code also occurs in training, and no two share a docstring.
    """
    modules = sorted({f.module for f in functions})
    order = [modules[i] for i in torch.randperm(len(modules)).tolist()]
    held, count = set(), 0
    while count < len(functions) / 5:
        held.add(order[len(held)])
        count = sum(f.module in held for f in functions)
    train = [f for f in functions if f.module not in held]
    summaries, codes = {f.summary for f in train}, {f.code for f in train}
    held_out = [f for f in functions if f.module in held]
    candidates = list({f.summary: f for f in held_out if f.summary not in summaries and f.code not in codes}.values())
    return train, [candidates[i] for i in torch.randperm(len(candidates))[:HELD_OUT].tolist()]


def load_encoder() -> tuple[Tokenizer, Tensor]:
    """wordllama's tokenizer and its table of token embeddings, (32000, 256), from the installed package."""
    spec = find_spec("wordllama")
    if spec is None or spec.origin is None:
        raise SystemExit("this example needs wordllama: pip install wordllama")
    folder = Path(spec.origin).parent
    table = load_file(folder / "weights" / "l2_supercat_256.safetensors")["embedding.weight"]
    return Tokenizer.from_file(str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json")), table.float()


def tokenize(tokenizer: Tokenizer, texts: list[str], length: int) -> list[Tensor]:
    tokenizer.enable_truncation(length)
    return [torch.tensor(found.ids) for found in tokenizer.encode_batch(texts)]


class Tower(nn.Module):
    """Weighted sum of token embeddings, a linear map, unit length. Untrained: the mean of the embeddings."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table)
        self.importance = nn.Parameter(torch.ones(len(table)))
        self.map = nn.Linear(table.shape[1], table.shape[1], bias=False)
        nn.init.eye_(self.map.weight)

    def forward(self, texts: list[Tensor]) -> Tensor:
        tokens = torch.cat(texts)
        starts = torch.tensor([0, *(len(text) for text in texts[:-1])]).cumsum(0)
        weights = self.importance[tokens]
        summed = F.embedding_bag(tokens, self.table, starts, mode="sum", per_sample_weights=weights)
        return F.normalize(self.map(summed), dim=1)


@dataclass(frozen=True)
class Pairs:
    """Tokens of queries and documents; equal ids mark functions with the same docstring."""

    queries: list[Tensor]
    documents: list[Tensor]
    ids: Tensor

    @classmethod
    def of(cls, tokenizer: Tokenizer, functions: list[Function]) -> Pairs:
        summaries, codes = [f.summary for f in functions], [f.code for f in functions]
        number = {summary: i for i, summary in enumerate(summaries)}
        ids = torch.tensor([number[summary] for summary in summaries])
        return cls(tokenize(tokenizer, summaries, QUERY_TOKENS), tokenize(tokenizer, codes, CODE_TOKENS), ids)


@torch.no_grad()
def mine(towers: nn.ModuleList, pairs: Pairs) -> Tensor:
    """(N, HARDEST) wrong documents that each query of the training set finds most similar."""
    own, ids = torch.arange(len(pairs.ids)), pairs.ids  # equal ids: the right one, and those with the same docstring
    query, document = towers[0](pairs.queries), towers[1](pairs.documents)
    return mine_hard_negatives(query, document, own, HARDEST, row_ids=ids, col_ids=ids).indices


def train(towers: nn.ModuleList, pairs: Pairs, args: argparse.Namespace) -> list[float]:
    hardest = mine(towers, pairs)
    rates = [3e-2, 1e-3]  # a token that is rare gets few gradients: its weight needs large steps
    groups = [[tower.importance for tower in towers], [tower.map.weight for tower in towers]]
    optimizer = torch.optim.Adam([{"params": group, "lr": lr} for group, lr in zip(groups, rates, strict=True)])
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=max(1, args.steps))
    losses = []
    for step in range(args.steps):
        rows = torch.randperm(len(pairs.ids))[: args.batch_size]
        wrong = hardest[rows].gather(1, torch.randint(HARDEST, (len(rows), PER_QUERY)))
        query = towers[0]([pairs.queries[i] for i in rows])
        document = towers[1]([pairs.documents[i] for i in rows])
        hard = towers[1]([pairs.documents[i] for i in wrong.flatten()]).view(len(rows), PER_QUERY, -1)
        # every other document of the batch is a negative too, unless its id says that it answers the same query
        loss = contrastile.info_nce(
            query, document, temperature=TEMPERATURE, hard_negatives=hard, query_ids=pairs.ids[rows]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        progress(step, args.steps, losses[-1])
    return losses


@torch.no_grad()
def evaluate(towers: nn.ModuleList, pairs: Pairs) -> tuple[float, float]:
    """MRR and recall@1 of the right document for each query."""
    place = ranks(towers[0](pairs.queries), towers[1](pairs.documents))
    return (1 / place).mean().item(), (place == 1).float().mean().item()


def main(argv: list[str] | None = None) -> int:
    args = options(__doc__.partition("\n")[0], steps=60, batch_size=256).parse_args(argv)
    torch.manual_seed(args.seed)

    tokenizer, table = load_encoder()
    known, unknown = split(standard_library())
    train_set, test_set = Pairs.of(tokenizer, known), Pairs.of(tokenizer, unknown)
    print(f"{len(known)} functions to train on, {len(unknown)} held out, of other modules")

    towers = nn.ModuleList([Tower(table), Tower(table)])  # of queries and of documents
    before = evaluate(towers, test_set)
    losses = train(towers, train_set, args)
    after = evaluate(towers, test_set)

    n = len(unknown)
    rivals = [
        Rival("chance", sum(1 / rank for rank in range(1, n + 1)) / n, margin=0.25),
        Rival("the untrained encoder", before[0], margin=0.03),
    ]
    if args.plot:
        save_plot(args.plot, "MRR", after[0], rivals, losses)
    print(f"\nrecall@1: untrained {before[1]:.1%}, trained {after[1]:.1%}, chance {1 / n:.1%}")
    return verdict(f"MRR among {n} held-out functions", after[0], rivals)


if __name__ == "__main__":
    sys.exit(main())

"""The engine takes what SUPERB-SG needs beside masks: a decoder that learns with its targets and writes by itself."""

import functools

import pytest
import superb_corpus
import torch
from torch import nn

from spear.evaluate.banks import ModuleBank
from spear.evaluate.cache import FeatureCache
from spear.evaluate.engine import gather, select, train_grid
from spear.evaluate.metrics import score_folds
from spear.evaluate.problems import FrameProblem
from spear.evaluate.protocol import settings_of
from spear.evaluate.table import read_table
from spear.evaluate.tasks import TASKS
from spear.evaluate.upstream import FbankUpstream

WORDS = ["<start>", "<end>", *superb_corpus.WORDS_HZ]


class Translator(nn.Module):
    """A recurrent encoder and decoder; its output is a function: of targets the logits, of nothing a sequence."""

    def __init__(self, dim):
        super().__init__()
        self.encoder = nn.GRU(dim, 32, batch_first=True, bidirectional=True)
        self.embedding = nn.Embedding(len(WORDS), 32)
        self.decoder = nn.GRU(32, 64, batch_first=True)
        self.out = nn.Linear(64, len(WORDS))

    def forward(self, features_BTD, lens_B):
        packed = nn.utils.rnn.pack_padded_sequence(features_BTD, lens_B, batch_first=True, enforce_sorted=False)
        _, state = self.encoder(packed)
        return functools.partial(self.decode, torch.cat([state[0], state[1]], dim=1)[None])

    def decode(self, state_1BH, given_BN=None, most=4):
        if given_BN is not None:
            return self.out(self.decoder(self.embedding(given_BN), state_1BH)[0])
        word_B1 = torch.zeros(state_1BH.shape[1], 1, dtype=torch.int64)
        said = []
        for _ in range(most):
            hidden_B1H, state_1BH = self.decoder(self.embedding(word_B1), state_1BH)
            word_B1 = self.out(hidden_B1H).argmax(dim=2)
            said.append(word_B1)
        return torch.cat(said, dim=1)


class TranslationProblem(FrameProblem):
    """First and last word of what was said, as a text."""

    def _numbers(self, split, places):
        texts = [[self._splits[split][p].target[slot] for slot in ("first", "last")] for p in places]
        return torch.tensor([[0, *map(WORDS.index, words), 1] for words in texts])

    def make_bank(self):
        return ModuleBank(self.num_layers, lambda: Translator(self.dim), self.settings)

    def losses(self, bank, batch):
        numbers_BN = self._numbers("train", batch)
        outputs = bank.outputs(*self.features("train", batch))
        return [nn.functional.cross_entropy(out(numbers_BN[:, :-1]).mT, numbers_BN[:, 1:]) for out in outputs]

    def predict(self, bank, split):
        found = [[None] * len(self._splits[split]) for _ in self.settings.heads]
        for places in self.in_batches(split):
            for head, out in enumerate(bank.outputs(*self.features(split, places))):
                for place, numbers in zip(places, out().tolist()):
                    words = numbers[: numbers.index(1)] if 1 in numbers else numbers
                    found[head][place] = " ".join(WORDS[number] for number in words)
        return [{"": texts} for texts in found], [float("nan")] * len(found)

    def rows(self, split):
        return [{"id": r.id, "reference": f"{r.target['first']} {r.target['last']}"} for r in self._splits[split]]


def test_a_sequence_to_sequence_task_runs_through_the_engine(tmp_path):
    data = superb_corpus.make_superb_corpus(tmp_path / "data", (48, 8, 24))
    table = read_table(data, "IC", TASKS["IC"].refuse)
    cache = FeatureCache(tmp_path / "cache", FbankUpstream())
    cache.ensure([row.item for row in table.rows], {row.key for row in table.rows})
    changes = {"learning_rates": (1e-5, 1e-2), "max_steps": 30, "eval_every": 30, "batch_size": 16}
    settings = settings_of("mini", "SS", changes)
    problem = TranslationProblem({split: table.of(split) for split in ("train", "dev", "test")}, cache, settings)
    grid = train_grid(problem, "wer", settings)
    choice = select([grid], "wer", 1e-2)
    assert choice.learning_rate == 1e-2
    wer = score_folds("wer", gather([grid], "test", 1e-2, ""))
    assert wer < 0.4  # three of four words are wrong by chance
    assert grid.heads[1]["layer_weights"] == [pytest.approx(1.0)]

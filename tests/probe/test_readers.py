"""Each reader on features that are constructed so that the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from svfap.errors import UserError
from svfap.evaluation.confidence import subject_scores
from svfap.model.layers import normed
from svfap.probe import attentive, readers
from svfap.probe.attentive import AttentiveReader, attentive_probe
from svfap.probe.readers import knn_probe, linear_probe
from svfap.probe.samples import group_folds


def material(rng, num_people=24, per_person=8, dim=20):
    groups = np.repeat(np.arange(num_people), per_person)
    return rng.normal(size=(len(groups), dim)) * 3 + 1, groups


def parts(groups, held_out=6):
    test = groups < held_out
    return np.flatnonzero(~test), np.flatnonzero(test)


def score(key, targets, outputs, subjects=None):
    names = [str(k) for k in range(outputs.shape[-1])]
    return subject_scores(targets, outputs, np.arange(len(targets)) if subjects is None else subjects, names)[key].value


def test_folds_divide_no_group_and_hold_out_every_sample_once():
    rng = np.random.default_rng(0)
    groups, labels = rng.integers(0, 11, 90), rng.integers(0, 3, 90)
    for y in (labels, None, labels[:, None] + 0.5):
        folds = group_folds(groups, y)
        assert len(folds) == 5
        assert sorted(np.concatenate([held for _, held in folds])) == list(range(90))
        assert all(not set(groups[fit]) & set(groups[held]) for fit, held in folds)
    assert len(group_folds(["a", "b", "a"])) == 2
    with pytest.raises(UserError, match="at least 2 people"):
        group_folds(["a", "a"])


@pytest.mark.parametrize("probe", [linear_probe, knn_probe])
def test_settings_are_chosen_on_people_that_a_reader_was_not_fitted_on(probe, monkeypatch):
    x, groups = material(np.random.default_rng(0))
    seen = []
    real = readers.group_folds
    monkeypatch.setattr(readers, "group_folds", lambda *a, **k: seen.extend(real(*a, **k)) or real(*a, **k))
    probe(x, x[:, :1], groups, x[:3])
    assert len(seen) == 5 and all(not set(groups[fit]) & set(groups[held]) for fit, held in seen)


def test_linear_finds_what_is_linear_in_the_features():
    rng = np.random.default_rng(0)
    x, groups = material(rng)
    values = x @ rng.normal(size=(20, 2)) + [100, 0]
    fit, test = parts(groups)
    found = linear_probe(x[fit], values[fit], groups[fit], x[test])
    assert score("ccc", values[test], found) > 0.999
    labels = (x @ rng.normal(size=(20, 3))).argmax(axis=1)
    assert score("uar", labels[test], linear_probe(x[fit], labels[fit], groups[fit], x[test])) > 0.8
    noise = rng.normal(size=(len(x), 1))
    assert abs(score("ccc", noise[test], linear_probe(x[fit], noise[fit], groups[fit], x[test]))) < 0.25


def test_linear_is_the_ridge_of_scikit_learn(monkeypatch):
    rng = np.random.default_rng(0)
    x, groups = material(rng)
    values, (fit, test) = x[:, :1] + rng.normal(size=(len(x), 1)), parts(groups)
    monkeypatch.setattr(readers, "STRENGTHS", np.array([0.03]))
    found = linear_probe(x[fit], values[fit], groups[fit], x[test])
    mean, deviation = x[fit].mean(0), x[fit].std(0)
    ridge = Ridge(alpha=0.03 * len(fit) * x.shape[1]).fit((x[fit] - mean) / deviation, values[fit])
    np.testing.assert_allclose(found, ridge.predict((x[test] - mean) / deviation).reshape(found.shape), atol=1e-9)


def test_wide_features_are_read_exactly_in_the_span_of_the_samples(monkeypatch):
    rng = np.random.default_rng(0)
    narrow, groups = material(rng)
    wide = np.tanh(narrow @ rng.normal(size=(20, 700)) / 5).astype(np.float16)  # 700 columns, 144 samples of training
    values, (fit, test) = narrow[:, :2], parts(groups)
    dual = linear_probe(wide[fit], values[fit], groups[fit], wide[test])
    monkeypatch.setattr(readers, "COLUMNS", 64)
    blocks = linear_probe(wide[fit], values[fit], groups[fit], wide[test])
    monkeypatch.setattr(
        readers, "_narrow", lambda a, b, seed: tuple(z / np.sqrt(700) for z in readers._standardised(a, b))
    )
    np.testing.assert_allclose(dual, linear_probe(wide[fit], values[fit], groups[fit], wide[test]), atol=1e-6)
    np.testing.assert_allclose(dual, blocks, atol=1e-6)


def test_features_of_many_wide_samples_are_projected(monkeypatch):
    rng = np.random.default_rng(0)
    narrow, groups = material(rng)
    wide, (fit, test) = np.repeat(narrow, 40, axis=1), parts(groups)
    monkeypatch.setattr(readers, "MAX_SPAN", 100)
    found = linear_probe(wide[fit], narrow[fit, :1], groups[fit], wide[test])
    assert score("ccc", narrow[test, :1], found) > 0.95


def test_a_rare_class_is_recognised():
    rng = np.random.default_rng(0)
    x, groups = material(rng, num_people=40)
    labels = (rng.random(len(x)) < 0.1).astype(int)
    x[:, 0] += 6 * labels
    fit, test = parts(groups, 12)
    for probe in (linear_probe, knn_probe):
        assert score("uar", labels[test], probe(x[fit][:, :3], labels[fit], groups[fit], x[test][:, :3])) > 0.75


def test_neighbours_find_what_no_line_divides():
    rng = np.random.default_rng(0)
    angle, groups = rng.uniform(0, 2 * np.pi, 400), np.repeat(np.arange(40), 10)
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    labels = (np.sin(4 * angle) > 0).astype(int)
    fit, test = parts(groups, 10)
    near = knn_probe(x[fit], labels[fit], groups[fit], x[test])
    assert score("uar", labels[test], near) > 0.85
    assert score("uar", labels[test], linear_probe(x[fit], labels[fit], groups[fit], x[test])) < 0.65
    np.testing.assert_allclose(near.sum(axis=1), 1)


def test_neighbours_vote_by_their_nearness():
    bank = np.array([[1.0, 0.2], [-1, 0.2], [1, -0.2], [-1, -0.2]])  # standardised: at 45 degrees
    values = np.array([[1.0], [2], [3], [4]])
    found = knn_probe(bank, values, list("abcd"), np.array([[1.0, 0.2], [1, 0]]), neighbours=2)
    assert found[0, 0] == pytest.approx(1, abs=1e-4) and found[1, 0] == pytest.approx(2)  # both are as near
    labels = np.array([0, 0, 1, 1])
    votes = knn_probe(bank, labels, list("abcd"), bank, neighbours=1, num_classes=3)
    assert votes.argmax(axis=1).tolist() == labels.tolist() and votes.shape == (4, 3)


def test_a_within_person_effect_is_found():
    """The level of a person is in the label, but not in the features: only changes of a person can be read."""
    rng = np.random.default_rng(0)
    x, groups = material(rng, num_people=40)
    x -= np.array([x[groups == g].mean(axis=0) for g in groups])
    values = x[:, :1] + 20 * rng.normal(size=40)[groups][:, None]
    fit, test = parts(groups, 10)
    found = linear_probe(x[fit], values[fit], groups[fit], x[test])
    assert score("ccc", values[test], found) < 0.3
    assert score("pcc", *(_centred(v, groups[test]) for v in (values[test], found))) > 0.5


def _centred(values, groups):
    return values - np.array([values[groups == g].mean(axis=0) for g in groups])


def tokens_with_a_sign(rng, groups, num_tokens=6, dim=8):
    """One token at a random place carries the label; the mean over the tokens has it drowned."""
    labels = rng.integers(0, 2, len(groups))
    tokens = rng.normal(size=(len(groups), num_tokens, dim)).astype(np.float32)
    tokens[:, :, 0] = 0
    place = rng.integers(0, num_tokens, len(groups))
    rows = np.arange(len(groups))
    tokens[rows, place, 0] = 4  # marks the token
    tokens[:, :, 1] *= 3
    tokens[rows, place, 1] = 2 * (2 * labels - 1)
    return tokens, labels


def test_attentive_finds_a_token_that_the_mean_hides():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 8)
    tokens, labels = tokens_with_a_sign(rng, groups)
    fit, test = parts(groups, 15)
    how = dict(rates=(1e-3, 1e-2), decays=(0.01,), epochs=25, num_heads=2, seeds=(0, 1))
    found = attentive_probe(tokens[fit], labels[fit], groups[fit], tokens[test], **how)
    assert found.shape == (2, len(test), 2)
    np.testing.assert_allclose(found.sum(axis=2), 1, atol=1e-5)
    pooled = linear_probe(tokens[fit].mean(1), labels[fit], groups[fit], tokens[test].mean(1))
    assert score("uar", labels[test], found) > 0.9 > score("uar", labels[test], pooled)
    assert (found[0] != found[1]).any()
    short = how | {"rates": (1e-3,), "epochs": 2}
    one, again = (attentive_probe(tokens[fit], labels[fit], groups[fit], tokens[test], **short) for _ in range(2))
    np.testing.assert_array_equal(one, again)


def test_attentive_reads_values_and_leaves_the_random_state_alone():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 8)
    tokens = rng.normal(size=(240, 2, 8)).astype(np.float16)
    values = 50 + 10 * tokens[:, :, 0].astype(float).mean(axis=1, keepdims=True)
    fit, test = parts(groups)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found = attentive_probe(
        tokens[fit], values[fit], groups[fit], tokens[test], rates=(3e-3,), decays=(0.0,), epochs=60
    )
    assert score("ccc", values[test], found) > 0.8
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("number, epochs", [(64, 2500), (640, 250), (65, 1250), (64 * 200, 20)])
def test_attentive_trains_for_enough_steps_however_few_samples_there_are(number, epochs, monkeypatch):
    def record(*args, epochs, **how):
        lengths.append(epochs)
        return np.ones((len(args[5]), 2))

    lengths = []
    monkeypatch.setattr(attentive, "_fit_attentive", record)
    x, labels = np.random.default_rng(0).normal(size=(number, 1, 2)), np.arange(number) % 2
    attentive_probe(x, labels, np.arange(number) // 2, x[:3])
    assert set(lengths) == {epochs}


def test_attentive_says_which_settings_were_best_on_held_out_people(monkeypatch):
    def perfect_at_one_setting(tokens, y, targets, weights, rows, queries, rate, decay, seed, **how):
        fits.append((len(rows), rate, decay))
        return queries[:, 0, :2] if (rate, decay) == (0.3, 4.0) else np.zeros((len(queries), 2))

    fits, chosen = [], []
    monkeypatch.setattr(attentive, "_fit_attentive", perfect_at_one_setting)
    labels = np.arange(40) % 2
    x = np.eye(2)[labels][:, None]
    attentive_probe(
        x, labels, np.arange(40) // 2, x, rates=(0.1, 0.3, 0.9), decays=(2.0, 4.0), num_folds=4, on_choice=chosen.append
    )
    assert chosen == [(0.3, 4.0)] and len(fits) == 7
    assert fits[-1] == (40, 0.3, 4.0) and {number for number, *_ in fits[:-1]} == {30}


def test_attentive_passes_over_a_rate_with_which_its_training_diverges():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(12), 8)
    tokens, labels = tokens_with_a_sign(rng, groups)
    how = dict(decays=(0.1,), epochs=2)
    one, both = (
        attentive_probe(tokens, labels, groups, tokens[:5], rates=rates, **how) for rates in ((1e-3,), (1e30, 1e-3))
    )
    np.testing.assert_array_equal(one, both)


def test_the_attentive_reader_is_one_cross_attention_block_with_one_query():
    torch.manual_seed(0)
    reader = AttentiveReader(16, 4, 3).double()
    for parameter in reader.parameters():
        torch.nn.init.normal_(parameter)
    tokens = torch.randn(2, 5, 16, dtype=torch.float64)
    query = reader.query.expand(2, -1, -1)
    query = query + reader.attention(query, reader.token_norm(tokens))
    query = query + reader.mlp(reader.norm(query))
    torch.testing.assert_close(reader(normed(tokens)), reader.head(query[:, 0]))


def test_samples_that_do_not_fit_together():
    x = np.zeros((4, 2))
    with pytest.raises(UserError, match="4 samples, 3 targets"):
        linear_probe(x, np.zeros(3, int), list("abcd"), x)
    with pytest.raises(UserError, match="negative"):
        knn_probe(x, np.array([0, -1, 1, 1]), list("abcd"), x)
    with pytest.raises(UserError, match="finite values"):
        linear_probe(x, np.full((4, 1), np.nan), list("abcd"), x)


X, Y, PEOPLE = np.arange(12.0).reshape(6, 2), np.arange(6) % 2, list("abcdef")


@pytest.mark.parametrize(
    ("probe", "arguments", "more", "message"),
    [
        (knn_probe, (X, Y, PEOPLE, X), {"neighbours": 0}, "neighbours=0: must be at least 1"),
        (linear_probe, (X, Y, PEOPLE, X), {"num_folds": 1}, "num_folds=1: must be at least 2"),
        (linear_probe, (X, Y, PEOPLE, X[:, :1]), {}, r"test_x: has samples of shape \(1,\), and train_x of \(2,\)"),
        (knn_probe, (np.where(X == 3, np.nan, X), Y, PEOPLE, X), {}, "train_x: has numbers that are not finite"),
        (linear_probe, (X, Y, PEOPLE, X + np.inf), {}, "test_x: has numbers that are not finite"),
        (linear_probe, (X[0], Y, PEOPLE, X), {}, r"train_x: must be numbers \(N, D\), not float64 of shape \(2,\)"),
        (knn_probe, (X.astype(str), Y, PEOPLE, X), {}, r"train_x: must be numbers \(N, D\), not <U32"),
        (knn_probe, (X, list("uvuvuv"), PEOPLE, X), {}, r"train_y: must be integer classes .* not <U1 .*np\.unique"),
        (linear_probe, (X, Y + 0.5, PEOPLE, X), {}, r"train_y: must be integer classes .* not float64 of shape \(6,\)"),
        (linear_probe, (X, Y, PEOPLE[:4], X), {}, "train_groups: 6 samples, 6 targets and 4 groups"),
        (linear_probe, (X, Y * 0 + 1, PEOPLE, X), {}, "train_y: holds a single class"),
        (knn_probe, (X, Y, PEOPLE, X), {"neighbours": 7}, "neighbours=7: only 6 samples"),
        (attentive_probe, (X[:, None], Y, PEOPLE, X[:, None]), {"rates": [1e30]}, "diverges at a rate of 1e"),
        (attentive_probe, (X, Y, PEOPLE, X), {}, r"train_tokens: must be numbers \(N, T, D\)"),
        (attentive_probe, (X[:, None], Y, PEOPLE, X[:, None]), {"seeds": ()}, "number of seeds=0: must be at least 1"),
        (attentive_probe, (X[:, None], Y, PEOPLE, X[:, None]), {"epochs": 0}, "epochs=0: must be at least 1"),
    ],
)
def test_arguments_that_do_not_fit_are_named(probe, arguments, more, message):
    with pytest.raises(UserError, match=message):
        probe(*arguments, **more)


def test_the_test_part_has_no_influence():
    rng = np.random.default_rng(0)
    x, groups = material(rng)
    fit, test = parts(groups)
    for probe in (linear_probe, knn_probe):
        together = probe(x[fit], x[fit][:, :1], groups[fit], x[test])
        alone = probe(x[fit], x[fit][:, :1], groups[fit], x[test][:1])
        np.testing.assert_allclose(together[:1], alone, atol=1e-9)

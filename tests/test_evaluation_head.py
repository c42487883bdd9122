"""A fitted head: scikit-learn's regression, on features as they are."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from vitral.evaluation.probes import fit_head
from vitral.evaluation.probes.head import stratified_folds


def make_features(classes: int, images: int, spread: float = 0.25):
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(classes, 40)) * spread
    labels = np.arange(images) % classes
    x = (centres[labels] + draw.normal(size=(images, 40))) * 3 + 7
    return x.astype(np.float32), labels


@pytest.mark.parametrize("classes", [3, 7, 120])
def test_the_head_is_scikit_learns_at_the_same_c(classes):
    x, labels = make_features(classes, 4 * classes + 60)
    head = fit_head(x, labels, classes)
    scaler = StandardScaler().fit(x)
    reference = LogisticRegression(C=head.c, max_iter=5000, tol=1e-9)
    reference.fit(scaler.transform(x), labels)
    theirs = reference.predict_log_proba(scaler.transform(x))
    scores = x @ head.weight.T + head.bias
    ours = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    assert np.abs(ours - theirs).max() < 0.02
    assert len(head.losses) >= 7
    assert head.c == min(head.losses, key=lambda row: row[1])[0]


def test_two_classes_share_the_penalty():
    x, labels = make_features(2, 80)
    head = fit_head(x, labels, 2, c=0.1)
    assert head.losses == ()
    np.testing.assert_allclose(head.weight[0], -head.weight[1], rtol=1e-5)
    scaler = StandardScaler().fit(x)
    reference = LogisticRegression(C=0.1, max_iter=5000, tol=1e-9)
    reference.fit(scaler.transform(x), labels)
    scores = x @ head.weight.T + head.bias
    margin = scores[:, 1] - scores[:, 0]
    assert (
        np.abs(margin - reference.decision_function(scaler.transform(x))).max() < 0.01
    )


def test_classes_without_an_image_are_never_the_answer():
    x, labels = make_features(3, 60)
    head = fit_head(x, labels * 2, 6)
    answers = (x @ head.weight.T + head.bias).argmax(axis=1)
    assert set(answers) <= {0, 2, 4}
    assert (answers == labels * 2).mean() > 0.5


def test_one_class_alone_is_the_answer():
    x, labels = make_features(1, 5)
    head = fit_head(x, labels + 1, 3)
    assert set((x @ head.weight.T + head.bias).argmax(axis=1)) == {1}


def test_folds_hold_out_each_image_once_and_lone_classes_never():
    labels = np.array([0] * 10 + [1] * 3 + [2])
    folds = stratified_folds(labels, seed=0)
    assert len(folds) == 3
    rows = np.concatenate(folds)
    assert sorted(rows) == list(range(13))
    assert all((labels[fold] == 0).sum() >= 3 for fold in folds)
    assert np.array_equal(folds[0], stratified_folds(labels, seed=0)[0])

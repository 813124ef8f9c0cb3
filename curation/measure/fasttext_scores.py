"""From the mean of a text's rows to labels: softmax, and hierarchical softmax without visiting the whole tree."""

from __future__ import annotations

import numpy as np

from curation.compiled import njit

SMALL_TREE = 1024  # inner nodes: up to there all labels are looked at, without a search
ROUNDING = 1e-5  # what the library adds to a probability before its logarithm


@njit(nogil=True)
def softmax(hidden, output, asked, scores):
    """(likeliest label, its probability, that of label `asked` or 0) of a hidden vector; `scores` is scratch.

    `output` is (width, labels); without rows the hidden vector holds the logits already.
    """
    labels = len(scores)
    if len(output):
        scores[:] = 0
        for column in range(len(hidden)):
            for label in range(labels):
                scores[label] += output[column, label] * hidden[column]
    else:
        scores[:] = hidden
    best, highest = 0, scores[0]
    for label in range(1, labels):
        if scores[label] > highest:
            best, highest = label, scores[label]
    total = np.float32(0)
    for label in range(labels):
        scores[label] = np.exp(scores[label] - highest)
        total += scores[label]
    wanted = np.float32(scores[asked] / total + ROUNDING) if asked >= 0 else np.float32(0)
    return best, np.float32(scores[best] / total + ROUNDING), wanted


@njit(nogil=True)
def all_leaves(hidden, output, parents, right, margins, chances):
    """The likeliest label of a small tree; chances[:labels] are then the probabilities of all labels.

    `output` is (width, inner nodes); `margins` (float32, inner nodes) and `chances` (float64, nodes) are scratch.
    Nothing is left out, so that nothing has to be guessed: for few nodes that is sooner done than a search.
    """
    labels = len(margins) + 1
    margins[:] = 0
    for column in range(len(hidden)):
        for node in range(len(margins)):
            margins[node] += output[column, node] * hidden[column]
    for node in range(len(margins)):
        margins[node] = np.float32(1) / (np.float32(1) + np.exp(-margins[node]))
    chances[2 * labels - 2] = 1.0
    for node in range(2 * labels - 3, -1, -1):
        above = np.int64(parents[node])
        chance = np.float64(margins[above - labels])
        chances[node] = chances[above] * ((chance if right[node] else 1 - chance) + ROUNDING)
    best = 0
    for label in range(1, labels):
        best = label if chances[label] > chances[best] else best
    return best


@njit(nogil=True)
def _margin(hidden, output, node):
    """hidden . output[node]. Four sums side by side: one would wait for each addition."""
    width = len(hidden)
    a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    for at in range(0, width - 3, 4):
        a += output[node, at] * hidden[at]
        b += output[node, at + 1] * hidden[at + 1]
        c += output[node, at + 2] * hidden[at + 2]
        d += output[node, at + 3] * hidden[at + 3]
    for at in range(width & ~3, width):
        a += output[node, at] * hidden[at]
    return (a + b) + (c + d)


@njit(nogil=True)
def _chance(hidden, output, node):
    """The probability of an inner node's right child."""
    return np.float64(np.float32(1) / (np.float32(1) + np.exp(-_margin(hidden, output, node))))


@njit(nogil=True)
def likeliest_leaf(hidden, output, children, waiting, waiting_chances):
    """(label, probability) of the likeliest leaf: depth first, the likelier child first.

    A leaf's probability is the product of those on its path, each raised by ROUNDING, as the library's is by sums
    of logarithms. It bounds what is below, so that most of the tree is never looked at. The last two arguments are
    scratch of as many places as there are labels.
    """
    labels = len(children) + 1
    best, best_chance, count = -1, -1.0, 1
    waiting[0], waiting_chances[0] = 2 * labels - 2, 1.0
    while count:
        count -= 1
        node, chance = waiting[count], waiting_chances[count]
        while node >= labels and chance >= best_chance:
            right = _chance(hidden, output, node - labels)
            left = chance * (1 - right + ROUNDING)
            right = chance * (right + ROUNDING)
            first = np.int64(right > left)
            waiting[count], waiting_chances[count] = children[node - labels, 1 - first], min(left, right)
            count += 1
            node, chance = np.int64(children[node - labels, first]), max(left, right)
        if node < labels and (chance > best_chance or (chance == best_chance and node < best)):
            best, best_chance = node, chance
    return best, best_chance


@njit(nogil=True)
def leaf_chance(hidden, output, parents, right, label, chances):
    """The probability of one label, multiplied from the root on as above. `chances` is scratch of that length."""
    labels, node, depth, total = (len(parents) + 1) // 2, np.int64(label), 0, 1.0
    while parents[node] >= 0:
        chance = _chance(hidden, output, np.int64(parents[node]) - labels)
        chances[depth] = (chance if right[node] else 1 - chance) + ROUNDING
        node, depth = np.int64(parents[node]), depth + 1
    for place in range(depth - 1, -1, -1):
        total *= chances[place]
    return total

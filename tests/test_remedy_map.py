"""Advice is part of the product: each piece has a test that follows it and sees the error gone."""

from __future__ import annotations

import remedies

#: Strings that read like advice and are none: the text, and what it is.
NO_ADVICE = {
    "see {}": "a remark in a table, that names where the cause is written",
    "accelerate enabled load_policy": "public names",
    "seed {}": "a caption",
}
STRINGS = [pair for pair in remedies.all_strings() if pair[1] not in NO_ADVICE]
ADVICE = [
    remedies.Advice(place, text, clause)
    for place, text in STRINGS
    for clause in remedies.clauses(text)
]
MARKERS = list(remedies.markers())


def test_every_piece_of_advice_is_followed_in_a_test() -> None:
    fragments = [fragment for _, fragment in MARKERS]
    missing = [a for a in ADVICE if not any(a.follows(fragment) for fragment in fragments)]
    assert [f"{a.place}: {a.message!r}: {a.clause!r}" for a in missing] == []


def test_every_marker_is_advice_of_one_message() -> None:
    wrong = []
    for place, fragment in MARKERS:
        whole = {text for _, text in STRINGS if fragment in text}
        found = whole & {fragment} or whole or {a.message for a in ADVICE if a.follows(fragment)}
        if len(found) != 1:
            wrong.append(f"{place}: {fragment!r} is advice in {sorted(found) or 'no message'}")
    assert wrong == []


def test_what_is_looked_for_is_found() -> None:
    words = "x must be y, got z: use it, or say why; then 'wait' and see. Call again, or not."
    assert remedies.clauses(words) == [
        "use it, or ",
        "say why; then 'wait' and see. ",
        "Call again, or not.",
    ]
    assert remedies.clauses("the use of x, and call argument y: free of NaN") == []

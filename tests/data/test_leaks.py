import pytest

from cosent.data.layouts import Columns
from cosent.data.leaks import check_leaks
from cosent.data.lint import Split
from cosent.data.readers import ExampleReader


@pytest.fixture
def split(tmp_path):
    def make(rows, name="train.tsv", **columns):
        path = tmp_path / name
        path.write_text("".join("\t".join(row) + "\n" for row in rows))
        return Split.read(ExampleReader(path, Columns(**columns) if columns else None))

    return make


CLEAN = [("a1", "a2", "1"), ("b1", "b2", "0"), ("c1", "c2", "1"), ("d1", "d2", "0")]


def test_leaks_are_told_by_what_is_shared(split):
    train = split([("a", "b", "1"), ("c", "d", "0"), ("Hello!", "x y", "1"), ("p", "q", "0")])
    test = split(
        [
            ("b", "a", "1"),  # the pair itself, swapped
            ("c", "new", "0"),  # a text
            ("hello", "XY", "0"),  # the pair, but for case and punctuation
            ("new", "newer", "1"),  # hangs together through "c"
            ("other", "another", "0"),
        ],
        "test.tsv",
    )
    findings = check_leaks(train, test)
    counts = [(finding.what.replace(train.path, "TRAIN"), finding.count) for finding in findings]
    assert counts == [
        ("pairs that stand in TRAIN, either way round", 1),
        ("pairs that stand in TRAIN but for case, width, spaces or punctuation", 1),
        ("examples with a text of TRAIN", 2),
        ("examples with a text of TRAIN but for case, width, spaces or punctuation", 1),
        ("examples that hang together with TRAIN through any chain of shared texts", 4),
    ]
    assert all(finding.total == 5 for finding in findings)
    assert findings[0].examples == ["line 1: 'b' | 'a' -> 1"]
    assert check_leaks(train, split(CLEAN, "clean.tsv")) == []


def test_leaks_between_files_of_different_formats(split):
    train = split([("how are you", "how do you do", "bad weather")], "triplets.tsv", data_format="triplets")
    classes = split([("How are you?", "smalltalk"), ("where is it", "place")], "c.tsv", data_format="classes")
    assert [finding.count for finding in check_leaks(train, classes)] == [1, 1]


def test_what_is_said_of_data_that_chooses_is_true_of_it(split):
    rows = [("a", "b", "1"), ("c", "d", "0")]
    dev, test = split(rows, "dev.tsv"), split([*rows, ("a", "x", "1")], "test.tsv")
    trained, chosen = (check_leaks(dev, test, is_trained_on=is_trained_on) for is_trained_on in (True, False))
    assert [(finding.what, finding.count) for finding in trained] == [
        (finding.what, finding.count) for finding in chosen
    ]
    assert len(chosen) == 3
    assert all("train" in finding.effect for finding in trained)
    assert not any("train" in finding.effect for finding in chosen)
    assert all("choose" in finding.effect and "the threshold" in finding.effect for finding in chosen)


def pairs(num_matches, num_others, prefix):
    labels = ["1"] * num_matches + ["0"] * num_others
    return [(f"{prefix}{number}", f"{prefix}{number}b", label) for number, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("others", "is_found"), [(100, False), (85, False), (400, True)], ids=["same", "less than a tenth", "clear"]
)
def test_another_share_of_matches_is_found(split, others, is_found):
    dev, test = split(pairs(100, 100, "d"), "dev.tsv"), split(pairs(100, others, "t"), "test.tsv")
    findings = check_leaks(dev, test, is_trained_on=False)
    assert len(findings) == is_found
    if is_found:
        assert str(findings[0]) == f"pairs that match, of which {dev.path} has 50.0%: 100 of 500 (20.0%)"
        assert "a threshold and probabilities that were chosen there" in findings[0].effect
        assert "sampled or labelled differently" in check_leaks(dev, test)[0].effect


def test_a_share_of_matches_that_may_be_chance_is_not_found(split):
    assert check_leaks(split(pairs(5, 5, "d"), "dev.tsv"), split(pairs(2, 8, "t"), "test.tsv")) == []


def test_graded_labels_have_a_share_of_matches_with_a_limit_alone(split):
    files = [
        split([(*texts, "4.5" if label == "1" else "2") for *texts, label in pairs(count, 100, name)], f"{name}.tsv")
        for count, name in ((100, "train"), (400, "test"))
    ]
    assert check_leaks(*files) == []
    assert check_leaks(*files, positive_label_min=4)[0].count == 400
    assert check_leaks(*files, positive_label_min=2.5)[0].count == 400

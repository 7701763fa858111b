import gzip
import random

import pytest

from cosent.data.layouts import Columns
from cosent.data.lint import Split, check_split, normalized
from cosent.data.readers import ExampleReader


@pytest.fixture
def split(tmp_path):
    def make(rows, name="train.tsv", **columns):
        path = tmp_path / name
        text = "".join("\t".join(row) + "\n" for row in rows)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
        return Split.read(ExampleReader(path, Columns(**columns) if columns else None))

    return make


def found(findings, what):
    """The only finding whose sentence begins so, or None."""
    return next((finding for finding in findings if finding.what.startswith(what)), None)


CLEAN = [("a1", "a2", "1"), ("b1", "b2", "0"), ("c1", "c2", "1"), ("d1", "d2", "0")]


def test_nothing_is_found_in_what_is_clean(split):
    assert check_split(split(CLEAN)) == []


def test_repeated_and_swapped_pairs_are_counted_with_their_lines(split):
    rows = [*CLEAN, ("a1", "a2", "1"), ("b2", "b1", "0"), ("a1", "a2", "1")]
    findings = check_split(split(rows))
    again = found(findings, "examples that stand there again")
    assert (again.count, again.total) == (2, 7)
    assert again.examples[0] == "line 1: 'a1' | 'a2' -> 1; line 5: 'a1' | 'a2' -> 1"
    swapped = found(findings, "pairs that stand there with their sides swapped")
    assert swapped.count == 1
    assert swapped.examples == ["line 2: 'b1' | 'b2' -> 0; line 6: 'b2' | 'b1' -> 0"]


def test_one_pair_with_several_labels_bounds_what_a_model_can_get_right(split):
    rows = [*CLEAN, ("a2", "a1", "0"), ("a1", "a2", "1")]  # 1, 0, 1
    finding = found(check_split(split(rows)), "the same pair with different labels")
    assert finding.count == 3
    assert "no model can be right about 1 of them" in finding.effect
    assert finding.examples == ["line 1: 'a1' | 'a2' -> 1; line 5: 'a2' | 'a1' -> 0; line 6: 'a1' | 'a2' -> 1"]


def test_a_chain_of_matches_that_ends_in_no_match_is_shown_whole(split):
    rows = [("b", "c", "1"), ("x", "y", "0"), ("a", "b", "1"), ("d", "c", "1"), ("a", "d", "0"), ("b", "e", "1")]
    rows += [("e", "b", "0")]  # one pair with two labels is no chain
    finding = found(check_split(split(rows)), "pairs that do not match, though a chain")
    assert finding.count == 1
    assert finding.examples == [
        "line 5: 'a' | 'd' -> 0; line 3: 'a' | 'b' -> 1; line 1: 'b' | 'c' -> 1; line 4: 'd' | 'c' -> 1"
    ]


def test_graded_labels_contradict_each_other_only_with_a_limit(split):
    graded = split([("a", "b", "5"), ("b", "c", "4"), ("a", "c", "1"), ("x", "y", "3")])
    assert check_split(graded) == []
    assert found(check_split(graded, 4), "pairs that do not match, though a chain").count == 1


def test_a_text_beside_itself_teaches_nothing(split):
    finding = found(check_split(split([*CLEAN, ("e", "e", "1"), ("f", "f", "0")])), "pairs of one and the same text")
    assert finding.count == 2
    assert "1 of them are labelled as no match" in finding.effect


def test_one_label_is_nothing_to_learn_from(split):
    assert found(check_split(split(CLEAN[::2])), "every label is the same").count == 2


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a\ufeffb", "texts with invisible"),
        ("a\u200bb", "texts with invisible"),
        ("a\ufffdb", "texts with replacement"),
        ("a\x07b", "texts with control"),
        ("a\x85b", "texts with control"),
        ("cafÃ© au lait", "texts that look misread"),
        ("donâ€™t", "texts that look misread"),
        ("锟斤拷", "texts that look misread"),
        ("ä½\xa0å¥½", "texts that look misread"),
    ],
)
def test_damaged_texts_are_found(split, text, what):
    findings = check_split(split([*CLEAN, (text, "e2", "1")]))
    assert found(findings, what).count == 1
    assert found(findings, what).examples[0].startswith("line 5: ")


@pytest.mark.parametrize(
    "text", ["café – à l’été", "Ökologie", "你好，世界！", "naïve £5 «ça»", "Â la carte", "ＡＢＣ"]
)
def test_letters_of_other_languages_are_not_damage(split, text):
    assert check_split(split([*CLEAN, (text, "e2", "1")])) == []


def test_classes_may_hold_a_text_twice_under_two_names(split):
    rows = [("hello", "greeting"), ("bye", "parting"), ("hello", "parting"), ("hi", "greeting"), ("hi", "greeting")]
    findings = check_split(split(rows, data_format="classes"))
    assert found(findings, "the same text with different classes").count == 2
    assert found(findings, "examples that stand there again").count == 1


def test_counts_equal_those_of_a_loop_over_random_data(split):
    generator = random.Random(0)
    rows = [(*generator.choices("abcdefghij", k=2), generator.choice("01")) for _ in range(60)]
    findings = check_split(split(rows))
    earlier: set = set()
    again = swapped = 0
    for first, second, label in rows:
        again += (first, second, label) in earlier
        earlier.add((first, second, label))
    first_way: dict = {}
    for first, second, _ in rows:
        swapped += first_way.setdefault(frozenset((first, second)), (first, second)) != (first, second)
    labels: dict = {}
    for first, second, label in rows:
        labels.setdefault(frozenset((first, second)), []).append(label)
    several = [group for group in labels.values() if len(set(group)) > 1]
    assert found(findings, "examples that stand there again").count == again
    assert found(findings, "pairs that stand there with their sides swapped").count == swapped
    different = found(findings, "the same pair with different labels")
    assert different.count == sum(map(len, several))
    wrong = sum(len(group) - max(map(group.count, group)) for group in several)
    assert f"about {wrong} of them" in different.effect


def test_lines_are_those_of_the_file(split):
    shown = split([("text1", "text2", "label"), *CLEAN, CLEAN[0]], "train.tsv.gz")
    (finding,) = check_split(shown)
    assert finding.examples == ["line 2: 'a1' | 'a2' -> 1; line 6: 'a1' | 'a2' -> 1"]


def test_what_seldom_carries_meaning_does_not_tell_texts_apart():
    assert normalized("Ｈｅｌｌｏ,  World!") == normalized("hello world") == "helloworld"
    assert normalized("花呗 怎么还款？") == normalized("花呗怎么还款")
    assert normalized("?!") != normalized("...")
    different = [
        "1.5 l",
        "15 l",
        "-5",
        "5",
        "की",
        "का",
        "c++",
        "c",
        "x > 0",
        "x < 0",
        "so 😀",
        "so 😡",
        "10:30",
        "1030",
    ]
    assert len({normalized(text) for text in different}) == len(different)


QUOTED = "texts in quotation marks"


def test_quoting_in_a_file_that_has_none_is_found_and_what_to_do_is_said(split):
    (finding,) = check_split(split([*CLEAN, ('"say ""hi"""', "e2", "1"), ("f1", "f2", "0")]))
    assert finding.what.startswith(QUOTED)
    assert "save the file as .csv" in finding.what  # which is all that training prints
    assert (finding.count, finding.total) == (1, 6)
    assert "python -c" in finding.effect
    assert finding.examples == ['line 5: \'"say ""hi"""\' | \'e2\' -> 1']


def test_texts_that_are_all_quoted_are_found(split):
    rows = [(f'"{first}"', f'"{second}"', label) for first, second, label in CLEAN]
    assert found(check_split(split(rows)), QUOTED).count == 4


@pytest.mark.parametrize(
    "text", ['5" screen', '"To be" or "not to be"', '"quotation"', 'he said "hi"', '"', '"a""b', '""b']
)
def test_quotation_marks_of_a_text_are_not_found(split, text):
    assert check_split(split([*CLEAN, (text, "e2", "1")])) == []


def test_quoting_is_no_finding_where_a_format_has_it(tmp_path):
    (tmp_path / "a.csv").write_text('text1,text2,label\n"""say """"hi""""""",b,1\nc,d,0\n')
    split = Split.read(ExampleReader(tmp_path / "a.csv"))
    assert split.examples[0].texts[0] == '"say ""hi"""'
    assert check_split(split) == []

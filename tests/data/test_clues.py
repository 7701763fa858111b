import csv
import gzip
import io
import json
import shutil
import subprocess

import pytest

from cosent.data.layouts import Columns, Example
from cosent.data.readers import ExampleReader
from cosent.data.rows import open_rows
from cosent.errors import DataError

PAIRS = [Example(("a, b", "b"), 1.0), Example(("c", "d"), 0.0)]


def read(path, **columns):
    return list(ExampleReader(path, Columns(**columns)))


def refusal(path, content, **columns):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        read(path, **columns)
    return str(caught.value)


def run(message, *programs):
    """Run the command that a message gives, if its programs are there."""
    if not all(map(shutil.which, programs)):
        pytest.skip(f"needs {programs}")
    command = message[message.index("`") + 1 : message.rindex("`")]
    subprocess.run(command, shell=True, check=True)


LANGUAGES = {
    "GB18030": ("gb18030", [("怎么修改密码？", "如何重设我的登录密码"), ("今天天气很好", "我想去公园里散步")]),
    "BIG5": ("cp950", [("如何修改我的密碼", "怎麼重設登入密碼"), ("今天天氣很好", "我想去公園散步")]),
    "SHIFT_JIS": ("cp932", [("パスワードを変更したい", "ログインできません"), ("天気がいいですね", "公園に行きます")]),
    "EUC-JP": ("euc_jp", [("パスワードを変更したい", "ログインできません"), ("天気がいいですね", "公園に行きます")]),
    "CP949": ("cp949", [("비밀번호를 바꾸고 싶어요", "로그인이 안돼요"), ("날씨가 좋네요", "공원에 가요")]),
    "WINDOWS-1251": ("cp1251", [("Как сменить пароль", "Забыл пароль от почты"), ("Хорошая погода", "Иду в парк")]),
    "KOI8-R": ("koi8_r", [("Как сменить пароль", "Забыл пароль от почты"), ("Хорошая погода", "Иду в парк")]),
    "WINDOWS-1252": ("cp1252", [("café crème", "été à Paris"), ("naïve – déjà vu", "où êtes-vous")]),
}


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("data_format", ["auto", "pairs"])
@pytest.mark.parametrize("name", LANGUAGES)
def test_another_encoding_is_named_with_the_command_that_converts_it(tmp_path, name, data_format, gz):
    codec, texts = LANGUAGES[name]
    content = "".join(f"{first}\t{second}\t{label}\n" for label, (first, second) in enumerate(texts)).encode(codec)
    path = tmp_path / ("a b.tsv.gz" if gz else "a b.tsv")  # a name that a shell would split
    message = refusal(path, gzip.compress(content) if gz else content, data_format=data_format)
    assert f"The file looks like {name};" in message
    assert "look like pairs" not in message
    run(message, "iconv", "zcat")
    converted = [Example(pair, float(label)) for label, pair in enumerate(texts)]
    assert read(tmp_path / "new-a b.tsv") == converted


def test_a_header_in_another_encoding_is_no_unknown_column(tmp_path):
    content = "文本,类别,编号\n怎么修改密码,账户,一\n今天天气很好,闲聊,二\n".encode("gb18030")
    assert "looks like GB18030" in refusal(tmp_path / "a.csv", content, texts=("文本",), label="类别")


def test_a_file_of_several_encodings_gets_no_wrong_hint(tmp_path):
    lines = [f"名前{i}\tb\t{i % 2}\n".encode() for i in range(9)] + ["é\tb\t1\n".encode("cp1252")]
    message = refusal(tmp_path / "a.tsv", b"".join(lines))
    assert "line 10: is not UTF-8" in message
    assert "looks like" not in message


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("text", ["How do I pay?\tPaying\t1\nHello\tBye\t0\n", "你好\t世界\t1\n怎么\t如何\t0\n"])
def test_wide_encodings_are_told_before_anything_is_read(tmp_path, codec, text):
    message = refusal(tmp_path / "a.tsv", text.encode(codec))
    assert f"is in {codec.upper().replace('-LE', 'LE').replace('-BE', 'BE')}, not in UTF-8" in message
    run(message, "iconv")
    assert len(read(tmp_path / "new-a.tsv")) == 2


def test_wide_sentences_are_no_sentences_with_nuls(tmp_path):
    assert "UTF-16LE" in refusal(tmp_path / "a.txt", "one sentence\nanother one\n".encode("utf-16-le"))


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_array_is_told_with_the_command_that_splits_it(tmp_path, indent):
    rows = [{"text1": "a, b", "text2": "b", "label": 1}, {"text1": "c", "text2": "d", "label": 0}]
    message = refusal(tmp_path / "a.json", json.dumps(rows, indent=indent))
    assert "holds one JSON array; expected one object a line" in message
    run(message, "python")
    assert read(tmp_path / "new-a.jsonl") == PAIRS


def test_objects_over_several_lines_are_told(tmp_path):
    assert "line 1 ends within an object" in refusal(tmp_path / "a.jsonl", json.dumps({"text1": "a"}, indent=1))


def test_carriage_returns_alone_end_no_line(tmp_path):
    message = refusal(tmp_path / "a.tsv", "a, b\tb\t1\rc\td\t0\r")
    assert "lines end in carriage returns alone" in message
    run(message, "tr")
    assert read(tmp_path / "new-a.tsv") == PAIRS
    (tmp_path / "a.csv").write_text('text1,text2,label\r"a, b",b,1\rc,d,0\r')  # which csv readers take
    assert read(tmp_path / "a.csv") == PAIRS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"PK\x03\x04rest", "is a spreadsheet (.xlsx) or a zip archive"),
        ("a.tsv", gzip.compress(b"a\tb\t1\n", mtime=0), "is gzipped"),
        ("a.txt", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "git lfs pull"),
        ("a.csv", b"<!DOCTYPE html>\n<html>", "is a web page"),
        ("a.tsv", b"PAR1\x15\x04\x15\x00PAR1", "is a Parquet table"),
        ("a.parquet", b"PARE\x15\x04\x15\x00PARE", "is an encrypted Parquet table"),
        ("a.parquet", b"text1,text2,label\n", "it does not begin with PAR1"),
        ("a.tsv.gz", b"a\tb\t1\n", "does not begin as a gzip file"),
    ],
)
def test_files_of_another_kind_are_told(tmp_path, name, content, message):
    assert message in refusal(tmp_path / name, content)


@pytest.mark.parametrize("header", ["text1{0}text2{0}label\n", ""])
@pytest.mark.parametrize(("mark", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_csv_with_another_separator_is_read_and_that_is_said(tmp_path, caplog, mark, name, header):
    (tmp_path / "a.csv").write_text(header.format(mark) + f'"a, b"{mark}b{mark}1\nc{mark}d{mark}0\n')
    caplog.set_level("INFO")
    if not header:  # a comma in line 1 would separate
        (tmp_path / "a.csv").write_text(f"c{mark}d{mark}0\na, b{mark}b{mark}1\n")
    reader = ExampleReader(tmp_path / "a.csv")
    assert sorted(reader) == sorted(PAIRS)
    assert caplog.messages == [f"{tmp_path / 'a.csv'}: line 1 has no comma, so {name} separate the columns"]
    assert len(reader.report.remarks) == 1
    list(reader)  # said once
    assert len(caplog.messages) == 1


def test_sentences_with_semicolons_are_sentences(tmp_path, caplog):
    (tmp_path / "a.csv").write_text("text\nI came; I saw\nI won\n")
    caplog.set_level("INFO")
    assert [example.texts for example in read(tmp_path / "a.csv")] == [("I came; I saw",), ("I won",)]
    assert caplog.messages == []


@pytest.mark.parametrize("mark", [",", ";", "|"])
def test_tab_separated_files_without_tabs_are_told(tmp_path, mark):
    header = mark.join(("text1", "text2", "label"))
    message = refusal(tmp_path / "a.tsv", f"{header}\na{mark}b{mark}1\n")  # not sentences
    assert "line 1 has the columns 'text1', 'text2', 'label', which are separated by" in message
    message = refusal(tmp_path / "a.tsv", f"a{mark}b{mark}1\nc{mark}d{mark}0\n", data_format="pairs")
    assert "Line 1 has no tab but 2" in message
    assert ("end with .csv" in message) == (mark == ",")


def test_vertical_bars_come_with_a_command(tmp_path):
    message = refusal(tmp_path / "a.csv", "a|b|1\nc|d|0\n", data_format="pairs")
    run(message, "python")
    assert len(read(tmp_path / "new-a.csv")) == 2


@pytest.mark.parametrize(
    "content",
    [
        '"text1"\t"text2"\t"label"\n"a"\t"b"\t"1"\n',
        '"a"\t"b"\t"1"\n"c"\t"d"\t"0"\n',
        'a\t"b\tc"\t1\nd\te\t0\nf\t"g\tc"\t1\n',
        'text1\ttext2\tlabel\n"a\nb"\tc\t1\nd\te\t0\n"f\ng"\th\t0\n',
    ],
)
def test_quoted_fields_in_tsv_are_told_with_the_command_that_converts_them(tmp_path, content):
    message = refusal(tmp_path / "a.tsv", content, data_format="pairs")
    assert ".tsv has no quoting" in message
    run(message, "python")
    expected = list(csv.reader(io.StringIO(content), delimiter="\t"))
    with (tmp_path / "new-a.csv").open(newline="") as file:
        assert list(csv.reader(file)) == expected
    assert read(tmp_path / "new-a.csv")


def test_a_lone_quotation_mark_in_a_bad_file_is_no_quoting(tmp_path):
    message = refusal(tmp_path / "a.tsv", '5" screen\tb\t1\nonly one\nc\td\t0\n' * 3)
    assert "quoting" not in message


@pytest.mark.parametrize(
    "first", ["Parents like this", "parent\tchild", "PARECE que va a llover", "pk and bzh", "arrow1", "%pdf", "html"]
)
def test_words_are_no_signature(tmp_path, first):
    path = tmp_path / "a.tsv"
    path.write_text(f"{first}\tsecond\n" * 30 + "x" * 300 + "ustar words\ty\n", encoding="utf-8")
    assert next(iter(open_rows(path)[1]))[0] == 1


def test_japanese_without_kana_is_not_called_korean(tmp_path):
    rows = [("返品受付番号確認願", "東京都港区返品"), ("京都名古屋大阪", "日本語東京")]
    content = "".join(f"{first}\t{second}\t1\n" for first, second in rows).encode("cp932")
    message = refusal(tmp_path / "a.tsv", content)
    assert "CP949" not in message and "another encoding" in message

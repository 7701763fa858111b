"""Recognises files that differ from what their name says: another encoding, separator or file type.

`refuse_foreign` rejects files that cannot be meant; `explain` adds to an error what the file looks like.
"""

import codecs
import csv
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cosent.data.formats import KNOWN_TEXT_COLUMNS
from cosent.data.lines import UTF8_MARK, filtered, head_of, is_gzipped
from cosent.errors import DataError

TAB = "\t"
TAB_SEPARATED = (".tsv", ".txt", ".data")
JSON_LINES = (".jsonl", ".json")

SEPARATORS = {TAB: "tabs", ";": "semicolons", ",": "commas", "|": "vertical bars"}
_ROWS_TO_LOOK_AT = 100
_ENOUGH_ROWS = 5  # rows with equally many fields; single fields would not all contain the separator once by chance
_LIKELY = 0.9  # share of rows or characters that must fit


class _Signature(NamedTuple):
    """The first bytes of a file type, its name, and what to do about it."""

    begins: re.Pattern[bytes]
    what: str
    fix: str


_SIGNATURES = tuple(
    _Signature(re.compile(begins, re.DOTALL), what, fix)
    for begins, what, fix in (
        (rb"PK\x03\x04", "a spreadsheet (.xlsx) or a zip archive", "save the sheet as .csv (UTF-8), or unpack it"),
        (rb"\xd0\xcf\x11\xe0\xa1\xb1", "a spreadsheet (.xls)", "save the sheet as .csv (UTF-8)"),
        (rb"\x1f\x8b\x08", "gzipped", "let its name end with .gz"),
        (rb"BZh[1-9]1AY&SY", "compressed with bzip2", "unpack it with bunzip2"),
        (rb"\xfd7zXZ\x00", "compressed with xz", "unpack it with unxz"),
        (rb"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it with unzstd"),
        (rb"PARE[^\t\n\r -\x7f]", "an encrypted Parquet table", "write it without encryption"),
        (rb"PAR1.*\x00", "a Parquet table", "let its name end with .parquet"),
        (rb"ARROW1\x00\x00", "an Arrow table", "save it as Parquet"),
        (rb"SQLite format 3\x00", "an SQLite database", "export the table as .csv"),
        (rb"%PDF-\d", "a PDF", "export its texts"),
        (rb"version https://git-lfs", "a pointer of Git LFS and not the data", "fetch the data with `git lfs pull`"),
        (rb"(?i:\s*<(!doctype )?html)", "a web page", "download the file itself"),
        (rb"(?=.{0,256}\x00).{257}ustar[\x00 ]", "a tar archive", "unpack it"),
    )
)


class _Encoding(NamedTuple):
    """An encoding: its names in iconv and Python, the usual characters of its texts, and some that are required."""

    name: str
    codec: str
    usual: re.Pattern[str]
    needs: re.Pattern[str] | None = None


_HAN = "\u3400-\u9fff"
_KANA = "\u3040-\u30ff"
_SIGNS = "\u2010-\u203b\u3000-\u301f\uff00-\uff65"
# The narrowest first, because some texts are valid in several encodings. If an encoding groups frequent characters,
# `_is_frequent` checks their bytes.
_ENCODINGS = (
    _Encoding("SHIFT_JIS", "cp932", re.compile(f"[{_KANA}{_HAN}{_SIGNS}]"), re.compile(f"[{_KANA}]")),
    _Encoding("EUC-JP", "euc_jp", re.compile(f"[{_KANA}{_HAN}{_SIGNS}]"), re.compile(f"[{_KANA}]")),
    _Encoding("CP949", "cp949", re.compile(f"[\uac00-\ud7a3{_SIGNS}]")),
    _Encoding("GB18030", "gb18030", re.compile(f"[{_HAN}{_SIGNS}·—‘’“”…]")),
    _Encoding("BIG5", "cp950", re.compile(f"[{_HAN}{_SIGNS}·—‘’“”…]")),
    _Encoding("WINDOWS-1251", "cp1251", re.compile("[а-яё]")),
    _Encoding("KOI8-R", "koi8_r", re.compile("[а-яё]")),
)
# first bytes of the characters and the punctuation that make up nearly all of a text
_FREQUENT = {
    "gb18030": (range(0xB0, 0xD8), range(0xA1, 0xA4)),
    "cp950": (range(0xA4, 0xC7), range(0xA1, 0xA4)),
    "cp949": (range(0xB0, 0xC9), range(0xA1, 0xA4)),
}


def refuse_foreign(path: Path, suffix: str) -> None:
    """Refuse a file that is not of the type in its name, or in an encoding that cannot be UTF-8.

    Args:
        path: the file.
        suffix: the ending of its name, in lower case, without .gz.

    Raises:
        DataError: if so; the message says what the file is and what to do.
    """
    if is_gzipped(path):
        with path.open("rb") as file:
            start = file.read(2)
        if start and start != b"\x1f\x8b":
            raise DataError(
                f"{path} is damaged or not gzipped: it does not begin as a gzip file; if it is none, let its name not "
                "end with .gz"
            )
    head = head_of(path)
    is_table = suffix == ".parquet"
    if is_table and path.stat().st_size == 0:
        raise DataError(f"{path} is empty: it holds no table")
    if is_table and head.startswith(b"PAR1") or not head:
        return
    found = next((signature for signature in _SIGNATURES if signature.begins.match(head)), None)
    if found is not None:
        raise DataError(f"{path} is {found.what}, no usable {suffix} file: {found.fix}")
    if is_table:
        raise DataError(f"{path} is damaged or not a Parquet table: it does not begin with PAR1")
    wide = _wide_encoding(head)
    if wide:
        raise DataError(f"{path} is in {wide}, not in UTF-8; {_iconv(path, wide)} converts it")
    if suffix in JSON_LINES:
        _refuse_json(path, head)


def explain(path: Path, suffix: str) -> str:
    """Say what an unreadable file looks like and what to do; "" if it looks right.

    Args:
        path: the file.
        suffix: the ending of its name, in lower case, without .gz.
    """
    head = head_of(path).removeprefix(UTF8_MARK)
    clues: tuple[Callable[[], str], ...] = (
        lambda: _encoding_clue(path, head),
        lambda: _separator_clue(path, head, suffix),
        lambda: _quotes_clue(path, head, suffix),
    )
    return next((clue for clue in (look() for look in clues) if clue), "") if suffix != ".parquet" else ""


def csv_separator(path: Path) -> str:
    """Detect the separator of a .csv file: a comma, unless line 1 has none and all rows have another separator.

    Args:
        path: the file.
    """
    text = _decoded(head_of(path).removeprefix(UTF8_MARK))
    if "," in text.partition("\n")[0]:
        return ","
    return next((mark for mark in (TAB, ";") if _separates(text, mark, "")), ",")


def to_csv(path: Path, separator: str) -> str:
    """Make a command that converts a table with quotes to a .csv file.

    Args:
        path: the table.
        separator: the separator of its fields.
    """
    program = f"import csv, sys; csv.writer(sys.stdout).writerows(csv.reader(sys.stdin, delimiter={separator!r}))"
    return filtered(path, f'python -c "{program}"', ".csv")


def _refuse_json(path: Path, head: bytes) -> None:
    """Refuse JSON without one object per line: an array of all objects, or objects over several lines."""
    start = head.removeprefix(UTF8_MARK).lstrip()
    if re.match(rb"\[\s*\{|\[\s*$|\[\s*\n", start):
        program = "import json, sys; [print(json.dumps(row)) for row in json.load(sys.stdin)]"
        command = filtered(path, f'python -c "{program}"', ".jsonl")
        raise DataError(f"{path} holds one JSON array; expected one object a line, which {command} writes")
    if re.match(rb"\{[ \t]*\r?\n", start):
        command = filtered(path, "jq -c .", ".jsonl")
        raise DataError(f"{path}: line 1 ends within an object; expected one object a line, which {command} writes")


def _wide_encoding(head: bytes) -> str:
    """Detect UTF-16 or UTF-32; a byte order mark alone may be damage."""
    if b"\0" not in head:
        return ""
    for mark, name in (
        (codecs.BOM_UTF32_LE, "UTF-32"),
        (codecs.BOM_UTF32_BE, "UTF-32"),
        (codecs.BOM_UTF16_LE, "UTF-16"),
        (codecs.BOM_UTF16_BE, "UTF-16"),
    ):
        if head.startswith(mark):
            return name
    even, odd = head[::2].count(0), head[1::2].count(0)
    enough = len(head) / 8 if _is_utf8(head) else 2  # Chinese text has few NULs in UTF-16
    if max(even, odd) >= max(enough, 2) and min(even, odd) == 0:
        return "UTF-16LE" if odd else "UTF-16BE"
    return ""


def _encoding_clue(path: Path, head: bytes) -> str:
    lines = [line for line in head.split(b"\n") if not line.isascii()]
    broken = [line for line in lines if not _is_utf8(line + b"\n")]  # the last line may be cut, but counts only once
    if not lines or len(broken) <= len(lines) / 2:
        return ""
    name = _narrow_encoding(b"\n".join(broken))
    if name:
        return f"The file looks like {name}; {_iconv(path, name)} converts it."
    return f"The file is in another encoding; if it is ENCODING, {_iconv(path, 'ENCODING')} converts it."


def _narrow_encoding(content: bytes) -> str:
    """Guess the encoding of text that is not UTF-8, by its name in iconv."""
    runs = re.findall(rb"[\x80-\xff]+", content)
    if sum(map(len, runs)) < 1.5 * len(runs):
        return "WINDOWS-1252"  # single non-ASCII letters among ASCII ones
    shares = {encoding.name: _share_of_usual(content, encoding) for encoding in _ENCODINGS}
    best = max(shares, key=lambda name: shares[name])
    return best if shares[best] >= _LIKELY else ""


def _share_of_usual(content: bytes, encoding: _Encoding) -> float:
    """Compute the share of non-ASCII characters that texts in an encoding mostly have."""
    text = "".join(c for c in content.decode(encoding.codec, errors="replace") if not c.isascii())
    if not text or encoding.needs and len(encoding.needs.findall(text)) < len(text) / 5:
        return 0.0
    usual = encoding.usual.findall(text)
    return sum(_is_frequent(c, encoding.codec) for c in usual) / len(text)


def _is_frequent(character: str, codec: str) -> bool:
    return codec not in _FREQUENT or any(character.encode(codec)[0] in some for some in _FREQUENT[codec])


def _separator_clue(path: Path, head: bytes, suffix: str) -> str:
    if suffix not in (".csv", *TAB_SEPARATED):
        return ""
    text = _decoded(head)
    own, line = ("," if suffix == ".csv" else TAB), text.partition("\n")[0]
    if own in line:
        return ""
    other = next((mark for mark in SEPARATORS if mark != own and _separates(text, mark, own)), "")
    if not other:
        return ""
    name = f"Line 1 has no {SEPARATORS[own].removesuffix('s')} but {line.count(other)} {SEPARATORS[other]}"
    if other == ",":
        return f"{name}: if they separate columns, let the file's name end with .csv."
    if other == TAB:
        return f"{name}: if they separate columns, let the file's name end with .tsv."
    return f"{name}: if they separate columns, {to_csv(path, other)} converts it."


def _separates(text: str, mark: str, own: str) -> bool:
    """Tell whether another separator cuts the rows of a text into several fields, mostly equally many."""
    lines = [line for line in text.split("\n")[:-1] or [text] if line.strip()][:_ROWS_TO_LOOK_AT]
    try:
        rows = list(csv.reader((line + "\n" for line in lines), delimiter=mark))
    except csv.Error:
        return False
    widths = Counter(map(len, rows))
    if not rows or len(rows[0]) < 2 or widths[len(rows[0])] < _LIKELY * len(rows):
        return False
    is_header = any(name.strip().casefold() in KNOWN_TEXT_COLUMNS for name in rows[0])
    enough = 1 if is_header or mark == TAB else 2 if len(rows[0]) > 2 else _ENOUGH_ROWS
    return len(rows) >= enough


def _quotes_clue(path: Path, head: bytes, suffix: str) -> str:
    if suffix not in TAB_SEPARATED:
        return ""
    fields = [field for line in _decoded(head).split("\n") for field in line.rstrip("\r").split("\t")]
    ends = sum(field.startswith('"') != (field.endswith('"') and field != '"') for field in fields)
    quoted = sum(len(field) > 1 and field.startswith('"') and field.endswith('"') for field in fields)
    if quoted + ends < max(2, len(fields) / 10):
        return ""
    return (
        "Fields stand in quotation marks, as spreadsheets and pandas write them, and .tsv has no quoting. Save the "
        f"file as .csv, or use {to_csv(path, TAB)}."
    )


def _iconv(path: Path, name: str) -> str:
    return filtered(path, f"iconv -f {name} -t UTF-8")


def _decoded(head: bytes) -> str:
    return head.decode("utf-8", errors="replace")


def _is_utf8(content: bytes) -> bool:
    """Tell whether bytes are UTF-8, except for a character that is cut off at their end."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(content)
    except UnicodeDecodeError:
        return False
    return True

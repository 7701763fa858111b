"""Messages of the library in the words of the command line."""

import logging
import shlex

import pytest

from cosent import DataError, UserError
from cosent.cli.wording import FlagFormatter, alias, as_flags, renamed, speak_of

FLAGS = ["text_columns", "on_bad_rows", "dropout", "data_format", "eval_data_format", "column"]


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("leave them out with on_bad_rows='skip'.", "leave them out with --on_bad_rows skip."),
        ("turn it on with dropout=0.1.", "turn it on with --dropout 0.1."),
        ("name them with text_columns and label_column", "name them with --text_columns and label_column"),
        ("with data_format='a' or eval_data_format='b'", "with --data_format a or --eval_data_format b"),
        ("(text_columns, say).", "(--text_columns, say)."),
        ("see text_columns.", "see --text_columns."),
        ("column=NAME, or column=1", "--column NAME, or --column 1"),
        ("column='' or column=\"it's\"", """--column '' or --column 'it'"'"'s'"""),
        # not parameters: words, names of columns and files, what is a flag already
        ("the column and its dropout", "the column and its dropout"),
        ("no column 'text_columns' in text_columns.tsv", "no column 'text_columns' in text_columns.tsv"),
        (
            "a/text_columns, x.text_columns, my_text_columns",
            "a/text_columns, x.text_columns, my_text_columns",
        ),
        ("--text_columns a", "--text_columns a"),
        ("a='dropout=1'", "a='dropout=1'"),
    ],
)
def test_parameters_become_flags(message, shown):
    assert as_flags(message, FLAGS) == shown


def test_what_is_suggested_can_be_typed():
    message = f"Give column={chr(34)}the customer's text{chr(34)} or column='a text'"
    shown = as_flags(message, ["column"])
    assert shlex.split(shown.partition(" or ")[0]) == ["Give", "--column", "the customer's text"]
    assert shown.endswith("--column 'a text'")


def test_a_file_has_its_alias_in_logs_and_errors(caplog):
    with pytest.raises(UserError, match="^standard input is empty$"), alias("/tmp/x.tsv", "standard input"):
        record = logging.LogRecord("cosent.x", logging.INFO, "", 0, "%s: read", ("/tmp/x.tsv",), None)
        assert FlagFormatter("%(message)s").format(record) == "standard input: read"
        raise UserError("/tmp/x.tsv is empty")


def test_a_message_stays_where_there_are_no_flags():
    assert as_flags("dropout=0.1 and text_columns", []) == "dropout=0.1 and text_columns"
    assert as_flags("dropout=0.1 and text_columns", ["dropout"]) == "--dropout 0.1 and text_columns"


def test_only_what_the_package_logs_is_reworded():
    speak_of(["dropout"])
    for name, shown in (("cosent.training.trainer", "use --dropout 0.1"), ("transformers", "use dropout=0.1")):
        record = logging.LogRecord(name, logging.WARNING, "", 0, "use dropout=%s", (0.1,), None)
        assert FlagFormatter("%(message)s").format(record) == shown


def test_errors_name_the_parameters_that_a_block_is_about():
    names = {"data_format": "eval_data_format", "text_columns": "eval_text_columns"}
    with pytest.raises(DataError, match="eval_data_format='pairs', eval_text_columns or my_text_columns"):
        with renamed(names):
            raise DataError("data_format='pairs', text_columns or my_text_columns")
    with pytest.raises(UserError, match="^nothing to rename$"), renamed(names):
        raise UserError("nothing to rename")

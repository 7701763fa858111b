"""What the README and the pages under docs/ say about code, commands, messages and each other is checked.

A Python block that cannot run stands under a comment `<!-- not run: REASON -->`. The blocks of a page run in one scope,
in a folder where the model names that pages use lead to tiny models.
"""

import io
import os
import re
import shlex
import tokenize
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import pytest
from nbclient import NotebookClient

from cosent import EvaluationOptions, SentenceBert, evaluate, load_data
from cosent.cli.main import COMMANDS
from cosent.cli.parsing import FlagParser
from cosent.evaluation.decide import decide
from tests.conftest import DATA, ROOT

README, CHINESE = ROOT / "README.md", ROOT / "README_zh.md"
GUIDES = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, CHINESE, *GUIDES]

_FENCE = re.compile(r"(?:<!-- not run: (?P<reason>.+?) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_NUMBER = re.compile(r"\d(?:[\d.,]*\d)?")

# Programs of others, whose flags are theirs to check.
_FOREIGN = {"pip", "docker", "curl", "cat", "cp", "source", "uvicorn"}


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    language: str
    code: str
    reason: str | None


class Line(NamedTuple):
    """A shell command of a page, as words, without comments, redirections and what a pipe leads to."""

    page: Path
    words: tuple[str, ...]


class _Captured(BaseException):
    """A command's parser, and what it was about to parse."""

    def __init__(self, parser: Any, arguments: list[str]):
        self.parser, self.arguments = parser, arguments


def identifier(value: Any) -> str:
    """A page's or a command's name in a test's."""
    return value.name if isinstance(value, Path) else " ".join(value.words)[:60]


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[Block]:
    found = [Block(page, fence["language"], fence["code"], fence["reason"]) for fence in _FENCE.finditer(text_of(page))]
    return [block for block in found if block.language == language]


def lines(page: Path) -> Iterator[Line]:
    """The commands of a page's bash blocks."""
    for block in blocks(page, "bash"):
        for line in block.code.replace("\\\n", " ").splitlines():
            words: list[str] = []
            for word in [*shlex.split(line, comments=True), "|"]:
                if word not in ("|", "&&", ">", "<"):
                    words.append(word)
                    continue
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    del words[0]
                if len(words) > 1:
                    yield Line(page, tuple(words))
                words = []


LINES = [line for page in PAGES for line in lines(page)]


def own_command(words: tuple[str, ...]) -> tuple[str, list[str]] | None:
    """The command of cosent that a line calls, and its arguments; what launches it is checked on the way."""
    program, *rest = words
    if program in ("torchrun", "accelerate"):
        rest = after_launcher(program, rest)
        program = "python"
    if program == "python" and rest[:2] == ["-m", "cosent"]:
        program, rest = "cosent", rest[2:]
    if program == "bash" and rest[0] in ("train.sh", "test.sh"):
        return Path(rest[0]).stem, rest[1:]
    return (rest[0], rest[1:]) if program == "cosent" else None


def after_launcher(program: str, words: list[str]) -> list[str]:
    """What a launcher starts; its own flags must be ones that it knows."""
    if program == "torchrun":
        from torch.distributed.run import get_args_parser

        found = get_args_parser().parse_args(words)
    else:
        from accelerate.commands.launch import launch_command_parser

        assert words[0] == "launch"
        found = launch_command_parser().parse_args(words[1:])
    return ["-m" if found.module else "", found.training_script, *found.training_script_args]


def captured(command: str, arguments: list[str]) -> _Captured:
    """Run a command up to the point where it parses its arguments."""

    def capture(parser: Any, found: Any) -> Any:
        raise _Captured(parser, list(found))

    assert command in COMMANDS, f"there is no command {command}"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(_Captured) as found:
        patch.setattr(FlagParser, "parse", capture)
        import_module(f"cosent.cli.{command.replace('-', '_')}").main(arguments)
    return found.value


@cache
def known_flags(command: str) -> frozenset[str]:
    """The flags of a command of cosent."""
    parser = captured(command, ["--help"]).parser
    return frozenset(name for action in parser._actions for name in action.option_strings)


def flags(words: list[str] | tuple[str, ...]) -> list[str]:
    return [word.partition("=")[0] for word in words if word.startswith("--")]


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def tables(page: Path) -> list[list[str]]:
    """The numbers in each row of a page's tables that has some."""
    rows = [_NUMBER.findall(line) for line in text_of(page).splitlines() if line.startswith("|")]
    return [row for row in rows if row]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """A folder as training leaves it: with a threshold and probabilities."""
    model = SentenceBert(tiny_bert, device="cpu")
    pairs = evaluate(model, load_data(DATA / "dev.txt", model), EvaluationOptions(positive_label_min=4)).pairs
    assert pairs is not None
    model.settings.decision = decide(pairs, "data/dev.txt", positive_label_min=4)
    folder = tmp_path_factory.mktemp("output") / "RUN"
    model.save_pretrained(folder)
    return folder


def run(page: Path, folder: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that a page's Python blocks leave behind."""
    for name, source in {**models, "data": DATA}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(source)
    monkeypatch.chdir(folder)
    scope: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page, "python"):
        if block.reason is None:
            exec(compile(block.code, page.name, "exec"), scope)
    return scope


@pytest.fixture(scope="module")
def executed(tiny_bert, tmp_path_factory):
    """The notebook's cells, executed by a kernel with a tiny model."""
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "models").mkdir()
    (folder / "models" / "all-MiniLM-L6-v2").symlink_to(tiny_bert)
    (folder / "data").symlink_to(DATA)
    notebook = nbformat.read(ROOT / "docs" / "quickstart.ipynb", as_version=4)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=str(folder))
    return notebook.cells


def outputs_of(cells: Any) -> list[Any]:
    return [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]


def test_the_notebook_runs_and_its_table_has_no_empty_column(executed):
    html = next(output.data["text/html"] for output in outputs_of(executed) if output.output_type == "display_data")
    columns = re.findall("<th>(.*?)</th>", html)
    assert columns[:4] == ["Epoch", "Loss", "Spearman", "Pearson"]
    assert not {"Validation Loss", "N", "Seconds", "Texts per second", "Best threshold"} & set(columns)
    assert "no log" not in html.lower()
    assert len(re.findall("<td>", html)) == 4 * len(columns)
    shown = "".join(str(output.get("data", {}).get("text/plain", "")) for output in outputs_of(executed))
    assert "decision:   none" in shown
    assert "the best accuracy on the DataFrame, 96 pairs" in shown


def test_the_notebook_as_it_stands_was_run_on_the_bundled_backbone():
    notebook = nbformat.read(ROOT / "docs" / "quickstart.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    text = str(outputs_of(notebook.cells))
    assert "0.7368" in text  # as `bash train.sh` has it
    assert str(ROOT) not in text and "/tmp" not in text and "/home" not in text


def test_the_quickstart_runs_as_written(minilm, tmp_path, monkeypatch):
    (block,) = blocks(README, "python")
    assert len(block.code.strip().splitlines()) <= 15
    scope = run(README, tmp_path, {"models/all-MiniLM-L6-v2": minilm}, monkeypatch)
    assert scope["embeddings"].shape == (2, 384)
    assert scope["similarity"].shape == (1, 2)
    assert scope["matches"].shape == (1,)


@pytest.mark.parametrize("page", [page for page in PAGES[1:] if blocks(page, "python")], ids=identifier)
def test_python_blocks_run(page, tiny_bert, trained, tmp_path, monkeypatch):
    names = "models/all-MiniLM-L6-v2", "hfl/chinese-macbert-base"
    run(page, tmp_path, {**dict.fromkeys(names, tiny_bert), "output/RUN": trained}, monkeypatch)


def test_each_loss_gets_the_data_that_it_learns_from(tiny_bert, trained, tmp_path, monkeypatch):
    page = ROOT / "docs" / "python.md"
    scope = run(page, tmp_path, {"models/all-MiniLM-L6-v2": tiny_bert, "output/RUN": trained}, monkeypatch)
    examples = [scope[name] for name in ("ranking", "angle", "simcse", "contrastive", "pairs", "triplet")]
    assert [len(data) for _, data in examples] == [384, 384, 500, 200, 128, 163]
    assert all(data.data_format in loss.data_formats for loss, data in examples)


@pytest.mark.parametrize("page", PAGES, ids=identifier)
def test_python_blocks_that_are_not_run_compile(page):
    for block in blocks(page, "python"):
        compile(block.code, page.name, "exec")


@pytest.mark.parametrize("line", LINES, ids=identifier)
def test_commands_are_parsed_as_written(line):
    called = own_command(line.words)
    if called is not None:
        command, arguments = called
        assert not set(flags(arguments)) - known_flags(command)
        if "test.sh" not in line.words and "..." not in arguments:  # test.sh finds a model by itself
            found = captured(command, [word.replace("$seed", "1") for word in arguments])
            found.parser.fill(found.parser.parse(found.arguments))  # raises what the command would end with
        return
    program, *rest = line.words
    if program == "bash":
        assert (ROOT / rest[0]).is_file()
        assert not set(flags(rest)) - known_flags("train")
    elif program == "python" and rest[0] == "-c":
        compile(rest[1], str(line.page), "exec")
    elif program == "python":
        sources = "".join(text_of(ROOT / name) for name in (rest[0], "benchmarks/measuring.py", "benchmarks/shapes.py"))
        assert (ROOT / rest[0]).is_file()
        assert not [flag for flag in flags(rest) if flag not in sources and f"{flag[2:]}:" not in sources]
    else:
        assert program in _FOREIGN


def test_commands_were_found():
    names = {called[0] for line in LINES if (called := own_command(line.words))}
    assert names == set(COMMANDS)
    with pytest.raises(AssertionError):
        known_flags("no-such-command")


@pytest.mark.parametrize("page", PAGES, ids=identifier)
def test_flags_in_sentences_and_tables_exist(page):
    from accelerate.commands.launch import launch_command_parser
    from torch.distributed.run import get_args_parser

    known = frozenset().union(*map(known_flags, COMMANDS))
    for parser in (get_args_parser(), launch_command_parser()):
        known |= {name for action in parser._actions for name in action.option_strings}
    prose = _FENCE.sub("", text_of(page))
    named = {flag for code in re.findall(r"`([^`\n]+)`", prose) for flag in re.findall(r"--[a-z][\w-]*", code)}
    assert not named - known


@pytest.mark.parametrize("page", PAGES, ids=identifier)
def test_links_and_anchors_resolve(page):
    for target in _LINK.findall(_FENCE.sub("", text_of(page))):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        linked = page if not path else (page.parent / path).resolve()
        assert linked.exists(), target
        if anchor:
            assert anchor in [slug(line.lstrip("#")) for line in _FENCE.sub("", text_of(linked)).splitlines() if line]


@pytest.mark.parametrize("page", PAGES, ids=identifier)
def test_paths_in_backquotes_exist(page):
    for path in re.findall(r"`((?:scripts|benchmarks|cosent|data)/[\w./]+\w)`", text_of(page)):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", GUIDES, ids=identifier)
def test_pages_open_with_a_task_and_a_command_that_works(page):
    title, empty, fence, *_ = text_of(page).splitlines()
    assert title.startswith("# ") and not empty and fence in ("```bash", "```python")
    assert f"docs/{page.name}" in text_of(README)
    assert f"docs/{page.name}" in text_of(CHINESE)


def test_the_readme_is_short():
    assert len(README.read_bytes()) <= 12_000


def test_both_readmes_name_the_same_figures():
    assert tables(README) == tables(CHINESE)
    decimals = [set(re.findall(r"\d+(?:\.\d+)+", text_of(page))) for page in (README, CHINESE)]
    assert decimals[0] <= decimals[1]


def test_results_repeat_what_the_readme_says():
    results = tables(ROOT / "docs" / "results.md") + tables(ROOT / "docs" / "performance.md")
    figures = {number for row in results for number in row}
    assert len(tables(README)) >= 8
    assert not [number for row in tables(README) for number in row if "." in number and number not in figures]


def test_both_readmes_name_the_same_commands():
    def signatures(page: Path) -> set[tuple[str, ...]]:
        calls = [line.words for line in lines(page)]
        return {(*words[:2], *flags(words)) for words in calls}

    assert signatures(README) <= signatures(CHINESE)


def test_both_quickstarts_are_one_program():
    def program(page: Path) -> list[str]:
        (block,) = blocks(page, "python")
        code = re.sub(r"positive_label_min=\d", "positive_label_min=", block.code)  # the data's labels differ
        tokens = tokenize.generate_tokens(io.StringIO(code).readline)
        left_out = (tokenize.COMMENT, tokenize.NL, tokenize.STRING)
        return [token.string for token in tokens if token.type not in left_out]

    assert program(README) == program(CHINESE)


def test_messages_in_troubleshooting_are_what_the_code_says():
    sources = "\n".join(text_of(path) for folder in ("cosent", "scripts") for path in (ROOT / folder).rglob("*.py"))
    sources = re.sub(r'"\s*\n\s*f?"', "", sources)  # a message of several lines
    rows = re.findall(r"^\| (`.+?`) \|", text_of(ROOT / "docs" / "troubleshooting.md"), re.M)
    assert len(rows) > 30
    for message in rows:
        for part in re.split(r"\.\.\.|\b\d+\b|'on'|--[\w-]+|[\w.]+\.tsv", message.strip("`")):
            words = part.strip(" :;,%=")
            if len(words) > 11:  # what is shorter may be a value
                assert words in sources, words

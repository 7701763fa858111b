"""What every page has: its file, its pictures, and the templates that make it."""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cosent.evaluation.report import plots

NO_PICTURES = "Pictures need matplotlib: pip install 'cosent[report]'."


@dataclass(frozen=True)
class Report:
    """A page and the pictures in it.

    Attributes:
        html: the page, complete.
        pictures: PNG files by name.
    """

    html: str
    pictures: Mapping[str, bytes] = field(default_factory=dict)

    def write(self, folder: str | Path, name: str) -> Path:
        """Write a page and its pictures into a folder.

        Args:
            folder: an existing one.
            name: of the files: `<name>.html`, and `<name>-<picture>.png` for each picture.

        Returns:
            The page's path.
        """
        page = Path(folder) / f"{name}.html"
        page.write_text(self.html, encoding="utf-8")
        for picture, content in self.pictures.items():
            (Path(folder) / f"{name}-{picture.replace('_', '-')}.png").write_bytes(content)
        return page


@dataclass(frozen=True)
class Gallery:
    """The pictures as a page holds them.

    Attributes:
        images: PNG files in base64, by what they show.
        note: why there are none; "" where that needs no word.
    """

    images: Mapping[str, str]
    note: str


class Page(Protocol):
    """What the layout that all pages share asks of one."""

    @property
    def title(self) -> str:
        """What the page is about."""


def gallery(pictures: Mapping[str, bytes]) -> Gallery:
    """PNG files, made ready to stand in the page itself."""
    images = {name.replace("_", " "): b64encode(content).decode() for name, content in pictures.items()}
    return Gallery(images, note="" if plots.can_draw() else NO_PICTURES)


def render(template: str, page: Page) -> str:
    """Fill in a template.

    Args:
        template: a file of `templates/`.
        page: what to fill in; every text in it is escaped.

    Returns:
        The HTML file's content.
    """
    # imported here: evaluating and training do without Jinja2 where nobody asks for a page
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("cosent.evaluation.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(page=page)

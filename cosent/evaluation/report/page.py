"""The parts that all reports share: the file, the pictures and the templates."""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cosent.evaluation.report import plots

NO_PICTURES = "Pictures need matplotlib: pip install 'cosent[report]'."


@dataclass(frozen=True)
class Report:
    """An HTML page and its pictures.

    Attributes:
        html: the complete page.
        pictures: PNG files by name.
    """

    html: str
    pictures: Mapping[str, bytes] = field(default_factory=dict)

    def write(self, folder: str | Path, name: str) -> Path:
        """Write the page and its pictures into a folder.

        Args:
            folder: an existing folder.
            name: stem of the files: `<name>.html`, and `<name>-<picture>.png` for each picture.

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
    """The pictures in the form that a page embeds.

    Attributes:
        images: PNG files in base64, by title.
        note: why pictures are missing; "" if they are not.
    """

    images: Mapping[str, str]
    note: str


class Page(Protocol):
    """The interface of a page that the shared layout uses."""

    @property
    def title(self) -> str:
        """The title of the page."""


def gallery(pictures: Mapping[str, bytes]) -> Gallery:
    """Encode PNG files for embedding in a page."""
    images = {name.replace("_", " "): b64encode(content).decode() for name, content in pictures.items()}
    return Gallery(images, note="" if plots.can_draw() else NO_PICTURES)


def render(template: str, page: Page) -> str:
    """Fill in a template.

    Args:
        template: a file of `templates/`.
        page: the content; all its texts are escaped.

    Returns:
        The HTML file's content.
    """
    # imported here, so that evaluation and training without a report do not need Jinja2
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

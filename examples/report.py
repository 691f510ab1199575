"""A report of sections with tables and pictures, as Markdown and HTML."""

import base64
import dataclasses
import html
import os
from collections.abc import Callable
from typing import Any

import tables
from absl import flags

FLAGS = flags.FLAGS


@dataclasses.dataclass
class Table:
    """Rows of numbers and text under a row of heads."""

    heads: list[str]
    rows: list[list[Any]]


@dataclasses.dataclass
class Picture:
    """A file in the folder of the report, and what it shows."""

    file: str
    caption: str


@dataclasses.dataclass
class Section:
    """A title over text, tables and pictures."""

    title: str
    text: str = ""
    tables: list[Table] = dataclasses.field(default_factory=list)
    pictures: list[Picture] = dataclasses.field(default_factory=list)


def cell(value: Any) -> str:
    """A number with four digits after the point, or text."""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def picture(
    name: str, caption: str, draw: Callable, *args: Any, **kwargs: Any
) -> Picture:
    """Draws into the folder of pictures in --output_dir."""
    file = f"pictures/{name.replace('/', '_')}.png"
    draw(*args, path=os.path.join(FLAGS.output_dir, file), **kwargs)
    return Picture(file, caption)


def markdown(title: str, sections: list[Section]) -> str:
    """The report as Markdown that refers to the pictures."""
    lines = [f"# {title}", ""]
    for section in sections:
        lines += [f"## {section.title}", ""]
        lines += [section.text, ""] if section.text else []
        for table in section.tables:
            rows = [table.heads, ["---"] * len(table.heads), *table.rows]
            lines += [_markdown_row(row) for row in rows] + [""]
        for picture in section.pictures:
            lines += [f"![{picture.caption}]({picture.file})", ""]
    return "\n".join(lines)


def _markdown_row(row: list[Any]) -> str:
    cells = (cell(value).replace("|", r"\|") for value in row)
    return "| " + " | ".join(cells) + " |"


def text(sections: list[Section]) -> str:
    """The tables of the report for a terminal."""
    parts = []
    for section in sections:
        for table in section.tables:
            rows = [[cell(value) for value in row] for row in table.rows]
            heads = [str(head) for head in table.heads]
            parts += [section.title, tables.aligned([heads, *rows]), ""]
    return "\n".join(parts)


_STYLE = """
body { font: 16px/1.5 sans-serif; max-width: 68rem; margin: 2rem auto;
       padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.9rem;
        display: block; overflow-x: auto; }
th, td { padding: 0.25rem 0.6rem; border-bottom: 1px solid #ddd;
         text-align: left; vertical-align: bottom; }
td { white-space: nowrap; }
.number { text-align: right; }
figure { margin: 1rem 0; }
img { max-width: 100%; }
figcaption { font-size: 0.9rem; color: #555; }
"""


def page(title: str, sections: list[Section], folder: str) -> str:
    """The report as one HTML page that contains its pictures."""
    name = html.escape(title)
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{name}</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
        f"<h1>{name}</h1>",
    ]
    for section in sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2>")
        if section.text:
            parts.append(f"<p>{html.escape(section.text)}</p>")
        parts += [_html_table(table) for table in section.tables]
        parts += [_html_figure(one, folder) for one in section.pictures]
    return "\n".join([*parts, "</body>\n</html>\n"])


def _html_table(table: Table) -> str:
    kinds = [
        ' class="number"' if isinstance(value, float) else ""
        for value in table.rows[0]
    ]

    def row(values: list[Any], tag: str) -> str:
        cells = (
            f"<{tag}{kind}>{html.escape(cell(value))}</{tag}>"
            for kind, value in zip(kinds, values, strict=True)
        )
        return f"<tr>{''.join(cells)}</tr>"

    body = "\n".join(row(values, "td") for values in table.rows)
    head = row(table.heads, "th")
    return f"<table>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody></table>"


def _html_figure(picture: Picture, folder: str) -> str:
    with open(os.path.join(folder, picture.file), "rb") as file:
        data = base64.b64encode(file.read()).decode("ascii")
    caption = html.escape(picture.caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )

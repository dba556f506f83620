"""Parts of the page as markup, from the templates in `templates/`. Jinja escapes all text that is not `Markup`."""
import base64
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

WIDE = 500  # points; wider figures scroll in a narrow window, others shrink to its width
HERE = os.path.dirname(__file__)
TEMPLATES = Environment(loader=FileSystemLoader(os.path.join(HERE, 'templates')), autoescape=True, undefined=StrictUndefined,
                        trim_blocks=True, lstrip_blocks=True)

Draw = Callable[[str, Figure, str], str]  # (name, figure, alternative text) -> SVG element, see `plots.to_svg`


class Cell(NamedTuple):
    """A cell of a table, with the number by which its column is sorted."""
    shown: object
    sort_by: float | None = None


class Section(NamedTuple):
    """A part of the page and its entry in the list of contents."""
    anchor: str
    title: str
    html: Markup


def render(template: str, **values: Any) -> Markup:
    """Fill in `templates/<template>.html`. Raises `jinja2.UndefinedError` if `values` lacks a name that the template uses."""
    return Markup(TEMPLATES.get_template(f'{template}.html').render(values))


def section(anchor: str, title: str, parts: Iterable[Markup], heading: str | None = None, within: str | None = None) -> Section:
    """A section of the page. Its heading (default: `title`) is also its name for screen readers.

    `within`: anchor of the section around it. Its heading is one level higher, and comes first in the name.
    """
    html = render('section', anchor=anchor, heading=title if heading is None else heading, parts=parts, level=3 if within else 2,
                  within=within)
    return Section(anchor, title, html)


def table(caption: str, header: Sequence[object], rows: Iterable[Sequence[object]], sortable: bool = False,
          numbers: bool = True) -> Markup:
    """A table in a box that scrolls sideways if the window is too narrow.

    `header` and each row hold one value per column. The first value of a row is its heading; the others may be a `Cell`. `sortable` turns
    the column headings into buttons. `numbers` aligns all columns but the first to the right; without it, a table of up to three columns
    breaks long words instead of scrolling.
    """
    kinds = {'sortable': sortable, 'numbers': numbers, 'words': not numbers and len(header) <= 3}
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    return render('table', caption=caption, header=header, rows=cells, sortable=sortable,
                  classes=' '.join(name for name, on in kinds.items() if on))


def figure(svg: str, title: str, text: str) -> Markup:
    """A figure with its caption. `svg`: an element from `plots.to_svg`, which is not escaped. `text`: how to read the figure, in a sentence
    or two."""
    points = re.search(r'width: (\d+)pt', svg)
    return render('figure', svg=Markup(svg), title=title[:1].upper() + title[1:], text=text, wide=points and int(points[1]) > WIDE)


def figures(*items: Markup) -> Markup:
    """Figures side by side, as far as the window is wide enough."""
    return Markup('<div class="figures">{}</div>').format(Markup().join(items))


def paragraph(text: str) -> Markup:
    return Markup('<p>{}</p>').format(text)


def note(text: str) -> Markup:
    """A highlighted paragraph."""
    return Markup('<p class="note">{}</p>').format(text)


def folded(heading: str, part: Markup) -> Markup:
    """A part of the page that is hidden until its heading is clicked."""
    return Markup('<details><summary>{}</summary>{}</details>').format(heading, part)


def folded_list(heading: str, items: Iterable[str]) -> Markup:
    """A list that is hidden until its heading is clicked."""
    return render('folded_list', heading=heading, items=items)


def _read(name: str) -> str:
    with open(os.path.join(HERE, name), encoding='utf-8') as f:
        return f.read()


def page(title: str, lead: str, sections: Sequence[Section], date: str, *, sources: str = '',
         facts: Sequence[tuple[str, str]] = ()) -> str:
    """The whole HTML file.

    It loads nothing and runs only its own script. The content security policy makes the browser enforce both. `facts`: (name, text) of
    what the author states about the page. `sources`: the lines of `provenance.source_lines`, which later show whether the page is outdated.
    """
    script = _read('report.js')
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = render('page', title=title, lead=lead, sections=sections, date=date, sources=sources, facts=facts,
                  style=Markup(_read('report.css')), script=Markup(script), script_hash=script_hash)
    return text.encode('utf-8', 'replace').decode() + '\n'  # paths that are not UTF-8 get question marks

"""Markup of a page that is one file: elements, tables that sort, figures. All text is escaped unless it is `Html`."""
import base64
import hashlib
import os
from html import escape

HERE = os.path.dirname(__file__)


class Html(str):
    """Markup; any other text is escaped where it is put into markup."""


def tag(name, *children, **attributes):
    """`class_` and `aria_label` become class and aria-label; an attribute that is None is left out."""
    given = {key.rstrip('_').replace('_', '-'): escape(str(value)) for key, value in attributes.items() if value is not None}
    attrs = ''.join(f' {key}="{value}"' for key, value in given.items())
    return Html(f'<{name}{attrs}>{join(children)}</{name}>')


def join(children):
    return Html(''.join(child if isinstance(child, Html) else escape(str(child)) for child in children))


def section(level, anchor, title, *children):
    """A part of the page with its heading (h2, h3, ...), which names it for screen readers."""
    return tag('section', tag(f'h{level}', title, id=anchor), *children, aria_labelledby=anchor)


def _cell(cell, name, **attributes):
    """`cell` is what is shown, or (what is shown, number to sort by)."""
    shown, value = cell if isinstance(cell, tuple) else (cell, None)
    return tag(name, shown, data_value=None if value is None else f'{value:.9g}', **attributes)


def _scrolling(content, label):
    """Narrower windows scroll what is wide, not the page."""
    return tag('div', content, class_='scroll', role='group', aria_label=label)


def table(caption, header, rows, sortable=False, numbers=True):
    """`header` and each row: one cell a column; the first of a row names it. `sortable` puts buttons into the header;
    `numbers` sets all but the first column to the right."""
    heads = [tag('th', tag('button', name, type='button') if sortable else name, scope='col',
                 aria_sort='none' if sortable else None) for name in header]
    body = [tag('tr', _cell(row[0], 'th', scope='row'), *(_cell(cell, 'td') for cell in row[1:])) for row in rows]
    kind = ' '.join(word for word, on in (('sortable', sortable), ('numbers', numbers)) if on)
    parts = tag('caption', tag('span', caption)), tag('thead', tag('tr', *heads)), tag('tbody', *body)
    return _scrolling(tag('table', *parts, class_=kind or None), caption)


def figure(shown, title, text):
    """`shown` is an SVG or image element with its own alternative text, `text` tells in a sentence or two how to read it."""
    return tag('figure', _scrolling(shown, title), tag('figcaption', tag('strong', title + '.'), ' ', text))


def figures(*items):
    """Side by side where there is room."""
    return tag('div', *items, class_='figures')


def picture(data, kind, alt):
    """An image of bytes `data` inside the page."""
    return Html(f'<img src="data:image/{kind};base64,{base64.b64encode(data).decode()}" alt="{escape(alt)}">')


def _read(name):
    with open(os.path.join(HERE, name), encoding='utf-8') as f:
        return f.read()


def page(title, lead, contents, *children, footer=''):
    """The whole file. `contents`: (anchor, title) of the parts. Nothing is loaded from anywhere and no script but its own runs:
    the browser enforces it through the content security policy."""
    style, script = _read('report.css'), _read('report.js')
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; "
              "form-action 'none'")
    head = [Html('<meta charset="utf-8">'), Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Html('<meta name="color-scheme" content="light dark">'), tag('title', title), tag('style', Html(style))]
    links = tag('ul', *(tag('li', tag('a', name, href=f'#{anchor}')) for anchor, name in contents))
    body = [tag('a', 'Skip to the content', href='#content', class_='skip'),
            tag('header', tag('h1', title), lead), tag('nav', links, aria_label='Contents'),
            tag('main', *children, id='content', tabindex=-1), tag('footer', footer), tag('script', Html(script))]
    text = f'<!DOCTYPE html>\n<html lang="en">{tag("head", *head)}{tag("body", *body)}</html>\n'
    return Html(text.encode('utf-8', 'replace').decode())  # paths that are not UTF-8 get question marks

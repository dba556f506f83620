"""Every part of the page escapes text, but not markup."""
import re

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from utils.report import html
from utils.report.html import Cell

TEXT = '<b>"a" & \'b\'</b>'
ESCAPED = '&lt;b&gt;&#34;a&#34; &amp; &#39;b&#39;&lt;/b&gt;'


@pytest.mark.parametrize(('part', 'times'), [
    (html.table(TEXT, [TEXT, 'x'], [[TEXT, Cell(TEXT, 1.)], [1, TEXT]]), 6),
    (html.table(TEXT, [TEXT], [[TEXT]], sortable=True), 4),
    (html.figure('<svg></svg>', TEXT, TEXT), 3),
    (html.section(TEXT, TEXT, [html.paragraph(TEXT), html.note(TEXT)]).html, 5),
    (html.section('a', 'b', [], heading=TEXT).html, 1),
    (html.folded_list(TEXT, [TEXT, TEXT]), 3),
    (html.page(TEXT, TEXT, [html.section('a', TEXT, [])], date='today', sources=TEXT), 6)])
def test_text_is_escaped(part, times):
    assert part.count(ESCAPED) == times and TEXT not in part


def test_markup_is_not_escaped():
    assert '<td><small>1</small></td>' in html.table('a', ['b', 'c'], [['d', Markup('<small>1</small>')]])
    assert '<svg id="x"></svg>' in html.figure('<svg id="x"></svg>', 'a', 'b')


def test_cells_carry_their_sort_value():
    found = html.table('a', ['b', 'c', 'd', 'e'], [['f', Cell('50.0', .5), Cell('-', None), 'g']])
    assert '<th scope="row">f</th><td data-value="0.5">50.0</td><td>-</td><td>g</td></tr>' in found


def test_missing_template_values_raise_an_error():
    with pytest.raises(UndefinedError, match='title'):
        html.render('figure', svg='', text='', wide=False)


def test_paths_that_are_not_utf_8_get_question_marks():
    text = html.page('a', 'b', [], date='today', sources='caf\udce9')
    assert re.search(r'<pre class="sources">caf\?</pre>', text)

"""The report in headless Chromium: figures, sorting by keyboard, narrow windows, dark mode and print, without console messages."""
import numpy as np
import pytest
from PIL import Image

from tests.browser import NARROW
from tests.report_files import SCRIPT, write_run
from tools.report import main


@pytest.fixture(scope='module')
def reports(tmp_path_factory):
    """{name: file} of a run with 23 classes, one of which is named like a script, and of a comparison."""
    root = tmp_path_factory.mktemp('reports')
    write_run(root, 'many/a', [SCRIPT, *(f'ulcerative-colitis-grade-{c}' for c in range(1, 23))])
    for seed, method in enumerate(('plain', 'mixup')):
        write_run(root, f'few/{method}/a-run-with-a-rather-long-name', ['DR0', 'DR1', 'DR2'], seed=seed)
    files = {name: root / f'{name}.html' for name in ('many', 'few')}
    for (name, file), flags in zip(files.items(), ([], ['--baseline', 'plain/a-run-with-a-rather-long-name']), strict=True):
        main([str(root / 'results' / name), '--draws', '100', '--out', str(file), *flags])
    return files


@pytest.mark.parametrize('name', ['many', 'few'])
@pytest.mark.parametrize(('width', 'scheme'), [(1200, 'light'), (1200, 'dark'), (400, 'light'), (320, 'dark')])
def test_page(browser, reports, name, width, scheme):
    assert browser.open(reports[name], width, scheme=scheme) == []  # no requests
    assert browser.messages == []
    assert browser.run(NARROW) == ''
    drawn = browser.run('[...document.querySelectorAll("figure")].map(f => f.querySelectorAll("svg[role=img] path").length)')
    assert len(drawn) >= 9 and min(drawn) > 3
    boxes = browser.run('[...document.querySelectorAll("figure svg")].map(s => s.getBoundingClientRect()).map(r => [r.width, r.height])')
    assert all(w > 200 and h > 60 for w, h in boxes)
    colours = browser.run('["color", "backgroundColor"].map(c => getComputedStyle(document.body)[c].match(/\\d+/g)[0] > 127)')
    assert colours == ([True, False] if scheme == 'dark' else [False, True])
    assert browser.run('getComputedStyle(document.querySelector("figure svg text")).fill == getComputedStyle(document.body).color')


def test_class_names_are_escaped(browser, reports):
    browser.open(reports['many'])
    assert browser.run('document.title') == 'many/a' and browser.run('document.scripts.length') == 1
    assert browser.run(f'document.body.textContent.includes({SCRIPT!r})')


def test_injected_scripts_do_not_run(browser, reports, tmp_path):
    """The security policy of the page blocks other scripts even if escaping fails."""
    (tmp_path / 'x.html').write_text(reports['few'].read_text().replace('</h1>', '</h1><script>document.title = "owned"</script>', 1))
    browser.open(tmp_path / 'x.html')
    assert browser.run('document.title') == 'Comparison of 2 runs' and 'Content Security Policy' in str(browser.messages)


def test_sorting_by_keyboard(browser, reports):
    browser.open(reports['many'])
    table = 'document.querySelector("#classes").closest("section").querySelector("table.sortable")'
    column = f'[...{table}.tBodies[0].rows].map(r => r.children[3]).map(c => c.dataset.value ? Number(c.dataset.value) : null)'
    state = f'[...{table}.tHead.rows[0].cells].map(c => c.ariaSort)'
    before = browser.run(column)
    assert set(browser.run(state)) == {'none'}
    browser.run(f'{table}.tHead.rows[0].cells[3].firstChild.focus()')
    defined = sorted(value for value in before if value is not None)
    undefined = [None] * (len(before) - len(defined))
    for key, order, expected in (('Enter', 'ascending', defined), (' ', 'descending', defined[::-1])):
        browser.press(key)
        assert browser.run(column) == expected + undefined and browser.run(state)[3] == order
        assert browser.run(state).count('none') == 7
    browser.run(f'{table}.tHead.rows[0].cells[0].firstChild.click()')
    names = browser.run(f'[...{table}.tBodies[0].rows].map(r => r.cells[0].textContent)')
    assert names[1:4] == [f'ulcerative-colitis-grade-{c}' for c in (1, 2, 3)] and browser.run(state)[3] == 'none'


def test_wide_boxes_can_be_focused_in_a_narrow_window(browser, reports):
    browser.open(reports['many'], 400)
    assert browser.run('[...document.querySelectorAll(".scroll")].every(b => (b.scrollWidth > b.clientWidth) == (b.tabIndex == 0))')
    assert browser.run('document.querySelector("#confusion").closest("section").querySelectorAll(".scroll[tabindex]").length') == 2


def test_scrolling_boxes_show_a_hint(browser, reports):
    hint = '[...document.querySelectorAll(".scroll")].map(b => [b.scrollWidth > b.clientWidth, getComputedStyle(b, "::before").content])'
    for width, hidden in ((400, True), (1200, False)):
        browser.open(reports['few'], width)
        browser.run('document.querySelectorAll("details").forEach(details => details.open = true)')
        browser.run('new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))')  # until the page has noticed
        found = browser.run(hint)
        assert any(wide for wide, _ in found) == hidden and all(('Scroll right' in content) == wide for wide, content in found)


def test_scrolling_boxes_have_shadows(browser, reports, tmp_path):
    """The right edge of the first table is dark until the table is scrolled to its end. Then the left edge is dark."""
    edges = []
    browser.open(reports['few'], 400)
    for left in (0, 9999):
        box = browser.run(f'(b => {{ b.scrollLeft = {left}; const r = b.getBoundingClientRect(); return [r.left, r.right, r.bottom] }})'
                          '(document.querySelector(".scroll"))')
        browser.screenshot(tmp_path / 'page.png', whole=False)
        row = np.asarray(Image.open(tmp_path / 'page.png').convert('L'))[int(box[2]) - 4]  # below the last line of the table
        edges.append([bool(row[x] < 200) for x in (int(box[0]) + 1, int(box[1]) - 2)])
    assert edges == [[False, True], [True, False]]


def test_print(browser, reports, tmp_path):
    browser.open(reports['few'], scheme='dark')
    browser.pdf(tmp_path / 'report.pdf')
    assert (tmp_path / 'report.pdf').read_bytes().startswith(b'%PDF')
    browser.call('Emulation.setEmulatedMedia', media='print', features=[{'name': 'prefers-color-scheme', 'value': 'dark'}])
    assert browser.run('getComputedStyle(document.body).backgroundColor') == 'rgb(255, 255, 255)'  # paper is white
    assert browser.run('getComputedStyle(document.querySelector(".scroll")).backgroundImage') == 'none'  # and hides nothing
    browser.call('Emulation.setEmulatedMedia', media='')

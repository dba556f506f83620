"""Accessibility of the report: axe-core (WCAG 2.1 A and AA, best practices), use by keyboard, and contrast in figures."""
import re

import numpy as np
import pytest
from PIL import Image

from tests.axe import find_axe, problems
from tests.report_files import write_run
from tools.report import main

PAGES = ('run', 'comparison', 'images')
FOCUSABLE = '[...document.querySelectorAll("a[href], button, summary, [tabindex=\'0\']")]'
FOLDED = 'document.querySelectorAll("details").forEach(details => details.open = true)'
# axe cannot measure contrast over a gradient.
SHADOWS = 'document.querySelectorAll(".scroll").forEach(box => box.style.background = "none")'


@pytest.fixture(scope='module')
def axe():
    source, reason = find_axe()
    if source is None:
        pytest.skip(reason)
    return source


@pytest.fixture(scope='module')
def pages(tmp_path_factory):
    """{name of PAGES: file}"""
    root = tmp_path_factory.mktemp('pages')
    for seed, method in enumerate(('plain', 'mixup')):
        write_run(root, f'set/{method}/seed0', ['DR0', 'DR1', 'DR2'], seed=seed)
    (root / 'images').mkdir()
    for i in range(80):
        Image.fromarray(np.full((30, 20, 3), i, np.uint8)).save(root / 'images' / f'patient{i}.jpg')
    run, flags = root / 'results' / 'set' / 'mixup' / 'seed0', ['--draws', '100', '--out']
    files = {name: root / f'{name}.html' for name in PAGES}
    head = ['--title', 'Grades', '--author', 'A. Author', '--purpose', 'a choice', '--data', 'drawn images']
    main([str(run), *flags, str(files['run']), *head])
    main([str(root / 'results' / 'set'), *flags, str(files['comparison']), '--baseline', 'plain'])
    main([str(run), *flags, str(files['images']), '--with_images', '--data_path', str(root / 'images')])
    return files


@pytest.mark.parametrize('width', [1200, 400])
@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('name', PAGES)
def test_axe(browser, axe, pages, name, scheme, width):
    browser.open(pages[name], width, scheme=scheme)
    browser.run(FOLDED)
    browser.run(SHADOWS)
    assert problems(browser, axe) == []


def test_axe_finds_a_fault(browser, axe, pages, tmp_path):
    """Images without alternative text and light grey text in a table are reported."""
    html = pages['images'].read_text(encoding='utf-8')
    (tmp_path / 'x.html').write_text(re.sub(r' alt="[^"]*"', '', html).replace('</style>', 'td { color: #bbb }</style>'), encoding='utf-8')
    browser.open(tmp_path / 'x.html')
    browser.run(SHADOWS)
    found = '\n'.join(problems(browser, axe))
    assert 'image-alt: <img' in found and 'color-contrast: <td' in found


@pytest.mark.parametrize('width', [1200, 400])
@pytest.mark.parametrize('name', ['run', 'comparison'])
def test_tab_reaches_everything_and_shows_where_it_is(browser, pages, name, width):
    browser.open(pages[name], width)
    browser.run(FOLDED)
    browser.run(f'window.all = {FOCUSABLE}; window.seen = []')
    n = browser.run('all.length')
    assert n > 25
    for _ in range(n):
        browser.press('Tab')
        browser.run('seen.push([all.indexOf(document.activeElement), getComputedStyle(document.activeElement).outlineStyle, '
                    'parseFloat(getComputedStyle(document.activeElement).outlineWidth)])')
    seen = browser.run('seen')
    assert [place for place, _, _ in seen] == list(range(n))  # each once, in the order of the page
    assert {tuple(outline) for _, *outline in seen} == {('solid', 3)}


def test_wide_tables_scroll_by_arrow_keys(browser, pages):
    browser.open(pages['comparison'], 400)
    browser.run('document.querySelector(".scroll[tabindex]").focus()')
    browser.press('ArrowRight')
    # Scrolling is animated.
    moved = 'new Promise(done => setTimeout(() => done(document.querySelector(".scroll[tabindex]").scrollLeft), 300))'
    assert browser.run(moved) > 0


def test_folded_parts_open_by_keyboard(browser, pages):
    browser.open(pages['run'])
    for key, is_open in (('Enter', True), (' ', False)):
        browser.run('document.querySelector("summary").focus()')
        browser.press(key)
        assert browser.run('document.querySelector("details").open') == is_open


@pytest.mark.parametrize('name', PAGES)
def test_figures_fit_a_narrow_window(browser, pages, name):
    browser.open(pages[name], 400)
    assert browser.run('[...document.querySelectorAll("figure .scroll")].filter(b => b.scrollWidth > b.clientWidth).length') == 0
    assert browser.run('[...document.querySelectorAll("figure")].every(f => f.querySelector("svg[role=img][aria-label], img[alt]") '
                       '&& f.querySelector("figcaption").innerText.length > 20)')


def contrast(first, second):
    """Contrast ratio of two colours (r, g, b) in 0..1, as defined by WCAG."""
    light = [(c / 12.92 if c <= .04045 else ((c + .055) / 1.055) ** 2.4) for c in (*first, *second)]
    high, low = sorted((.2126 * r + .7152 * g + .0722 * b for r, g, b in (light[:3], light[3:])), reverse=True)
    return (high + .05) / (low + .05)


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_numbers_in_heat_maps_can_be_read(browser, pages, scheme):
    """The text has enough contrast for every strength of the cell colour. axe-core does not check SVG."""
    browser.open(pages['run'], scheme=scheme)
    names = browser.run('["--fg", "--bg", "--heat"].map(name => getComputedStyle(document.documentElement).getPropertyValue(name).trim())')
    text, ground, heat = ([int(c * (2 if len(name) == 4 else 1), 16) / 255 for c in re.findall('.' if len(name) == 4 else '..', name[1:])]
                          for name in names)
    assert 'var(--heat)' in pages['run'].read_text(encoding='utf-8')
    for strength in np.linspace(0, 1, 21):
        cell = [strength * h + (1 - strength) * g for h, g in zip(heat, ground, strict=True)]
        assert contrast(text, cell) >= 4.5

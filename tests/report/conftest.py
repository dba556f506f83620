import pytest

from tests.browser import Browser, find_chromium


@pytest.fixture(scope='module')
def browser():
    program = find_chromium()
    if program is None:
        pytest.skip('no Chromium on this machine (Debian: apt-get install chromium)')
    browser = Browser(program)
    yield browser
    browser.close()

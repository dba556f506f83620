"""Cells of tables may contain any text."""
import pytest

from utils.statistics.tables import to_latex, to_markdown, to_text


@pytest.mark.parametrize(('text', 'escaped'), [
    ('<b>', r'\textless{}b\textgreater{}'), ('a|b', r'a\textbar{}b'), ('"a"', r'{\char34}a{\char34}'), ('[2cm] a', '{[}2cm{]} a'),
    ('\\input{x}', r'\textbackslash{}input\{x\}'), ('`', '{`}'), ('* a', '{*} a'), ('a_b', r'a\_b'), ('$5 % & #', r'\$5 \% \& \#'),
    ('~^', r'\textasciitilde{}\textasciicircum{}'), ('1 ± 2', r'1 $\pm$ 2'), ('a\nb', 'a\ufffdb'),
])
def test_latex(text, escaped):
    assert to_latex([['x', 'y'], [text, '1']]).splitlines()[4] == rf'{escaped} & 1 \\'


@pytest.mark.parametrize(('text', 'escaped'), [
    ('<b>&lt;', '&lt;b&gt;&amp;lt;'), ('a|b', r'a\|b'), ('"a" {b} #1 5 % ^', '"a" {b} #1 5 % ^'), ('`a`', r'\`a\`'), ('*a*', r'\*a\*'),
    ('_a_', r'\_a\_'), ('mxp_0.2', 'mxp_0.2'), ('~a~', r'\~a\~'), ('$a$', r'\$a\$'), ('a\\|b', r'a\\\|b'),
    ('[x](javascript:alert(1))', r'[x\](javascript:alert(1))'), ('![x](y)', r'![x\](y)'), ('[51.4, 53.0]', '[51.4, 53.0]'),
    ('https://example.org', r'https\://example.org'), ('www.example.org', r'www\.example.org'), ('a@example.org', r'a\@example.org'),
    ('\n* Next: rm -rf ~', '\ufffd\\* Next: rm -rf \\~'),
])
def test_markdown(text, escaped):
    assert to_markdown([['x'], [text]]).splitlines()[2] == f'| {escaped} |'


@pytest.mark.parametrize(('text', 'shown'), [
    ('\n* Next: rm -rf ~', '\ufffd* Next: rm -rf ~'), ('\x1b[2J', '\ufffd[2J'), ('a\u202eb', 'a\ufffdb')])
def test_text(text, shown):
    assert to_text([['x'], [text]]).splitlines()[2] == shown

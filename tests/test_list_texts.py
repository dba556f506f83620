"""The list of texts has each docstring, comment and message once, with its line."""
from tests.list_texts import other_texts, python_texts

SOURCE = '''"""What the file holds."""
LEFT_OUT = 'one_word'


def f(n):
    """Return n."""
    raise ValueError(f'{n} is wrong, use {n + 1!r} instead')  # why it is
'''


def test_python():
    assert sorted(python_texts(SOURCE)) == [
        (1, 'docstring', 'What the file holds.'), (6, 'docstring', 'Return n.'), (7, 'comment', 'why it is'),
        (7, 'message', '{} is wrong, use {} instead')]


def test_shell():
    lines = '# what it does\necho "all is done"  # for people\nx=$y'
    assert list(other_texts(lines, '.sh')) == [(1, 'comment', 'what it does'), (2, 'message', 'all is done'), (2, 'comment', 'for people')]


def test_template():
    assert list(other_texts('<p class="a">{{ name }} is shown</p>\n{% if x %}', '.html')) == [(1, 'message', 'is shown')]

"""Tables of text for the console, Markdown and LaTeX. Cells may contain any text, which is escaped."""
import re
from collections.abc import Collection, Sequence

from utils.common import printable

# Braces protect characters that LaTeX interprets only in some places: [ and * after \\, " with babel, ` in ligatures.
LATEX = {'\\': r'\textbackslash{}', '%': r'\%', '_': r'\_', '&': r'\&', '#': r'\#', '$': r'\$', '{': r'\{', '}': r'\}',
         '^': r'\textasciicircum{}', '~': r'\textasciitilde{}', '<': r'\textless{}', '>': r'\textgreater{}', '|': r'\textbar{}',
         '"': r'{\char34}', '`': '{`}', '[': '{[}', ']': '{]}', '*': '{*}', '±': r'$\pm$', '≥': r'$\geq$'}
# Characters that start code, emphasis, a link, a formula or HTML in Markdown. Underscores between letters and brackets without an address,
# as around intervals, need no escape. GitHub also turns plain addresses into links.
MARKDOWN = re.compile(r'[\\`*~$|]|(?<![^\W_])_|_(?![^\W_])|](?=\()|:(?=//)|(?<=www)\.|@')
HTML = {'&': '&amp;', '<': '&lt;', '>': '&gt;'}


def _padded(rows):
    """Pad all cells: the first column is aligned left, the others right. -> rows, column widths"""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [[cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))]
            for row in rows], widths


def to_text(rows: Sequence[Sequence[str]]) -> str:
    """`rows`: lists of str of the same length; the first is the header."""
    padded, widths = _padded([[*map(printable, row)] for row in rows])
    lines = ['  '.join(row).rstrip() for row in padded]
    return '\n'.join([lines[0], '-' * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])


def _markdown(cell):
    return re.sub('[&<>]', lambda found: HTML[found[0]], MARKDOWN.sub(r'\\\g<0>', printable(cell)))


def to_markdown(rows: Sequence[Sequence[str]]) -> str:
    padded, widths = _padded([[*map(_markdown, row)] for row in rows])
    lines = ['| ' + ' | '.join(row) + ' |' for row in padded]
    rule = '|'.join('-' * (width + 1) + ('-' if i == 0 else ':') for i, width in enumerate(widths))
    return '\n'.join([lines[0], f'|{rule}|', *lines[1:]])


def to_latex(rows: Sequence[Sequence[str]], bold: Collection[tuple[int, int]] = ()) -> str:
    """A tabular environment with the rules of the package booktabs. Special characters are escaped.

    `bold`: (row, column) of cells whose first word is bold; row 0 is the header.
    """
    lines = [' & '.join(_latex(cell, (i, j) in bold) for j, cell in enumerate(row)) + r' \\' for i, row in enumerate(rows)]
    begin = rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}"
    return '\n'.join([begin, r'\toprule', lines[0], r'\midrule', *lines[1:], r'\bottomrule', r'\end{tabular}'])


def _latex(cell, is_bold):
    first, *rest = (''.join(LATEX.get(c, c) for c in word) for word in printable(cell).split(' '))
    return ' '.join([rf'\textbf{{{first}}}' if is_bold else first, *rest])


TABLES = {'text': to_text, 'markdown': to_markdown}

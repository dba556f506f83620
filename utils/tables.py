"""Rows of text -> a table for the console, for Markdown, or for LaTeX."""
LATEX = {'\\': r'\textbackslash{}', '%': r'\%', '_': r'\_', '&': r'\&', '#': r'\#', '$': r'\$', '{': r'\{', '}': r'\}', '^': r'\^{}',
         '~': r'\~{}', '±': r'$\pm$', '≥': r'$\geq$'}


def _padded(rows):
    """The first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [[cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))]
            for row in rows], widths


def to_text(rows):
    """`rows`: lists of str of one length, the first is the header."""
    padded, widths = _padded(rows)
    lines = ['  '.join(row).rstrip() for row in padded]
    return '\n'.join([lines[0], '-' * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])


def to_markdown(rows):
    padded, widths = _padded([[cell.replace('|', r'\|') for cell in row] for row in rows])
    lines = ['| ' + ' | '.join(row) + ' |' for row in padded]
    rule = '|'.join('-' * (width + 1) + ('-' if i == 0 else ':') for i, width in enumerate(widths))
    return '\n'.join([lines[0], f'|{rule}|', *lines[1:]])


def to_latex(rows):
    """A tabular without any package; characters that LaTeX reads as commands are escaped."""
    lines = [' & '.join(''.join(LATEX.get(c, c) for c in cell) for cell in row) + r' \\' for row in rows]
    begin = rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}"
    return '\n'.join([begin, r'\hline', lines[0], r'\hline', *lines[1:], r'\hline', r'\end{tabular}'])


TABLES = {'text': to_text, 'markdown': to_markdown, 'latex': to_latex}

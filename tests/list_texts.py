"""List all texts of the project for proofreading: docstrings, comments and strings of the code, shell scripts and templates.

Examples:

  python -m tests.list_texts > texts.txt
  python -m tests.list_texts utils/training train_lt_mxp.py --kinds message
"""
import argparse
import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from utils.cli import ROOT, script_parser
from utils.common import run_script

FOLDERS = ['utils', 'models', 'tools', 'benchmarks', 'tests']
KINDS = ('docstring', 'comment', 'message')  # a message is any other string with several words


def string_text(node: ast.Constant | ast.JoinedStr) -> str:
    """-> the text of the string, with `{}` for each value of an f-string"""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ''
    return ''.join(part.value if isinstance(part, ast.Constant) else '{}' for part in node.values)


def python_texts(source: str) -> Iterator[tuple[int, str, str]]:
    """-> (line, kind, text) of each docstring, comment and message of a Python file"""
    tree = ast.parse(source)
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
            docstrings.add(id(node.body[0].value))
    parts_of_strings = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)} \
        - {id(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in parts_of_strings:
            text = string_text(node)
            if id(node) in docstrings:
                yield node.lineno, 'docstring', text
            elif re.search(r'[a-z]\w* +\w', text):
                yield node.lineno, 'message', text
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], 'comment', token.string.lstrip('# ')


def other_texts(source: str, suffix: str) -> Iterator[tuple[int, str, str]]:
    """-> (line, kind, text) of each comment and message of a shell script (.sh), or of each line of a template that has words"""
    for number, line in enumerate(source.splitlines(), 1):
        if suffix != '.sh':
            if text := re.sub(r'{[{%#].*?[}%#]}|<[^>]*>', ' ', line).strip():
                yield number, 'message', text
        else:
            code, *comment = re.split(r'(?:^|\s)#\s+', line, maxsplit=1)
            for text in re.findall(r'''"([^"]*\w+ \w[^"]*)"|'([^']*\w+ \w[^']*)\'''', code):
                yield number, 'message', ''.join(text)
            for text in comment:
                yield number, 'comment', text


def find_files(names: list[str]) -> list[Path]:
    """-> the files among `names`, and all files in the folders among them"""
    paths = [Path(ROOT, name) for name in names]
    return sorted(path for name in paths for path in ([name] if name.is_file() else name.rglob('*'))
                  if path.suffix in ('.py', '.sh', '.html', '.js'))


def get_parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    parser.add_argument('files', nargs='*', metavar='FILE', help='files and folders to list (default: the whole project)')
    parser.add_argument('--kinds', nargs='+', choices=KINDS, default=[*KINDS], metavar='KIND', help='kinds of text to list')
    return parser


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    for path in find_files(args.files or [*(path.name for path in Path(ROOT).iterdir() if path.is_file()), *FOLDERS]):
        source = path.read_text(encoding='utf-8')
        texts = python_texts(source) if path.suffix == '.py' else other_texts(source, path.suffix)
        print(f'\n== {path.relative_to(ROOT)}')
        for line, kind, text in sorted(texts):
            if kind in args.kinds:
                print(f'{line:4} {kind:9} ' + '\n               '.join(text.strip().splitlines()))


if __name__ == '__main__':
    run_script(main)

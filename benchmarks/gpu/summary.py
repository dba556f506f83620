"""Collect the results of benchmarks/gpu_check.sh in one JSON file and one table, in the same folder.

Example:

  python -m benchmarks.gpu.summary results/gpu_check
"""
import json
import os
import re
from collections import Counter

from utils.cli import script_parser
from utils.common import InputError, run_script, write_text
from utils.statistics.tables import to_markdown

STAGES = ('correct', 'fast', 'whole', 'decode', 'compile')  # in the order of the table
ALONE = 'network alone'
COLUMNS = {ALONE: (ALONE, 'images_per_second'), 'plain': ('plain', 'images_per_second'),  # title -> name of the check, key of its value
           'Balanced-MixUp': ('Balanced-MixUp', 'images_per_second'), 'with --compile (ratio to plain)': ('--compile', 'images_per_second'),
           'evaluation': ('evaluation', 'images_per_second'), 'straightforward loop': ('straightforward loop', 'images_per_second'),
           'peak memory': ('training', 'peak_gb')}
FACTS = ('device', 'memory_gb', 'cores', 'torch', 'python', 'toy')


def get_parser():
    parser = script_parser(__doc__)
    parser.add_argument('folder', metavar='FOLDER', help='output folder of benchmarks/gpu_check.sh (its --out)')
    return parser


def read_stages(folder):
    """-> {stage: content of its JSON file}, for the stages that have one"""
    found = {}
    for name in STAGES:
        path = os.path.join(folder, f'{name}.json')
        if os.path.exists(path):
            with open(path, encoding='utf-8') as f:
                found[name] = json.load(f)
    if not found:
        raise InputError(f'{folder} has no results: run bash benchmarks/gpu_check.sh first')
    return found


def slug_of(device, toy):
    """'NVIDIA H100 80GB HBM3' -> 'gpu_h100_80gb_hbm3'"""
    return 'cpu_toy' if toy else 'gpu_' + re.sub(r'\W+', '_', device.removeprefix('NVIDIA ').lower()).strip('_')


def speed_table(stages):
    """-> Markdown table with a row for each network and batch size"""
    found = {check['name']: check for name in ('fast', 'compile') for check in stages.get(name, {'checks': []})['checks']}
    rows = [['network, batch size', *COLUMNS]]
    for name in found:
        if name.endswith(f' {ALONE}'):
            case = name.removesuffix(f' {ALONE}')
            rows.append([case.replace(' b', ', '), *(cell(found.get(f'{case} {check}'), key) for check, key in COLUMNS.values())])
    return to_markdown(rows)


def cell(check, key):
    """-> value of a check with its ratio, or the status of a check without a value"""
    if check is None:
        return '-'
    if key not in check:  # failed or skipped
        return check['status']
    ratio = f" ({check['ratio']:.2f})" if 'ratio' in check else ''
    return (f'{check[key]:.1f} GB' if key == 'peak_gb' else f'{check[key]:,.0f}') + ratio


def other_table(stages):
    """-> Markdown table with the outcomes of the tests and a row for each other check"""
    rows = [['check', 'result']]
    for name, result in stages.items():
        checks = result['checks']
        if name == 'correct':
            counts = Counter(check['status'] for check in checks)
            rows.append([f'{len(checks)} tests', ', '.join(f'{n} {status}' for status, n in counts.items())])
            checks = [check for check in checks if check['status'] == 'FAIL']
        if name not in ('fast', 'compile'):
            rows += [[check['name'], check['figure'] if check['status'] == 'PASS' else f"{check['status']}: {check['figure']}"]
                     for check in checks]
    return to_markdown(rows)


def main(argv=None):
    folder = get_parser().parse_args(argv).folder
    stages = read_stages(folder)
    first = next(iter(stages.values()))
    facts = {name: first[name] for name in FACTS}
    path = os.path.join(folder, f"{slug_of(facts['device'], facts['toy'])}.json")
    write_text(path, json.dumps(facts | {name: result['checks'] for name, result in stages.items()}, indent=1) + '\n')
    memory = f", {facts['memory_gb']} GB" if facts['memory_gb'] else ''
    title = f"{facts['device']}{memory}, {facts['cores']} cores, torch {facts['torch']}, Python {facts['python']}"
    text = f'{title}\n\nImages per second (share of the network alone):\n\n{speed_table(stages)}\n\n{other_table(stages)}\n'
    write_text(os.path.join(folder, 'table.md'), text)
    print(text)
    print(f"* Wrote {path} and {os.path.join(folder, 'table.md')}")


if __name__ == '__main__':
    run_script(main)

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

STAGES = ('correct', 'fast', 'decode')  # in the order of the table
ALONE = 'network alone'
SPEED = {ALONE: ALONE, 'plain': 'plain, device data', 'plain, host data': 'plain, host data',  # title -> name of the check
         'Balanced-MixUp': 'Balanced-MixUp, device data', 'Balanced-MixUp, host data': 'Balanced-MixUp, host data',
         'with --compile (ratio to plain)': '--compile', 'evaluation': 'evaluation, device data',
         'evaluation, host data': 'evaluation, host data', 'straightforward loop': 'straightforward loop'}
MEMORY = {'training step, GB': ('step_gb', '{:.1f}'), 'MB per image': ('step_mb_per_image', '{:.0f}'),  # title -> key of its value, format
          'evaluation, MB per image': ('evaluation_mb_per_image', '{:.0f}'), 'evaluation batch': ('eval_batch_size', '{}'),
          'peak with the images, GB': ('peak_gb', '{:.1f}'), 'upload, GB/s': ('upload_gb_per_s', '{:.1f}')}
MEASURED_BY = 'training, device data'  # name of the check with the values of MEMORY
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


def checks_of(stages):
    """-> {name: check} of the stage `fast`, and {case: its title} of the networks and batch sizes that were measured"""
    found = {check['name']: check for check in stages.get('fast', {'checks': []})['checks']}
    cases = [name.removesuffix(f' {ALONE}') for name in found if name.endswith(f' {ALONE}')]
    return found, {case: case.replace(' b', ', ') for case in cases}


def speed_table(stages):
    """-> Markdown table of speed, with a row for each network and batch size"""
    found, cases = checks_of(stages)
    rows = [[title, *(rate(found.get(f'{case} {name}')) for name in SPEED.values())] for case, title in cases.items()]
    return to_markdown([['network, batch size', *SPEED], *rows])


def rate(check):
    """-> images per second of a check with its ratio, or the status of a check without them"""
    if check is None:
        return '-'
    if 'images_per_second' not in check:  # failed or skipped
        return check['status']
    return f"{check['images_per_second']:,.0f}" + (f" ({check['ratio']:.2f})" if 'ratio' in check else '')


def memory_table(stages):
    """-> Markdown table of GPU memory, with a row for each network and batch size"""
    found, cases = checks_of(stages)
    rows = []
    for case, title in cases.items():
        check = found.get(f'{case} {MEASURED_BY}', {})
        rows.append([title, *(form.format(check[key]) if key in check else '-' for key, form in MEMORY.values())])
    return to_markdown([['network, batch size', *MEMORY], *rows])


def other_table(stages):
    """-> Markdown table with the outcomes of the tests, and a row for each check that is in no other table or has failed"""
    rows = [['check', 'result']]
    above = [name for name in (*SPEED.values(), MEASURED_BY) if name != '--compile']  # whose text says more than the table of speed
    in_tables = {f'{case} {name}' for case in checks_of(stages)[1] for name in above}
    for name, result in stages.items():
        checks = result['checks']
        if name == 'correct':
            counts = Counter(check['status'] for check in checks)
            rows.append([f'{len(checks)} tests', ', '.join(f'{n} {status}' for status, n in counts.items())])
            checks = [check for check in checks if check['status'] == 'FAIL']
        rows += [[check['name'], check['figure'] if check['status'] == 'PASS' else f"{check['status']}: {check['figure']}"]
                 for check in checks if check['name'] not in in_tables or check['status'] == 'FAIL']
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
    text = (f'{title}\n\nImages per second (share of the network alone), with the images in GPU memory unless a column says host:\n\n'
            f'{speed_table(stages)}\n\nGPU memory:\n\n{memory_table(stages)}\n\n{other_table(stages)}\n')
    write_text(os.path.join(folder, 'table.md'), text)
    print(text)
    print(f"* Wrote {path} and {os.path.join(folder, 'table.md')}")


if __name__ == '__main__':
    run_script(main)

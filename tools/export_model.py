"""Export a trained network to ONNX, with the normalisation included, and to safetensors, with a JSON file of everything needed to use them.
Or export it as a folder for timm (--format timm).

The ONNX input `images` is (N, 3, H, W) for any N: RGB images resized to H x W, as uint8 or as float32 in 0..1 (--input float). The output
`probabilities` or `logits` is (N, K). The output is compared with that of PyTorch before the file is written.

With --format timm, timm.create_model('local-dir:results/<run>/timm', pretrained=True) builds the network with its weights, class names and
normalisation. Its logits are compared before the folder is written.

Example, after the demonstration (bash run_lt_experiments.sh), with the packages onnx, onnxscript and onnxruntime:

  python -m tools.export_model --load_path experiments/demo/BSCE/seed0 --images data/demo/images
"""
from utils.cli import tune_process

tune_process()  # before torch is imported

import json
import os
from importlib.metadata import version

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from models.timm_folder import check_timm_has, load_timm_folder, save_timm_folder, whole_folder
from utils.cli import add_network_flag, say_next, script_parser, to_train, warn_without_effect
from utils.common import InputError, check_writable, file_sha256, run_script, whole_file, write_text
from utils.data.new_images import read_new_images
from utils.data.permissions import add_private_flag, keep_private
from utils.model_saving_loading import load_model
from utils.prediction.inference import Normalise
from utils.runs.formats import nan_to_null
from utils.runs.paths import name_of_run

COMPARED, BATCH = 64, 8  # images
PACKAGES = ('torch', 'torchvision', 'timm', 'safetensors', 'onnx')
WITHOUT_EFFECT = tuple((flag, 'with --format timm', lambda a: a.format == 'timm') for flag in ('input', 'output'))


class Deployed(nn.Module):
    """The network with its normalisation: images (N, 3, H, W), uint8 or float in 0..1 -> probabilities or logits (N, K)"""
    def __init__(self, loaded, output):
        super().__init__()
        self.model, self.output = loaded.model.to(memory_format=torch.contiguous_format), output
        for name in ('mean', 'std'):
            self.register_buffer(name, torch.tensor(loaded.info[name]).view(1, 3, 1, 1))

    def forward(self, images):
        x = images / 255 if images.dtype == torch.uint8 else images
        logits = self.model((x - self.mean) / self.std)
        return logits.softmax(1) if self.output == 'probabilities' else logits


def get_parser():
    parser = script_parser(__doc__)
    network = parser.add_argument_group('network')
    network.add_argument('--load_path', required=True, metavar='RUN', help='run folder (its best epoch), checkpoint folder or file')
    add_network_flag(network)
    network.add_argument('--images', nargs='+', metavar='IMAGE_OR_FOLDER',
                         help=f'images to compare the output on, at most {COMPARED} (default: noise)')
    output = parser.add_argument_group('output')
    output.add_argument('--format', default='onnx', choices=('onnx', 'timm'), help='onnx: ONNX and safetensors; timm: folder for timm')
    output.add_argument('--input', default='uint8', choices=('uint8', 'float'), help='ONNX input: uint8 in 0..255, or float in 0..1')
    output.add_argument('--output', default='probabilities', choices=('probabilities', 'logits'), help='ONNX output')
    output.add_argument('--tolerance', type=float, default=1e-4, metavar='D', help='largest accepted difference from PyTorch')
    output.add_argument('--out', metavar='FOLDER',
                        help='folder for model.onnx, model.safetensors and model.json, or for timm/ (default: results/<run>)')
    add_private_flag(output)
    return parser


def noise(im_size):
    """-> uint8 (N, 3, H, W), the same in every call"""
    return torch.randint(0, 256, (BATCH + 1, 3, *im_size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def reference(loaded, images, output):
    """-> the output as the test scripts compute it, float32 (N, K)"""
    normalise = Normalise('cpu', loaded.info['mean'], loaded.info['std'])
    logits = torch.cat([loaded.model.eval()(normalise(batch)) for batch in images.split(BATCH)])
    return (logits.softmax(1) if output == 'probabilities' else logits).numpy()


def write_onnx(path, loaded, images, args):
    """-> largest difference from PyTorch on `images`. If it exceeds --tolerance, raises `InputError` and writes no file."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  needed by torch's exporter
    except ImportError as err:
        raise InputError(f'the export to ONNX needs {err.name}, which is missing: pip install onnx onnxscript onnxruntime') from err
    expected, given = reference(loaded, images, args.output), (images if args.input == 'uint8' else images.float() / 255)
    example = given[:1].repeat(2, 1, 1, 1)  # with a batch of one, the exporter would fix the batch size
    program = torch.onnx.export(Deployed(loaded, args.output).eval(), (example,), dynamo=True, verbose=False, input_names=['images'],
                                output_names=[args.output], dynamic_shapes=({0: torch.export.Dim('N')},))
    program.model.metadata_props['class_names'] = json.dumps(loaded.info['class_names'])
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
    found = np.concatenate([session.run(None, {'images': batch.numpy()})[0] for batch in given.split(BATCH)])
    difference = float(np.abs(found - expected).max())
    if not difference <= args.tolerance:
        raise InputError(f'{path} is not written: its output differs from PyTorch by {difference:.2g}, more than --tolerance '
                         f'{args.tolerance:g}')
    with whole_file(path) as f:
        f.write(content)
    return difference


def write_timm(folder, loaded, images, tolerance):
    """-> largest difference of the logits from PyTorch on `images`. If it exceeds `tolerance`, raises `InputError` and writes nothing."""
    expected = reference(loaded, images, 'logits')
    with whole_folder(folder) as temporary:
        save_timm_folder(temporary, loaded.model, loaded.info)
        found = load_timm_folder(temporary, loaded.info['model_name'])
        again = loaded._replace(model=found.model, info=loaded.info | {'mean': found.mean, 'std': found.std})
        difference = float(np.abs(reference(again, images, 'logits') - expected).max())
        if not difference <= tolerance:
            raise InputError(f'{folder} is not written: its logits differ from PyTorch by {difference:.2g}, more than --tolerance '
                             f'{tolerance:g}')
    return difference


def write_safetensors(path, loaded, sidecar):
    with whole_file(path) as f:
        f.write(save({name: value.contiguous() for name, value in loaded.model.state_dict().items()}, {'format': 'pt'}))
    info = loaded.info
    facts = {name: info[name] for name in ('model_name', 'class_names', 'class_count', 'im_size', 'mean', 'std', 'epoch', 'metrics')} | {
        'head': info['config'].get('head', 'linear'), 'members': len(info['config'].get('members', [None])),
        'run': name_of_run(loaded.folder), 'safetensors_sha256': file_sha256(path),
        'versions': {'trained': {'torch': info['config']['torch']}, 'exported': {name: version(name) for name in PACKAGES}}} | sidecar
    write_text(os.path.splitext(path)[0] + '.json', json.dumps(nan_to_null(facts), indent=2) + '\n')


def main(argv=None):
    parser = get_parser()
    args = parser.parse_args(argv)
    warn_without_effect(parser, argv, args, WITHOUT_EFFECT)
    loaded = load_model(args.load_path, args.model_name)
    c, im_size = loaded.info['config'], tuple(loaded.info['im_size'])
    if args.format == 'timm':
        check_timm_has(loaded.model, loaded.info['model_name'], c)
    folder = args.out or os.path.join('results', name_of_run(loaded.folder))
    keep_private(args.private, None if args.out else folder, beside=args.out)
    check_writable(folder)
    images = read_new_images(args.images, im_size, COMPARED) if args.images else noise(im_size)
    compared = f"{len(images)} {'images' if args.images else 'images of noise (use --images to compare on real ones)'}"
    to_predict = ('predict images with the network', 'python', '-m', 'tools.predict', '--load_path', args.load_path, c['data_path'])
    if args.format == 'timm':
        difference = write_timm(os.path.join(folder, 'timm'), loaded, images, args.tolerance)
        print(f"* Wrote {os.path.join(folder, 'timm')}: its logits in timm differ from PyTorch by at most {difference:.2g} on {compared}")
        print('* Corrections and decisions of the run (decision.json) are not in this folder')
        say_next(*to_predict)
        return
    os.makedirs(folder, exist_ok=True)
    onnx, safetensors = (os.path.join(folder, f'model.{kind}') for kind in ('onnx', 'safetensors'))
    difference = write_onnx(onnx, loaded, images, args)
    print(f'* Wrote {onnx}: its {args.output} differ from PyTorch by at most {difference:.2g} on {compared}')
    write_safetensors(safetensors, loaded, {'onnx': {'input': args.input, 'output': args.output, 'sha256': file_sha256(onnx)}})
    print(f'* Wrote {safetensors} and model.json')
    if 'members' in c:
        say_next(*to_predict)
        return
    say_next('train from these weights', *to_train(c['csv_train'], c['csv_val'], c['data_path'], c['n_classes'],
             '--im_size', ','.join(map(str, im_size)), '--model_name', loaded.info['model_name'], '--init', safetensors))


if __name__ == '__main__':
    run_script(main)

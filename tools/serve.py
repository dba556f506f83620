"""Show the predictions of a network on a page in the browser of this machine, for images that are dropped there.

Example, after the demonstration (bash run_lt_experiments.sh):

  python -m tools.serve --load_path experiments/demo/BSCE/seed0
"""
from utils.cli import tune_process

tune_process()  # before torch is imported

import contextlib
import os
import signal
import socket
import tempfile
import time
from html import escape

from utils.cli import add_network_flag, script_parser
from utils.common import InputError, printable, run_script
from utils.data.new_images import unique_names
from utils.model_saving_loading import load_model
from utils.prediction.accelerator import add_device_flag
from utils.prediction.predictions import write_predictions
from utils.testing.decisions import add_decision_flag
from utils.testing.new_images import get_predictor

HOST = '127.0.0.1'  # other machines cannot connect
OFFLINE = {'GRADIO_ANALYTICS_ENABLED': 'False', 'HF_HUB_OFFLINE': '1', 'HF_HUB_DISABLE_TELEMETRY': '1', 'NO_PROXY': HOST}
LIFETIME = 3600  # of uploads and pictures, in seconds


def get_parser():
    parser = script_parser(__doc__)
    parser.add_argument('--load_path', required=True, metavar='RUN', help='run folder (its best epoch), checkpoint folder or file')
    add_network_flag(parser)
    add_decision_flag(parser)
    parser.add_argument('--port', type=int, default=7860, metavar='N', help='port of the page')
    add_device_flag(parser)
    parser.set_defaults(dihedral_tta=0, zoom_tta=[1.], target_prior=None, batch_size=32, num_workers=0)  # as in tools.predict
    return parser


def html(tag, title, lines):
    paragraphs = ''.join(f'<p>{escape(printable(line))}</p>' for line in lines)
    return paragraphs and f'<div style="overflow-wrap: anywhere"><{tag}>{escape(title)}</{tag}>{paragraphs}</div>'


def build_page(gr, predictor, folder):
    """-> page of gradio. `folder`: for the csv files"""
    names, has_heat_maps = predictor.loaded.info['class_names'], predictor.has_heat_maps()

    def predict(files):
        if not files:
            return {results: gr.Column(visible=False), problems: ''}
        try:
            predicted = predictor.predict([file['path'] for file in files], unique_names([file['orig_name'] or 'image' for file in files]))
        except InputError as err:
            return {results: gr.Column(visible=False), problems: html('b', 'No predictions', str(err).splitlines())}
        csv = os.path.join(tempfile.mkdtemp(dir=folder), 'predictions.csv')
        write_predictions(csv, predicted.decided.predictions, names, decided=predicted.decided.columns)
        header, *rows = predicted.rows(names)
        return {results: gr.Column(visible=True), problems: html('b', 'Cannot be read', predicted.unread),
                state: predicted, table: {'headers': header, 'data': rows}, download: csv, **details(predicted, 0)}

    def details(predicted, row):
        title, *lines = predicted.answer(names, row)
        probs = predicted.decided.predictions.probs[row].tolist()
        found = {text: html('h3', title, lines), bars: dict(zip(names, probs, strict=True))}
        return found | ({picture: predictor.heat_maps(predicted, [row])[0]} if has_heat_maps else {})

    def select(predicted, event: gr.SelectData):
        try:
            return details(predicted, predicted.decided.predictions.image_ids.index(event.row_value[0]))
        except FileNotFoundError as err:
            raise gr.Error(f'Images are deleted after {LIFETIME // 60} minutes: drop them again', print_exception=False) from err

    with gr.Blocks(title='Image classification', analytics_enabled=False, delete_cache=(60, LIFETIME)) as page:
        gr.HTML(html('h2', 'Image classification', ['This is research software. It is not a medical device.', *predictor.about()]))
        files = gr.File(label='Images', file_count='multiple', height=160)
        problems, state = gr.HTML(), gr.State()
        with gr.Column(visible=False) as results:
            table = gr.Dataframe(label='Predictions: select a row to see the image', interactive=False, max_height=300, buttons=[])
            download = gr.DownloadButton('Download all predictions (csv)', size='md')
            with gr.Row():
                with gr.Column():
                    text, bars = gr.HTML(), gr.Label(label='Probabilities', show_heading=False)
                picture = gr.Image(format='jpeg', show_label=False, alt_text='heat map', buttons=['fullscreen'], visible=has_heat_maps)
        shared = {'concurrency_limit': 1, 'concurrency_id': 'network', 'api_visibility': 'private'}
        files.change(predict, files, [results, problems, state, table, download, text, bars, picture], preprocess=False, **shared)
        table.select(select, state, [text, bars, picture], **shared)
    return page


def main(argv=None):
    args = get_parser().parse_args(argv)
    try:
        socket.create_server((HOST, args.port or -1)).close()  # 0 would be any port
    except (OSError, OverflowError) as err:
        raise InputError(f'--port {args.port} cannot be used: close the program that uses it, or give another port ({err})') from err
    for name in {'SIGTERM', 'SIGHUP'} & {*dir(signal)}:  # as Ctrl-C, so that the images are deleted
        if signal.getsignal(number := getattr(signal, name)) is not signal.SIG_IGN:  # of nohup
            signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), tempfile.TemporaryDirectory(prefix='images_') as folder:  # only this user can read it
        os.environ |= OFFLINE | {'GRADIO_TEMP_DIR': folder}
        try:
            import gradio as gr  # imported here: it takes seconds, few people need it, and it reads these variables
        except ImportError as err:
            raise InputError('the page needs gradio, which is missing: pip install gradio') from err
        page = build_page(gr, get_predictor(args, (), load_model(args.load_path, args.model_name)), folder)
        page.launch(server_name=HOST, server_port=args.port, share=False, quiet=True, prevent_thread_lock=True, footer_links=[],
                    run_history=False, enable_monitoring=False, ssr_mode=False, mcp_server=False,
                    theme=gr.themes.Default(font=['system-ui', 'sans-serif'], font_mono=['monospace']))
        print(f'* Open http://{HOST}:{args.port} in a browser on this machine. Ctrl-C ends the page.', flush=True)
        try:
            while True:
                time.sleep(3600)
        finally:
            page.close(verbose=False)


if __name__ == '__main__':
    run_script(main)

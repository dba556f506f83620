"""Run axe-core, an accessibility checker from npm, in a page of tests/browser.py. It is downloaded once into the user's cache."""
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

VERSION = '4.10.3'
SHA256 = '880970c081707360e64f34cea25ff91892f5bc95675b0776925b9709dd8a68bb'  # of axe.min.js
SECONDS = 20
TAGS = ('wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice')
RUN = '''(async () => {
  const found = await axe.run(document, {runOnly: %s, resultTypes: ['violations']});
  return found.violations.flatMap(rule => rule.nodes.map(node => `${rule.id}: ${node.html.slice(0, 120)}`));
})()'''


def find_axe():
    """-> (source of axe-core, None), or (None, reason) if it is missing"""
    file = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'axe-core' / VERSION / 'axe.min.js'
    if not file.is_file() and (reason := _install(file)):
        return None, reason
    source = file.read_bytes()
    if hashlib.sha256(source).hexdigest() != SHA256:
        return None, f'{file} is not axe-core {VERSION} (SHA-256 differs): delete it'
    return source.decode(), None


def _install(file):
    """Download axe-core with npm and write it to `file`. -> None, or the reason for a failure"""
    npm = shutil.which('npm')
    if npm is None:
        return 'npm is missing (Debian: apt-get install npm)'
    with tempfile.TemporaryDirectory() as folder:
        try:
            subprocess.run([npm, 'pack', f'axe-core@{VERSION}', '--silent'], cwd=folder, check=True, capture_output=True, timeout=SECONDS)
            with tarfile.open(Path(folder) / f'axe-core-{VERSION}.tgz') as package:
                source = package.extractfile('package/axe.min.js').read()
            file.parent.mkdir(parents=True, exist_ok=True)
        except (OSError, subprocess.SubprocessError, tarfile.TarError, KeyError) as err:
            return f'npm cannot install axe-core {VERSION}: {err}'
        part = file.with_suffix(f'.{os.getpid()}')
        part.write_bytes(source)
        part.replace(file)
    return None


def problems(browser, source):
    """-> one line for each element of the open page that violates a rule of TAGS"""
    browser.run(source)
    return browser.run(RUN % list(TAGS))

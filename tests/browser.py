"""Drive headless Chromium through a pipe, with the DevTools protocol. Needs no package and no port."""
import base64
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

# JavaScript that returns the elements that extend beyond the window, '' if there are none.
NARROW = ('document.documentElement.scrollWidth > innerWidth ? [...document.querySelectorAll("main *")].filter('
          'e => e.getBoundingClientRect().right > innerWidth && !e.closest(".scroll")).map(e => e.outerHTML.slice(0, 99)).join() : ""')


KEYS = {'Enter': ('Enter', 13, '\r'), ' ': ('Space', 32, ' '), 'Tab': ('Tab', 9, ''), 'ArrowRight': ('ArrowRight', 39, '')}
NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome')


def find_chromium():
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A browser with one page. `messages` collects console messages, exceptions and violations of the security policy."""

    def __init__(self, program):
        self.profile, self.number, self.messages, self.events, self.buffer = tempfile.mkdtemp(), 0, [], [], b''
        to_browser, self.write_end = os.pipe()
        self.read_end, from_browser = os.pipe()
        theirs = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (to_browser, from_browser)]
        command = [program, '--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--remote-debugging-pipe',
                   f'--user-data-dir={self.profile}', '--hide-scrollbars', '--no-first-run', 'about:blank']
        # Chromium reads from descriptor 3 and writes to 4. Only these copies are inherited.
        self.process = subprocess.Popen(command, close_fds=False, preexec_fn=lambda: [os.dup2(fd, i) for i, fd in enumerate(theirs, 3)],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for fd in (*theirs, to_browser, from_browser):
            os.close(fd)
        self.session = None
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        self.session = self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            self.call(f'{domain}.enable')

    def _receive(self):
        while b'\0' not in self.buffer:
            data = os.read(self.read_end, 1 << 20)
            if not data:
                raise RuntimeError('the browser has ended')
            self.buffer += data
        message, self.buffer = self.buffer.split(b'\0', 1)
        message = json.loads(message)
        method = message.get('method')
        if method in ('Runtime.consoleAPICalled', 'Runtime.exceptionThrown', 'Log.entryAdded'):
            self.messages.append(message['params'])
        if method:
            self.events.append((method, message['params']))
        return message

    def call(self, method, **params):
        self.number += 1
        message = {'id': self.number, 'method': method, 'params': params} | ({'sessionId': self.session} if self.session else {})
        os.write(self.write_end, json.dumps(message).encode() + b'\0')
        while (answer := self._receive()).get('id') != self.number:
            pass
        if 'error' in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer['result']

    def open(self, path, width=1200, height=900, scheme='light'):
        """Load a file, or an address of http, in a window of `width` x `height` CSS pixels. -> the requests that the page made, except for
        the file itself"""
        self.messages.clear()
        self.events.clear()
        self.call('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call('Emulation.setEmulatedMedia', features=[{'name': 'prefers-color-scheme', 'value': scheme}])
        url = path if str(path).startswith('http:') else Path(path).resolve().as_uri()
        self.call('Page.navigate', url=url)
        while not any(method == 'Page.loadEventFired' for method, _ in self.events):
            self._receive()
        return [other for other in self.requests() if other != url]

    def requests(self):
        """Return the addresses that the page has requested so far, without those that hold their content."""
        self.run('0')  # reads the events that have arrived
        return [params['request']['url'] for method, params in self.events if method == 'Network.requestWillBeSent'
                and not params['request']['url'].startswith(('data:', 'blob:'))]

    def wait(self, expression, seconds=60):
        """Evaluate a JavaScript expression until it is true, and return its value."""
        end = time.monotonic() + seconds
        while not (value := self.run(expression)):
            if time.monotonic() > end:
                raise TimeoutError(expression)
            time.sleep(.05)
        return value

    def choose_files(self, selector, paths):
        """Choose files in the <input type=file> that matches the CSS `selector`, as a user does."""
        root = self.call('DOM.getDocument')['root']['nodeId']
        node = self.call('DOM.querySelector', nodeId=root, selector=selector)['nodeId']
        self.call('DOM.setFileInputFiles', files=[str(path) for path in paths], nodeId=node)

    def run(self, expression):
        """Evaluate a JavaScript expression, await a promise, and return the value. The security policy of the page does not apply."""
        result = self.call('Runtime.evaluate', expression=expression, returnByValue=True, awaitPromise=True)
        if 'exceptionDetails' in result:
            raise RuntimeError(result['exceptionDetails']['exception']['description'])
        return result['result'].get('value')

    def press(self, key):
        """Press and release a key of KEYS. The element with the focus receives it."""
        code, number, text = KEYS[key]
        facts = {'key': key, 'code': code, 'windowsVirtualKeyCode': number}
        self.call('Input.dispatchKeyEvent', type='keyDown', **facts, **({'text': text} if text else {}))
        self.call('Input.dispatchKeyEvent', type='keyUp', **facts)

    def click(self, selector):
        """Scroll to the first element that matches the CSS `selector`, and click on it."""
        x, y = self.run(f'(e => {{ e.scrollIntoView({{block: "center"}}); const r = e.getBoundingClientRect(); '
                        'return [r.x + Math.min(r.width, innerWidth) / 2, r.y + r.height / 2] })'
                        f'(document.querySelector({json.dumps(selector)}))')
        for kind in ('mousePressed', 'mouseReleased'):
            self.call('Input.dispatchMouseEvent', type=kind, x=x, y=y, button='left', clickCount=1)

    def screenshot(self, path, whole=True):
        data = self.call('Page.captureScreenshot', format='png', captureBeyondViewport=whole)['data']
        Path(path).write_bytes(base64.b64decode(data))

    def pdf(self, path):
        Path(path).write_bytes(base64.b64decode(self.call('Page.printToPDF', printBackground=True, preferCSSPageSize=True)['data']))

    def close(self):
        self.process.terminate()
        self.process.wait()
        os.close(self.write_end)
        os.close(self.read_end)
        time.sleep(.1)  # helper processes still write to the profile
        shutil.rmtree(self.profile, ignore_errors=True)

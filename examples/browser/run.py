"""Run the image demo in a browser by a playback table, and compare with torch.

``python examples/playback_export.py FOLDER``, ``npm ci --ignore-scripts`` in this folder, then
``python examples/browser/run.py FOLDER`` opens the page in headless Chromium (playwright drives it), checks
that the steps are those that torch computed and the latents equal within rounding, and writes the figures and
an image of the page into the folder. ``--serve`` serves the page on this machine, to be opened by hand.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any

from playwright.sync_api import (  # type: ignore[import-not-found,unused-ignore]
    sync_playwright,
)

HERE = Path(__file__).resolve().parent
RUNTIME = HERE / "node_modules" / "onnxruntime-web" / "dist"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
QUIET = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
#: Largest difference of a latent that float32 arithmetic in another order explains.
ROUNDING = 1e-3


class Handler(SimpleHTTPRequestHandler):
    """Serve the page, the runtime under ``ort/`` and the exported demo under ``demo/``.

    Args:
        folder: of the demo.
    """

    extensions_map = {  # noqa: RUF012
        **SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
        ".js": "text/javascript",
        ".wasm": "application/wasm",
    }

    def __init__(self, *given: Any, folder: Path) -> None:
        self._places = {"ort": RUNTIME, "demo": folder}
        super().__init__(*given, directory=str(HERE))

    def translate_path(self, path: str) -> str:
        """Return the file of an address."""
        first, _, rest = path.lstrip("/").partition("/")
        self.directory = str(self._places.get(first, HERE))
        return super().translate_path(rest if first in self._places else path)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@contextmanager
def served(folder: Path, port: int = 0) -> Iterator[str]:
    """Serve the page to this machine alone; gives its address."""
    with ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, folder=folder)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()


def opened(address: str, screenshot: Path) -> dict[str, Any]:
    """Open the page in headless Chromium, and return what it found."""
    found = (path for name in CHROMIUM if (path := shutil.which(name)))
    with sync_playwright() as playwright:
        path = next(found, None)  # None: the one that playwright has installed
        browser = playwright.chromium.launch(executable_path=path, args=list(QUIET))
        page = browser.new_page(viewport={"width": 1080, "height": 900})
        page.set_default_timeout(300_000)
        page.goto(address)
        made: dict[str, Any] = page.evaluate("() => window.finished")
        made["browser"] = browser.version
        page.screenshot(path=screenshot, full_page=True)
        browser.close()
    return made


def compared(made: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare what the page found with torch's runs."""
    pairs = list(zip(made["results"], (run["torch"] for run in runs), strict=True))
    ways = ("full", "fast")
    return {
        "engine": f"onnxruntime-web {made['version']}, Chromium {made['browser'].split('.')[0]}",
        "calls": [sum(page[way]["calls"] for page, _ in pairs) for way in ways],
        "seconds": made["seconds"],
        "difference": max(
            abs(a - b)
            for page, torch in pairs
            for way in ways
            for a, b in zip(page[way]["latent"], torch[way], strict=True)
        ),
        "same_steps": all(page["fast"]["computed"] == torch["computed"] for page, torch in pairs),
    }


def main() -> None:
    """Run, compare, and print the figures; fails if steps or latents are others than torch's."""
    parser = argparse.ArgumentParser(description="Run the image demo in a browser.")
    parser.add_argument("folder", type=Path, help="that examples/playback_export.py wrote")
    parser.add_argument("--serve", action="store_true", help="only serve the page")
    given = parser.parse_args()
    if not RUNTIME.is_dir():
        parser.error(f"onnxruntime-web is not installed: run 'npm ci --ignore-scripts' in {HERE}")
    with served(given.folder, 8000 if given.serve else 0) as address:
        if given.serve:
            input(f"{address} (Enter ends it)")
            return
        made = opened(address, given.folder / "browser.png")
    facts = json.loads((given.folder / "demo.json").read_text(encoding="utf-8"))
    found = compared(made, facts["runs"])
    (given.folder / "browser.json").write_text(json.dumps(found) + "\n", encoding="utf-8")
    full, fast = map(median, zip(*found["seconds"], strict=True))
    speedup, n = median(a / b for a, b in found["seconds"]), len(facts["grid"]) - 1
    budget = len(facts["runs"][0]["torch"]["computed"]["cond"])
    print(f"{found['engine']}: {found['calls'][1]} denoiser calls of {found['calls'][0]}")
    print(f"largest difference from torch {found['difference']:.1e}")
    print(f"a run takes {full:.2f} s in full, {fast:.2f} s at B = {budget}")
    print(f"speedup {speedup:.2f}, N / B = {n / budget:.2f}")
    if not found["same_steps"] or found["difference"] > ROUNDING:
        raise SystemExit("the page computes other steps than torch, or gets other latents.")


if __name__ == "__main__":
    main()

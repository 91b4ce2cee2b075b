"""Print how fast the pages of `export --web` are in Chromium.

    python benchmarks/web.py [--config RUN_JSON] [--rounds 5] [--runtime FILE]

`vit_t` at 1024 px with random weights, and the run, in float32 and int8, on one thread and, where
the machine has more than two cores, on as many as onnxruntime-web takes. Milliseconds are medians
over the rounds; those of the encoder are once an image, those of the decoder once a prompt.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MEASURE = """async ([form, rounds]) => {
  const { Engine } = await import("./engine.js");
  const median = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
  const engine = new Engine(() => {});
  const began = performance.now();
  const loaded = await engine.call("load", { form });
  const load = performance.now() - began;
  const size = [768, 1024];
  const rgba = new Uint8ClampedArray(4 * size[0] * size[1]).map(() => 256 * Math.random());
  const prompt = { points: [{ x: 300, y: 300, label: 1 }], box: null };
  const encoder = [], decoder = [];
  for (let round = 0; round <= rounds; round++) {
    encoder.push((await engine.call("encode", { rgba, size })).milliseconds);
    decoder.push((await engine.call("decode", { prompt })).milliseconds);
  }
  engine.worker.terminate();
  return { ...loaded, load, encoder: median(encoder.slice(1)), decoder: median(decoder.slice(1)) };
}"""


class Isolated(SimpleHTTPRequestHandler):
    """Serves files in a way that allows threads."""

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Plain(Isolated):
    """Serves files as any server does."""

    def end_headers(self) -> None:
        SimpleHTTPRequestHandler.end_headers(self)


def main() -> None:
    """Export, open the pages, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, help="the run.json of a run")
    parser.add_argument("--runtime", type=Path, help="onnxruntime-web's archive")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        sys.exit(f"there is no browser; install one of {', '.join(BROWSERS)}")
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        pages = export(args, Path(place))
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        print(f"{platform.machine()}, {os.cpu_count()} CPUs, Chromium {chromium.version}")
        print("| model | form | MiB | threads | load s | encoder ms | decoder ms |")
        print("|---|---|---|---|---|---|---|")
        for name in pages:
            for handler in (Plain, Isolated)[: 2 if (os.cpu_count() or 1) > 2 else 1]:
                tab = chromium.new_page()
                measure(tab, Path(place) / name, handler, args.rounds)
                tab.close()
        chromium.close()


def export(args: argparse.Namespace, place: Path) -> list[str]:
    """Write the pages; returns their names in the directory."""
    import torch

    from mobile_sam.data.synthetic import write_scenes
    from mobile_sam.models.build import build_sam_model
    from mobile_sam.models.weights import to_original

    torch.save(to_original(build_sam_model("vit_t", 1024)), place / "vit_t.pt")
    write_scenes(place / "scenes", 4, 1024, seed=0)
    common = ["--int8", "--images", place / "scenes" / "image", "--calibration-images", "2"]
    common += ["--runtime", args.runtime] if args.runtime else []
    given = {"vit_t": ["--weights", place / "vit_t.pt"]}
    if args.config:
        given[args.config.parent.name] = ["--config", args.config]
    for name, options in given.items():
        command = [sys.executable, "-m", "mobile_sam", "export", "--web", place / name]
        subprocess.run([*map(str, [*command, *options, *common])], check=True)
    return list(given)


def measure(tab: Page, page: Path, handler: type[Isolated], rounds: int) -> None:
    """Print a row for each form of a page, served by `handler`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(page)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # Not the page itself, which would encode its example beside what is measured.
    tab.goto(f"http://127.0.0.1:{server.server_port}/page.json")
    for form in ("float32", "int8"):
        row: dict[str, Any] = tab.evaluate(MEASURE.replace("./", tab.url[:-9]), [form, rounds])
        print(
            f"| {page.name}, {row['imgSize']} px | {form} | {row['bytes'] / 2**20:.1f} "
            f"| {row['threads']} | {row['load'] / 1000:.1f} "
            f"| {row['encoder']:.0f} | {row['decoder']:.1f} |",
            flush=True,
        )
    server.shutdown()


if __name__ == "__main__":
    main()

"""What tests of pages share: figures that cost nothing, and what a browser or a parser finds on a page."""

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from matplotlib.figure import Figure

from vqseg.report import drafting, style

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NASTY = "[2] <script>alert('x')</script> & 50%_$x^{|#~\\ é Ħ \\input{x}$ *"

PARTS = {"questions", "main", "patients", "missing", "reading", "claims", "published", "methods", "environment"}
"""What the page of everything consists of, beside its studies."""


def quick_figures(monkeypatch):
    """Let every figure be the same small one, drawn once; return the names that were asked for."""
    names, files = [], {}

    def render(pictures, out, phantom):
        if not files:
            figure = Figure(figsize=(3.4, 1.2))
            figure.text(0.5, 0.5, "x")
            style.save(figure, out, "first")
            files.update({kind: (out / f"first.{kind}").read_bytes() for kind in ("png", "pdf")})
            for kind in files:
                (out / f"first.{kind}").unlink()
        found = {}
        for picture in pictures:
            names.append(picture.name)
            for kind, content in files.items():
                (out / f"{picture.name}.{kind}").write_bytes(content)
            kinds = [f"{picture.name}.{kind}" for kind in files]
            found[picture.name] = {name: drafting.style.stamp_of(out / name) for name in kinds}
        return found

    monkeypatch.setattr(drafting, "render", render)
    monkeypatch.setattr(drafting, "FEW", 10**6)
    return names


class Page(HTMLParser):
    """The elements of a page: ids, links, sources, texts and what is asked for from elsewhere."""

    def __init__(self, path):
        super().__init__()
        self.path, self.ids, self.links, self.images, self.tags, self.words = Path(path), [], [], [], [], []
        self._inside = []
        self.feed(self.path.read_text())

    def handle_starttag(self, tag, attrs):
        own = dict(attrs)
        self.tags.append((tag, own))
        if tag not in ("meta", "link", "img", "br"):
            self._inside.append(tag)
        self.ids += [own["id"]] if "id" in own else []
        self.links += [own[key] for key in ("href", "src") if key in own]
        self.images += [own] if tag == "img" else []

    def handle_endtag(self, tag):
        assert self._inside.pop() == tag, f"</{tag}> closes nothing at {self.getpos()}"

    def handle_data(self, data):
        if not {"style", "script"} & set(self._inside):
            self.words.append(data)

    @property
    def text(self):
        """All that can be read."""
        return " ".join(" ".join(self.words).split())

    def check(self):
        """Every link leads somewhere, ids are unique, pictures say what they show, nothing is asked for."""
        assert len(set(self.ids)) == len(self.ids), [each for each in self.ids if self.ids.count(each) > 1]
        assert not self._inside
        for link in self.links:
            if link.startswith("#"):
                assert link[1:] in self.ids, link
            elif not link.startswith("data:"):
                assert "://" not in link, link
                assert (self.path.parent / unquote(link)).exists(), link
        assert all(image.get("alt") for image in self.images)
        assert not [tag for tag, own in self.tags if tag == "link" and not own["href"].startswith("data:")]
        assert "@import" not in self.path.read_text() and "url(" not in self.path.read_text()


PROBE = """<script>addEventListener("load", () => {
  const wide = document.documentElement, found = [];
  found.push("overflow " + (wide.scrollWidth - wide.clientWidth));
  const cut = [...document.querySelectorAll("%s")].filter((each) => each.scrollWidth > each.clientWidth + 1);
  found.push("cut " + cut.length + " " + cut.map((each) => each.textContent.trim().slice(0, 60)).join(" | "));
  parent.postMessage(found.join("; "), "*");
});</script>"""


FRAME = """<!doctype html><title>nothing</title><script>
addEventListener("message", (told) => { document.title = told.data; });
</script><iframe src="%s" style="width: %dpx; height: 900px; border: 0"></iframe>"""


def measured(page, tmp_path, *, width, printed=False):
    """Open a copy of a page in a frame that wide (a browser's own window may not get that narrow), maybe as printed.

    Returns how many pixels it is wider than its frame, which tables are cut, and what the console says.
    """
    words = Path(page).read_text()
    if printed:
        words = words.replace("@media print", "@media all").replace("<details", "<details open")
    copy, frame = (tmp_path / f"{name}-{width}-{printed}.html" for name in ("copy", "frame"))
    copy.write_text(words.replace("</body>", PROBE % (".scroll" if printed else "none-such") + "</body>"))
    frame.write_text(FRAME % (copy.name, width))
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0",
            "--window-size=1600,1000", "--virtual-time-budget=4000", "--dump-dom", f"file://{frame}",
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    overflow, _, cut = done.stdout.partition("<title>")[2].partition("</title>")[0].partition("; ")
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return int(overflow.split(" ")[1]), cut, said

"""Small sets of tar shards, and a server for them that knows no ranges."""

from __future__ import annotations

import functools
import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

Parts = Mapping[str, bytes]


def picture(number: int, side: int = 40) -> bytes:
    """A JPEG of one colour, which its number names."""
    out = io.BytesIO()
    Image.new("RGB", (side, side + 8), (number * 5 % 256, 100, 50)).save(out, "JPEG")
    return out.getvalue()


def write_shard(path: Path, content: Sequence[tuple[str, Parts]]) -> None:
    """Samples by key, each as img2dataset lays it out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, parts in content:
            for part, data in parts.items():
                info = tarfile.TarInfo(f"{key}.{part}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def img2dataset(
    folder: Path, counts: Sequence[int] = (4, 4, 4), *, side: int = 40, stats: bool = True
) -> Path:
    """A folder as img2dataset writes it: jpg, txt and json, and statistics beside each shard."""
    number = 0
    for shard, count in enumerate(counts):
        content = []
        for i in range(number, number + count):
            facts = {
                "caption": f"caption {i}",
                "other": [f"first of {i}", f"second of {i}"],
                "key": f"{i:09d}",
            }
            parts = {
                "jpg": picture(i, side),
                "txt": f"caption {i}".encode(),
                "json": json.dumps(facts).encode(),
            }
            content.append((f"{i:09d}", parts))
        number += count
        write_shard(folder / f"{shard:05d}.tar", content)
        if stats:
            (folder / f"{shard:05d}_stats.json").write_text(
                json.dumps({"successes": count, "count": count + 3})
            )
    return folder


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The folder behind a server on this machine."""
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

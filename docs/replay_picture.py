"""Makes docs/replay.png, the top of the replay's page, with Chromium:

    threadsafe-timeout replay --html replay.html
    python docs/replay_picture.py replay.html

What the page notes about the machine that made it is left out.
"""

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1000,1262",
    "--force-device-scale-factor=1.15",
)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).with_name("replay.png"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "page.html")
        page.write_text(re.sub(r'<p class="note".*?</p>', "", options.page.read_text(), flags=re.DOTALL))
        subprocess.run(["chromium", *FLAGS, f"--screenshot={options.output.resolve()}", page.as_uri()], check=True)


if __name__ == "__main__":
    main()

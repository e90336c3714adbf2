import sys

import pytest

from tests.unified_reward.media.made import grey_steps, noise, picture
from unified_reward.cli import main
from unified_reward.media import encode_mp4, encode_png


@pytest.fixture
def cli(monkeypatch, capsys):
    """The command line in this process: its exit code, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["unified-reward", *map(str, args)])
        try:
            main()
            code = 0
        except SystemExit as error:
            code = error.code or 0
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with pictures and clips, which is the working folder."""
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(["a.png", "b.png", "c.png"]):
        (tmp_path / name).write_bytes(encode_png(picture(noise(24 + i, 24, 3))))
    for i, name in enumerate(["a.mp4", "b.mp4"]):
        (tmp_path / name).write_bytes(encode_mp4(grey_steps(3 + i), 8))
    return tmp_path

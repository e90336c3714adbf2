"""Commands of hints: from an index, or from the folder that the library was installed from."""

import json
import shutil

import pytest

from unified_reward.core import install
from unified_reward.core.install import LABORATORY, install_command


@pytest.fixture
def installed(monkeypatch):
    """Say how this distribution was installed, by its direct_url.json."""

    class Installed:
        def __init__(self, text):
            self.text = text

        def read_text(self, name):
            assert name == "direct_url.json"
            return self.text

    def give(text):
        monkeypatch.setattr(install, "distribution", lambda _: Installed(text))

    return give


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", '{"url": "https://example.org/x.whl", "archive_info": {}}']
)
def test_from_an_index_the_name_is_enough(installed, text):
    installed(text)
    assert install_command("serve") == "pip install 'unified-reward[serve]'"
    assert install_command("train", upgrade=True) == "pip install --upgrade 'unified-reward[train]'"
    assert install_command(of=LABORATORY) == "pip install unified-reward-lab"


@pytest.mark.parametrize("is_editable", [True, False])
def test_from_a_folder_the_command_names_it(installed, tmp_path, is_editable):
    folder = tmp_path / "my packages" / "unified-reward"
    folder.mkdir(parents=True)
    installed(json.dumps({"url": folder.as_uri(), "dir_info": {"editable": is_editable}}))
    assert install_command("serve") == f"pip install -e '{folder}[serve]'"
    assert install_command(of=LABORATORY) == "pip install unified-reward-lab"
    lab = folder.with_name(LABORATORY)
    lab.mkdir()
    assert install_command(of=LABORATORY) == f"pip install -e '{lab}'"
    shutil.rmtree(folder.parent)
    assert install_command("serve") == "pip install 'unified-reward[serve]'"

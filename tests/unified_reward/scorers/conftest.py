import pytest

from tests.unified_reward.scorers import twins


@pytest.fixture(scope="session")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    twins.install_words(folder)
    return folder


@pytest.fixture(autouse=True)
def _worded(words, monkeypatch):
    """Made-up words under the official names."""
    monkeypatch.setenv("UNIFIED_REWARD_HOME", str(words))


@pytest.fixture(scope="session")
def twin(tmp_path_factory):
    """Folder and state of a twin, made once."""
    made = {}

    def get(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            made[name] = folder, twins.MAKERS[name](folder)
        return made[name]

    return get
